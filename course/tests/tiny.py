"""Tiny exact networks and a data set, so that a whole training takes seconds.

A clip is four frames of one number each: (B, F, C, H, W) = (B, 4, 1, 1, 1).
"""

import json

import torch
from torch import nn

from diffusion import alpha_sigma
from latents import Cond

SHAPE = (4, 1, 1, 1)  # F, C, H, W


def near(found, wanted):
    """Fails unless two numbers, or tensors of one shape, agree to four digits, whatever their
    kind."""
    found, wanted = (torch.as_tensor(x).detach().double() for x in (found, wanted))
    shapes = tuple(found.shape), tuple(wanted.shape)
    assert shapes[0] == shapes[1], "found shape {} where {} is wanted".format(*shapes)
    wrong = ~torch.isclose(found, wanted, rtol=1e-4, atol=1e-4)
    if wrong.any():
        one, want = found[wrong][0], wanted[wrong][0]
        count = f" ({wrong.sum()} of {wrong.numel()} are wrong)" if wrong.numel() > 1 else ""
        raise AssertionError(f"found {one:.6g} where {want:.6g} is wanted{count}")


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

    def features(self, xt, t, cond):
        return [torch.zeros(xt.shape[0] * xt.shape[1], 8, 1, 1)]


class Disc(nn.Module):
    """D(x) = a · mean x + b · mean x², over the frames that are not context; a, b start at 0."""

    def __init__(self, *_):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def forward(self, xt, t, cond):
        free = (1 - cond.mask).view(*xt.shape[:2], 1, 1, 1)
        count = free.sum((1, 2, 3, 4))
        first, second = (free * xt).sum((1, 2, 3, 4)), (free * xt**2).sum((1, 2, 3, 4))
        return (self.a * first + self.b * second) / count


def rounds(network):
    """A student's calls, split where t is T -> for each sample [(x_t, t, gradients on?), ...]."""
    found = []
    for call in network.calls:
        if (call[1] == 1000).all():
            found.append([])
        found[-1].append(call)
    return found


def prepare(monkeypatch, script, networks, clips):
    """Put tiny networks and clips in the places of a script's; networks: what `trainable` returns,
    in turn."""
    turn = iter(networks)
    monkeypatch.setattr(script, "trainable", lambda network: next(turn))
    monkeypatch.setattr(script, "load_autoencoder", lambda *_: None)
    monkeypatch.setattr(script, "load_data", lambda *_: (clips, None, None))
    monkeypatch.setattr(script, "contact_sheet", lambda *_: None)
    monkeypatch.setattr(script, "save_training", lambda *_, **__: None)
    monkeypatch.setattr(script, "LOG_EVERY", 1)


def train_stage1(folder, monkeypatch, teacher, fake, student, clips=None, **options):
    """distill_stage1.train with these networks -> the rows of its log."""
    import distill_stage1 as script  # here: not every lab has it whole

    made = dict(channels=1, frames=4, context=0, recipe="plain")
    teacher.requires_grad_(False)
    prepare(monkeypatch, script, [fake, student], clips or Clips(0, 1))
    monkeypatch.setattr(script, "load_teacher", lambda *_: (teacher, made))
    settings = dict(out=str(folder), batch=32, warm_fake=0, save_every=9999, s_audio=1.0)
    script.train(script.Config(**settings | options))
    return log(folder)


def train_stage2(folder, monkeypatch, reference, student, clips, **options):
    """distill_stage2.train with these networks and a Disc -> Disc, the rows of its log."""
    import distill_stage2 as script

    made = dict(channels=1, frames=4, context=0, recipe="plain", target_steps=4)
    reference.requires_grad_(False)
    discs = []
    prepare(monkeypatch, script, [student, None], clips)
    monkeypatch.setattr(script, "load_stage1", lambda *_: (reference, made))
    monkeypatch.setattr(script, "preview", lambda *_: (torch.zeros(1, *SHAPE), condition(1)))
    monkeypatch.setattr(script, "Discriminator", lambda *_: discs.append(Disc()) or discs[0])
    settings = dict(out=str(folder), batch=32, save_every=9999, warm_disc=0, phase_steps=0)
    script.train(script.Config(**settings | options))
    return discs[0], log(folder)


def log(folder):
    with open(f"{folder}/log.jsonl", encoding="utf-8") as f:
        return [json.loads(line) for line in f][1:]
