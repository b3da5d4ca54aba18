"""Where our default recipe departs from the method, behind one option: --recipe plain | toy.

"plain" is the method: ε is independent in every frame and place, and AdamW trains everything.
"toy" changes

1. noise alike over frames:  ε' = √K ε over the frames,  K_fg = exp(−(f − g)² / 2ℓ²)
2. no noise at the mouth:    ε' = 0 at the mouth's 12 of 64 places, where the sound decides
3. Muon instead of AdamW     for the matrices and convolutions inside the teacher's blocks

A recipe is stored in every checkpoint, and students inherit the teacher's: sampling needs no
option. docs/departures.md says what each buys.
"""

from typing import NamedTuple

import torch

MOUTH = slice(4, 7), slice(2, 6)  # latent rows and columns of the mouth, whatever the head does


class Noise(NamedTuple):
    """How ε is shaped; the defaults leave it as it is."""

    smooth: float = 0.0  # ℓ, in frames; 0 = independent in every frame
    mouth: float = 1.0  # its strength at the mouth


PLAIN = Noise()
NOISE = {  # whose noise it is -> by recipe
    # x_T of the teacher's sampler, and the noise in which stage 1 compares the scores. The teacher
    # was trained with independent noise, so its ℓ is short: x_T must look like what it knows
    "teacher": dict(plain=PLAIN, toy=Noise(smooth=0.8, mouth=0.0)),
    # every ε of a student's sampler, in training and in use
    "student": dict(plain=PLAIN, toy=Noise(smooth=3.0, mouth=0.0)),
}


def noise_source(recipe, whose, fresh):
    """fresh() -> ε (B, F, C, H, W)  becomes  a function that draws the recipe's ε' in its place."""
    noise = NOISE[whose][recipe]
    if noise == PLAIN:
        return fresh
    return lambda: shape_noise(fresh(), noise.smooth, noise.mouth)


def shape_noise(eps, smooth, mouth):
    """ε (B, F, C, H, W) -> ε', alike over ℓ = smooth frames, `mouth` times as strong at the mouth.

    Alike: √K ε over the frames, a Gaussian process (Rasmussen & Williams, eq. 4.9), N(0, I) in
    every frame as before. Motion is smooth, and slow noise decides slow motion (FreeInit,
    2312.07537; PYoCo, 2305.10474). √K is symmetric: no frame is special.
    """
    shaped = eps.clone()
    with torch.autocast(eps.device.type, enabled=False):  # exact under --bf16
        if smooth:
            f = torch.arange(eps.shape[1], dtype=torch.float64)
            values, vectors = torch.linalg.eigh(
                torch.exp(-((f[:, None] - f) ** 2) / (2 * smooth**2))
            )
            # rounding makes the smallest eigenvalues negative
            root = vectors * values.clamp_min(0).sqrt() @ vectors.T
            shaped = torch.einsum("fg,bgchw->bfchw", root.to(eps), shaped)
    shaped[..., *MOUTH] = mouth * eps[..., *MOUTH]
    return shaped


def make_optimisers(model, recipe, lr, bf16):
    """The teacher's: AdamW; in toy, Muon for the matrices and convolutions inside the network's
    Blocks."""
    inner = []
    if recipe == "toy":
        blocks = [module for module in model.modules() if type(module).__name__ == "Block"]
        named = [pair for block in blocks for pair in block.named_parameters()]
        inner = [p for name, p in named if name.endswith("weight") and p.ndim > 1]
    taken = set(map(id, inner))
    rest = [p for p in model.parameters() if id(p) not in taken]
    adamw = torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    if not inner:
        return [adamw]
    return [adamw, Muon(inner, lr, dtype=torch.bfloat16 if bf16 else torch.float32)]


class Muon(torch.optim.Optimizer):
    """Momentum whose update, as a matrix M = U S Vᵀ, is replaced by U Vᵀ: all directions move
    equally fast.

    Jordan 2024 (kellerjordan.github.io/posts/muon), scaled by 0.2 √max(rows, columns) so that
    AdamW's rates fit (2502.16982). torch.optim.Muon (torch 2.9) takes no convolutions. dtype: of
    the iterations.
    """

    def __init__(self, params, lr, momentum=0.95, weight_decay=0.01, dtype=torch.float32):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))
        self.dtype = dtype

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                mean.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(mean, group["momentum"]).flatten(1)  # Nesterov
                scale = 0.2 * max(update.shape) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"])
                update = orthogonal(update.to(self.dtype)).to(p.dtype)
                p.add_(update.view(p.shape), alpha=-group["lr"] * scale)


def orthogonal(m, iterations=5):
    """Roughly U Vᵀ of m = U S Vᵀ (rows, columns) by Newton-Schulz: most singular values in 0.6 ...
    1.3."""
    x = m.T if m.shape[0] > m.shape[1] else m
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x  # pushes each singular value to about 1
    return x.T if m.shape[0] > m.shape[1] else x
