"""What models are compared with: true videos, ten-second ones, and the rows that are no models.

Shapes: V videos, F frames of each, R rows of an audio window (20), A audio feature size (64).
"""

from typing import NamedTuple

import numpy as np
import torch

from audio_features import FPS
from autoencoder import to_pixels, to_uint8
from evaluation import metrics
from generate import CHUNK
from portrait import toy_portrait
from tiny_data import FIRST_SEED, faces
from tiny_data.phones import CLOSED, PHONES

LONG = 10 * FPS  # frames of the long videos, of which the last second is compared with the portrait


class Truth(NamedTuple):
    """V true videos of F frames, and what is needed to make them again."""

    frames: np.ndarray  # (V, F, 64, 64, 3) uint8
    windows: torch.Tensor  # (V, F + 16, R, A): 16 more, in which the sound goes on, or is silent
    portraits: np.ndarray  # (V, 64, 64, 3) uint8, one a person
    motion: np.ndarray  # (V, F, 11), or None for your own clips
    closed: np.ndarray  # (V, F) within m b p, lips together
    opened: np.ndarray  # (V, F) within wide vowels
    seeds: list  # of the toy videos, or None


def truth_of(videos, first, count, n_frames, device, split="test"):
    """The first n_frames frames of `count` videos of a split from video `first` on.

    The toy portrait is neutral and looks ahead, so it tells nothing of the video's motion; your own
    clips have no other picture than one of their frames: the last one."""
    pick = range(first, min(first + count, len(videos.starts) - 1))
    frames = np.stack([videos.frames[videos.starts[i] : videos.starts[i] + n_frames] for i in pick])
    windows = np.stack([videos.windows(i, more=CHUNK)[: n_frames + CHUNK] for i in pick])
    windows = torch.from_numpy(windows).to(device)
    if not len(videos.motion):
        portraits = np.stack([videos.frames[videos.starts[i + 1] - 1] for i in pick])
        return Truth(frames, windows, portraits, None, None, None, None)
    motion = np.stack([videos.motion[videos.starts[i] : videos.starts[i] + n_frames] for i in pick])
    seeds = [FIRST_SEED[split] + i for i in pick]
    if not np.array_equal(faces.render(faces.identity(seeds[0]), motion[0, :1])[0], frames[0, 0]):
        raise ValueError(
            "the toy set was not built with seed 0 by this version: build it again with python "
            "-m tiny_data"
        )
    portraits = np.stack([toy_portrait(s) for s in seeds])
    symbols = np.array([[symbol_at(videos.phones[i], k) for k in range(n_frames)] for i in pick])
    closed = np.isin(symbols, CLOSED) & (motion[..., 0] < 0.05)  # a stop's release is open
    wide = [symbol for symbol, phone in PHONES.items() if phone.jaw >= 0.7]
    opened = np.isin(symbols, wide) & (motion[..., 0] > 0.5)
    return Truth(frames, windows, portraits, motion, closed, opened, seeds)


def symbol_at(phones, frame):
    """The phone at the middle of a frame, "_" where there is none."""
    time = (frame + 0.5) / FPS
    return next((symbol for symbol, start, end in phones if start <= time < end), "_")


def redrawn(truth, seed):
    """The same people saying the same, with heads, blinks and gaze drawn anew: the renderer's own
    answer, what a perfect model would make. No real data set can offer this row."""
    videos = []
    for person, motion in zip(truth.seeds, truth.motion):
        other = faces.motion(person + 777_000_000 * (seed + 1), motion[:, :3])
        videos.append(faces.render(faces.identity(person), other))
    return np.stack(videos)


def floors(truth, autoencoder, device):
    """The rows that are no models -> [(name, nfe, function(seed) -> frames (V, F, 64, 64, 3)
    uint8)]."""

    def per_video(edit):
        return np.stack([to_uint8(edit(to_pixels(f, device))) for f in truth.frames])

    def still(seed):
        return np.broadcast_to(truth.portraits[:, None], truth.frames.shape)

    def frozen(seed):
        return np.broadcast_to(truth.frames[:, :1], truth.frames.shape)

    def shuffled(seed):
        return truth.frames[:, np.random.default_rng(seed).permutation(truth.frames.shape[1])]

    def coded(x):
        return autoencoder.decode(autoencoder.encode(x))

    def soft(x):
        return metrics.blurred(x, torch.full((len(x),), 0.5, device=device))

    def real(seed):
        return redrawn(truth, seed) if truth.seeds else truth.frames

    return [
        ("real", 0, real),
        ("autoencoder", 0, lambda seed: per_video(coded)),
        ("blurred", 0, lambda seed: per_video(soft)),
        ("frozen", 0, frozen),
        ("shuffled", 0, shuffled),
        ("still", 0, still),
    ]


def ten_seconds(truth, people):
    """The first `people` of truth for ten seconds: the sentences of their neighbours follow their
    own. Only windows and motion."""
    n_frames = truth.frames.shape[1]
    order = range(-(-(LONG + CHUNK) // n_frames))

    def joined(x):
        return torch.cat([x[:, :n_frames].roll(-k, 0)[:people] for k in order], 1)

    motion = truth.motion
    if motion is not None:
        motion = joined(torch.from_numpy(motion))[:, :LONG].numpy()
    return truth._replace(
        windows=joined(truth.windows)[:, : LONG + CHUNK],
        motion=motion,
        frames=np.broadcast_to(np.uint8(0), (people, LONG, 1, 1, 1)),
        seeds=truth.seeds and truth.seeds[:people],
    )
