import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import prepare

import distill_stage2
from autoencoder import load_autoencoder
from common import parse
from evaluation import mechanism
from latents import load_clips, preview
from phases import phases


def test_arms_differ_by_regime_and_path_only():
    base = vars(distill_stage2.Config())
    assert mechanism.ARMS["gentle_phased"] == {}
    assert len(mechanism.ARMS) == 6
    for name, changes in mechanism.ARMS.items():
        assert changes.keys() <= base.keys() and all(base[k] != v for k, v in changes.items())
        assert (changes.get("gan") == "vanilla") == name.startswith("harsh")
        assert (changes.get("progressive") is False) == name.endswith("straight")


def test_all_paths_have_equal_doses():
    """As many student updates, at one rate, whatever the path."""
    updates = {
        name: sum(
            phase.updates
            for phase in phases(distill_stage2.Config(**changes))
            if phase.student_learns
        )
        for name, changes in mechanism.ARMS.items()
    }
    assert len(set(updates.values())) == 1


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = prepare(tmp_path_factory.mktemp("mechanism"), videos=1)
    line = ["--data", str(folder / "data"), "--videos", "2"]
    cfg, _ = parse(distill_stage2.Config, "", {}, line)
    return load_clips(cfg, "val", load_autoencoder(folder / "ae.pt", "cpu"), "cpu", 8)[1]


@pytest.mark.parametrize("sign, share", [(1, 1.0), (-1, 0.0), (0, 0.0)])
def test_held_out_accuracy_is_the_share_of_pairs_ranked_right(clips, sign, share):
    """A D that knows real from fake, one that has it the wrong way round, one that says nothing."""

    def sampler(cond, noise):
        return torch.full_like(noise(), -30.0)

    def disc(xt, t, cond):
        return sign * xt.mean((1, 2, 3, 4))

    assert mechanism.held_out_accuracy(disc, sampler, clips, 0.3) == share


def test_held_out_accuracy_shows_d_both_in_the_same_noise_up_to_its_share_of_t(clips):
    seen = []

    def disc(xt, t, cond):
        seen.append((xt, t))
        return xt.mean((1, 2, 3, 4))

    mechanism.held_out_accuracy(disc, lambda cond, noise: torch.zeros_like(noise()), clips, 0.0)
    assert all((t == 0).all() for _, t in seen)  # clean
    assert all((x == 0).all() for x, _ in seen[1::2])
    seen.clear()
    mechanism.held_out_accuracy(disc, lambda cond, noise: torch.zeros_like(noise()), clips, 0.3)
    times = torch.stack([t for _, t in seen])
    assert (times[0::2] == times[1::2]).all() and 0 < times.min() and times.max() < 300
    seen.clear()
    x0, _ = preview(clips, mechanism.PAIRS)
    mechanism.held_out_accuracy(disc, lambda cond, noise: x0, clips, 0.3)  # who makes the truth
    for (real, _), (fake, _) in zip(seen[0::2], seen[1::2]):
        assert torch.equal(real, fake) and not torch.equal(real, x0)
    assert not torch.equal(seen[0][0], seen[2][0])  # but new noise in every draw


def test_arms_are_looked_at_with_val_videos_only(monkeypatch):
    asked, still = [], np.zeros((1, 64, 64, 3), np.uint8)

    def named(answer):
        return lambda first, split, *more: asked.append(split) or answer

    coder = SimpleNamespace(encode=lambda x: x)
    monkeypatch.setattr(mechanism, "load_autoencoder", lambda *more: coder)
    monkeypatch.setattr(mechanism, "Judge", lambda *more: None)
    monkeypatch.setattr(mechanism.metrics, "load_metrics", lambda *more: None)
    monkeypatch.setattr(mechanism.tiny_data, "load", named(None))
    monkeypatch.setattr(mechanism, "load_clips", named((None, None)))
    truth = SimpleNamespace(portraits=still)
    monkeypatch.setattr(mechanism, "truth_of", lambda *more, split: named(truth)(None, split))
    mechanism.bench(distill_stage2.Config(), mechanism.arguments([]), torch.device("cpu"))
    assert asked == ["val", "val", "val"]


def test_finished_arms_are_drawn_and_unfinished_ones_are_not(tmp_path):
    for name in "gentle_phased-0", "harsh_straight-1", "harsh_phased-0":
        (tmp_path / name).mkdir()
        look = dict(step=2, phase=1, accuracy=0.5, lips=0.8, fvd=9.0, fid=3.0)
        (tmp_path / name / "looks.jsonl").write_text(json.dumps(look) + "\n")
        log = [{"config": {}}, {"step": 1}, {"step": 2, "gradient": 0.25}]
        (tmp_path / name / "log.jsonl").write_text("\n".join(map(json.dumps, log)) + "\n")
        if name != "harsh_phased-0":
            (tmp_path / name / "done.json").write_text(json.dumps(dict(warm_disc=1)))
    found = mechanism.draw(tmp_path)
    assert found.keys() == {"gentle_phased-0", "harsh_straight-1"}
    assert found["gentle_phased-0"]["gradient"] == ([2], [0.25])
    assert (tmp_path / "mechanism.png").stat().st_size > 5000


@pytest.mark.parametrize("flags", [["--arms", "gentle_nonsense"], ["--seeds", "a"]])
def test_what_does_not_exist_is_refused_in_one_line(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        mechanism.main(flags)
    assert stop.value.code == 2 and len(capsys.readouterr().err.strip().split("\n")) == 1
