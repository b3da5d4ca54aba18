"""What judges the videos: three small networks, trained on the toy training split only, and the measures built on them.

    Reader     frame -> jaw, width, rounding, head x, y, roll, blink        L = ‖m̂ − m‖², m standardised
    Features   frame, 16-frame clip -> 64 numbers each, for FID-toy and FVD-toy; and an identity embedding
    Sync       5 frames, 0.2 s of sound -> embeddings v_k, a_k              L = InfoNCE over −‖v_k − a_j‖²
    Fréchet    ‖μ1 − μ2‖² + tr(Σ1 + Σ2 − 2 (Σ1 Σ2)^½)
    Sync-D     min over |o| <= 15 of  mean_k ‖v_k − a_{k+o}‖,     Sync-C = median − min

    python metrics.py --bf16                 9 minutes on one CPU core (AVX-512, AMX; torch 2.13.0)
    python metrics.py --only sync            trains one of them again, keeps the others
Writes checkpoints/metrics.pt (float16) and out/metrics/log.jsonl. Shapes: N frames, V videos, F frames of a video, D features.
"""
import math
import os
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import tiny_data
from audio_features import FPS, N_MELS, WINDOW, audio_windows
from autoencoder import to_pixels
from common import Log, check_finite, half, load_checkpoint, one_line_errors, parse, pick_device, save_checkpoint
from tiny_data.faces import MOTION


@dataclass
class Config:
    data: str = "data/tiny"      # toy set (built if missing), or a folder of video clips: then without the reader
    videos: int = 0              # videos per split when the toy set has to be built, 0 = 1080 / 48 / 96
    out: str = "out/metrics"     # the log
    weights: str = "checkpoints/metrics.pt"  # where the trained networks go
    only: str = ""               # train just this one (reader, features, sync); the others must be in --weights
    steps_reader: int = 3000     # optimiser steps
    steps_features: int = 1500   # the same number again, much cheaper, for the clip features
    steps_sync: int = 1200
    batch: int = 64              # frames per step (reader, features)
    lr: float = 2e-3             # peak learning rate (AdamW, short warm-up, cosine decay to zero)
    log_every: int = 100         # steps
    seed: int = 0
    device: str = "auto"         # auto = cuda if there is one, else cpu
    bf16: bool = False           # run the networks in bfloat16 (CPUs with AMX and GPUs: faster)


SMOKE = dict(videos=4, steps_reader=4, steps_features=4, steps_sync=4, batch=8, log_every=2, data="data/smoke", out="out/smoke/metrics",
             weights="out/smoke/metrics.pt")
READ = MOTION[:7]                # what the reader reads
CLIP = 16                        # frames of an FVD clip
MAX_OFFSET = 15                  # frames, of Sync-C and Sync-D
DAMAGE = ("blur", "noise", "ghost")                                        # amounts, which the frame features are taught
DISORDER = ("none", "frozen", "shuffled", "stutter", "fast", "flicker")    # kinds, which the clip features are taught


# ---------------------------------------------------------------- the measures: NumPy in, numbers out

def frechet_distance(mu1, cov1, mu2, cov2):
    """‖μ1 − μ2‖² + tr(Σ1 + Σ2 − 2 (Σ1 Σ2)^½), the squared 2-Wasserstein distance of two Gaussians. Heusel et al.,
    1706.08500, eq. 6.  μ (D,), Σ (D, D) -> a number >= 0.

    (Σ1 Σ2)^½ has the trace of (Σ1^½ Σ2 Σ1^½)^½, which is symmetric: so no complex residue and no failure when Σ is singular.
    """
    mu1, cov1, mu2, cov2 = (np.asarray(a, np.float64) for a in (mu1, cov1, mu2, cov2))
    if mu1.shape != mu2.shape or cov1.shape != cov2.shape or cov1.shape != 2 * mu1.shape:
        raise ValueError(f"two means (D,) and covariances (D, D) are wanted, got {mu1.shape} {cov1.shape} {mu2.shape} {cov2.shape}")
    w, u = np.linalg.eigh(cov1)
    root = (u * np.sqrt(np.clip(w, 0, None))) @ u.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ cov2 @ root), 0, None)).sum()
    return float(max(0.0, np.square(mu1 - mu2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * cross))


def frechet_of_samples(a, b):
    """Fréchet distance of the Gaussians fitted to two sets of features, (N, D) and (M, D)."""
    return frechet_distance(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))


def correlation(a, b):
    """Pearson's r over all entries of two arrays of one shape; 0 when one of them is constant (a still face follows nothing)."""
    a, b = (np.asarray(x, np.float64).ravel() - np.mean(x, dtype=np.float64) for x in (a, b))
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 1e-12 * max(1, len(a)) else 0.0


def best_lag(a, b, max_lag=8):
    """By how many frames a comes after b: the k that maximises the correlation of a[t + k] with b[t]. a, b (V, F) or (F,).

    +2 means that the lips are two frames (80 ms) late. Ties go to the smaller |k|.
    """
    a, b = np.atleast_2d(a), np.atleast_2d(b)
    n = a.shape[1]
    lags = sorted(range(-max_lag, max_lag + 1), key=abs)
    return max(lags, key=lambda k: round(correlation(a[:, max(0, k):n + min(0, k)], b[:, max(0, -k):n + min(0, -k)]), 9))


def blink_statistics(track, on=0.6, off=0.3):
    """Lid closure 0..1 (V, F) -> (blinks per second, mean duration in s). A blink begins above `on` and ends below `off`
    (hysteresis: noise at one threshold would count twice); one already begun at the first frame is not counted,
    one that does not end counts for the rate but not for the duration. No blink: (0, nan)."""
    count, durations = 0, []
    for row in np.atleast_2d(track):
        start, shut = None, row[0] > off
        for k, value in enumerate(row):
            if not shut and value > on:
                start, shut, count = k, True, count + 1
            elif shut and value < off:
                durations += [] if start is None else [(k - start) / FPS]
                start, shut = None, False
    return count / (np.size(track) / FPS), float(np.mean(durations)) if durations else float("nan")


def lip_rates(jaw, closed, opened, closed_below=0.15, open_above=0.35):
    """Share of the frames marked `closed` (m b p) in which jaw < 0.15, and of those marked `opened` (open vowels) in which it
    is > 0.35. All (V, F), the marks bool -> two numbers, nan where nothing is marked."""
    rate = lambda hit, mark: float(hit[mark].mean()) if mark.any() else float("nan")
    return rate(jaw < closed_below, closed), rate(jaw > open_above, opened)


def head_spread(motion):
    """Standard deviation over time of head x, y and roll, mean over videos. (V, F, 7) columns READ -> (3,)."""
    return motion[..., 3:6].std(1).mean(0)


def sync_curve(v, a, max_offset=MAX_OFFSET):
    """Mean over videos and k of ‖v_k − a_{k+o}‖ for o = −15 ... 15. v, a (V, K, D) tensors -> (V, 31) NumPy, nan where fewer than
    5 pairs are left."""
    n, curve = v.shape[1], np.full((len(v), 2 * max_offset + 1), np.nan)
    for o in range(-max_offset, max_offset + 1):
        if n - abs(o) >= 5:
            d = v[:, max(0, -o):n + min(0, -o)] - a[:, max(0, o):n + min(0, o)]
            curve[:, o + max_offset] = d.norm(dim=-1).mean(1).cpu().numpy()
    return curve


def sync_scores(v, a, max_offset=MAX_OFFSET):
    """Sync-C, Sync-D and offset of each video from its embeddings, three (V,) arrays. Chung & Zisserman 2016.

    D = min_o d(o), C = median_o d(o) − D, offset = argmin_o d(o). d is the Euclidean distance of embeddings as they come, not
    normalised. Offset +k: the sound is k frames late (what the lips show at k0 is heard at k0 + k). All three are blind to the
    fact that the offset should be 0: report it.
    """
    curve = sync_curve(v, a, max_offset)
    if np.isnan(curve).all(1).any():
        raise ValueError(f"Sync-C and Sync-D need at least 9 frames, got {v.shape[1] + 4}")
    low = np.nanmin(curve, 1)
    return np.nanmedian(curve, 1) - low, low, np.nanargmin(curve, 1) - max_offset


# ---------------------------------------------------------------- the networks

def trunk(size, c=24):
    """Frame (N, 3, 64, 64) -> (N, size), 19 M multiplications. Flattened, not pooled: where things are is what is asked for."""
    return nn.Sequential(
        nn.PixelUnshuffle(2), nn.Conv2d(12, c, 3, padding=1), nn.SiLU(),                                    # 32 x 32
        nn.Conv2d(c, 2 * c, 3, 2, 1), nn.SiLU(), nn.Conv2d(2 * c, 2 * c, 3, padding=1), nn.SiLU(),          # 16 x 16
        nn.Conv2d(2 * c, 4 * c, 3, 2, 1), nn.SiLU(), nn.Conv2d(4 * c, 4 * c, 3, padding=1), nn.SiLU(),      # 8 x 8
        nn.Conv2d(4 * c, 16, 1), nn.Flatten(), nn.Linear(1024, size))


class Reader(nn.Module):
    """Frame (N, 3, 64, 64) in [-1, 1] -> (N, 7) the motion READ in its own units."""

    def __init__(self):
        super().__init__()
        self.trunk, self.head = trunk(128), nn.Linear(128, len(READ))
        self.register_buffer("mean", torch.zeros(len(READ)))
        self.register_buffer("std", torch.ones(len(READ)))

    def standard(self, x):
        return self.head(F.silu(self.trunk(x))).float()

    def forward(self, x):
        return self.standard(x) * self.std + self.mean


class Features(nn.Module):
    """Frame -> 64 features; 16 frames' features -> 64 clip features; frame -> identity embedding of 32.

    The features are the layer before the heads, standardised over the training split: their Fréchet distance is in units of
    the data's own standard deviation. The heads are what they were trained on: all 11 motion parameters, the amount of
    blur, noise and ghosting (a Fréchet distance must see those), who it is; for clips how fast each parameter moves and
    whether the frames are in order.
    """

    def __init__(self, size=64):
        super().__init__()
        self.trunk = trunk(size)
        self.motion, self.damage, self.who = nn.Linear(size, len(MOTION)), nn.Linear(size, len(DAMAGE)), nn.Linear(size, 32)
        self.over_time = nn.Sequential(nn.Conv1d(size, 96, 3), nn.SiLU(), nn.Conv1d(96, 96, 3, 2), nn.SiLU(), nn.Conv1d(96, 96, 3), nn.SiLU())
        self.clip_out, self.speed, self.disorder = nn.Linear(192, size), nn.Linear(size, 2 * len(MOTION)), nn.Linear(size, len(DISORDER))
        for name in ("frame", "clip"):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))

    def frames(self, x):
        """(N, 3, 64, 64) -> (N, 64)"""
        return (self.trunk(x).float() - self.frame_mean) / self.frame_std

    def clip_raw(self, f):
        h = self.over_time(f.transpose(1, 2))                                                               # (B, 96, 4)
        return self.clip_out(torch.cat([h.mean(2), h.amax(2)], 1)).float()

    def clips(self, f, stride=4):
        """Frame features of whole videos (V, F, 64) -> (V clips, 64): a clip of 16 frames starts every `stride` frames."""
        f = torch.cat([f[:, i:i + CLIP] for i in range(0, f.shape[1] - CLIP + 1, stride)])
        return (self.clip_raw(f) - self.clip_mean) / self.clip_std

    def identity(self, f):
        """Frame features -> unit vectors (N, 32); frames of one person are close (cosine)."""
        return F.normalize(self.who(F.silu(f * self.frame_std + self.frame_mean)), dim=-1)


class Sync(nn.Module):
    """Two streams. Pictures: rows 28-60, columns 12-52 of five frames, where the mouth is whatever the head does (also in
    your own frontal clips). Sound: audio_features' window of the middle frame, which covers exactly these five frames."""

    def __init__(self, size=64):
        super().__init__()
        self.mouth = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(12, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.SiLU(),
            nn.Conv2d(64, 64, 3, padding=1), nn.SiLU(), nn.Conv2d(64, 64, 3, 2, 1), nn.SiLU(), nn.Flatten(), nn.Linear(64 * 4 * 5, 96), nn.SiLU())
        self.join = nn.Sequential(nn.Conv1d(96, 96, 5), nn.SiLU(), nn.Conv1d(96, size, 1))
        self.sound = nn.Sequential(nn.Conv1d(N_MELS, 96, 3, padding=1), nn.SiLU(), nn.Conv1d(96, 96, 4, 2, 1), nn.SiLU(),
                                   nn.Conv1d(96, 96, 4, 2, 1), nn.SiLU(), nn.Flatten(), nn.Linear(96 * WINDOW // 4, 96), nn.SiLU(), nn.Linear(96, size))

    def forward(self, frames, windows):
        """frames (V, F, 3, 64, 64), windows (V, F, 20, 64) -> v, a (V, F - 4, 64): the windows whose middles are frames 2 ... F-3."""
        if frames.shape[:2] != windows.shape[:2] or frames.shape[1] < 5:
            raise ValueError(f"five frames or more and one sound window each are wanted, got {tuple(frames.shape)} and {tuple(windows.shape)}")
        n = len(frames)
        v = self.mouth(frames[..., 28:60, 12:52].flatten(0, 1)).unflatten(0, (n, -1))
        v = self.join(v.transpose(1, 2)).transpose(1, 2)
        a = self.sound(windows[:, 2:-2].flatten(0, 1).transpose(1, 2)).unflatten(0, (n, -1))
        return v.float(), a.float()


NETWORKS = {"reader": Reader, "features": Features, "sync": Sync}


def load_metrics(path="checkpoints/metrics.pt", device="cpu"):
    """-> dict of the networks in the file, in eval mode without gradients: reader (not for your own clips), features, sync."""
    saved, nets = load_checkpoint(path, "metrics"), {}
    for name in NETWORKS.keys() & saved.keys():
        nets[name] = NETWORKS[name]().to(device)
        nets[name].load_state_dict({k: v.float() for k, v in saved[name].items()})
        nets[name].eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return nets


# ---------------------------------------------------------------- training

def blurred(x, amount):
    """x moved by amount (N,) in [0, 1] towards its 5 x 5 box blur."""
    box = F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), 5, 1)
    return torch.lerp(x, box, amount[:, None, None, None])


def tint(x, generator, strength):
    """A colour gain and offset per frame and channel: another camera."""
    gain, offset = strength * torch.randn(2, len(x), 3, 1, 1, generator=generator).to(x.device)
    return x * (1 + gain) + offset


def batch_reader(data, motion, size, generator, device):
    """Frames a little blurred, noisy and tinted (as decoders leave them), half of them mirrored -> x, motion (N, 7)."""
    i = torch.randint(len(data.frames), (size,), generator=generator).numpy()
    x, m, u = to_pixels(data.frames[i], device), motion[i].clone(), torch.rand(4, size, generator=generator).to(device)
    x = tint(blurred(x, 0.5 * u[0] * (u[1] < 0.5)), generator, 0.05)
    x = x + 0.05 * u[2, :, None, None, None] * torch.randn(x.shape, generator=generator).to(device)
    flip = u[3] < 0.5
    m[:, [3, 5]] = torch.where(flip[:, None], -m[:, [3, 5]], m[:, [3, 5]])                  # x and roll change sign
    return torch.where(flip[:, None, None, None], x.flip(3), x), m


def batch_features(data, size, generator, device):
    """Two frames each of size / 2 videos, half of the frames damaged -> x, rows of data.frames, damage (N, 3)."""
    def draw(high, n):
        return (torch.rand(n, generator=generator).numpy() * high).astype(int)
    video = draw(len(data.starts) - 1, size // 2).repeat(2)
    i, j = (data.starts[video] + draw(np.diff(data.starts)[video], len(video)) for _ in range(2))
    damage = torch.rand(len(i), 3, generator=generator) * (torch.rand(len(i), 3, generator=generator) < 0.35)
    blur, noise, ghost = damage.to(device).T
    x = torch.lerp(to_pixels(data.frames[i], device), to_pixels(data.frames[j], device), 0.5 * ghost[:, None, None, None])
    x = blurred(x, blur) + 0.15 * noise[:, None, None, None] * torch.randn(x.shape, generator=generator).to(device)
    return x, i, damage.to(device)


def info_nce(scores):
    """Symmetric cross-entropy: row i of a square table of scores belongs to column i, among all columns; and the reverse."""
    own = torch.arange(len(scores), device=scores.device)
    return 0.5 * (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own))


def frame_loss(net, x, motion, damage):
    """Σ of: motion, damage, and who it is. InfoNCE over cosines / 0.1; frames 2i and 2i + 1 show one person."""
    h = F.silu(net.trunk(x))
    who = F.normalize(net.who(h).float(), dim=-1)
    loss = info_nce(who[::2] @ who[1::2].T / 0.1) + (net.damage(h).float() - damage).pow(2).mean() * 10
    clean = damage.sum(1) == 0
    return loss + (net.motion(h).float() - motion)[clean].pow(2).mean() if len(motion) and clean.any() else loss


def disordered(clip, kind, generator, damaged):
    """(n, D) features of 2 CLIP neighbouring frames -> (CLIP, D) with the disorder of that kind (index into DISORDER)."""
    k, name = torch.arange(CLIP), DISORDER[kind]
    stop = int(torch.randint(CLIP - 4, (), generator=generator))
    order = {"frozen": k.clamp(max=stop), "shuffled": torch.randperm(CLIP, generator=generator), "stutter": k // 2 * 2, "fast": 2 * k}.get(name, k)
    if name == "flicker":                                                   # every frame perfect or damaged at random
        pick = torch.rand(CLIP, 1, generator=generator).to(clip.device) < 0.5
        return torch.where(pick, clip[k], damaged[k])
    return clip[order]


def clip_batch(clean, damaged, starts, size, generator):
    """`size` clips, each with a random disorder -> (size, CLIP, D + 11) of features and motion, kind (size,)."""
    kind, clips = torch.randint(len(DISORDER), (size,), generator=generator), []
    for k in kind:
        video = int(torch.randint(len(starts) - 1, (), generator=generator))
        first = int(starts[video]) + int(torch.randint(int(starts[video + 1] - starts[video]) - 2 * CLIP + 1, (), generator=generator))
        clips.append(disordered(clean[first:first + 2 * CLIP], k, generator, damaged[first:first + 2 * CLIP]))
    return torch.stack(clips), kind


def speed_of(motion):
    """(B, CLIP, 11) standardised -> (B, 22): standard deviation over time and mean |step| of each parameter."""
    return torch.cat([motion.std(1), motion.diff(dim=1).abs().mean(1)], 1)


def sync_batch(data, windows, generator, device, videos=12, length=28):
    """Pieces of different videos, tinted, mirrored or not, the crop moved by up to 2 pixels, sound up to 3 dB softer or louder."""
    frames, sound = [], []
    for video in torch.randperm(len(windows), generator=generator)[:videos]:
        n = int(data.starts[video + 1] - data.starts[video])
        k = int(torch.randint(max(1, n - length + 1), (), generator=generator))
        x = to_pixels(data.frames[data.starts[video] + k:data.starts[video] + min(n, k + length)], device)
        dx, dy, flip = (int(torch.randint(r, (), generator=generator)) for r in (5, 5, 2))
        x = x.roll((dx - 2, dy - 2), (3, 2))
        frames.append(tint(x.flip(3) if flip else x, generator, 0.05))
        sound.append(torch.from_numpy(windows[video][k:k + length].copy()).to(device) + 0.075 * float(torch.randn((), generator=generator)))
    return torch.stack(frames), torch.stack(sound)


def sync_loss(v, a):
    """InfoNCE over −‖v_k − a_j‖²: all windows of a batch compete, those of the same video a few frames off as well.

    v, a (V, K, D). Chung & Zisserman's margin loss sees one wrong offset at a time; this sees all, and learns faster.
    """
    v, a = v.flatten(0, 1), a.flatten(0, 1)
    return info_nce(-(v[:, None] - a[None]).pow(2).sum(-1))                # not 2 v aᵀ − ‖v‖² − ‖a‖²: under --bf16 that cancels to noise


def fit(name, parameters, steps, loss_of, cfg, log, device):
    """Minimise loss_of() by AdamW: warm-up of 50 steps, cosine decay to zero."""
    parameters = list(parameters)
    optimiser, seen = torch.optim.AdamW(parameters, lr=cfg.lr, betas=(0.9, 0.99), weight_decay=0.01), []
    for step in range(steps):
        with torch.autocast(device.type, torch.bfloat16, enabled=cfg.bf16):
            loss = loss_of()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.param_groups[0]["lr"] = cfg.lr * min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        check_finite(step, **{name: loss.item(), "gradient": norm.item()})
        optimiser.step()
        seen.append(loss.item())
        if (step + 1) % cfg.log_every == 0:
            log(step + 1, **{name: float(np.mean(seen[-cfg.log_every:]))}, gradient=norm.item(), lr=optimiser.param_groups[0]["lr"])


@torch.no_grad()
def over(net, frames, device, edit=lambda x: x, size=256):
    """Apply a network to uint8 frames (N, 64, 64, 3) in pieces; `edit` changes the pixels first."""
    return torch.cat([net(edit(to_pixels(frames[i:i + size], device))) for i in range(0, len(frames), size)])


def r_squared(read, true):
    """1 − residual / variance, per column. (N, P), (N, P) -> (P,)"""
    return 1 - (read - true).pow(2).mean(0) / true.var(0, unbiased=False)


def train(cfg, resume=False):
    # 1 seed and device
    torch.manual_seed(cfg.seed)
    generator = torch.Generator().manual_seed(cfg.seed)
    device = pick_device(cfg.device)
    if cfg.only and cfg.only not in NETWORKS:
        raise ValueError(f"--only {cfg.only}: choose one of {', '.join(NETWORKS)}")

    # 2 data
    data, held_out = tiny_data.load(cfg.data, "train", cfg.videos), tiny_data.load(cfg.data, "val", cfg.videos)
    motion, truth = (torch.from_numpy(np.array(d.motion)).to(device) for d in (data, held_out))
    mean, std = (motion.mean(0), motion.std(0)) if len(motion) else (0, 1)
    standard = (motion - mean) / std

    # 3 networks; 4 optimisers are made in fit(); 5 resume: networks that are already in the file are kept
    nets = {name: net().to(device, memory_format=torch.channels_last) for name, net in NETWORKS.items() if len(motion) or name != "reader"}
    saved = {"kind": "metrics", "config": asdict(cfg)}
    if resume or cfg.only and os.path.exists(cfg.weights):
        saved = {**load_checkpoint(cfg.weights, "metrics"), "config": asdict(cfg)}
    todo = [cfg.only] if cfg.only else [n for n in nets if n not in saved]
    log = Log(cfg.out, cfg, device, resume or bool(cfg.only))
    print(", ".join(f"{n} {sum(p.numel() for p in net.parameters()) / 1e6:.2f} M parameters" for n, net in nets.items()) + f", {device}")

    # 6 loop
    for name in todo:
        net = nets[name]
        if name == "reader":
            net.mean.copy_(mean[:7]), net.std.copy_(std[:7])

            def loss_of():
                x, m = batch_reader(data, standard_read, cfg.batch, generator, device)
                return (net.standard(x) - m).pow(2).mean()
            # mirrored labels change sign about 0, so x and roll are standardised without their (tiny) mean
            net.mean[[3, 5]] = 0
            standard_read = (motion[:, :7] - net.mean) / net.std
            fit(name, net.parameters(), cfg.steps_reader, loss_of, cfg, log, device)
            r2 = r_squared(over(net, held_out.frames, device), truth[:, :7])
            log(cfg.steps_reader, **{f"r2_{n}": float(r) for n, r in zip(READ, r2)})

        if name == "features":
            def loss_of():
                x, rows, damage = batch_features(data, cfg.batch, generator, device)
                return frame_loss(net, x, standard[rows], damage)
            fit("frames", net.parameters(), cfg.steps_features, loss_of, cfg, log, device)
            net.requires_grad_(False)
            clean = over(net.trunk, data.frames, device)
            net.frame_mean.copy_(clean.mean(0)), net.frame_std.copy_(clean.std(0))
            harm = lambda x: blurred(x, torch.rand(len(x), generator=generator).to(device)) + 0.05 * torch.randn(x.shape, generator=generator).to(device)
            extra = standard if len(standard) else torch.zeros(len(clean), len(MOTION), device=device)
            clean, damaged = (torch.cat([f, extra], 1) for f in ((clean - net.frame_mean) / net.frame_std, over(net.frames, data.frames, device, harm)))
            for part in (net.over_time, net.clip_out, net.speed, net.disorder):
                part.requires_grad_(True)

            def loss_of():
                clips, kind = clip_batch(clean, damaged, data.starts, cfg.batch, generator)
                h = net.clip_raw(clips[..., :-len(MOTION)])
                loss = F.cross_entropy(net.disorder(F.silu(h)).float(), kind.to(device))
                return loss + (net.speed(F.silu(h)).float() - speed_of(clips[..., -len(MOTION):])).pow(2).mean() if len(motion) else loss
            fit("clips", [p for p in net.parameters() if p.requires_grad], cfg.steps_features, loss_of, cfg, log, device)
            raw = torch.cat([net.clip_raw(clean[None, i:i + CLIP, :-len(MOTION)]).detach() for i in range(0, len(clean) - CLIP, CLIP)])
            net.clip_mean.copy_(raw.mean(0)), net.clip_std.copy_(raw.std(0))
            log(cfg.steps_features, **judge_features(net, held_out, (truth - mean) / std, device))

        if name == "sync":
            windows = [data.windows(i) for i in range(len(data.starts) - 1)]
            fit(name, net.parameters(), cfg.steps_sync, lambda: sync_loss(*net(*sync_batch(data, windows, generator, device))), cfg, log, device)
            log(cfg.steps_sync, **judge_sync(net, held_out, device))

        saved[name] = half(net.state_dict())                                                            # save
        save_checkpoint(cfg.weights, **saved)
    return nets


@torch.no_grad()
def judge_features(net, data, truth, device):
    """Held-out: how well the features know the motion, and whether a frame's nearest of one other frame per person is its own."""
    f = over(net.frames, data.frames, device)
    who = net.identity(f)
    first, last = who[data.starts[:-1]], who[data.starts[1:] - 1]
    row = {"same_person": float((first @ last.T).argmax(1).eq(torch.arange(len(first), device=device)).float().mean())}
    return row | ({"r2_motion": float(r_squared(net.motion(F.silu(f * net.frame_std + net.frame_mean)), truth).mean())} if len(truth) else {})


@torch.no_grad()
def judge_sync(net, data, device):
    """Held-out videos with their own sound, with the next video's, and with their own 3 frames late."""
    n = int(np.diff(data.starts).min())
    x = torch.stack([to_pixels(data.frames[s:s + n], device) for s in data.starts[:-1]])
    w = torch.stack([torch.from_numpy(audio_windows(data.mel[4 * s:4 * (s + n)].astype(np.float32)).copy()) for s in data.starts[:-1]]).to(device)
    v, a = net(x, w)
    (c, d, offset), (c_wrong, d_wrong, _) = sync_scores(v, a), sync_scores(v, a.roll(1, 0))
    late = sync_scores(v[:, 3:], a[:, :-3])[2]
    return dict(sync_c=c.mean(), sync_d=d.mean(), in_sync=(offset == 0).mean(), late_3=(late == 3).mean(), wrong_c=c_wrong.mean(), wrong_d=d_wrong.mean())


if __name__ == "__main__":
    with one_line_errors():
        train(*parse(Config, __doc__, SMOKE))
