"""What every script needs and no paper writes about: options, one-line errors, device, moving
average, log.

Nothing here knows about diffusion. A Config dataclass is the command line: each field is an option,
its comment the help.
"""

import argparse
import contextlib
import dataclasses
import inspect
import json
import math
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch

from parallel import leave, process_mean, processes, rank

HERE = Path(__file__).resolve().parent


@dataclasses.dataclass
class Options:
    """What all training scripts have; their Config adds its own fields."""

    data: str = "data/tiny"  # toy set (built if missing) or a folder of video clips
    videos: int = 0  # videos per split when the toy set has to be built, 0 = 1080 / 48 / 96
    out: str = "out"  # log, contact sheets and the resumable checkpoint
    weights: str = ""  # where the trained network goes
    seed: int = 0
    device: str = "auto"  # auto = cuda if there is one, else cpu
    bf16: bool = False  # networks in bfloat16: faster on GPUs, and CPUs with AMX or AVX-512 bf16

    def __post_init__(self):
        """Raises ValueError, naming the option, for a number that makes no sense."""
        for name, value in vars(self).items():
            at_least = 1 if name.endswith("_every") or name in POSITIVE else 0
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if number and not (math.isfinite(value) and value >= at_least):
                raise ValueError(
                    f"{option(name)} must be a finite number >= {at_least}, got {value}"
                )
        self.data = os.path.normpath(self.data) if self.data else ""  # folder/ is folder
        if self.seed >= 2**63:
            raise ValueError(f"--seed must be below 2^63, got {self.seed}")

    def check(self, name, *allowed):
        """Raises ValueError unless the option `name` is one of those allowed."""
        if getattr(self, name) not in allowed:
            choices = " or ".join(filter(None, allowed))
            raise ValueError(f"{option(name)} must be {choices}, got {getattr(self, name)!r}")


POSITIVE = ("batch", "frames", "channels", "people", "steps", "last_steps", "target_steps")


def smoke(name, **more):
    """What --smoke puts in place of a Config's defaults: everything runs, at toy size."""
    out = f"out/smoke/{name}"
    return dict(data="data/smoke", videos=4, out=out, weights=f"{out}.pt") | more


class Parser(argparse.ArgumentParser):
    """Reports a bad command line in one line, like every other ValueError."""

    def __init__(self, doc):
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message):
        raise ValueError(f"{message} (see --help)")


def option(name):
    """last_steps -> --last-steps"""
    return "--" + name.replace("_", "-")


def parse(config_class, doc, smoke, argv=None):
    """Command line -> (config, resume). Every field of the dataclass is an option: --lr 1e-4,
    --bf16, --no-bf16.

    `smoke`: dict of the field values that --smoke puts in place of the defaults: all runs, at toy
    size. Paths that are not given are the repository's, wherever the script is run.
    """
    sources = [inspect.getsource(c) for c in config_class.__mro__ if dataclasses.is_dataclass(c)]
    comments = {}
    for source in sources:  # the Config's own comments before those of Options
        comments = dict(re.findall(r"^    (\w+):.*?#\s*(.*)$", source, re.M)) | comments
    parser = Parser(doc)
    for f in dataclasses.fields(config_class):
        kind = dict(type=type(f.default))
        if isinstance(f.default, bool):
            kind = dict(action=argparse.BooleanOptionalAction)
        text = f"{comments.get(f.name, '')} (default: {f.default})".replace("%", "%%")
        parser.add_argument(option(f.name), default=None, help=text, **kind)
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint in --out"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="everything at toy size, in well under a minute"
    )
    given = {k: v for k, v in vars(parser.parse_args(argv)).items() if v is not None}
    resume, small = given.pop("resume"), given.pop("smoke")
    defaults = {f.name: f.default for f in dataclasses.fields(config_class)}
    defaults |= smoke if small else {}
    if Path.cwd() != HERE:
        defaults = {name: in_repository(value) for name, value in defaults.items()}
    return config_class(**defaults | given), resume


def in_repository(value):
    """ "out/teacher" -> that path in the repository; absolute paths, names and numbers as they
    are."""
    is_path = isinstance(value, str) and "/" in value
    return os.path.normpath(HERE / value) if is_path else value


@contextlib.contextmanager
def one_line_errors():
    """Expected trouble (bad input, missing files, a diverged run) ends with one clear line and exit
    code 2.

    SIGTERM, and SIGHUP where nohup has not switched it off, unwind like Ctrl-C, so that temporary
    files are removed. What a terminal or pipe cannot print becomes question marks.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
            number = getattr(signal, name, None)
            if number and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        yield
        leave()
    except (ValueError, OSError, FloatingPointError, torch.OutOfMemoryError) as error:
        # most errors are everybody's: the first process reports them, and torchrun ends the others
        # while they sleep
        time.sleep(3 if int(os.environ.get("RANK", 0)) else 0)
        who = f"process {rank()}: " if rank() else ""
        print(f"{who}error: {error}", file=sys.stderr, flush=True)
        if processes() > 1:
            os._exit(2)  # at once: tidying up may wait for processes that no longer answer
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)


def pick_device(name):
    """ "auto" -> cuda if there is one, else cpu; any other name is checked. Raises ValueError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name).cpu()
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device {name!r} cannot be used ({str(error).splitlines()[0][:80]}); try --device cpu"
        ) from None


def check_finite(step, **terms):
    """Stop the run where it broke: FloatingPointError naming the step and the first non-finite
    term."""
    for name, value in terms.items():
        if not math.isfinite(value):
            raise FloatingPointError(
                f"{name} is {value} at step {step}; go back to a checkpoint with --resume and a "
                "smaller learning rate"
            )


def cosine_decay(progress):
    """½ (1 + cos π p): the share of a learning rate that is left at progress p of a run: 1 at p =
    0, 0 at p = 1."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def update_ema(ema, model, step, decay=0.999):
    """θ_ema ← d θ_ema + (1 − d) θ with d = min(decay, (1 + step) / (10 + step)): parameters only,
    buffers are copied."""
    d = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - d)
        for a, b in zip(ema.buffers(), model.buffers()):
            a.copy_(b)


def mean_rows(rows):
    """[{name: number}] -> the mean of each of the last row's numbers over the rows that have it:
    one line of the log."""
    return {k: float(np.mean([row[k] for row in rows if k in row])) for k in rows[-1]}


class Log:
    """One aligned line on the terminal, and the same keys as JSON lines in out/log.jsonl (first
    line: config, versions). Under torchrun: means over the processes, written by the first."""

    def __init__(self, out, config, device, resume):
        self.path, self.start = Path(out) / "log.jsonl", time.time()
        if rank():
            return
        Path(out).mkdir(parents=True, exist_ok=True)
        if not resume:  # also the checkpoint: --resume must never go on from an older run
            self.path.unlink(missing_ok=True)
            self.path.with_name("last.pt").unlink(missing_ok=True)
        self.write(
            config=dataclasses.asdict(config),
            torch=torch.__version__,
            numpy=np.__version__,
            device=str(device),
            threads=torch.get_num_threads(),
            resumed=bool(resume),
        )

    def write(self, **row):
        with open(self.path, "a", encoding="utf-8") as f:
            f.write(json.dumps(row) + "\n")

    def __call__(self, step, **row):
        means = process_mean(torch.tensor(list(row.values()), dtype=torch.float64)).tolist()
        row = {k: v if isinstance(v, int) else m for (k, v), m in zip(row.items(), means)}
        if rank():
            return
        row = {"step": step, "seconds": round(time.time() - self.start, 1), **row}
        self.write(**row)
        print(
            "  ".join(
                f"{k} {v:>7d}" if isinstance(v, int) else f"{k} {v:>8.4g}" for k, v in row.items()
            ),
            flush=True,
        )
