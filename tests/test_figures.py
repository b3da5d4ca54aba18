import numpy as np
import pytest
import torch
from helpers import prepare, small_unet, spy
from PIL import Image
from torch import nn
from torch.testing import assert_close

import tiny_data
from checkpoint import save_checkpoint
from diffusion import T
from evaluation import figures


class Answer(nn.Module):
    """Says v = 0.5 everywhere; keeps no condition."""

    def forward(self, xt, t, cond):
        return torch.full_like(xt, 0.5)


def test_recorded_gives_x0_hat_of_every_call_and_of_guidance_the_last_branch():
    net, x = Answer(), torch.randn(1, 2, 3, 1, 1)

    def sample():
        net(x.repeat(3, 1, 1, 1, 1), torch.full((3,), float(T)), None)  # three branches
        net(x, torch.zeros(1), None)

    (t1, x1), (t2, x2) = figures.recorded(net, sample)
    assert (t1, t2) == (T, 0) and len(x1) == len(x2) == 1
    assert_close(x1, torch.full_like(x, -0.5))  # pure noise: x̂0 = −v
    assert_close(x2, x)  # clean: x̂0 = x_t
    assert not net._forward_hooks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = prepare(tmp_path_factory.mktemp("figures"))
    made = dict(channels=16, frames=16, context=4, recipe="plain", target_steps=4)
    for kind in "teacher", "stage1", "stage2":
        model = small_unet().state_dict()
        save_checkpoint(folder / f"{kind}.pt", kind=kind, config=made, model=model)
    (folder / "ae.pt").rename(folder / "autoencoder.pt")
    tiny_data.load(folder / "data", "test", 2)
    return folder


def test_one_video_is_cut_out_whole(folder):
    videos = tiny_data.load(folder / "data", "test")
    second = figures.one_video(videos, 1)
    assert len(second.frames) == videos.starts[2] - videos.starts[1]
    assert np.array_equal(second.windows(0), videos.windows(1))
    assert len(second.wave) == 640 * len(second.frames) and second.phones == videos.phones[1:]
    with pytest.raises(ValueError, match="between 0 and 1"):
        figures.one_video(videos, 2)


def test_all_four_are_drawn_and_alike_each_time(folder, tmp_path, monkeypatch):
    line = ["--checkpoints", str(folder), "--data", str(folder / "data"), "--video", "0"]
    drawn = spy(monkeypatch, figures, "panels")
    (tmp_path / "a").mkdir()
    figures.main([*line, "--out", str(tmp_path / "a")])
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"trajectories.png", "strips.png", "dmd_gradient.png", "truth.png"}
    for name in names:
        with Image.open(tmp_path / "a" / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 5
    # again: the same file of the sound, and for the others, which take longer, the same pictures
    again = []
    monkeypatch.setattr(figures, "panels", lambda *args, **how: again.append(args))
    (tmp_path / "b").mkdir()
    figures.main([*line, "--out", str(tmp_path / "b")])
    assert (tmp_path / "a/truth.png").read_bytes() == (tmp_path / "b/truth.png").read_bytes()
    assert len(again) == 3
    for (rows, _), (others, _) in zip(drawn, again):
        for (label, row), (other_label, other) in zip(rows, others, strict=True):
            assert label == other_label
            for (title, picture), (other_title, other_picture) in zip(row, other, strict=True):
                assert title == other_title and np.array_equal(picture, other_picture)


def test_a_folder_that_is_not_there_is_named(capsys):
    with pytest.raises(SystemExit) as stop:
        figures.main(["--out", "nowhere"])
    assert stop.value.code == 2 and "nowhere is no folder" in capsys.readouterr().err
