"""Checkpoints: plain tensors, numbers and strings, written at once or not at all; and --resume.

A network is shipped as float16 with its config (load_network); out/last.pt holds all that a run
needs to go on, and which options and clips it was started with (save_training, resume_training).
"""

import dataclasses
import math
import os
from pathlib import Path

import torch

import tiny_data
from common import in_repository, option
from parallel import rank

# ---------------------------------------------------------------- files


def save_checkpoint(path, **content):
    """Write plain tensors, numbers, strings, lists and dicts; first to a temporary file, so that no
    reader sees half of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        torch.save(content, temporary)
        os.replace(temporary, path)
    except RuntimeError as error:  # torch's word for a full disk, or a file that it cannot open
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
    found = content.get("kind", "something else") if isinstance(content, dict) else "something else"
    if found != kind:
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


def half(state):
    """A state dict with float32 tensors as float16: what is shipped."""
    return {k: v.half() if v.dtype == torch.float32 else v for k, v in state.items()}


# ---------------------------------------------------------------- a run, and its --resume

MAY_CHANGE = set(  # options that may change from a run to its --resume
    "out weights device log_every save_every sample_every lr fake_lr disc_lr steps decoder_steps "
    "videos".split()
)


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
