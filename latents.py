"""Between videos and networks: the condition c, all frames as latents, batches, contact sheets.

Shapes: B batch, F frames, C latent channels (16), H W latent size (8 8), R rows of an audio window
(20), A audio feature size (64), K context frames (4 or 0).
"""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

import tiny_data
from autoencoder import to_pixels, to_uint8
from parallel import first_process_first, rank, share

REF_GAP = 25  # frames between a training clip and its portrait, at least


class Cond(NamedTuple):
    """c = (portrait, sound, context). All tensors, so that it can be indexed and moved with
    cond_map."""

    ref: torch.Tensor  # (B, C, H, W) latent of one portrait frame; zeros = dropped
    audio: torch.Tensor  # (B, F, R, A) audio_windows of the clip; zeros = dropped
    # (B, F, C, H, W) the last K frames of the previous chunk in the first K places, zeros elsewhere
    context: torch.Tensor
    mask: torch.Tensor  # (B, F) 1 where a context frame is given


def cond_map(cond, f):
    """Apply f to each tensor of a condition."""
    return Cond(*(f(x) for x in cond))


def drop(cond, keep_ref, keep_audio):
    """Replace dropped conditions by zeros: no portrait has a zero latent, and no sound is zero (-20
    dB in every band; silence is -1) for 0.2 s. keeps: (B,) 0 or 1."""
    return cond._replace(
        ref=cond.ref * keep_ref[:, None, None, None],
        audio=cond.audio * keep_audio[:, None, None, None],
    )


def cached_latents(videos, autoencoder, device, folder=None):
    """All frames as latents (N, C, H, W), half precision, 2 KB each. With a folder they are kept
    there, under a name made from the encoder's weights (not the decoder's), since encoding the toy
    set takes minutes: the next script, with the same encoder, reads them."""
    if folder:
        weights = (
            x.cpu().numpy().tobytes()
            for name, x in autoencoder.state_dict().items()
            if not name.startswith("decoder.")
        )
        path = folder / f"latents-{hashlib.sha256(b''.join(weights)).hexdigest()[:12]}.npy"
        if path.exists() and len(kept := np.load(path)) == len(videos.frames):
            return torch.from_numpy(kept).to(device)
    pieces = range(0, len(videos.frames), 256)
    latents = torch.cat(
        [
            autoencoder.encode(to_pixels(videos.frames[i : i + 256], device)).half()
            for i in tqdm(pieces, desc="encoding", disable=None, leave=False)
        ]
    ).contiguous()  # as they are read back
    if folder:
        temporary = path.with_name(f"{path.stem}.{os.getpid()}.tmp.npy")
        np.save(temporary, latents.cpu().numpy())
        os.replace(temporary, path)
    return latents


def load_clips(cfg, split, autoencoder, device, frames=None):
    """A split of cfg.data -> Videos, Clips of so many frames. The toy set's latents are kept beside
    it."""
    frames = frames or cfg.frames
    with first_process_first():
        # + 1: the portrait may be a frame outside the clip
        videos = tiny_data.load(cfg.data, split, cfg.videos, frames + 1)
        folder = Path(cfg.data) / split if videos.phones else None
        return videos, Clips(videos, autoencoder, frames, device, folder)


class Clips:
    """All videos as latents in memory; draws batches of clips."""

    def __init__(self, videos, autoencoder, frames, device, folder=None):
        if (np.diff(videos.starts) < frames + 1).any():
            raise ValueError(f"every video needs at least {frames + 1} frames")
        self.starts, self.frames, self.device = videos.starts, frames, device
        self.latents = cached_latents(videos, autoencoder, device, folder)
        self.windows = [videos.windows(i) for i in range(len(videos.starts) - 1)]

    def clip(self, video, start, ref, frames):
        """x0 (F, C, H, W), ref (C, H, W), audio (F, R, A) of one video, counted in its own
        frames."""
        a = int(self.starts[video])
        return (
            self.latents[a + start : a + start + frames].float(),
            self.latents[a + ref].float(),  # kept as half: only here
            torch.from_numpy(self.windows[video][start : start + frames].copy()).to(self.device),
        )

    def batch(self, size, generator, context, context_rate=0.5, ref_gap=REF_GAP):
        """Random clips -> x0 (B, F, C, H, W) and their condition; `context_rate` of them carry
        `context` true first frames.

        ref_gap: the portrait is so many frames away from the clip (the farthest frame, if the video
        is too short): a portrait from the clip's own second shows its pose and its blink, and a
        network that may copy them never learns to move the head."""

        def draw(high):
            return int(torch.randint(int(high), (), generator=generator))

        drawn, frames = [], self.frames  # video, start, portrait
        for _ in range(size):
            video = draw(len(self.windows))
            n = self.starts[video + 1] - self.starts[video]
            start, place = draw(n - frames + 1), np.arange(n)
            # frames from each place to the clip, negative inside
            away = np.maximum(start - place, place - (start + frames - 1))
            far = np.flatnonzero(away >= min(ref_gap or -n, away.max()))
            drawn.append((video, start, int(far[draw(len(far))])))
        # 3 dB: a file's level is known only roughly
        level = 0.075 * torch.randn(size, 1, 1, 1, generator=generator)
        carries = torch.rand(size, 1, generator=generator) < context_rate
        drawn, level, carries = share(torch.tensor(drawn)), share(level), share(carries)

        picked = [self.clip(*row, frames) for row in drawn.tolist()]
        x0, ref, audio = (torch.stack(x) for x in zip(*picked))
        mask = (carries & (torch.arange(frames) < context)).float().to(self.device)
        return x0, Cond(ref, audio + level.to(self.device), x0 * mask[:, :, None, None, None], mask)


def draws(size, clips, generator):
    """-> uniform() (B,) in [0, 1), and fresh() -> ε like a batch of `size` clips; drawn on the CPU,
    so identical on every device, and for the global batch, of which each process takes its share.
    """
    shape = size, clips.frames, *clips.latents.shape[1:]

    def uniform():
        return share(torch.rand(size, generator=generator)).to(clips.device)

    def fresh():
        return share(torch.randn(shape, generator=generator)).to(clips.device)

    return uniform, fresh


def preview(clips, count=3):
    """The first clip of each of the first videos, its portrait the video's last frame -> x0 (n, F,
    C, H, W), Cond without context."""
    picked = [
        clips.clip(i, 0, clips.starts[i + 1] - clips.starts[i] - 1, clips.frames)
        for i in range(min(count, len(clips.windows)))
    ]
    x0, ref, audio = (torch.stack(x) for x in zip(*picked))
    return x0, Cond(ref, audio, torch.zeros_like(x0), torch.zeros(x0.shape[:2], device=x0.device))


def preview_noise(x0):
    """-> noise() that draws ε like x0: not from the training's generator, so looking changes
    nothing, and the same each time."""
    generator = torch.Generator().manual_seed(0)
    return lambda: torch.randn(x0.shape, generator=generator).to(x0.device)


def contact_sheet(path, samplers, clips, autoencoder):
    """A PNG: for three held-out portraits, one row for each {label: sampler(cond, noise) -> x0},
    then the truth. Own noise, always the same."""
    if rank():
        return
    x0, cond = preview(clips)
    rows = []
    for sampler in samplers.values():
        noise = preview_noise(x0)
        with torch.no_grad():
            rows.append(sampler(cond, noise))
    shown = [to_uint8(autoencoder.decode(x[i])) for i in range(len(x0)) for x in (*rows, x0)]
    tiny_data.contact_sheet(path, shown, labels=[*samplers, "truth"] * len(x0))
