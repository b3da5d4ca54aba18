import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import common
import teacher
import tiny_data
from common import (
    Log,
    Options,
    check_finite,
    half,
    load_checkpoint,
    mean_rows,
    one_line_errors,
    parse,
    pick_device,
    resume_training,
    same_run,
    save_checkpoint,
    save_training,
    update_ema,
)


@dataclass
class Config(Options):
    steps: int = 10  # optimiser steps
    lr: float = 0.1  # learning rate
    fast: bool = False  # a switch
    out: str = "x"  # 100 % of it


def test_every_field_is_an_option_and_smoke_gives_way_to_what_is_given():
    assert parse(Config, "", {}, []) == (Config(), False)
    config, resume = parse(
        Config, "", {"steps": 2, "lr": 0.5}, ["--smoke", "--lr", "0.3", "--fast", "--resume"]
    )
    assert config == Config(steps=2, lr=0.3, fast=True) and resume


@pytest.mark.parametrize(
    "bad",
    [
        ["--steps", "-1"],
        ["--lr", "nan"],
        ["--lr", "inf"],
        ["--steps", "1.5"],
        ["--sped", "3"],
        ["--steps", "0"],
        ["--seed", str(2**63)],
    ],
)
def test_bad_options_end_with_one_line_and_code_2(bad, capsys):
    with pytest.raises(SystemExit) as stop, one_line_errors():
        parse(Config, "", {}, bad)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and bad[0] in said and said.count("\n") == 1


def test_an_option_of_a_few_names_what_it_may_be():
    with pytest.raises(ValueError, match="--out must be a or b, got 'x'"):
        Config().check("out", "a", "b")


def test_help_carries_the_comments(capsys):
    with pytest.raises(SystemExit):
        parse(Config, "what it does", {}, ["--help"])
    text = capsys.readouterr().out
    assert "optimiser steps" in text and "100 % of it" in text and "toy set" in text


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


def test_paths_that_are_not_given_are_the_repositorys_and_given_ones_are_ones_own(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    cfg, _ = parse(teacher.Config, "", {}, ["--out", "mine/x"])
    assert cfg.out == "mine/x" and cfg.recipe == "toy" and cfg.device == "auto"
    assert cfg.data == str(common.HERE / "data/tiny") and Path(cfg.autoencoder).is_file()
    monkeypatch.chdir(common.HERE)
    at_home, _ = parse(teacher.Config, "", {}, ["--out", "mine/x"])
    assert at_home.data == "data/tiny"
    same_run(cfg, dataclasses.asdict(at_home), "last.pt")  # and it goes on from anywhere


def test_ema_of_a_constant_is_that_constant_and_warms_up():
    a, b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    update_ema(a, b, step=0, decay=0.999)  # d = 1/10: the first step takes 90 % of the new
    before = a.weight.clone()
    update_ema(a, b, step=10**9, decay=0.999)
    assert_close(a.weight, 0.999 * before + 0.001 * b.weight)
    for step in range(200):
        update_ema(a, b, step, decay=0.5)
    assert_close(a.weight, b.weight)


def test_finite_check_names_the_term():
    check_finite(3, loss=1.0)
    with pytest.raises(FloatingPointError, match="gradient is nan at step 7"):
        check_finite(7, loss=1.0, gradient=float("nan"))


def test_half_keeps_integers():
    out = half({"w": torch.ones(2), "n": torch.tensor(3)})
    assert out["w"].dtype == torch.float16 and out["n"].dtype == torch.int64


def test_log_writes_json_lines_with_the_config_first(tmp_path):
    log = Log(tmp_path, Config(), "cpu", False)
    log(1, loss=0.5)
    first, second = (json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines())
    assert first["config"]["lr"] == 0.1 and "torch" in first
    assert second["step"] == 1 and second["loss"] == 0.5


def test_unknown_device_is_one_clear_line():
    with pytest.raises(ValueError, match="cannot be used"):
        pick_device("abacus")


def test_a_line_of_the_log_averages_each_number_over_the_rows_that_have_it():
    assert mean_rows([dict(a=1.0), dict(a=2.0, b=5.0), dict(b=7.0, a=6.0)]) == dict(a=3.0, b=6.0)


def test_a_fresh_run_removes_an_older_ones_checkpoint(tmp_path):
    cfg, generator, ema = Config(out=str(tmp_path)), torch.Generator(), torch.nn.Linear(2, 2)
    save_training(cfg, "thing", 7, generator, ship=False, ema=ema)
    Log(tmp_path, cfg, "cpu", resume=True)
    assert (tmp_path / "last.pt").exists()
    Log(tmp_path, cfg, "cpu", resume=False)  # it may diverge before its first save
    with pytest.raises(ValueError, match="last.pt to go on from"):
        resume_training(cfg, "thing", generator, ema=ema)


def test_a_folder_is_the_same_with_and_without_its_slash():
    assert Config(data="a/b/") == Config(data="a/b") == Config(data="./a//b")


FEW = """
import sample, teacher, distill_stage2
from common import one_line_errors, parse
for script in teacher, distill_stage2:
    try:
        with one_line_errors():
            parse(script.Config, script.__doc__, script.SMOKE, ["--help"])
    except SystemExit as stop:
        assert not stop.code
sample.main(["--audio", "\u4f60\u597d.wav"])
"""


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_help_and_errors_are_printed_where_characters_are_few(encoding):
    env = os.environ | {"PYTHONIOENCODING": encoding}
    run = [sys.executable, "-c", FEW]
    done = subprocess.run(run, cwd=Path(common.__file__).parent, env=env, capture_output=True)
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1
    assert b"does not exist" in done.stderr and done.stdout.count(b"--resume") >= 2
