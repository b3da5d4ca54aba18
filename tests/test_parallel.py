"""Two processes under torchrun, on the CPU, train what one process trains."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import prepare
from torch.testing import assert_close

import autoencoder
import distill_stage1
import distill_stage2
import parallel
import teacher

ROOT = Path(parallel.__file__).parent
BASE = dict(data="data", videos=1, batch=2, autoencoder="ae.pt", save_every=2)
RUNS = {  # each for two or three steps, with context in some of the clips only
    "autoencoder": (autoencoder, dict(batch=4, steps=2, decoder_steps=1, log_every=1)),
    "teacher": (teacher, dict(steps=3, frames=8, channels=16, warmup=2, sound_steps=1)),
    "stage1": (distill_stage1, dict(teacher="teacher.pt", steps=2, warm_fake=1, fake_updates=2)),
    "stage2": (
        distill_stage2,
        dict(student="stage1.pt", warm_disc=1, phase_steps=0, last_steps=1, progressive=False),
    ),
}
DRIVER = """
import os, teacher, test_parallel
from common import one_line_errors
real, steps = teacher.update_ema, []
def update_ema(*args):
    real(*args)
    steps.append(0)
    if os.environ["RANK"] == "1" and len(steps) == 2:
        os.kill(os.getpid(), 9)
with one_line_errors():
    test_parallel.train_all("two")
    print("trained")
    teacher.update_ema = update_ema
    teacher.train(test_parallel.config("teacher", "killed", steps=9, save_every=1))
"""


def config(name, out, **more):
    script, options = RUNS[name]
    known = {k: v for k, v in BASE.items() if name != "autoencoder" or k != "autoencoder"}
    place = dict(out=f"{out}/{name}", weights=f"{out}/{name}.pt")
    return script.Config(**known | options | place | more)


def train_all(out):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher, "contact_sheet", lambda *args: None)  # 120 evaluations
        for name, (script, _) in RUNS.items():
            script.train(config(name, out))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same trainings by one process in one/, by two in two/ -> the folder, and how the two
    ended, of which the second was killed in one more training."""
    folder = prepare(tmp_path_factory.mktemp("parallel"), "teacher", videos=1)
    prepare(folder, "stage1")
    (folder / "driver.py").write_text(DRIVER)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    run = [*torchrun, "--nproc-per-node=2", "driver.py"]
    # the held-out data are built there, by the first process
    ended = subprocess.run(run, cwd=folder, env=env, capture_output=True, text=True, timeout=500)
    assert "trained" in ended.stdout, ended.stderr
    with contextlib.chdir(folder):
        train_all("one")
    return folder, ended


@pytest.fixture()
def folder(both):
    return both[0]


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_arrive_at_the_parameters_of_one(folder, name):
    one, two = (
        torch.load(folder / n / name / "last.pt", weights_only=True) for n in ("one", "two")
    )
    assert torch.equal(one["random"], two["random"]) and one["step"] == two["step"]
    for part in [k for k in one if k in ("model", "student", "fake", "disc", "ema")]:
        # the network as a whole: where a gradient is zero, Adam steps along its rounding
        a, b = (torch.cat([x.flatten() for x in run[part].values()]) for run in (one, two))
        assert (a - b).norm() <= 1e-5 * a.norm(), part


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_write_one_log_with_the_numbers_of_one(folder, name):
    one, two = (
        [json.loads(line) for line in (folder / n / name / "log.jsonl").read_text().splitlines()]
        for n in ("one", "two")
    )
    assert [row.keys() for row in one] == [row.keys() for row in two]
    for a, b in zip(one[1:], two[1:]):
        local = ("seconds", "latent_std")  # a standard deviation is each process's own
        a, b = ({k: v for k, v in row.items() if k not in local} for row in (a, b))
        assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_one_process_goes_on_with_the_run_of_two(folder):
    with contextlib.chdir(folder):
        distill_stage1.train(config("stage1", "two", steps=3), resume=True)
    rows = (folder / "two/stage1/log.jsonl").read_text().splitlines()
    assert sum('"config"' in row for row in rows) == 2
    assert torch.load(folder / "two/stage1/last.pt", weights_only=True)["step"] == 3


def test_a_process_that_is_killed_ends_the_run_and_leaves_the_last_checkpoint(both):
    folder, ended = both
    assert ended.returncode
    assert torch.load(folder / "killed/teacher/last.pt", weights_only=True)["step"] in (1, 2)
    assert not list((folder / "killed").glob("**/*.tmp"))


def test_alone_nothing_is_shared_or_averaged():
    x = torch.randn(3, 2)
    for same in parallel.share(x), parallel.process_mean(x), parallel.gather(x):
        assert torch.equal(same, x)
    cpu = torch.device("cpu")
    assert parallel.join(cpu) == cpu and parallel.rank() == 0 and parallel.processes() == 1


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch):
    monkeypatch.setattr(parallel, "processes", lambda: 2)
    with pytest.raises(ValueError, match="2 processes cannot share a batch of 3"):
        parallel.share(torch.zeros(3))
