"""A portrait and a sound become a video, chunk by chunk, by any sampler(cond, noise) -> x0.

The first chunk has 16 new frames; each later one is given the last 4 latents of the one before and
adds 12 (latents are handed over: pixels would lose something in every encoding):
    frames   0 .. 15 | 16 .. 27 | 28 .. 39 | ...
    chunk 2: [12 13 14 15] 16 .. 27               [given, mask = 1]

Every chunk is decoded and yielded at once, so memory grows with the length only by the sound's
features. Shapes: B videos, F frames of a chunk, C latent channels (16), H W latent size (8 8), R
rows of an audio window (20), A audio feature size (64).
"""

import contextlib
import math
import time
from collections import Counter

import numpy as np
import torch

from audio_features import ROWS, audio_windows
from autoencoder import to_pixels, to_uint8
from distill_stage1 import load_stage1
from distill_stage2 import load_stage2
from latents import Cond
from student import student_sampler
from teacher import Config, load_teacher, teacher_sampler

CHUNK, CONTEXT = Config.frames, Config.context  # frames that the network sees; given ones of them


# ---------------------------------------------------------------- the models


def sampler_of_teacher(model, checkpoint_config, **settings):
    """As student_sampler, for the teacher."""
    return teacher_sampler(model, checkpoint_config.get("recipe", "toy"), **settings)


# name: its loader, (network, config, **settings) -> sampler; weights: checkpoints/<name>.pt
MODELS = {
    "teacher": (load_teacher, sampler_of_teacher),
    "stage1": (load_stage1, student_sampler),
    "stage2": (load_stage2, student_sampler),
}


def load_to_sample(loader, path, device, bf16=False):
    """loader(path, device) -> (network, its Config as a dict). Raises ValueError if it was trained
    on chunks of another length than it is to sample. bf16: to be run under autocast, which would
    cast these weights anew at every call; so it is done once, and the result is the same."""
    model, config = loader(path, device)
    trained = config.get("frames", CHUNK), config.get("context", CONTEXT)
    if trained != (CHUNK, CONTEXT):
        raise ValueError(
            f"these weights were trained with --frames {trained[0]} --context {trained[1]}; "
            f"sampling needs {CHUNK} and {CONTEXT}"
        )
    for layer in model.modules() if bf16 else ():
        if isinstance(layer, (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d)):
            layer.to(torch.bfloat16)
    return model, config


# ---------------------------------------------------------------- the chunks


def generate_latents(sampler, ref, windows, n_frames, generator):
    """Yield the latents of B talking videos, chunk by chunk: (B, 16, C, H, W), then (B, 12, C, H,
    W) each, the last one cut.

    ref (B, C, H, W) the portraits' latents; windows: for each video (n_frames + 16 or more, R, A)
    from audio_windows, which pads with silence; sampler(cond, noise) -> x0 (B, 16, C, H, W), where
    noise() draws a fresh ε of that shape, on the CPU: the same on every device. Raises
    FloatingPointError when the network's answer is not finite.
    """
    x = torch.zeros(len(ref), CHUNK, *ref.shape[1:], device=ref.device)
    done, chunk_generator = 0, torch.Generator()

    def noise():
        return torch.randn(x.shape, generator=chunk_generator).to(ref.device)

    while done < n_frames:
        # a chunk's first ε is the same for every model
        chunk_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        given = CONTEXT if done else 0
        audio = np.stack([w[done - given : done - given + CHUNK] for w in windows])  # (B, F, R, A)
        context, mask = torch.zeros_like(x), torch.zeros(len(ref), CHUNK, device=ref.device)
        context[:, :given], mask[:, :given] = x[:, CHUNK - given :], 1
        x = sampler(Cond(ref, torch.from_numpy(audio).to(ref.device), context, mask), noise)
        if not torch.isfinite(x).all():
            raise FloatingPointError(f"frame {done} is not finite: less guidance, or other weights")
        yield x[:, given:][:, : n_frames - done]
        done += CHUNK - given


def generate_video(sampler, autoencoder, portrait, mel, generator, seconds=None):
    """Yield the video's frames, chunk by chunk: uint8 (n, 64, 64, 3), n <= 16.

    portrait (64, 64, 3) uint8; mel (rows, 64) from log_mel: ceil(rows / 4) frames; sampler and
    generator as in generate_latents. seconds: a Counter that gathers denoising and decoding times.
    """
    seconds, n_frames = Counter() if seconds is None else seconds, math.ceil(len(mel) / ROWS)
    ref = autoencoder.encode(to_pixels(portrait[None], autoencoder.mean.device))
    windows = [audio_windows(mel, n_frames + CHUNK)]
    chunks = generate_latents(sampler, ref, windows, n_frames, generator)
    while True:
        with clock(seconds, "denoising"):
            latents = next(chunks, None)
        if latents is None:
            return
        with clock(seconds, "decoding"):
            frames = to_uint8(autoencoder.decode(latents[0]))
        yield frames


@contextlib.contextmanager
def clock(seconds, name):
    """Add the wall time of the with-block to seconds[name]."""
    start = time.perf_counter()
    yield
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()  # kernels are queued: without this, others pay for them
    seconds[name] += time.perf_counter() - start
