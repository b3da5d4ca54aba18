"""Three small networks that judge the videos (train_metrics.py trains them).

    Reader     frame -> jaw, width, rounding, head x, y, roll, blink
    Features   frame, 16-frame clip -> 64 numbers each (FID-toy, FVD-toy); an identity embedding
    Sync       5 frames, 0.2 s of sound -> embeddings v_k, a_k

Shapes: N frames, V videos, F frames of a video.
"""

import torch
import torch.nn.functional as F
from torch import nn

from audio_features import N_MELS, WINDOW
from autoencoder import to_pixels
from checkpoint import load_checkpoint
from tiny_data.faces import MOTION

READ = MOTION[:7]  # what the reader reads
CLIP = 16  # frames of an FVD clip
DAMAGE = ("blur", "noise", "ghost")  # amounts, which the frame features are taught
# and the kinds of disorder, which the clip features are taught
DISORDER = ("none", "frozen", "shuffled", "stutter", "fast", "flicker")


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
        self.motion = nn.Linear(size, len(MOTION))
        self.damage = nn.Linear(size, len(DAMAGE))
        self.who = nn.Linear(size, 32)
        self.over_time = nn.Sequential(
            nn.Conv1d(size, 96, 3),
            nn.SiLU(),
            nn.Conv1d(96, 96, 3, 2),
            nn.SiLU(),
            nn.Conv1d(96, 96, 3),
            nn.SiLU(),
        )
        self.clip_out = nn.Linear(192, size)
        self.speed = nn.Linear(size, 2 * len(MOTION))
        self.disorder = nn.Linear(size, len(DISORDER))
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
    """-> the reader alone. Raises ValueError, one line, also where the file has none. Draws nothing
    from the global generator: a training is the same with and without a reader to look at it."""
    with torch.random.fork_rng():
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
