"""The rows that are models: every checkpoint present, with the samplers that it is measured with.

Shapes: V videos, F frames of each, C latent channels, H W latent size.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from autoencoder import to_uint8
from distill_stage1 import load_stage1
from distill_stage2 import load_stage2
from generate import generate_latents, load_to_sample
from student import student_sampler
from teacher import load_teacher, teacher_sampler

AT_ONCE = 8  # videos that are generated together


def models_in(folder, device, bf16=False):
    """Every model whose checkpoint is in the folder -> [(name, network evaluations, sampler(cond,
    noise) -> x0)].

    noise() draws a fresh ε, so a sampler of several steps may ask for it more than once.
    """
    folder, rows = Path(folder), []
    if (folder / "teacher.pt").exists():
        teacher, config = load_to_sample(load_teacher, folder / "teacher.pt", device, bf16)
        ddim = partial(teacher_sampler, teacher, config.get("recipe", "toy"))
        rows += [
            ("teacher", 120, ddim(steps=40)),
            ("teacher_noguide", 40, ddim(steps=40, s_ref=1, s_audio=1)),
            ("ddim4", 4, ddim(steps=4, s_ref=1, s_audio=1)),
            ("ddim4_guided", 12, ddim(steps=4)),
            ("ddim2", 2, ddim(steps=2, s_ref=1, s_audio=1)),
            ("ddim2_guided", 6, ddim(steps=2)),
            ("ddim1", 1, ddim(steps=1, s_ref=1, s_audio=1)),
            ("ddim1_guided", 3, ddim(steps=1)),
            ("wrong_audio", 120, ddim(steps=40)),
            ("plain_teacher", 120, teacher_sampler(teacher, "plain")),
        ]
    students = (
        ("stage1", load_stage1, (("stage1", 4), ("stage1_2steps", 2), ("stage1_1step", 1))),
        ("stage2", load_stage2, (("stage2", 1),)),
        ("direct1", load_stage1, (("direct1", 1),)),
        ("progressive", load_stage1, (("progressive", 1),)),
        ("consistency", load_stage1, (("consistency", 1),)),
        ("consistency_adv", load_stage2, (("consistency_adv", 1),)),
        ("keep_dmd", load_stage2, (("keep_dmd", 1),)),
    )
    for prefix, place in ("", folder), ("plain_", folder / "plain"):
        for file, loader, named in students:
            if (place / f"{file}.pt").exists():
                loaded = load_to_sample(loader, place / f"{file}.pt", device, bf16)
                for name, steps in named:
                    rows.append((prefix + name, steps, student_sampler(*loaded, steps=steps)))
    return rows


@torch.no_grad()
def generate_videos(sampler, truth, ref, autoencoder, seed, bf16=False):
    """A model speaks all sentences -> frames (V, F, 64, 64, 3) uint8. ref (V, C, H, W) the
    portraits' latents."""
    n_frames, windows, videos = truth.frames.shape[1], truth.windows.cpu().numpy(), []
    with torch.autocast(ref.device.type, torch.bfloat16, enabled=bf16):
        for i in range(0, len(ref), AT_ONCE):
            generator = torch.Generator().manual_seed(seed + 1000 * i)
            group = slice(i, i + AT_ONCE)
            chunks = generate_latents(sampler, ref[group], windows[group], n_frames, generator)
            for latents in torch.cat(list(chunks), 1):
                videos.append(to_uint8(autoencoder.decode(latents).float()))
    return np.stack(videos)
