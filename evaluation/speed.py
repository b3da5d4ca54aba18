"""How long denoiser, decoder and sound features take, in one process."""

import time
from functools import partial

import numpy as np
import torch

from audio_features import FPS, FRAME, audio_windows, log_mel
from autoencoder import to_uint8
from latents import Cond
from sample import CHUNK, CONTEXT


@torch.no_grad()
def speeds(samplers, truth, ref, autoencoder, device, rounds=5):
    """Milliseconds of denoiser, decoder and sound features, one video at a time, in this process:
    {name: sampler} -> {name: numbers}.

    The models take turns, so that a machine that slows down slows them all: in each of `rounds`
    rounds everything runs for a quarter of a second, once at least (the first of several runs warms
    up and does not count). Medians over the rounds of the median within a round.
    """
    z = torch.randn(1, CHUNK, *ref.shape[1:], generator=torch.Generator().manual_seed(0)).to(device)
    mask = (torch.arange(CHUNK, device=device) < CONTEXT).float()[None]
    later = Cond(ref[:1], truth.windows[:1, :CHUNK], z * mask[:, :, None, None, None], mask)
    first = later._replace(context=torch.zeros_like(z), mask=torch.zeros_like(mask))
    wave = np.random.default_rng(0).standard_normal(CHUNK * FRAME).astype(np.float32)
    jobs = {
        (name, part): partial(sampler, cond, lambda: z)
        for name, sampler in samplers.items()
        for part, cond in (("first", first), ("later", later))
    }
    jobs |= {
        "decode": lambda: to_uint8(autoencoder.decode(z[0])),
        "features": lambda: audio_windows(log_mel(wave)).copy(),
    }
    times = {job: [] for job in jobs}
    for job in rounds * list(jobs):
        run = []
        while sum(run) < 250:
            torch.cuda.synchronize() if device.type == "cuda" else None
            start = time.perf_counter()
            jobs[job]()
            torch.cuda.synchronize() if device.type == "cuda" else None
            run.append(1000 * (time.perf_counter() - start))
        times[job].append(np.median(run[1:] or run))
    ms = {job: float(np.median(t)) for job, t in times.items()}
    rest = ms["decode"] + ms["features"]
    numbers = {}
    for name in samplers:
        denoise = ms[name, "later"] / (CHUNK - CONTEXT)
        total = denoise + rest / CHUNK
        numbers[name] = dict(
            denoise_ms_per_frame=denoise,
            decode_ms_per_frame=ms["decode"] / CHUNK,
            features_ms_per_frame=ms["features"] / CHUNK,
            total_ms_per_frame=total,
            first_chunk_ms=ms[name, "first"] + rest,
            rtf=1000 / FPS / total,
        )
    return numbers
