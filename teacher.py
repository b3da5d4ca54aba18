"""The teacher: an audio-driven talking-portrait diffusion model, 40 DDIM steps x 3 guidance branches = 120 evaluations.

    L   = E ‖v̂(x_t, t, c) − v‖²                                 over the frames to be generated (diffusion.v_loss)
    v_g = v̂(∅) + s_ref [v̂(ref) − v̂(∅)] + s_audio [v̂(ref, audio) − v̂(ref)]         (guided_v, diffusion.guide)
    x_T = ε, then 40 DDIM steps with v_g                         (ddim_sample)

The network, its sampler and its training; one equation, one function, in diffusion.py.

    python teacher.py --bf16                 52 to 81 minutes on two CPU cores (AVX-512 with bfloat16; torch 2.13.0): the shipped weights
    python teacher.py --smoke                everything at toy size in seconds (after python autoencoder.py --smoke)
Writes checkpoints/teacher.pt (the moving average, float16) and out/teacher/: log.jsonl, last.pt, contact sheets.

Shapes: B batch, F frames (16), C latent channels (16), H W latent size (8 8), R rows of an audio window (20),
A audio feature size (64), D embedding size, E size of a sound's token, K context frames (4 or 0), T diffusion steps (1000).
"""
import math
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from audio_features import N_MELS, WINDOW
from autoencoder import load_autoencoder
from common import Log, check_finite, cosine_decay, load_network, one_line_errors, parse, pick_device, resume_training, save_training, update_ema
from departures import NOISE, check_recipe, make_optimisers, noise_source
from diffusion import T, add_noise, ddim_step, guide, trailing_timesteps, v_loss, v_target
from latents import REF_GAP, cond_map, contact_sheet, drop, load_clips
from listener import Listener, pretrain_sound


@dataclass
class Config:
    data: str = "data/tiny"      # toy set (built if missing) or a folder of video clips
    videos: int = 0              # videos per split when the toy set has to be built, 0 = 1080 / 48 / 96
    out: str = "out/teacher"     # log, contact sheets and the resumable checkpoint
    weights: str = "checkpoints/teacher.pt"  # where the trained network goes
    autoencoder: str = "checkpoints/autoencoder.pt"  # frames <-> latents
    recipe: str = "toy"          # plain = the method, toy = with departures.py (Muon, and noise that is alike over frames)
    steps: int = 10000           # optimiser steps
    batch: int = 8               # clips per step
    frames: int = 16             # frames per clip
    context: int = 4             # frames of a clip that may be given from the previous chunk
    channels: int = 96           # width of the UNet
    lr: float = 2e-3             # peak learning rate
    warmup: int = 200            # steps of linear warm-up; a cosine decay to zero follows
    ema: float = 0.999           # decay of the moving average, which is what samples
    log_every: int = 50          # steps
    save_every: int = 500        # steps between checkpoints
    sample_every: int = 1000     # steps between contact sheets
    seed: int = 0
    device: str = "auto"         # auto = cuda if there is one, else cpu
    bf16: bool = False           # run the networks in bfloat16 (CPUs with AMX or AVX-512 bfloat16, and GPUs: faster)
    drop_ref: float = 0.1        # ablation: how often portrait and sound are dropped (trains the branch ∅)
    drop_audio: float = 0.1      # ablation: how often the sound alone is dropped (trains the branch ref)
    context_rate: float = 0.5    # ablation: share of the clips that carry context frames
    ref_gap: int = REF_GAP       # ablation: frames between a clip and its portrait, at least; 0 = any frame, also one of the clip's
    sound_steps: int = 2000      # ablation: steps in which the sound's tokens first learn to name phones (toy set only)


SMOKE = dict(videos=4, steps=6, batch=2, channels=16, warmup=2, sound_steps=2, log_every=2, save_every=3, sample_every=6, out="out/smoke/teacher",
             weights="out/smoke/teacher.pt", autoencoder="out/smoke/autoencoder.pt", data="data/smoke")
STEPS, S_REF, S_AUDIO = 40, 1.1, 2.0    # the teacher's sampler: 40 steps of 3 branches = 120 evaluations, and their scales


# ---------------------------------------------------------------- the network

class Block(nn.Module):
    """One level's unit: x (B F, c_in, H, W), emb (B F, D), tokens (B F, 5, E) -> (B F, c, H, W).

    Spatial residual convolutions, modulated by emb (time and sound); cross-attention from each frame to its own audio tokens;
    self-attention over space where `spatial`; then, at each place, over time. A convolution over time before that last one
    compares neighbouring frames: motion is local, and attention alone has to find that out.
    """

    def __init__(self, c_in, c, d, e, spatial=False, heads=4):
        super().__init__()
        self.heads, self.spatial = heads, spatial
        self.norm1, self.conv1 = nn.GroupNorm(8, c_in), nn.Conv2d(c_in, c, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, c), nn.Conv2d(c, c, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c, 1) if c_in != c else nn.Identity()
        self.modulate = nn.Linear(d, 2 * c)
        self.norm_a, self.q_a, self.kv_a, self.out_a = nn.LayerNorm(c), nn.Linear(c, c), nn.Linear(e, 2 * c), nn.Linear(c, c)
        self.norm_t, self.time_conv = nn.LayerNorm(c), nn.Conv2d(c, c, (3, 1), padding=(1, 0))      # over (F, H W)
        self.qkv_t, self.out_t, self.place_t = nn.Linear(c, 3 * c), nn.Linear(c, c), nn.Parameter(0.02 * torch.randn(64, c))      # place_t: of up to 64 frames
        if spatial:
            self.norm_s, self.qkv_s, self.out_s = nn.LayerNorm(c), nn.Linear(c, 3 * c), nn.Linear(c, c)
            self.place_s = nn.Parameter(0.02 * torch.randn(16, c))
        for layer in [self.conv2, self.out_a, self.out_t] + ([self.out_s] if spatial else []):
            nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)      # every branch starts at zero

    def attend(self, q, k, v):
        """softmax(q kᵀ / √d) v for each head. q (N, L, c), k, v (N, M, c) -> (N, L, c)."""
        q, k, v = (x.float().unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))   # (N, heads, L, c / heads)
        with torch.autocast(q.device.type, enabled=False):     # bfloat16 attention is three times slower on CPUs
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def forward(self, x, emb, tokens, frames):
        scale, shift = self.modulate(emb)[:, :, None, None].chunk(2, 1)                           # (B F, c, 1, 1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        x = self.skip(x) + h
        n, c, height, width = x.shape
        x = x.permute(0, 2, 3, 1).reshape(n, height * width, c)                                 # places (B F, H W, c)
        x = x + self.out_a(self.attend(self.q_a(self.norm_a(x)), *self.kv_a(tokens).chunk(2, -1)))
        if self.spatial:
            x = x + self.out_s(self.attend(*self.qkv_s(self.norm_s(x) + self.place_s).chunk(3, -1)))
        x = x.view(-1, frames, height * width, c)                                               # (B, F, H W, c)
        h = self.norm_t(x)
        h = h + self.time_conv(h.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) + self.place_t[:frames, None]
        h = h.transpose(1, 2).contiguous().view(-1, frames, c)                                  # (B H W, F, c): one clip would give a view, slower in nn.Linear
        h = self.out_t(self.attend(*self.qkv_t(h).chunk(3, -1)))
        x = x + h.view(-1, height * width, frames, c).transpose(1, 2)
        return x.reshape(n, height, width, c).permute(0, 3, 1, 2)                               # channels-last in memory


class UNet(nn.Module):
    """v̂(x_t, t, c): (B, F, C, 8, 8), (B,), Cond -> (B, F, C, 8, 8). Two levels, 8 x 8 and 4 x 4.

    The portrait and the context frames join x_t as channels (with the context's mask), as is usual for image-to-video.
    A student also carries `motion`, (directions, C H W): departures.motion_basis. The network itself does not use it.
    Sound: each frame's window of 20 feature rows -> 5 tokens for cross-attention, and one vector that joins the time embedding.
    """

    def __init__(self, channels=64, latent=16, directions=0):
        super().__init__()
        c, d = channels, 256
        self.time = nn.Sequential(nn.Linear(64, d), nn.SiLU(), nn.Linear(d, d))
        self.audio = Listener(d // 2)                                                            # 20 rows -> 5 tokens
        e = self.audio.size
        self.place_a = nn.Parameter(0.02 * torch.randn(WINDOW // 4, e))
        self.sound = nn.Sequential(nn.SiLU(), nn.Linear(WINDOW // 4 * e, d), nn.SiLU(), nn.Linear(d, d))
        self.inlet = nn.Conv2d(3 * latent + 1, c, 3, padding=1)
        self.down1, self.down2 = Block(c, c, d, e), Block(c, c, d, e)                            # 8 x 8
        self.shrink = nn.Conv2d(c, c, 3, 2, 1)
        self.mid1, self.mid2 = Block(c, c, d, e, True), Block(c, c, d, e, True)                  # 4 x 4
        self.grow = nn.Sequential(nn.Conv2d(c, 4 * c, 1), nn.PixelShuffle(2))
        self.up1, self.up2 = Block(2 * c, c, d, e), Block(2 * c, c, d, e)                        # 8 x 8, with skips
        self.norm, self.outlet = nn.GroupNorm(8, c), nn.Conv2d(c, latent, 3, padding=1)
        self.register_buffer("motion", torch.zeros(directions, 64 * latent) if directions else None)
        for layer in (self.outlet, self.sound[-1]):
            nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)

    def encode(self, xt, t, cond):
        """The first half -> the features of its levels [(B F, c, 8, 8), (B F, c, 8, 8), (B F, c, 4, 4)], emb (B F, D), tokens (B F, 5, E)."""
        b, f, c, h, w = xt.shape
        if (cond.audio.shape, cond.ref.shape, cond.context.shape, cond.mask.shape) != ((b, f, WINDOW, N_MELS), (b, c, h, w), xt.shape, (b, f)):
            raise ValueError(f"x_t {tuple(xt.shape)} does not fit the condition: " + ", ".join(f"{k} {tuple(v.shape)}" for k, v in cond._asdict().items()))
        mask = cond.mask[:, :, None, None, None].expand(b, f, 1, h, w)
        x = torch.cat([xt, cond.ref[:, None].expand_as(xt), cond.context, mask], 2).flatten(0, 1)   # (B F, 49, 8, 8)
        angle = t.float()[:, None] / T * torch.exp(torch.linspace(0, math.log(1000), 32, device=t.device))
        emb = self.time(torch.cat([angle.cos(), angle.sin()], 1)).repeat_interleave(f, 0)           # (B F, D)
        tokens = self.audio(cond.audio.flatten(0, 1))                                               # (B F, 5, E)
        emb = F.silu(emb + self.sound(tokens.flatten(1)))
        tokens = tokens + self.place_a
        x = self.inlet(x.contiguous(memory_format=torch.channels_last))
        x1 = self.down1(x, emb, tokens, f)
        x2 = self.down2(x1, emb, tokens, f)
        y = self.mid2(self.mid1(self.shrink(x2), emb, tokens, f), emb, tokens, f)
        return [x1, x2, y], emb, tokens

    def forward(self, xt, t, cond):
        (x1, x2, y), emb, tokens = self.encode(xt, t, cond)
        y = self.up1(torch.cat([self.grow(y), x2], 1), emb, tokens, xt.shape[1])
        y = self.up2(torch.cat([y, x1], 1), emb, tokens, xt.shape[1])
        return self.outlet(F.silu(self.norm(y))).float().view(xt.shape)


# ---------------------------------------------------------------- the sampler

def hold_context(x, cond, eps=None, t=None):
    """x (B, F, C, H, W) with the places of context frames replaced by their true latents, noised to t if ε and t are given."""
    given = cond.context if eps is None else add_noise(cond.context, eps, t)
    mask = cond.mask[:, :, None, None, None]
    return mask * given + (1 - mask) * x


def guided_v(model, xt, t, cond, s_ref, s_audio):
    """The three branches as one batch of 3 B -> guided v̂. Two with s_ref = 1, where v(∅) cancels; with both scales at 1 just the full one."""
    if s_ref == 1 and s_audio == 1:
        return model(xt, t, cond)
    keep = torch.tensor([[1, 0], [1, 1]] if s_ref == 1 else [[0, 0], [1, 0], [1, 1]], dtype=xt.dtype, device=xt.device)
    n, (keep_ref, keep_audio) = len(keep), keep.repeat_interleave(len(xt), 0).T
    branches = drop(cond_map(cond, lambda x: x.repeat(n, *[1] * (x.ndim - 1))), keep_ref, keep_audio)
    v = model(xt.repeat(n, 1, 1, 1, 1), t.repeat(n), branches).chunk(n)
    return guide(v[0], *v[-2:], s_ref, s_audio)    # of two branches, v[0] = v(ref) stands for v(none), times 1 - s_ref = 0


@torch.no_grad()
def ddim_sample(model, cond, eps, steps=STEPS, s_ref=S_REF, s_audio=S_AUDIO):
    """Noise ε (B, F, C, H, W) -> x0, in `steps` DDIM steps: 3 `steps` evaluations with guidance (2 `steps` with s_ref = 1), `steps` without.

    The places of context frames hold their true latents, noised to the same t, as in training. The loss leaves these places out, so
    the network's answer there is thrown away; they are returned as given.
    """
    x = eps
    ts = trailing_timesteps(steps)
    for t, s in zip(ts, ts[1:]):
        t, s = torch.full((len(x),), t, device=x.device), torch.full((len(x),), s, device=x.device)
        x = hold_context(ddim_step(x, guided_v(model, x, t, cond, s_ref, s_audio), t, s), cond, eps, s)
    return x


def teacher_sampler(model, recipe, steps=STEPS, s_ref=S_REF, s_audio=S_AUDIO):
    """-> sampler(cond, noise) -> x0, with the recipe's noise."""
    def sampler(cond, noise):
        return ddim_sample(model, cond, noise_source(recipe, "teacher", noise)(), steps, s_ref, s_audio)
    return sampler


# ---------------------------------------------------------------- the network, to train and to load

def trainable(unet):
    """The network, in place, ready to train: everything but its listener."""
    unet.train().requires_grad_(True)
    unet.audio.requires_grad_(False)
    return unet


def load_teacher(path="checkpoints/teacher.pt", device="cpu", kind="teacher"):
    """-> (UNet in eval mode without gradients, its Config as a dict). Raises ValueError for a missing or foreign file."""
    def make(config):
        directions = 0 if kind == "teacher" else NOISE["student"][config.get("recipe", "toy")].directions
        return UNet(config["channels"], directions=directions)
    model, config = load_network(path, kind, make)
    return model.to(device, memory_format=torch.channels_last), config


# ---------------------------------------------------------------- training

def train(cfg, resume=False):
    check_recipe(cfg.recipe)
    if not cfg.context < cfg.frames <= 64 or cfg.frames % 4 or cfg.context % 4:
        raise ValueError(f"--context must be below --frames, that at most 64, and both multiples of 4, got {cfg.context} and {cfg.frames}")

    # 1 seed and device
    torch.manual_seed(cfg.seed)
    generator = torch.Generator().manual_seed(cfg.seed)                       # batches, timesteps and noise: on the CPU
    device = pick_device(cfg.device)

    # 2 data
    autoencoder = load_autoencoder(cfg.autoencoder, device)
    videos, clips = load_clips(cfg, "train", autoencoder, device)
    _, held_out = load_clips(cfg, "val", autoencoder, device)

    # 3 networks
    model = UNet(cfg.channels).to(device, memory_format=torch.channels_last)
    if not resume and videos.phones and cfg.sound_steps:
        print(f"phones named right by the sound's tokens: {pretrain_sound(model.audio, videos, cfg.sound_steps, generator, device):.1%}")
    if videos.phones and cfg.sound_steps:                                     # a frozen listener, as wav2vec 2.0 is in the models that the paper
        model.audio.requires_grad_(False)                                     # distils: while pictures are noise, training would silence it
    ema = deepcopy(model).requires_grad_(False)
    looks = [teacher_sampler(ema, cfg.recipe), teacher_sampler(ema, cfg.recipe, steps=1, s_ref=1, s_audio=1)]
    print(f"UNet: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(clips.latents)} frames, {device}")

    # 4 optimiser
    optimisers = make_optimisers(model, cfg.recipe, cfg.lr, cfg.bf16)

    # 5 resume
    parts = dict(model=model, ema=ema) | {f"optimiser{i}": optimiser for i, optimiser in enumerate(optimisers)}
    first = resume_training(cfg, "teacher", generator, **parts) if resume else 0
    log, mean_loss = Log(cfg.out, cfg, device, resume), []

    # 6 loop
    for step in range(first, cfg.steps):
        x0, cond = clips.batch(cfg.batch, generator, cfg.context, cfg.context_rate, cfg.ref_gap)   # batch
        u = (torch.rand((), generator=generator) + torch.arange(len(x0))) / len(x0) % 1         # stratified over [0, 1)
        t = (T * (1 - u)).to(device)                                                              # (0, T]: T is where sampling starts
        eps = torch.randn(x0.shape, generator=generator).to(device)
        drawn = torch.rand(len(x0), generator=generator).to(device)
        keep_ref, keep_audio = (drawn > cfg.drop_ref).float(), (drawn > cfg.drop_ref + cfg.drop_audio).float()

        with torch.autocast(device.type, torch.bfloat16, enabled=cfg.bf16):                        # loss
            v_hat = model(add_noise(x0, eps, t), t, drop(cond, keep_ref, keep_audio))
        loss = v_loss(v_hat, v_target(x0, eps, t), cond.mask)

        model.zero_grad(set_to_none=True)                                                         # step
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        decay = cosine_decay(max(0, step - cfg.warmup) / max(1, cfg.steps - cfg.warmup))
        check_finite(step, loss=loss.item(), gradient=norm.item())
        lr = cfg.lr * min(1, (step + 1) / max(1, cfg.warmup)) * decay
        for optimiser in optimisers:
            optimiser.param_groups[0]["lr"] = lr
            optimiser.step()
        update_ema(ema, model, step, cfg.ema)                                                     # ema
        mean_loss.append(loss.item())

        if (step + 1) % cfg.log_every == 0:                                                       # log
            log(step + 1, loss=float(np.mean(mean_loss)), gradient=norm.item(), lr=lr)
            mean_loss = []
        if (step + 1) % cfg.sample_every == 0 or step + 1 == cfg.steps:                           # sample
            contact_sheet(f"{cfg.out}/{step + 1:06d}.png", looks, held_out, autoencoder)
        if (step + 1) % cfg.save_every == 0 or step + 1 == cfg.steps:                             # save
            save_training(cfg, "teacher", step + 1, generator, **parts)
    return ema


if __name__ == "__main__":
    with one_line_errors():
        train(*parse(Config, __doc__, SMOKE))
