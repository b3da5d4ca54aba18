"""What judges the videos: the measures, and three small networks (train_metrics.py).

    Reader     frame -> jaw, width, rounding, head x, y, roll, blink
    Features   frame, 16-frame clip -> 64 numbers each (FID-toy, FVD-toy); an identity embedding
    Sync       5 frames, 0.2 s of sound -> embeddings v_k, a_k
    Fréchet    ‖μ1 − μ2‖² + tr(Σ1 + Σ2 − 2 (Σ1 Σ2)^½)
    Sync-D     min over |o| <= 15 of  mean_k ‖v_k − a_{k+o}‖,     Sync-C = median − min

Shapes: N frames, V videos, F frames of a video, D features.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from audio_features import FPS, N_MELS, WINDOW
from autoencoder import to_pixels
from common import load_checkpoint
from tiny_data.faces import MOTION

READ = MOTION[:7]  # what the reader reads
CLIP = 16  # frames of an FVD clip
FACE = slice(12, 52), slice(16, 48)  # rows and columns of pixels in which the face lies
MAX_OFFSET = 15  # frames, of Sync-C and Sync-D
DAMAGE = ("blur", "noise", "ghost")  # amounts, which the frame features are taught
DISORDER = (
    "none",
    "frozen",
    "shuffled",
    "stutter",
    "fast",
    "flicker",
)  # kinds, which the clip features are taught


# ---------------------------------------- the measures: NumPy in, numbers out


def frechet_distance(mu1, cov1, mu2, cov2):
    """‖μ1 − μ2‖² + tr(Σ1 + Σ2 − 2 (Σ1 Σ2)^½), the squared 2-Wasserstein distance of two Gaussians.
    Heusel et al., 1706.08500, eq. 6.  μ (D,), Σ (D, D) -> a number >= 0.

    (Σ1 Σ2)^½ has the trace of (Σ1^½ Σ2 Σ1^½)^½, which is symmetric: so no complex residue and no
    failure when Σ is singular.
    """
    mu1, cov1, mu2, cov2 = (np.asarray(a, np.float64) for a in (mu1, cov1, mu2, cov2))
    if mu1.shape != mu2.shape or cov1.shape != cov2.shape or cov1.shape != 2 * mu1.shape:
        raise ValueError(
            f"two means (D,) and covariances (D, D) are wanted, got {mu1.shape} {cov1.shape} "
            f"{mu2.shape} {cov2.shape}"
        )
    w, u = np.linalg.eigh(cov1)
    root = (u * np.sqrt(np.clip(w, 0, None))) @ u.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ cov2 @ root), 0, None)).sum()
    return float(max(0.0, np.square(mu1 - mu2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * cross))


def frechet_of_samples(a, b):
    """Fréchet distance of the Gaussians fitted to two sets of features, (N, D) and (M, D). Raises
    ValueError for sets of one: they have no covariance."""
    if min(len(a), len(b)) < 2:
        raise ValueError(
            "a Fréchet distance wants two clips or more on either side: give more --clips or "
            "--frames"
        )
    return frechet_distance(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))


def correlation(a, b):
    """Pearson's r over all entries of two arrays of one shape; 0 when one of them is constant (a
    still face follows nothing)."""
    a, b = (np.asarray(x, np.float64).ravel() - np.mean(x, dtype=np.float64) for x in (a, b))
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 1e-12 * max(1, len(a)) else 0.0


def best_lag(a, b, max_lag=8):
    """By how many frames a comes after b: the k that maximises the correlation of a[t + k] with
    b[t]. a, b (V, F) or (F,).

    +2 means that the lips are two frames (80 ms) late. Ties go to the smaller |k|.
    """
    a, b = np.atleast_2d(a), np.atleast_2d(b)
    n = a.shape[1]
    lags = sorted(range(-max_lag, max_lag + 1), key=abs)
    return max(
        lags,
        key=lambda k: round(
            correlation(a[:, max(0, k) : n + min(0, k)], b[:, max(0, -k) : n + min(0, -k)]), 9
        ),
    )


def blink_statistics(track, on=0.6, off=0.3):
    """Lid closure 0..1 (V, F) -> (blinks per second, mean duration in s). A blink begins above `on`
    and ends below `off` (hysteresis: noise at one threshold would count twice); one already begun
    at the first frame is not counted, one that does not end counts for the rate but not for the
    duration. No blink: (0, nan)."""
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
    """Share of the frames marked `closed` (m b p) in which jaw < 0.15, and of those marked `opened`
    (open vowels) in which it is > 0.35. All (V, F), the marks bool -> two numbers, nan where
    nothing is marked."""

    def rate(hit, mark):
        return float(hit[mark].mean()) if mark.any() else float("nan")

    return rate(jaw < closed_below, closed), rate(jaw > open_above, opened)


def head_spread(motion):
    """Standard deviation over time of head x, y and roll, mean over videos. (V, F, 7) columns READ
    -> (3,)."""
    return motion[..., 3:6].std(1).mean(0)


def sync_curve(v, a, max_offset=MAX_OFFSET):
    """Mean over videos and k of ‖v_k − a_{k+o}‖ for o = −15 ... 15. v, a (V, K, D) tensors -> (V,
    31) NumPy, nan where fewer than 5 pairs are left."""
    n, curve = v.shape[1], np.full((len(v), 2 * max_offset + 1), np.nan)
    for o in range(-max_offset, max_offset + 1):
        if n - abs(o) >= 5:
            d = v[:, max(0, -o) : n + min(0, -o)] - a[:, max(0, o) : n + min(0, o)]
            curve[:, o + max_offset] = d.norm(dim=-1).mean(1).cpu().numpy()
    return curve


def sync_scores(v, a, max_offset=MAX_OFFSET):
    """Sync-C, Sync-D and offset of each video from its embeddings, three (V,) arrays. Chung &
    Zisserman 2016.

    D = min_o d(o), C = median_o d(o) − D, offset = argmin_o d(o). d is the Euclidean distance of
    embeddings as they come, not normalised. Offset +k: the sound is k frames late (what the lips
    show at k0 is heard at k0 + k). All three are blind to the fact that the offset should be 0:
    report it.
    """
    curve = sync_curve(v, a, max_offset)
    if np.isnan(curve).all(1).any():
        raise ValueError(f"Sync-C and Sync-D need at least 9 frames, got {v.shape[1] + 4}")
    low = np.nanmin(curve, 1)
    return np.nanmedian(curve, 1) - low, low, np.nanargmin(curve, 1) - max_offset


# ---------------------------------------------------------------- the networks


def trunk(size, c=24):
    """Frame (N, 3, 64, 64) -> (N, size), 19 M multiplications. Flattened, not pooled: where things
    are is what is asked for."""
    return nn.Sequential(
        nn.PixelUnshuffle(2),
        nn.Conv2d(12, c, 3, padding=1),
        nn.SiLU(),  # 32 x 32
        nn.Conv2d(c, 2 * c, 3, 2, 1),
        nn.SiLU(),
        nn.Conv2d(2 * c, 2 * c, 3, padding=1),
        nn.SiLU(),  # 16 x 16
        nn.Conv2d(2 * c, 4 * c, 3, 2, 1),
        nn.SiLU(),
        nn.Conv2d(4 * c, 4 * c, 3, padding=1),
        nn.SiLU(),  # 8 x 8
        nn.Conv2d(4 * c, 16, 1),
        nn.Flatten(),
        nn.Linear(1024, size),
    )


class Residual(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x)))))): He et al., 1603.05027."""

    def __init__(self, c):
        super().__init__()

        def layer():
            return [nn.BatchNorm2d(c), nn.SiLU(), nn.Conv2d(c, c, 3, padding=1)]

        self.body = nn.Sequential(*layer(), *layer())

    def forward(self, x):
        return x + self.body(x)


class Reader(nn.Module):
    """Frame (N, 3, 64, 64) in [-1, 1] -> (N, 7) the motion READ in its own units.

    Tenths of a pixel tell a wide mouth from a rounded one, so this network is larger than the
    others, residual and normalised: a trunk without these has twice the squared error after as many
    training steps.
    """

    def __init__(self, c=32):
        super().__init__()

        def stage(c):
            return [Residual(c), nn.BatchNorm2d(c), nn.SiLU()]

        self.layers = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, c, 3, padding=1),
            *stage(c),  # 32 x 32
            nn.Conv2d(c, 2 * c, 3, 2, 1),
            *stage(2 * c),
            nn.Conv2d(2 * c, 4 * c, 3, 2, 1),
            *stage(4 * c),  # 16 x 16, 8 x 8
            nn.Conv2d(4 * c, c, 1),
            nn.Flatten(),
            nn.Linear(64 * c, 128),
            nn.SiLU(),
            nn.Linear(128, len(READ)),
        )
        self.register_buffer("mean", torch.zeros(len(READ)))
        self.register_buffer("std", torch.ones(len(READ)))

    def standard(self, x):
        return self.layers(x).float()

    def forward(self, x):
        return self.standard(x) * self.std + self.mean


class Features(nn.Module):
    """Frame -> 64 features; 16 frames' features -> 64 clip features; frame -> identity embedding of
    32.

    The features are the layer before the heads, standardised over the training split: their Fréchet
    distance is in units of the data's own standard deviation. The heads are what they were trained
    on: all 11 motion parameters, the amount of blur, noise and ghosting (a Fréchet distance must
    see those), who it is; for clips how fast each parameter moves and whether the frames are in
    order.
    """

    def __init__(self, size=64):
        super().__init__()
        self.trunk = trunk(size)
        self.motion, self.damage, self.who = (
            nn.Linear(size, len(MOTION)),
            nn.Linear(size, len(DAMAGE)),
            nn.Linear(size, 32),
        )
        self.over_time = nn.Sequential(
            nn.Conv1d(size, 96, 3),
            nn.SiLU(),
            nn.Conv1d(96, 96, 3, 2),
            nn.SiLU(),
            nn.Conv1d(96, 96, 3),
            nn.SiLU(),
        )
        self.clip_out, self.speed, self.disorder = (
            nn.Linear(192, size),
            nn.Linear(size, 2 * len(MOTION)),
            nn.Linear(size, len(DISORDER)),
        )
        for name in ("frame", "clip"):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))

    def frames(self, x):
        """(N, 3, 64, 64) -> (N, 64)"""
        return (self.trunk(x).float() - self.frame_mean) / self.frame_std

    def clip_raw(self, f):
        h = self.over_time(f.transpose(1, 2))  # (B, 96, 4)
        return self.clip_out(torch.cat([h.mean(2), h.amax(2)], 1)).float()

    def clips(self, f, stride=4):
        """Frame features of whole videos (V, F, 64) -> (V clips, 64): a clip of 16 frames starts
        every `stride` frames."""
        f = torch.cat([f[:, i : i + CLIP] for i in range(0, f.shape[1] - CLIP + 1, stride)])
        return (self.clip_raw(f) - self.clip_mean) / self.clip_std

    def identity(self, f):
        """Frame features -> unit vectors (N, 32); frames of one person are close (cosine)."""
        return F.normalize(self.who(F.silu(f * self.frame_std + self.frame_mean)), dim=-1)


class Sync(nn.Module):
    """Two streams. Pictures: rows 28-60, columns 12-52 of five frames, where the mouth is whatever
    the head does (also in your own frontal clips). Sound: audio_features' window of the middle
    frame, which covers exactly these five frames."""

    def __init__(self, size=64):
        super().__init__()
        self.mouth = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, 32, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 64, 3, 2, 1),
            nn.SiLU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(64, 64, 3, 2, 1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(64 * 4 * 5, 96),
            nn.SiLU(),
        )
        self.join = nn.Sequential(nn.Conv1d(96, 96, 5), nn.SiLU(), nn.Conv1d(96, size, 1))
        self.sound = nn.Sequential(
            nn.Conv1d(N_MELS, 96, 3, padding=1),
            nn.SiLU(),
            nn.Conv1d(96, 96, 4, 2, 1),
            nn.SiLU(),
            nn.Conv1d(96, 96, 4, 2, 1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(96 * WINDOW // 4, 96),
            nn.SiLU(),
            nn.Linear(96, size),
        )

    def forward(self, frames, windows):
        """frames (V, F, 3, 64, 64), windows (V, F, 20, 64) -> v, a (V, F - 4, 64): the windows
        whose middles are frames 2 ... F-3."""
        if frames.shape[:2] != windows.shape[:2] or frames.shape[1] < 5:
            raise ValueError(
                "five frames or more and one sound window each are wanted, got "
                f"{tuple(frames.shape)} and {tuple(windows.shape)}"
            )
        n = len(frames)
        v = self.mouth(frames[..., 28:60, 12:52].flatten(0, 1)).unflatten(0, (n, -1))
        v = self.join(v.transpose(1, 2)).transpose(1, 2)
        a = self.sound(windows[:, 2:-2].flatten(0, 1).transpose(1, 2)).unflatten(0, (n, -1))
        return v.float(), a.float()


NETWORKS = {"reader": Reader, "features": Features, "sync": Sync}


def load_metrics(path="checkpoints/metrics.pt", device="cpu"):
    """-> dict of the networks in the file, in eval mode without gradients: reader (not for your own
    clips), features, sync.

    Raises ValueError, one line, for a missing, damaged or foreign file."""
    saved, nets = load_checkpoint(path, "metrics"), {}
    for name in NETWORKS.keys() & saved.keys():
        nets[name] = NETWORKS[name]().to(device)
        try:
            nets[name].load_state_dict({k: v.float() for k, v in saved[name].items()})
        except (RuntimeError, AttributeError):
            raise ValueError(
                f"{path} does not fit this version of the code: train it again (python -m "
                "evaluation.train_metrics) or name another file"
            ) from None
        nets[name].eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return nets


def load_reader(path="checkpoints/metrics.pt", device="cpu"):
    """-> the reader alone. Raises ValueError, one line, also where the file has none."""
    nets = load_metrics(path, device)
    if "reader" not in nets:
        raise ValueError(
            f"{path} holds no reader of lips, as it was made on your own clips: train it on toy "
            "faces (python -m evaluation.train_metrics)"
        )
    return nets["reader"]


# ---------------------------------------------------------------- on many frames


def blurred(x, amount):
    """x moved by amount (N,) in [0, 1] towards its 5 x 5 box blur."""
    box = F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), 5, 1)
    return torch.lerp(x, box, amount[:, None, None, None])


@torch.no_grad()
def over(net, frames, device, edit=lambda x: x, size=256):
    """Apply a network to uint8 frames (N, 64, 64, 3) in pieces; `edit` changes the pixels first."""
    return torch.cat(
        [net(edit(to_pixels(frames[i : i + size], device))) for i in range(0, len(frames), size)]
    )


def r_squared(read, true):
    """1 − residual / variance, per column. (N, P), (N, P) -> (P,)"""
    return 1 - (read - true).pow(2).mean(0) / true.var(0, unbiased=False)


# ---------------------------------------------------------------- all of them at once


class Judge:
    """The measuring networks (load_metrics) and the true videos' own values, against which
    everything is compared. truth: an evaluate.Truth."""

    def __init__(self, truth, nets, device):
        self.truth, self.nets, self.device = truth, nets, device
        self.portraits = nets["features"].identity(
            over(nets["features"].frames, truth.portraits, device)
        )
        self.own, _ = self.look(truth.frames)

    @torch.no_grad()
    def look(self, frames):
        """Frames (V, F, 64, 64, 3) uint8 -> what the networks say of them, and the motion read from
        them (V, F, 7) or None."""
        v, f = frames.shape[:2]
        flat, nets = frames.reshape(-1, *frames.shape[2:]), self.nets
        features = over(nets["features"].frames, flat, self.device)
        who = nets["features"].identity(features).view(v, f, -1)
        clips = nets["features"].clips(features.view(v, f, -1))
        steps = [
            np.abs(np.diff(x.astype(np.int16), axis=0)) for x in frames
        ]  # from frame to frame, of each video
        change, moving = (
            np.mean([s.mean() for s in steps]),
            np.mean([(s > 3).mean() for s in steps]),
        )
        colour = frames.mean((2, 3))  # (V, F, 3)
        seen = dict(
            features=features.cpu().double().numpy(),
            clips=clips.cpu().double().numpy(),
            who=who,
            change=change,
            moving=moving,
            colour=colour,
            contrast=float(np.mean([x.std() for x in frames])),
        )
        read = None
        if self.truth.motion is not None and "reader" in nets:
            read = over(nets["reader"], flat, self.device).view(v, f, -1).cpu().numpy()
            rate, length = blink_statistics(read[..., 6])
            seen |= dict(
                read=read,
                spread=head_spread(read),
                lids=read[..., 6].std(1).mean(),
                blink_rate=rate,
                blink_seconds=length,
            )
        return seen, read

    def faithfulness(self, frames):
        """How like their portraits the last frames (V, F, 64, 64, 3) of videos of the first V
        people are -> cosine of the identity embeddings, and mean difference of the face's colour in
        levels of 255."""
        n, portraits = len(frames), self.truth.portraits
        features = over(
            self.nets["features"].frames, frames.reshape(-1, *frames.shape[2:]), self.device
        )
        who = self.nets["features"].identity(features).view(n, frames.shape[1], -1)
        colour, own = (
            frames[..., FACE[0], FACE[1], :].mean((1, 2, 3)),
            portraits[:n, FACE[0], FACE[1]].mean((1, 2)),
        )
        return (who * self.portraits[:n, None]).sum(-1).mean().item(), np.abs(colour - own).mean()

    @torch.no_grad()
    def sync(self, frames, windows):
        """-> Sync-C, Sync-D, offset of each video."""
        pairs = [
            self.nets["sync"](to_pixels(x, self.device)[None], w[None])
            for x, w in zip(frames, windows[:, : frames.shape[1]])
        ]
        return sync_scores(*(torch.cat(p) for p in zip(*pairs)))

    def __call__(self, frames):
        """-> (dict of numbers as evaluate.METRICS, motion read or None)."""
        truth, own = self.truth, self.own
        (seen, read), (c, d, offset) = self.look(frames), self.sync(frames, truth.windows)
        row = dict(
            sync_c=c.mean(),
            sync_d=d.mean(),
            sync_offset=np.median(offset),
            fid=frechet_of_samples(seen["features"], own["features"]),
            fvd=frechet_of_samples(seen["clips"], own["clips"]),
            identity=(seen["who"] * self.portraits[:, None]).sum(-1).mean().item(),
            frame_change_ratio=seen["change"] / own["change"],
            moving_share_ratio=seen["moving"] / own["moving"],
            colour_shift=np.abs(seen["colour"].mean(1) - own["colour"].mean(1)).mean(),
            contrast_ratio=seen["contrast"] / own["contrast"],
            drift=np.abs(seen["colour"][:, :12].mean(1) - seen["colour"][:, -12:].mean(1)).mean(),
        )
        if read is not None:
            for i, name in enumerate(("jaw", "width", "round")):
                row[f"{name}_corr"] = correlation(read[..., i], truth.motion[..., i])
                row[f"{name}_mae"] = np.abs(read[..., i] - truth.motion[..., i]).mean()
            row["closed_rate"], row["open_rate"] = lip_rates(
                read[..., 0], truth.closed, truth.opened
            )
            spread = seen["spread"] / own["spread"]
            row |= dict(
                lag=best_lag(read[..., 0], truth.motion[..., 0]),
                head_std_ratio=spread.mean(),
                **dict(zip(("head_x_ratio", "head_y_ratio", "roll_ratio"), spread)),
                lid_std_ratio=seen["lids"] / own["lids"],
                blink_rate_ratio=seen["blink_rate"] / own["blink_rate"]
                if own["blink_rate"]
                else np.nan,
                blink_seconds=seen["blink_seconds"],
            )
        return row, read

    @torch.no_grad()
    def references(self, others=None):
        """What else a reader of the table wants to know: the true videos' own values, the reader's
        error on them, and how far other people's frames (V, F, 64, 64, 3) are from theirs."""
        truth, own = self.truth, self.own
        away = ~torch.eye(len(truth.frames), dtype=torch.bool, device=self.device)
        found = dict(
            identity_others=(self.portraits @ self.portraits.T)[away].mean().item(),
            change_true=own["change"],
        )
        if truth.motion is not None and "reader" in self.nets:
            read = own["read"]
            found |= {
                f"{n}_corr_true": correlation(read[..., i], truth.motion[..., i])
                for i, n in enumerate(("jaw", "width", "round"))
            }
            found |= dict(
                blink_rate_true=own["blink_rate"],
                blink_seconds_true=own["blink_seconds"],
                head_std_true=own["spread"].tolist(),
            )
        if others is not None:
            seen, _ = self.look(others)
            found |= dict(
                fid_other_people=frechet_of_samples(seen["features"], own["features"]),
                fvd_other_people=frechet_of_samples(seen["clips"], own["clips"]),
            )
        return found
