"""Tiny exact networks and a data set, so that a whole training takes seconds.

A clip is four frames of one number each: (B, F, C, H, W) = (B, 4, 1, 1, 1).
"""

import torch
from torch import nn

from diffusion import alpha_sigma
from latents import Cond

SHAPE = (4, 1, 1, 1)  # F, C, H, W


def condition(batch=2, given=0, context=0.0):
    """A Cond of zeros; the first `given` frames hold `context`."""
    mask = (torch.arange(4) < given).float().expand(batch, 4).clone()
    held = context * mask.view(batch, *SHAPE)
    return Cond(torch.zeros(batch, 1, 1, 1), torch.zeros(batch, 4, 1, 1), held, mask)


class Clips:
    """Draws clips whose numbers are N(mean, std²), all without context unless `given`."""

    frames, latents, device = 4, torch.zeros(1, 1, 1, 1), torch.device("cpu")

    def __init__(self, mean, std, given=0):
        self.mean, self.std, self.given = mean, std, given

    def batch(self, size, generator, *rest):
        x0 = self.mean + self.std * torch.randn(size, *SHAPE, generator=generator)
        cond = condition(size, self.given)
        return x0, cond._replace(context=x0 * cond.mask.view(size, *SHAPE))


class Gaussian(nn.Module):
    """The exact v̂ for data N(m, c²), m and log c learnable. Remembers its calls: x_t, t, whether
    gradients were on."""

    def __init__(self, m, c):
        super().__init__()
        self.m = nn.Parameter(torch.tensor(float(m)))
        self.log_c = nn.Parameter(torch.tensor(float(c)).log())
        self.calls = []

    def forward(self, xt, t, cond):
        self.calls.append((xt.detach(), t.detach(), torch.is_grad_enabled()))
        a, s = alpha_sigma(t)
        c2 = (2 * self.log_c).exp()
        x0 = self.m + a * c2 * (xt - a * self.m) / (a**2 * c2 + s**2)
        return (a * xt - x0) / s.clamp_min(1e-6)


class Generator(nn.Module):
    """x̂0 = m + c ε at t = T, as a v-prediction; at other t the same of x_t. Remembers its calls."""

    def __init__(self, m, c):
        super().__init__()
        self.m, self.c = nn.Parameter(torch.tensor(float(m))), nn.Parameter(torch.tensor(float(c)))
        self.calls = []

    def forward(self, xt, t, cond):
        self.calls.append((xt.detach(), t.detach(), torch.is_grad_enabled()))
        a, s = alpha_sigma(t)
        return (a * xt - (self.m + self.c * xt)) / s.clamp_min(1e-6)
