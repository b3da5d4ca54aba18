"""What several tests share."""

from pathlib import Path

import pytest
import torch
from torch import nn

import autoencoder
import tiny_data
from checkpoint import save_checkpoint
from latents import Cond
from unet import UNet

SHIPPED = Path(tiny_data.__file__).parents[1] / "checkpoints"


def condition(batch=2, given=0, seed=0, frames=16):
    """A random Cond; `given` context frames."""
    g = torch.Generator().manual_seed(seed)
    mask = (torch.arange(frames) < given).float().expand(batch, frames)
    return Cond(
        torch.randn(batch, 16, 8, 8, generator=g),
        torch.randn(batch, frames, 20, 64, generator=g),
        torch.randn(batch, frames, 16, 8, 8, generator=g) * mask[:, :, None, None, None],
        mask.clone(),
    )


def small_unet(seed=0):
    """A UNet of 16 channels whose zero-initialised layers are filled, so that gradients reach
    everything."""
    torch.manual_seed(seed)
    model = UNet(16)
    for p in model.parameters():
        if p.abs().max() == 0:
            nn.init.normal_(p, std=0.1)
    return model


def prepare(folder, kind=None, videos=0, frames=8):
    """Write an untrained ae.pt, an untrained KIND.pt ("teacher", "stage1"; recipe plain) for clips
    of so many frames, and data of a few videos into a folder -> the folder."""
    torch.manual_seed(0)
    save_checkpoint(
        folder / "ae.pt",
        kind="autoencoder",
        config={},
        model=autoencoder.AutoEncoder().state_dict(),
    )
    if kind:
        made = dict(channels=16, frames=frames, context=4, recipe="plain")
        save_checkpoint(
            folder / f"{kind}.pt", kind=kind, config=made, model=small_unet().state_dict()
        )
    if videos:
        tiny_data.load(folder / "data", "train", videos)
    return folder


def spy(monkeypatch, module, name, results=None):
    """-> the positional arguments of every call of module.name from now on; what it returns is
    added to the list `results`."""
    calls, real = [], getattr(module, name)

    def watched(*args, **more):
        calls.append(args)
        value = real(*args, **more)
        if results is not None:
            results.append(value)
        return value

    monkeypatch.setattr(module, name, watched)
    return calls


def train_with_a_power_cut(script, config, monkeypatch, call):
    """Train, stop in the call-th (from 0) update of the moving average, and go on with --resume ->
    the moving average."""
    calls, real = iter(range(99)), script.update_ema

    def stop(*args):
        real(*args)
        if next(calls) == call:
            raise KeyboardInterrupt

    monkeypatch.setattr(script, "update_ema", stop)
    with pytest.raises(KeyboardInterrupt):
        script.train(config)
    monkeypatch.setattr(script, "update_ema", real)
    return script.train(config, resume=True)
