"""What every training script needs and no paper writes about: arguments, device, log, checkpoints,
moving average.

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

import tiny_data
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


def save_checkpoint(path, **content):
    """Write plain tensors, numbers, strings, lists and dicts; first to a temporary file, so that no
    reader sees half of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        torch.save(content, temporary)
        os.replace(temporary, path)
    except (
        RuntimeError
    ) as error:  # how torch says that it cannot open the file, or that the disk is full
        raise OSError(f"{path} cannot be written ({str(error).splitlines()[0][:80]})") from None
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path, kind):
    """Read what save_checkpoint wrote, on the CPU. kind: what the file must say it is, such as
    "teacher".

    Raises ValueError with one line for a missing, damaged or foreign file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"no checkpoint at {path}: train it first (see README) or name another file"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception:  # each kind of damage upsets the unpickler in its own way
        raise ValueError(f"{path} is damaged or not a checkpoint of this project") from None
    if not isinstance(content, dict) or content.get("kind") != kind:
        found = (
            content.get("kind", "something else") if isinstance(content, dict) else "something else"
        )
        raise ValueError(f"{path} holds {found!r}: expected a {kind!r} checkpoint")
    return content


def load_network(path, kind, make):
    """A shipped network, float32 and frozen, and its config: make(config) -> the module. Raises
    ValueError, as load_checkpoint."""
    saved = load_checkpoint(path, kind)
    try:
        model = make(saved["config"])
        model.load_state_dict({k: v.float() for k, v in saved["model"].items()})
    except (RuntimeError, AttributeError, KeyError, TypeError):
        raise ValueError(
            f"{path} does not fit this version of the code: train it again or name another file"
        ) from None
    return model.eval().requires_grad_(False), saved["config"]


MAY_CHANGE = {
    "out",
    "weights",
    "device",
    "log_every",
    "save_every",
    "sample_every",
    "lr",
    "fake_lr",
    "disc_lr",
    "steps",
    "decoder_steps",
    "videos",
}


def same_run(cfg, saved, path, data=None):
    """Raises ValueError if the Config cfg and the dict `saved`, that of the run which path came
    from, differ in what may not change, or the clips from `data`, the fingerprint of its own."""
    given = {k: v for k, v in dataclasses.asdict(cfg).items() if k not in MAY_CHANGE}
    if given.keys() != saved.keys() - MAY_CHANGE:
        raise ValueError(
            f"{path} comes from another version of the code: start over or choose another --out"
        )
    if other := [k for k, v in given.items() if in_repository(saved[k]) != in_repository(v)]:
        how = [option(f"no_{k}" if saved[k] is False else k) for k in other]
        how = [o if isinstance(saved[k], bool) else f"{o} {saved[k]}" for o, k in zip(how, other)]
        raise ValueError(
            f"{path} was made with {', '.join(how)}: use the same options or another --out"
        )
    now = tiny_data.fingerprint(cfg.data)
    data = now if data is None else data  # as older ones have none
    if other := sorted(k for k in now.keys() | data.keys() if now.get(k) != data.get(k)):
        names = ", ".join(other[:3]) + (" ..." if other[3:] else "")
        raise ValueError(
            f"{cfg.data} is not what {path} was trained on (added, removed or changed: {names}): "
            "put it back, or start over with another --out"
        )


def resume_training(cfg, kind, generator, total=math.inf, **parts):
    """Put back what save_training wrote -> the step to go on from, of `total`. parts: everything
    with a state_dict, by name.

    Raises ValueError where the run in cfg.out was another one.
    """
    if not Path(cfg.out, "last.pt").exists():
        raise ValueError(
            f"no {cfg.out}/last.pt to go on from: start without --resume, or name the run's --out"
        )
    saved = load_checkpoint(f"{cfg.out}/last.pt", f"{kind} training")
    same_run(cfg, saved["config"], f"{cfg.out}/last.pt", saved.get("data"))
    try:
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    except (RuntimeError, KeyError, ValueError):  # ValueError: an optimiser with other groups
        raise ValueError(
            f"{cfg.out}/last.pt does not fit this version of the code: start again, or give "
            "another --out"
        ) from None
    generator.set_state(saved["random"])
    if saved["step"] < total:
        print(f"going on from step {saved['step']} of {cfg.out}/last.pt")
    else:
        more = [option(name) for name in ("steps", "decoder_steps") if hasattr(cfg, name)][-1:]
        how = f"to go on, give more {more[0]}" if more else "its phases have no more updates"
        print(f"{cfg.out}/last.pt is finished, at step {saved['step']}: {how}")
    return saved["step"]


def save_training(cfg, kind, step, generator, ship=True, network=None, **parts):
    """Write out/last.pt, from which --resume goes on, and if `ship` the moving average `ema` alone
    as float16 to cfg.weights, with the config and what else `network`, a dict, says of it. Under
    torchrun the first process does, for all."""
    if rank():
        return
    save_checkpoint(
        f"{cfg.out}/last.pt",
        kind=f"{kind} training",
        step=step,
        config=dataclasses.asdict(cfg),
        random=generator.get_state(),
        data=tiny_data.fingerprint(cfg.data),
        **{name: part.state_dict() for name, part in parts.items()},
    )
    if ship:
        save_checkpoint(
            cfg.weights,
            kind=kind,
            step=step,
            config=dataclasses.asdict(cfg) | (network or {}),
            model=half(parts["ema"].state_dict()),
        )


def half(state):
    """A state dict with float32 tensors as float16: what is shipped."""
    return {k: v.half() if v.dtype == torch.float32 else v for k, v in state.items()}


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
        with open(self.path, "a") as f:
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
