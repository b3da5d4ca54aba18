"""What our default recipe does otherwise than the method, behind one option: --recipe plain | toy.

"plain" is the method: ε is independent in every frame and place, and guidance is constant. "toy" changes

1. noise alike over frames:  ε' = √K ε over the frames,  K_fg = exp(−(f − g)² / 2ℓ²)
2. no noise at the mouth:    ε' = 0 at the mouth's 12 of 64 places, where the sound decides
3. noise where faces move:   ε' = Vᵀ V ε, V the principal directions of a frame's motion        (students only)
4. guidance at the mouth:    s_audio there, 1 elsewhere, rising from 1 at t = T to 2 s_audio − 1 at t = 0

A recipe is stored in every checkpoint, and students inherit the teacher's: sampling needs no option.
docs/departures.md says what each buys.
"""
from typing import NamedTuple

import torch

MOUTH = slice(4, 7), slice(2, 6)       # latent rows and columns in which the mouth lies, whatever the head does


class Noise(NamedTuple):
    """How ε is shaped; the defaults leave it as it is."""
    smooth: float = 0.0      # ℓ, in frames; 0 = independent in every frame
    mouth: float = 1.0       # its strength at the mouth
    directions: int = 0      # in how many directions of motion; 0 = all


PLAIN = Noise()
NOISE = {                    # whose noise it is -> by recipe
    "teacher": dict(plain=PLAIN, toy=Noise(0.8, 0.0)),                   # x_T of the DDIM sampler
    "score": dict(plain=PLAIN, toy=Noise(0.7, 0.0)),                     # in which stage 1's scores are compared
    "student": dict(plain=PLAIN, toy=Noise(3.0, 0.0, 256)),              # of a student's sampler, in training
    "reference": dict(plain=PLAIN, toy=Noise(3.0, 0.0, 128)),            # of x_ref in stage 2
    "stage1": dict(plain=PLAIN, toy=Noise(3.25, 0.0, 128)),              # of the students when they are used
    "direct1": dict(plain=PLAIN, toy=Noise(3.0, 0.0, 128)),
    "stage2": dict(plain=PLAIN, toy=Noise(2.0, 0.0, 128)),
}
S_AUDIO = dict(plain=2.0, toy=2.25)    # the teacher's guidance by the sound


def check_recipe(recipe):
    """Raises ValueError for an unknown recipe."""
    if recipe not in ("plain", "toy"):
        raise ValueError(f"--recipe must be plain or toy, got {recipe!r}")


def draw_noise(recipe, whose, fresh, basis=None):
    """fresh() -> ε (B, F, C, H, W)  becomes  a function that draws the recipe's ε' in its place."""
    noise = NOISE[whose][recipe]
    if noise == PLAIN:
        return fresh
    basis = None if basis is None or not noise.directions else basis[:noise.directions]
    return lambda: shape_noise(fresh(), noise.smooth, noise.mouth, basis)


def shape_noise(eps, smooth, mouth, basis=None):
    """ε (B, F, C, H, W) -> ε', alike over ℓ = smooth frames, `mouth` times as strong at the mouth.

    Alike: √K ε over the frames, a Gaussian process (Rasmussen & Williams, eq. 4.9), N(0, I) in every
    frame as before. Motion is smooth, and slow noise decides slow motion (FreeInit, 2312.07537; PYoCo,
    2305.10474). √K is symmetric: no frame is special.
    basis V (k, C H W), orthonormal rows (motion_basis): Vᵀ V ε in every frame, no longer N(0, I).
    """
    shaped = eps.clone()
    with torch.autocast(eps.device.type, enabled=False):            # exact under --bf16
        if smooth:
            f = torch.arange(eps.shape[1], dtype=torch.float64)
            values, vectors = torch.linalg.eigh(torch.exp(-((f[:, None] - f) ** 2) / (2 * smooth**2)))
            root = vectors * values.clamp_min(0).sqrt() @ vectors.T  # rounding: the smallest are negative
            shaped = torch.einsum("fg,bgchw->bfchw", root.to(eps), shaped)
        if basis is not None:
            shaped = (shaped.flatten(2) @ basis.T @ basis).view_as(eps)
    shaped[..., *MOUTH] = mouth * eps[..., *MOUTH]
    return shaped


def motion_basis(latents, starts, recipe):
    """Principal directions in which a video's frames leave their mean, the mouth aside -> (k, C H W) or None.

    latents (N, C, H, W), of which starts[i]:starts[i + 1] are one video's. The first 256 of 1024 hold
    98 % of the toy faces' variance: noise in the others cannot become motion, and flickers.
    """
    count = NOISE["student"][recipe].directions
    if not count:
        return None
    scatter = 0
    for a, b in zip(starts, starts[1:]):
        x = latents[a:b:4].to(torch.float64, copy=True)             # neighbours say almost the same
        x[..., *MOUTH] = 0
        x = (x - x.mean(0)).flatten(1)
        scatter = scatter + x.T @ x
    return torch.linalg.eigh(scatter)[1].flip(1).T[:count].float().contiguous()


def audio_scale(recipe, s_audio):
    """The sound's guidance: s_audio, or in toy a function of t (B,) -> (B, 1, 1, 8, 8).

    1 + 2 (s_audio − 1) (1 − t / T) at the mouth, 1 elsewhere: guidance gives up variety for what the
    condition decides, and the sound decides the lips. Its mean over t is s_audio (2404.13040).
    """
    if recipe == "plain" or s_audio == 1:
        return s_audio

    def scale(t):
        places = torch.ones(len(t), 1, 1, 8, 8, device=t.device)
        places[..., *MOUTH] = (1 + 2 * (s_audio - 1) * (1 - t / 1000)).view(-1, 1, 1, 1, 1)
        return places

    return scale
