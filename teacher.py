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
from checkpoint import load_network, resume_training, save_training
from common import (
    Log,
    Options,
    check_finite,
    cosine_decay,
    one_line_errors,
    parse,
    pick_device,
    smoke,
    update_ema,
)
from departures import make_optimisers, noise_source
from diffusion import T, add_noise, ddim_step, guide, trailing_timesteps, v_loss, v_target
from latents import REF_GAP, cond_map, contact_sheet, draws, drop, load_clips
from listener import pretrain_sound
from parallel import average_gradients, join, process_mean, share
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
    drop_ref: float = 0.1  # ablation: probability of dropping portrait and sound (branch ∅)
    drop_audio: float = 0.1  # ablation: probability of dropping the sound alone (branch ref)
    context_rate: float = 0.5  # ablation: share of the clips that carry context frames
    ref_gap: int = REF_GAP  # ablation: minimum gap in frames from clip to portrait; 0 = any frame
    sound_steps: int = 2000  # ablation: steps in which the listener first learns phones (toy set)

    def __post_init__(self):
        super().__post_init__()
        self.check("recipe", "plain", "toy")
        if not self.context < self.frames <= 64 or self.frames % 4 or self.context % 4:
            raise ValueError(
                "--context must be below --frames, that at most 64, and both multiples of 4, "
                f"got {self.context} and {self.frames}"
            )


SMOKE = smoke("teacher", autoencoder="out/smoke/autoencoder.pt", channels=16, steps=6, batch=2)
SMOKE |= dict(warmup=2, sound_steps=2, log_every=2, save_every=3, sample_every=6)
STEPS, S_REF, S_AUDIO = 40, 1.1, 2.0  # the teacher's sampler: 40 steps of 3 branches


# ---------------------------------------------------------------- the sampler


def hold_context(x, cond, eps=None, t=None):
    """x (B, F, C, H, W) with the true latents at context frames, noised to t if ε, t are given."""
    given = cond.context if eps is None else add_noise(cond.context, eps, t)
    mask = cond.mask[:, :, None, None, None]
    return mask * given + (1 - mask) * x


def guided_v(model, xt, t, cond, s_ref, s_audio):
    """The branches as one batch -> guided v̂. 3 evaluations; 2 with s_ref = 1, where v(∅) cancels;
    1 with both scales at 1."""
    if s_ref == 1 and s_audio == 1:
        return model(xt, t, cond)
    keeps = [(1, 0), (1, 1)] if s_ref == 1 else [(0, 0), (1, 0), (1, 1)]  # portrait, sound
    keep = torch.tensor(keeps, dtype=xt.dtype, device=xt.device).repeat_interleave(len(xt), 0)
    n = len(keeps)
    tiled = cond_map(cond, lambda x: x.repeat(n, *[1] * (x.ndim - 1)))
    v = model(xt.repeat(n, 1, 1, 1, 1), t.repeat(n), drop(tiled, *keep.T)).chunk(n)
    # of two branches, v[0] = v(ref) stands for v(none), times 1 - s_ref = 0
    return guide(v[0], *v[-2:], s_ref, s_audio)


@torch.no_grad()
def ddim_sample(model, cond, eps, steps=STEPS, s_ref=S_REF, s_audio=S_AUDIO):
    """Noise ε (B, F, C, H, W) -> x0, in `steps` DDIM steps of guided_v.

    The places of context frames hold their true latents, noised to the same t, as in training. The
    loss leaves these places out, so what the network says there is thrown away.
    """
    x, ts = eps, trailing_timesteps(steps)
    for t, s in zip(ts, ts[1:]):
        t, s = (torch.full((len(x),), time, device=x.device) for time in (t, s))
        v = guided_v(model, x, t, cond, s_ref, s_audio)
        x = hold_context(ddim_step(x, v, t, s), cond, eps, s)
    return x


def teacher_sampler(model, recipe, steps=STEPS, s_ref=S_REF, s_audio=S_AUDIO):
    """-> sampler(cond, noise) -> x0, with the recipe's noise."""

    def sampler(cond, noise):
        eps = noise_source(recipe, "teacher", noise)()
        return ddim_sample(model, cond, eps, steps, s_ref, s_audio)

    return sampler


def load_teacher(path="checkpoints/teacher.pt", device="cpu", kind="teacher"):
    """-> (network in eval mode without gradients, its Config as a dict). Raises ValueError for a
    missing or foreign file."""
    model, config = load_network(path, kind, lambda config: UNet(config["channels"]))
    return model.to(device, memory_format=torch.channels_last), config


# ---------------------------------------------------------------- training


def train(cfg, resume=False):
    # 1 seed and device
    torch.manual_seed(cfg.seed)
    generator = torch.Generator().manual_seed(cfg.seed)  # batches, timesteps and noise: on the CPU
    device = join(pick_device(cfg.device))

    # 2 data
    autoencoder = load_autoencoder(cfg.autoencoder, device)
    videos, clips = load_clips(cfg, "train", autoencoder, device)
    _, held_out = load_clips(cfg, "val", autoencoder, device)

    # 3 networks
    model = UNet(cfg.channels).to(device, memory_format=torch.channels_last)
    if videos.phones and cfg.sound_steps:
        if not resume:
            right = pretrain_sound(model.audio, videos, cfg.sound_steps, generator, device)
            print(f"phones named right by the sound's tokens: {right:.1%}")
            for p in model.audio.parameters():  # GPUs may differ in rounding; processes may not
                p.data = process_mean(p.data)
        # frozen, as wav2vec 2.0 is in the models that the paper distils: early on, when pictures
        # are still noise, training would make it ignore the sound
        model.audio.requires_grad_(False)
    ema = deepcopy(model).requires_grad_(False)
    count = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"network: {count:.2f} M parameters, {len(clips.latents)} frames, {device}")

    # 4 optimisers
    optimisers = make_optimisers(model, cfg.recipe, cfg.lr, cfg.bf16)

    # 5 resume
    parts = dict(model=model, ema=ema)
    parts |= {f"optimiser{i}": optimiser for i, optimiser in enumerate(optimisers)}
    first = resume_training(cfg, "teacher", generator, cfg.steps, **parts) if resume else 0
    log, losses = Log(cfg.out, cfg, device, resume), []
    uniform, fresh = draws(cfg.batch, clips, generator)

    # 6 loop
    for step in range(first, cfg.steps):
        # batch: t stratified over (0, T], T being where sampling starts
        x0, cond = clips.batch(cfg.batch, generator, cfg.context, cfg.context_rate, cfg.ref_gap)
        u = (torch.rand((), generator=generator) + torch.arange(cfg.batch)) / cfg.batch % 1
        t = share(T * (1 - u)).to(device)
        eps, drawn = fresh(), uniform()
        keep_ref = (drawn > cfg.drop_ref).float()
        keep_audio = (drawn > cfg.drop_ref + cfg.drop_audio).float()

        # loss
        with torch.autocast(device.type, torch.bfloat16, enabled=cfg.bf16):
            v_hat = model(add_noise(x0, eps, t), t, drop(cond, keep_ref, keep_audio))
        loss = v_loss(v_hat, v_target(x0, eps, t), cond.mask)

        # step
        model.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(model)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        check_finite(step, loss=loss.item(), gradient=norm.item())
        decay = cosine_decay(max(0, step - cfg.warmup) / max(1, cfg.steps - cfg.warmup))
        lr = cfg.lr * min(1, (step + 1) / max(1, cfg.warmup)) * decay
        for optimiser in optimisers:
            optimiser.param_groups[0]["lr"] = lr
            optimiser.step()
        update_ema(ema, model, step, cfg.ema)  # ema
        losses.append(loss.item())

        if (step + 1) % cfg.log_every == 0:  # log
            log(step + 1, loss=float(np.mean(losses)), gradient=norm.item(), lr=lr)
            losses = []
        if (step + 1) % cfg.sample_every == 0 or step + 1 == cfg.steps:  # sample
            shown = {f"{STEPS} steps": teacher_sampler(ema, cfg.recipe)}
            shown["1 step"] = teacher_sampler(ema, cfg.recipe, steps=1, s_ref=1, s_audio=1)
            contact_sheet(f"{cfg.out}/{step + 1:06d}.png", shown, held_out, autoencoder)
        if (step + 1) % cfg.save_every == 0 or step + 1 == cfg.steps:  # save
            save_training(cfg, "teacher", step + 1, generator, **parts)
    return ema


if __name__ == "__main__":
    with one_line_errors():
        train(*parse(Config, __doc__, SMOKE))
