"""The teacher: an audio-driven talking-portrait model, 40 steps x 3 branches = 120 evaluations.

    L   = E ‖v̂(x_t, t, c) − v‖²               over the frames to be generated (diffusion.v_loss)
    v_g = v̂(∅) + s_ref [v̂(ref) − v̂(∅)] + s_audio [v̂(ref, audio) − v̂(ref)]         (guided_v)
    x_T = ε, then 40 DDIM steps with v_g      (ddim_sample)

Its sampler and its training; the network is in unet.py, the equations in diffusion.py.

    python teacher.py --bf16     two hours on one CPU core (AVX-512 with bfloat16; torch 2.13.0)
    python teacher.py --smoke    everything at toy size (after python autoencoder.py --smoke)
Writes checkpoints/teacher.pt (the moving average, float16) and out/teacher/: log.jsonl, last.pt,
contact sheets.
"""

from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from autoencoder import load_autoencoder
from common import (
    Log,
    Options,
    check_finite,
    cosine_decay,
    load_network,
    one_line_errors,
    parse,
    pick_device,
    resume_training,
    save_training,
    update_ema,
)
from departures import NOISE, make_optimisers, noise_source
from diffusion import T, add_noise, ddim_step, guide, trailing_timesteps, v_loss, v_target
from latents import REF_GAP, cond_map, contact_sheet, drop, load_clips
from listener import pretrain_sound
from unet import UNet


@dataclass
class Config(Options):
    out: str = "out/teacher"  # log, contact sheets and the resumable checkpoint
    weights: str = "checkpoints/teacher.pt"  # where the trained network goes
    autoencoder: str = "checkpoints/autoencoder.pt"  # frames <-> latents
    recipe: str = "toy"  # plain = the method, toy = with departures.py
    steps: int = 10000  # optimiser steps
    batch: int = 8  # clips per step
    frames: int = 16  # frames per clip
    context: int = 4  # frames of a clip that may be given from the previous chunk
    channels: int = 96  # width of the network
    lr: float = 2e-3  # peak learning rate
    warmup: int = 200  # steps of linear warm-up; a cosine decay to zero follows
    ema: float = 0.999  # decay of the moving average, which is what samples
    log_every: int = 50  # steps
    save_every: int = 500  # steps between checkpoints
    sample_every: int = 1000  # steps between contact sheets
    drop_ref: float = 0.1  # ablation: how often portrait and sound are dropped (branch ∅)
    drop_audio: float = 0.1  # ablation: how often the sound alone is dropped (branch ref)
    context_rate: float = 0.5  # ablation: share of the clips that carry context frames
    ref_gap: int = REF_GAP  # ablation: frames between clip and portrait, at least; 0 = any frame
    sound_steps: int = 2000  # ablation: steps in which the listener first learns phones (toy set)

    def __post_init__(self):
        super().__post_init__()
        self.check("recipe", "plain", "toy")
        if not self.context < self.frames <= 64 or self.frames % 4 or self.context % 4:
            raise ValueError(
                "--context must be below --frames, that at most 64, and both multiples of 4, "
                f"got {self.context} and {self.frames}"
            )


SMOKE = dict(
    videos=4,
    steps=6,
    batch=2,
    channels=16,
    warmup=2,
    sound_steps=2,
    log_every=2,
    save_every=3,
    sample_every=6,
    out="out/smoke/teacher",
    weights="out/smoke/teacher.pt",
    autoencoder="out/smoke/autoencoder.pt",
    data="data/smoke",
)
STEPS, S_REF, S_AUDIO = (
    40,
    1.1,
    2.0,
)  # the teacher's sampler: 40 steps of 3 branches = 120 evaluations, and their scales


# ---------------------------------------------------------------- the sampler


def hold_context(x, cond, eps=None, t=None):
    """x (B, F, C, H, W) with the places of context frames replaced by their true latents, noised to
    t if ε and t are given."""
    given = cond.context if eps is None else add_noise(cond.context, eps, t)
    mask = cond.mask[:, :, None, None, None]
    return mask * given + (1 - mask) * x


def guided_v(model, xt, t, cond, s_ref, s_audio):
    """The three branches as one batch of 3 B -> guided v̂. Two with s_ref = 1, where v(∅) cancels;
    with both scales at 1 just the full one."""
    if s_ref == 1 and s_audio == 1:
        return model(xt, t, cond)
    keep = torch.tensor(
        [[1, 0], [1, 1]] if s_ref == 1 else [[0, 0], [1, 0], [1, 1]],
        dtype=xt.dtype,
        device=xt.device,
    )
    n, (keep_ref, keep_audio) = len(keep), keep.repeat_interleave(len(xt), 0).T
    branches = drop(
        cond_map(cond, lambda x: x.repeat(n, *[1] * (x.ndim - 1))), keep_ref, keep_audio
    )
    v = model(xt.repeat(n, 1, 1, 1, 1), t.repeat(n), branches).chunk(n)
    return guide(
        v[0], *v[-2:], s_ref, s_audio
    )  # of two branches, v[0] = v(ref) stands for v(none), times 1 - s_ref = 0


@torch.no_grad()
def ddim_sample(model, cond, eps, steps=STEPS, s_ref=S_REF, s_audio=S_AUDIO):
    """Noise ε (B, F, C, H, W) -> x0, in `steps` DDIM steps: 3 `steps` evaluations with guidance (2
    `steps` with s_ref = 1), `steps` without.

    The places of context frames hold their true latents, noised to the same t, as in training. The
    loss leaves these places out, so the network's answer there is thrown away; they are returned as
    given.
    """
    x = eps
    ts = trailing_timesteps(steps)
    for t, s in zip(ts, ts[1:]):
        t, s = torch.full((len(x),), t, device=x.device), torch.full((len(x),), s, device=x.device)
        x = hold_context(
            ddim_step(x, guided_v(model, x, t, cond, s_ref, s_audio), t, s), cond, eps, s
        )
    return x


def teacher_sampler(model, recipe, steps=STEPS, s_ref=S_REF, s_audio=S_AUDIO):
    """-> sampler(cond, noise) -> x0, with the recipe's noise."""

    def sampler(cond, noise):
        return ddim_sample(
            model, cond, noise_source(recipe, "teacher", noise)(), steps, s_ref, s_audio
        )

    return sampler


def load_teacher(path="checkpoints/teacher.pt", device="cpu", kind="teacher"):
    """-> (network in eval mode without gradients, its Config as a dict). Raises ValueError for a
    missing or foreign file."""

    def make(config):
        directions = (
            0 if kind == "teacher" else NOISE["student"][config.get("recipe", "toy")].directions
        )
        return UNet(config["channels"], directions=directions)

    model, config = load_network(path, kind, make)
    return model.to(device, memory_format=torch.channels_last), config


# ---------------------------------------------------------------- training


def train(cfg, resume=False):
    # 1 seed and device
    torch.manual_seed(cfg.seed)
    generator = torch.Generator().manual_seed(cfg.seed)  # batches, timesteps and noise: on the CPU
    device = pick_device(cfg.device)

    # 2 data
    autoencoder = load_autoencoder(cfg.autoencoder, device)
    videos, clips = load_clips(cfg, "train", autoencoder, device)
    _, held_out = load_clips(cfg, "val", autoencoder, device)

    # 3 networks
    model = UNet(cfg.channels).to(device, memory_format=torch.channels_last)
    if not resume and videos.phones and cfg.sound_steps:
        print(
            "phones named right by the sound's tokens: "
            f"{pretrain_sound(model.audio, videos, cfg.sound_steps, generator, device):.1%}"
        )
    if (
        videos.phones and cfg.sound_steps
    ):  # a frozen listener, as wav2vec 2.0 is in the models that the paper
        model.audio.requires_grad_(
            False
        )  # distils: while pictures are noise, training would silence it
    ema = deepcopy(model).requires_grad_(False)
    looks = [
        teacher_sampler(ema, cfg.recipe),
        teacher_sampler(ema, cfg.recipe, steps=1, s_ref=1, s_audio=1),
    ]
    print(
        f"UNet: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, "
        f"{len(clips.latents)} frames, {device}"
    )

    # 4 optimiser
    optimisers = make_optimisers(model, cfg.recipe, cfg.lr, cfg.bf16)

    # 5 resume
    parts = dict(model=model, ema=ema) | {
        f"optimiser{i}": optimiser for i, optimiser in enumerate(optimisers)
    }
    first = resume_training(cfg, "teacher", generator, **parts) if resume else 0
    log, mean_loss = Log(cfg.out, cfg, device, resume), []

    # 6 loop
    for step in range(first, cfg.steps):
        x0, cond = clips.batch(
            cfg.batch, generator, cfg.context, cfg.context_rate, cfg.ref_gap
        )  # batch
        u = (
            (torch.rand((), generator=generator) + torch.arange(len(x0))) / len(x0) % 1
        )  # stratified over [0, 1)
        t = (T * (1 - u)).to(device)  # (0, T]: T is where sampling starts
        eps = torch.randn(x0.shape, generator=generator).to(device)
        drawn = torch.rand(len(x0), generator=generator).to(device)
        keep_ref, keep_audio = (
            (drawn > cfg.drop_ref).float(),
            (drawn > cfg.drop_ref + cfg.drop_audio).float(),
        )

        with torch.autocast(device.type, torch.bfloat16, enabled=cfg.bf16):  # loss
            v_hat = model(add_noise(x0, eps, t), t, drop(cond, keep_ref, keep_audio))
        loss = v_loss(v_hat, v_target(x0, eps, t), cond.mask)

        model.zero_grad(set_to_none=True)  # step
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        decay = cosine_decay(max(0, step - cfg.warmup) / max(1, cfg.steps - cfg.warmup))
        check_finite(step, loss=loss.item(), gradient=norm.item())
        lr = cfg.lr * min(1, (step + 1) / max(1, cfg.warmup)) * decay
        for optimiser in optimisers:
            optimiser.param_groups[0]["lr"] = lr
            optimiser.step()
        update_ema(ema, model, step, cfg.ema)  # ema
        mean_loss.append(loss.item())

        if (step + 1) % cfg.log_every == 0:  # log
            log(step + 1, loss=float(np.mean(mean_loss)), gradient=norm.item(), lr=lr)
            mean_loss = []
        if (step + 1) % cfg.sample_every == 0 or step + 1 == cfg.steps:  # sample
            contact_sheet(f"{cfg.out}/{step + 1:06d}.png", looks, held_out, autoencoder)
        if (step + 1) % cfg.save_every == 0 or step + 1 == cfg.steps:  # save
            save_training(cfg, "teacher", step + 1, generator, **parts)
    return ema


if __name__ == "__main__":
    with one_line_errors():
        train(*parse(Config, __doc__, SMOKE))
