import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import common
import student
import teacher
from checkpoint import same_run
from common import (
    Log,
    Options,
    check_finite,
    mean_rows,
    one_line_errors,
    parse,
    pick_device,
    update_ema,
)
from evaluation import metrics


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


def test_the_reader_of_lips_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert metrics.load_reader(student.READER).layers


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


def test_a_folder_is_the_same_with_and_without_its_slash():
    assert Config(data="a/b/") == Config(data="a/b") == Config(data="./a//b")


FEW = r"""
import os, sys, sample, teacher, distill_stage2
from common import one_line_errors, parse
from evaluation import table
table.evaluate = lambda args: {"rows": [], "setting": {"who": "na\u00efve"}}
table.main(["--markdown", sys.argv[1]])
for script in teacher, distill_stage2:
    try:
        with one_line_errors():
            parse(script.Config, script.__doc__, script.SMOKE, ["--help"])
    except SystemExit as stop:
        assert not stop.code
sample.main(["--audio", os.fsdecode("\u4f60\u597d.wav".encode())])
"""


def test_help_and_errors_are_printed_and_files_are_utf_8_where_characters_are_few(tmp_path):
    """As few as there can be: ASCII. A pipe on Windows has some more."""
    env = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    env["PYTHONIOENCODING"] = "ascii"
    run = [sys.executable, "-c", FEW, str(tmp_path / "table.md")]
    done = subprocess.run(run, cwd=Path(common.__file__).parent, env=env, capture_output=True)
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1
    assert b"does not exist" in done.stderr and done.stdout.count(b"--resume") >= 2
    text = (tmp_path / "table.md").read_text("utf-8")
    assert "who na\u00efve" in text and "Fréchet" in text
