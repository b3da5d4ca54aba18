import json
from dataclasses import replace

import numpy as np
import pytest
import test_distill_stage2
from helpers import SHIPPED, prepare, small_unet

import common
import distill_stage2
from checkpoint import save_checkpoint
from evaluation import ablate
from phases import phases


def test_every_variant_changes_the_config_and_names_an_option():
    base = vars(distill_stage2.Config())
    for name, changes in ablate.VARIANTS.items():
        assert changes.keys() <= base.keys()
        assert bool(changes) == (name != "full") and all(base[k] != v for k, v in changes.items())


def test_table_shows_mean_and_spread_over_seeds():
    row = {"variant": "full", **{k: [1.0, 3.0] for k in ablate.SHOWN}}
    lines = ablate.table([row, {**row, **{k: [2.0] for k in ablate.SHOWN}}]).splitlines()
    assert (
        "2 ± 1.4" in lines[2]
        and "±" not in lines[3]
        and len({line.count("|") for line in lines}) == 1
    )


def test_what_could_not_be_measured_is_left_empty():
    line = ablate.table(
        [{"variant": "full", **{k: [1.0] for k in ablate.SHOWN}, "jaw_corr": [float("nan")]}]
    ).splitlines()[2]
    assert line.split("|")[2:4] == ["  ", " 1 "]


def test_what_cannot_be_measured_is_not_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(prepare(tmp_path, "stage1", videos=1, frames=16))
    monkeypatch.setattr(common, "HERE", tmp_path)
    monkeypatch.setattr(distill_stage2, "SMOKE", test_distill_stage2.SMALL)
    monkeypatch.setattr(distill_stage2, "train", None)
    with pytest.raises(SystemExit) as stop:
        ablate.main(["--smoke", "--metrics", "none.pt"])
    assert stop.value.code == 2 and "no checkpoint at none.pt" in capsys.readouterr().err


def test_unknown_variant_is_named(capsys):
    with pytest.raises(SystemExit) as stop:
        ablate.main(["--variants", "full,nonsense"])
    assert stop.value.code == 2 and "nonsense" in capsys.readouterr().err


def test_two_variants_are_trained_as_they_say_and_measured_and_a_second_run_trains_nothing(
    tmp_path, monkeypatch
):
    """The table is made of the shipped judges' numbers; the networks are untrained
    (test_distill_stage2.py trains)."""
    trained, rates, steps = [], [], []
    sampler = ablate.student_sampler
    monkeypatch.setattr(
        ablate,
        "student_sampler",
        lambda *a, **how: steps.append(how["steps"]) or sampler(*a, **how),
    )

    def train(cfg, equal_rates):
        trained.append(cfg)
        rates.append(equal_rates)
        save_checkpoint(
            cfg.weights,
            kind="stage2",
            config=dict(channels=16, frames=16, context=4, recipe="plain"),
            model=small_unet(len(trained)).state_dict(),
        )

    monkeypatch.chdir(prepare(tmp_path, "stage1", videos=1, frames=16))
    monkeypatch.setattr(common, "HERE", tmp_path)
    monkeypatch.setattr(distill_stage2, "SMOKE", test_distill_stage2.SMALL)
    monkeypatch.setattr(distill_stage2, "train", train)
    line = [
        "--smoke",
        "--variants",
        "full,hinge",
        "--clips",
        "2",
        "--metrics",
        str(SHIPPED / "metrics.pt"),
        "--out",
        "o",
        "--options=--batch 3",
    ]
    ablate.main(line)
    assert [(c.gan, c.seed, c.batch, c.last_steps) for c in trained] == [
        (kind, 0, 3, distill_stage2.Config(**test_distill_stage2.SMALL).last_steps)
        for kind in ("relativistic", "hinge")
    ]
    saved = json.loads(open("o/table.json").read())
    assert [r["variant"] for r in saved["rows"]] == [
        "stage1",
        "stage1_1step",
        "full",
        "hinge",
    ] and (tmp_path / "o/sheet.png").exists()
    assert rates == [False, False] and steps == [4, 1, 1, 1]
    monkeypatch.setattr(distill_stage2, "train", None)
    line[line.index("full,hinge")] = "full"
    ablate.main(line)
    assert json.loads(open("o/table.json").read())["rows"] == saved["rows"][:3]
    with pytest.raises(TypeError):  # train is None: as if stopped at once. The weights left there
        ablate.main([*line, "--bf16"])  # are not those of the run that done.json tells of
    assert not (tmp_path / "o/full-0/done.json").exists()


def test_equal_doses_are_as_many_updates_in_every_phase_and_in_every_variant():
    base = ablate.base_config(ablate.arguments(["--equal-doses", "--options=--batch 3"]))
    learning = [phase.updates for phase in phases(base) if phase.student_learns]
    assert len(set(learning)) == 1 and base.curriculum == learning[0] / 2 and base.batch == 3
    for changes in ablate.VARIANTS.values():
        plan = phases(replace(base, **changes))
        assert sum(phase.updates for phase in plan if phase.student_learns) == sum(learning)


def test_a_share_of_one_phase_is_no_equal_dose(capsys):
    with pytest.raises(SystemExit) as stop:
        ablate.main(["--equal-doses", "--budget", "0.2"])
    assert stop.value.code == 2 and "--budget" in capsys.readouterr().err


def test_what_nobody_knows_is_blank_and_does_not_stop_the_table(monkeypatch):
    """Of your own clips the lips are not known: the judge says None."""

    def judge(frames):
        return {"fid": float(len(frames)), "jaw_corr": None}, None

    monkeypatch.setattr(ablate, "student_sampler", lambda *args, steps: None)
    videos = (np.zeros((n, 20, 64, 64, 3), np.uint8) for n in (1, 2, 6))
    monkeypatch.setattr(ablate, "generate_videos", lambda *args: next(videos))
    bench = ablate.Bench(None, None, None, judge, False)
    row, picture = ablate.measured(bench, "full", [(None, {}, 1)])
    assert row["fid"] == [3.0] and np.isnan(row["jaw_corr"]).all()  # the mean of three samplings
    assert picture.shape == (16, 64, 64, 3) and "|  |" in ablate.table([row])
