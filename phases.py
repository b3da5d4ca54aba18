"""Progression, and progressive timestep sampling: which timesteps the student of stage 2 uses when.

    τ^N = (T, (N−1) T / N, ..., T / N)                  the N steps of phase N = 3, 2, 1
    the last one = T / before + u (i + 1) / W (T / N − T / before),  u ~ U[0, 1),  for i < W

Phase N follows a phase of `before` steps. At its start, for W updates, its last timestep is drawn
between the old phase's last and its own, so the last step learns to jump further and further.
Source: TurboTalk 2604.14580, stage 2; the form of the draw is ours (docs/departures.md).
"""

from typing import NamedTuple

import torch

from diffusion import T, trailing_timesteps


class Phase(NamedTuple):
    before: int  # steps of the student's sampler in the phase before
    steps: int  # N: in this one
    updates: int
    student_learns: bool = True


def phases(cfg):
    """-> [Phase]: D alone on four-step samples for cfg.warm_disc iterations, then 4 -> 3 -> 2 -> 1,
    or without progression 4 -> 1 with as many updates."""
    warm_up = Phase(4, 4, cfg.warm_disc, student_learns=False)
    if not cfg.progressive:
        return [warm_up, Phase(4, 1, 2 * cfg.phase_steps + cfg.last_steps)]
    first, second = Phase(4, 3, cfg.phase_steps), Phase(3, 2, cfg.phase_steps)
    return [warm_up, first, second, Phase(2, 1, cfg.last_steps)]


def phase_timesteps(n):
    """τ^N = (T, (N−1) T / N, ..., T / N): the N timesteps of phase N. TurboTalk, stage 2."""
    return trailing_timesteps(n)[:-1]


def draw_last(before, n, i, warm, u):
    """Progressive timestep sampling: the last timestep at student update i (from 0) of phase N.
    TurboTalk, stage 2.

        T / before + u (i + 1) / W (T / N − T / before)   for i < W = warm,   then T / N

    Uniform over a gap that opens linearly from the last timestep of the phase before. u (B,) in
    [0, 1) -> (B,) timesteps; before = N + 1, or 4 in D's warm-up and without progression.
    """
    old, new = T / before, T / n
    return torch.full_like(u, new) if i >= warm else old + u * (i + 1) / warm * (new - old)


def warm_timesteps(n, i, warm, last):
    """The timesteps at student update i of phase N: τ^N with its last one replaced by last (B,).

    Phase 1 has one timestep, T. Were that one drawn, the network would get pure noise labelled t <
    T: an input that no sampler makes. So while its last timestep is drawn, phase 1 makes a step at
    T and then one at the drawn t, which jumps further and further.
    """
    head = phase_timesteps(n)[:-1]
    if n == 1 and i < warm:
        head = [T]
    return [*head, last]
