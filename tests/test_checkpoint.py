from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from test_common import Config
from torch.testing import assert_close

import tiny_data
from checkpoint import half, load_checkpoint, resume_training, save_checkpoint, save_training
from common import Log, Options


def test_checkpoints_round_trip_and_leave_no_temporary_file(tmp_path):
    save_checkpoint(
        tmp_path / "a" / "c.pt", kind="thing", model={"w": torch.arange(3.0)}, config={"lr": 0.1}
    )
    assert_close(load_checkpoint(tmp_path / "a" / "c.pt", "thing")["model"]["w"], torch.arange(3.0))
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["c.pt"]


def test_a_checkpoint_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(content, path):
        path.write_bytes(b"half")
        raise RuntimeError(
            "[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0\nmore"
        )

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="c.pt cannot be written"):
        save_checkpoint(tmp_path / "c.pt", kind="thing")
    assert not any(tmp_path.iterdir())


def test_missing_damaged_and_foreign_checkpoints_are_told_apart(tmp_path):
    good, cut, foreign = tmp_path / "good.pt", tmp_path / "cut.pt", tmp_path / "foreign.pt"
    save_checkpoint(good, kind="teacher", w=torch.zeros(1000))
    cut.write_bytes(good.read_bytes()[:500])
    torch.save([1, 2], foreign)
    for path, words in [
        (tmp_path / "no.pt", "no checkpoint"),
        (cut, "damaged"),
        (foreign, "something else"),
    ]:
        with pytest.raises(ValueError, match=words):
            load_checkpoint(path, "teacher")
    with pytest.raises(ValueError, match="'teacher'.*'student'"):
        load_checkpoint(good, "student")


def test_resume_goes_on_with_the_same_run_only_and_says_what_was_other(tmp_path):
    cfg, generator, ema = (
        Config(out=str(tmp_path)),
        torch.Generator().manual_seed(1),
        torch.nn.Linear(2, 2),
    )
    save_training(cfg, "thing", 7, generator, ship=False, ema=ema)
    assert resume_training(replace(cfg, lr=0.2), "thing", generator, ema=ema) == 7
    with pytest.raises(ValueError, match="was made with --no-fast: use the same"):
        resume_training(replace(cfg, fast=True), "thing", generator, ema=ema)
    for other in (
        dict(ema=torch.nn.Linear(2, 3)),
        dict(ema=ema, optimiser=torch.optim.SGD(ema.parameters())),
    ):
        with pytest.raises(ValueError, match="does not fit this version"):
            resume_training(cfg, "thing", generator, **other)
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    del saved["config"]["fast"]
    torch.save(saved, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="another version"):
        resume_training(cfg, "thing", generator, ema=ema)
    with pytest.raises(ValueError, match="nowhere/last.pt to go on from"):
        resume_training(replace(cfg, out="nowhere"), "thing", generator, ema=ema)


@pytest.mark.parametrize("change", ["add", "remove", "change", "none"])
def test_a_run_goes_on_with_the_clips_that_it_was_trained_on_only(tmp_path, monkeypatch, change):
    """Other clips would also be held out: what was trained on would be tested on."""
    clips = [(f"{k}.mp4", np.full((2, 8, 8, 3), k, np.uint8), np.zeros(99)) for k in range(3)]
    monkeypatch.setattr(tiny_data, "own_clips", lambda folder: clips)
    cfg, generator = Config(out=str(tmp_path), data=str(tmp_path)), torch.Generator()
    save_training(cfg, "thing", 7, generator, ship=False, ema=torch.nn.Linear(2, 2))
    other = dict(
        add=[*clips, ("3.mp4", *clips[0][1:])],
        remove=clips[:2],
        change=[*clips[:2], ("2.mp4", clips[2][1], np.ones(99))],
        none=clips,
    )
    monkeypatch.setattr(tiny_data, "own_clips", lambda folder: other[change])
    go_on = lambda: resume_training(cfg, "thing", generator, ema=torch.nn.Linear(2, 2))
    if change == "none":
        assert go_on() == 7
    else:
        with pytest.raises(ValueError, match=f"{3 if change == 'add' else 2}.mp4.*put it back"):
            go_on()


def test_a_toy_set_that_was_built_anew_is_another_data_set(tmp_path):
    seen = []
    for text in "one", "two":
        (tmp_path / "train").mkdir(exist_ok=True)
        (tmp_path / "train" / "phones.json").write_text(text)
        seen.append(tiny_data.fingerprint(str(tmp_path)))
    assert seen[0] != seen[1] == tiny_data.fingerprint(f"{tmp_path}/")
    assert tiny_data.fingerprint("none") == {}


def test_a_finished_run_says_so_and_how_to_go_on(tmp_path, capsys):
    @dataclass
    class Phases(Options):  # as stage 2: no --steps
        out: str = str(tmp_path)

    generator, ema = torch.Generator(), torch.nn.Linear(2, 2)
    for cfg, how in (Config(out=str(tmp_path)), "more --steps"), (Phases(), "no more updates"):
        save_training(cfg, "thing", 7, generator, ship=False, ema=ema)
        for total, said in (9, "going on from step 7"), (7, "finished, at step 7"):
            resume_training(cfg, "thing", generator, total, ema=ema)
            told = capsys.readouterr().out
            assert said in told and told.count("\n") == 1 and (how in told) == (total == 7)


def test_half_keeps_integers():
    out = half({"w": torch.ones(2), "n": torch.tensor(3)})
    assert out["w"].dtype == torch.float16 and out["n"].dtype == torch.int64


def test_a_fresh_run_removes_an_older_ones_checkpoint(tmp_path):
    cfg, generator, ema = Config(out=str(tmp_path)), torch.Generator(), torch.nn.Linear(2, 2)
    save_training(cfg, "thing", 7, generator, ship=False, ema=ema)
    Log(tmp_path, cfg, "cpu", resume=True)
    assert (tmp_path / "last.pt").exists()
    Log(tmp_path, cfg, "cpu", resume=False)  # it may diverge before its first save
    with pytest.raises(ValueError, match="last.pt to go on from"):
        resume_training(cfg, "thing", generator, ema=ema)
