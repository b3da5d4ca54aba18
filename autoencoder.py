"""Frames <-> latents: a per-frame autoencoder, 64 x 64 x 3 pixels <-> 8 x 8 x 16 numbers.

    z = (E(x) − mean) / std         per channel: unit variance over the training frames
    L = ‖D(z + 0.03 n) − x‖² + ‖∇D(z + 0.03 n) − ∇x‖²,      n ~ N(0, 1)
    then, for the decoder alone, L + 0.1 |ΔD(z + 0.03 n) − Δx|,      Δ: from a frame to the next

The noise n makes the decoder smooth: what a diffusion model gets slightly wrong must not
show as flicker. The gradient term (differences of neighbouring pixels) keeps eyes and mouth crisp
where a pixel loss alone would blur them. First both halves learn together; then the encoder, and
with it the latents, stays, and the decoder goes on (as was done for Stable Diffusion's) and learns
not to flicker: half the cost a step, and a diffusion model trained on the latents keeps its value.

    python autoencoder.py --bf16    45 minutes on one CPU core (AVX-512, AMX; torch 2.13.0)
Writes checkpoints/autoencoder.pt (the moving average, float16) and out/autoencoder/: log.jsonl,
last.pt, contact sheets.
"""

from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import tiny_data
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
from parallel import average_gradients, first_process_first, gather, join, rank, share


@dataclass
class Config(Options):
    out: str = "out/autoencoder"  # log, contact sheets and the resumable checkpoint
    weights: str = "checkpoints/autoencoder.pt"  # where the trained network goes
    steps: int = 10000  # optimiser steps of encoder and decoder together
    decoder_steps: int = 12000  # further steps for the decoder alone, on pairs of frames
    init: str = ""  # train only the decoder of this autoencoder; its latents do not change
    batch: int = 32  # frames per step
    lr: float = 1e-3  # peak learning rate (AdamW, cosine decay to zero)
    noise: float = 0.03  # standard deviation of the noise on the latents, in units of theirs
    gradient: float = 1.0  # ablation: weight of the image-gradient term
    change: float = 0.1  # ablation: weight of the change from frame to frame (decoder's own steps)
    log_every: int = 100  # steps
    save_every: int = 1000  # steps between checkpoints and contact sheets


SMOKE = smoke("autoencoder", steps=4, decoder_steps=2, batch=8, log_every=2, save_every=3)


class ResBlock(nn.Module):
    """x + conv(silu(conv(silu(x)))); (N, C, H, W) -> the same shape. No normalisation: latents must
    not depend on it."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x):
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class AutoEncoder(nn.Module):
    """encode (N, 3, 64, 64) in [-1, 1] -> (N, 16, 8, 8), unit variance; decode goes back. Pixel
    (un)shuffles change the resolution: they cost nothing, and all convolutions run at 32 x 32 or
    below. Any multiple of 8 works as a size."""

    def __init__(self, latent=16, enc=(32, 64, 128), dec=(32, 64, 128)):
        super().__init__()
        a, b, c = enc
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, a, 3, padding=1),
            ResBlock(a),  # 32 x 32
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * a, b, 1),
            ResBlock(b),  # 16 x 16
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * b, c, 1),
            ResBlock(c),
            ResBlock(c),  # 8 x 8
            nn.SiLU(),
            nn.Conv2d(c, latent, 1),
        )
        a, b, c = dec
        self.decoder = nn.Sequential(
            nn.Conv2d(latent, c, 3, padding=1),
            ResBlock(c),
            ResBlock(c),
            ResBlock(c),
            nn.Conv2d(c, 4 * b, 1),
            nn.PixelShuffle(2),
            ResBlock(b),
            nn.Conv2d(b, 4 * a, 1),
            nn.PixelShuffle(2),
            ResBlock(a),
            nn.SiLU(),
            nn.Conv2d(a, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.register_buffer("mean", torch.zeros(latent, 1, 1))
        self.register_buffer("std", torch.ones(latent, 1, 1))

    def encode(self, x):
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] % 8 or x.shape[3] % 8:
            want = "(N, 3, H, W), H and W multiples of 8"
            raise ValueError(f"frames must be {want}, got {tuple(x.shape)}")
        return (self.encoder(x) - self.mean) / self.std

    def decode(self, z):
        if z.ndim != 4 or z.shape[1] != len(self.mean):
            want = f"(N, {len(self.mean)}, h, w)"
            raise ValueError(f"latents must be {want}, got {tuple(z.shape)}")
        return self.decoder(z * self.std + self.mean)


def reconstruction_loss(y, x, gradient):
    """‖y − x‖² + gradient · ‖∇y − ∇x‖², means over pixels; ∇ are the differences to the right and
    lower neighbours. y, x (N, 3, H, W) -> scalar. The second term weighs an edge of one pixel as
    much as a flat error: edges stay crisp."""
    d = y - x
    return d.pow(2).mean() + gradient * (d.diff(dim=2).pow(2).mean() + d.diff(dim=3).pow(2).mean())


def change_loss(y, x):
    """mean |(y' − y) − (x' − x)| for pairs of neighbouring frames, (2 N, 3, H, W), x_0, x_0', x_1,
    x_1' ... -> scalar. Errors that come and go are seen as flicker, most of all where nothing
    moves: there the square would hardly count them."""
    d = y - x
    return (d[1::2] - d[::2]).abs().mean()


def psnr(y, x):
    """Peak signal-to-noise ratio of frames in [-1, 1], (N, 3, H, W) -> (N,) dB: 10 log10(1 / mean
    squared error on [0, 1])."""
    return -10 * ((y.clamp(-1, 1) - x) / 2).pow(2).mean((1, 2, 3)).clamp_min(1e-12).log10()


def to_pixels(frames, device="cpu"):
    """uint8 (N, H, W, 3) -> float (N, 3, H, W) in [-1, 1]."""
    x = torch.from_numpy(np.array(frames)).to(device)
    return x.permute(0, 3, 1, 2).float().div(127.5).sub(1)


def to_uint8(x):
    """Float (N, 3, H, W) in [-1, 1] -> uint8 (N, H, W, 3) in NumPy."""
    return x.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def mouth_box(frames, motion, w=12, h=10):
    """Cut the mouth out of true frames: (N, 3, 64, 64), motion (N, 11) -> (N, 3, 20, 24), centred
    where faces.py draws it."""
    turn, roll = motion[:, 7], motion[:, 5]
    fx, fy = 3.6 * turn, 9.5 + 3.0 * motion[:, 0]  # in head coordinates; the jaw opens downwards
    x = 32 + motion[:, 3] + np.cos(roll) * fx - np.sin(roll) * fy
    y = 31 + motion[:, 4] + np.sin(roll) * fx + np.cos(roll) * fy
    x, y = (np.clip(np.round(c).astype(int), n, 64 - n) for c, n in ((x, w), (y, h)))
    return torch.stack([f[:, b - h : b + h, a - w : a + w] for f, a, b in zip(frames, x, y)])


@torch.no_grad()
def validate(model, videos, stride=8):
    """Held-out quality on every stride-th frame -> dict: psnr and psnr_mouth in dB, psnr_noisy with
    noise 0.1 on the latents, flicker: the mean change of the decoded frame when nothing but that
    noise changes, relative to the data's own."""
    x = to_pixels(videos.frames[::stride], model.mean.device)
    z = model.encode(x)
    y = model.decode(z)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0)).to(z)
    noisy = model.decode(z + 0.1 * noise)
    one_video = to_pixels(videos.frames[: min(65, videos.starts[1])], x.device)
    change = one_video.diff(dim=0).abs().mean()
    scores = dict(
        psnr=psnr(y, x).mean().item(),
        psnr_noisy=psnr(noisy, x).mean().item(),
        flicker=((noisy - y).abs().mean() / change).item(),
    )
    if len(videos.motion):
        move = np.asarray(videos.motion[::stride])
        scores["psnr_mouth"] = psnr(mouth_box(y, move), mouth_box(x, move)).mean().item()
    return scores


def load_autoencoder(path="checkpoints/autoencoder.pt", device="cpu"):
    """-> AutoEncoder in eval mode without gradients. Raises ValueError for a missing or foreign
    file."""
    model, _ = load_network(path, "autoencoder", lambda config: AutoEncoder())
    return model.to(device, memory_format=torch.channels_last)


def train(cfg, resume=False):
    steps = 0 if cfg.init else cfg.steps  # of the first phase
    if not steps + cfg.decoder_steps:
        raise ValueError("--init without --decoder-steps has nothing to do")
    if cfg.decoder_steps and cfg.batch % 2:
        raise ValueError(f"--batch must be even, for pairs of frames, got {cfg.batch}")

    # 1 seed and device
    torch.manual_seed(cfg.seed)
    generator = torch.Generator().manual_seed(cfg.seed)
    device = join(pick_device(cfg.device))

    # 2 data
    with first_process_first():
        frames = tiny_data.load(cfg.data, "train", cfg.videos).frames
        held_out = tiny_data.load(cfg.data, "val", cfg.videos)

    # 3 networks
    model = AutoEncoder().to(device, memory_format=torch.channels_last)
    if cfg.init:
        model.load_state_dict(load_autoencoder(cfg.init, device).state_dict())
    ema = deepcopy(model).requires_grad_(False)
    halves = model.encoder, model.decoder
    counts = [sum(p.numel() for p in half.parameters()) / 1e6 for half in halves]
    print("encoder {:.2f} M, decoder {:.2f} M parameters".format(*counts), end=", ")
    print(f"{len(frames)} frames, {device}")

    # 4 optimiser
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=cfg.lr, betas=(0.9, 0.99), weight_decay=1e-3, fused=True
    )

    # 5 resume
    parts, total = dict(model=model, ema=ema, optimiser=optimiser), steps + cfg.decoder_steps
    first = resume_training(cfg, "autoencoder", generator, total, **parts) if resume else 0
    log = Log(cfg.out, cfg, device, resume)

    # 6 loop
    for step in range(first, total):
        decoder_only = step >= steps
        if step == steps:  # phase 2 starts from the average, with fresh moments
            model.load_state_dict(ema.state_dict())
            optimiser.state.clear()
        if decoder_only:  # batch
            # neighbours; one pair in 80 is the last frame of a video and the first of the next: a
            # change like any other
            earlier = torch.randint(len(frames) - 1, (cfg.batch // 2, 1), generator=generator)
            picked = (share(earlier) + torch.arange(2)).flatten()
        else:
            picked = share(torch.randint(len(frames), (cfg.batch,), generator=generator))
        x = to_pixels(frames[picked.numpy()], device)

        with torch.autocast(device.type, torch.bfloat16, enabled=cfg.bf16):  # loss
            with torch.set_grad_enabled(not decoder_only):
                z = model.encoder(x).float()
            whole = gather(z.detach())  # the global batch's latents
            mean, std = whole.mean((0, 2, 3)), whole.std((0, 2, 3))
            noise = share(torch.randn(whole.shape, generator=generator)).to(device)
            y = model.decoder(z + cfg.noise * std[:, None, None] * noise).float()
        loss = reconstruction_loss(y, x, cfg.gradient)
        if decoder_only:
            loss = loss + cfg.change * change_loss(y, x)

        optimiser.zero_grad(set_to_none=True)  # step
        loss.backward()
        average_gradients(model)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        done, phase = (step - steps, cfg.decoder_steps) if decoder_only else (step, steps)
        lr = cfg.lr * min(1, (done + 1) / 300) * cosine_decay(done / phase)
        optimiser.param_groups[0]["lr"] = lr
        check_finite(step, loss=loss.item(), gradient=norm.item())
        optimiser.step()
        if not decoder_only:  # running statistics, for encode and decode
            model.mean[:, 0, 0].lerp_(mean, 1 if step == 0 else 0.01)
            model.std[:, 0, 0].lerp_(std, 1 if step == 0 else 0.01)
        update_ema(ema, model, step, 0.999)  # ema

        if (step + 1) % cfg.log_every == 0:  # log
            log(step + 1, loss=loss.item(), gradient=norm.item(), lr=lr)
        last = step + 1 in (steps, total)  # of its phase
        if (step + 1) % cfg.save_every == 0 or last:  # sample, save
            log(step + 1, **validate(ema, held_out))
            shown = held_out.frames[:: len(held_out.frames) // 12][:12]
            made = to_uint8(ema.decode(ema.encode(to_pixels(shown, device))))
            if not rank():
                path, labels = f"{cfg.out}/{step + 1:06d}.png", ["decoded", "truth"]
                tiny_data.contact_sheet(path, [made, shown], scale=3, labels=labels)
            save_training(cfg, "autoencoder", step + 1, generator, **parts)
    return ema


if __name__ == "__main__":
    with one_line_errors():
        train(*parse(Config, __doc__, SMOKE))
