"""The teacher's and both stages' own train(), with networks so small that it is known where they
must arrive.

Every number of a clip is N(m(c), s²) under its condition c, and m is linear in c. Then the exact
score, the exact guided score and the exact sampler are one line each, and the shipped loops run
hundreds of iterations in seconds. Nothing of a loop is written again here.
"""

from types import SimpleNamespace

import pytest
import torch
from helpers import spy
from torch import nn
from torch.testing import assert_close

import distill_stage1 as stage1
import distill_stage2 as stage2
import teacher
from diffusion import T, alpha_sigma
from latents import Cond
from student import few_step_sample

SHAPE = FRAMES, *PLACE = 4, 1, 4, 4  # of a clip's latents
MADE = dict(channels=1, frames=FRAMES, context=1, recipe="plain", target_steps=4)


class Clips:
    """Clips of which only the condition is known beforehand; half of them carry a context frame."""

    frames, device, latents = FRAMES, torch.device("cpu"), torch.zeros(1, *PLACE)

    def __init__(self, mean=(0.0, 0.0, 0.0, 0.0), spread=1.0):
        self.data = Made(mean, spread)

    def batch(self, size, generator, *how):
        """Portrait and sound N(0, 1), one number a clip; one context frame, of 5 or -5."""
        ref, audio, past, given = torch.randn(4, size, generator=generator)
        mask = ((given > 0)[:, None] & (torch.arange(FRAMES) < 1)).float()
        past = (5 * past.sign())[:, None, None, None, None] * mask[:, :, None, None, None]
        cond = Cond(
            ref[:, None, None, None].expand(-1, *PLACE),
            audio[:, None, None, None].expand(-1, FRAMES, 2, 2),
            past.expand(-1, -1, *PLACE),
            mask,
        )
        eps = torch.randn(size, *SHAPE, generator=generator)
        with torch.no_grad():
            return self.data.mean(cond) + self.data.log_spread.exp() * eps, cond


class Made(nn.Module):
    """x0 ~ N(m, s²), m = w · (1, portrait, sound, context): the numbers, and m of a condition."""

    def __init__(self, weights, spread):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(weights))
        self.log_spread = nn.Parameter(torch.tensor(float(spread)).log())

    def mean(self, cond):
        return (features(cond) @ self.w).view(-1, 1, 1, 1, 1)


def features(cond):
    """(1, portrait, sound, context) of every clip: (B, 4)"""
    one = torch.ones(len(cond.ref))
    given = cond.context.flatten(1).sum(1) / cond.context[0, 0].numel()
    return torch.stack([one, cond.ref.flatten(1).mean(1), cond.audio.flatten(1).mean(1), given], 1)


class Sampler(Made):
    """A student whose samples are N(m, s²) whatever its steps are."""

    def forward(self, xt, t, cond):
        (a, s), m, c = alpha_sigma(t), self.mean(cond), self.log_spread.exp()
        return (a * xt - m - c / (a**2 * c**2 + s**2).sqrt() * (xt - a * m)) / s

    def features(self, xt, t, cond):
        return [xt.flatten(0, 1)]


class Denoiser(Made):
    """The exact v̂ of N(m, s²); at T and T / 2, where a student of two steps is asked, a Sampler
    with a spread of its own."""

    def __init__(self, weights, spread, own):
        super().__init__(weights, spread)
        self.sampler = Sampler(weights, own)
        self.sampler.w = self.w

    def forward(self, xt, t, cond):
        (a, s), m, c2 = alpha_sigma(t), self.mean(cond), (2 * self.log_spread).exp()
        exact = (a * xt - m - a * c2 / (a**2 * c2 + s**2) * (xt - a * m)) / s
        own = ((t == T) | (t == T / 2)).view(-1, 1, 1, 1, 1)
        return torch.where(own, self.sampler(xt, t, cond), exact)


class Quadratic(nn.Module):
    """D(x) = Σ u · (1, portrait, sound, context) x + q x², mean over free frames: where it finds no
    difference, m is the same in every condition, and so is s."""

    def __init__(self, network, widths):
        super().__init__()
        self.u, self.q = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(()))

    def forward(self, xt, t, cond):
        free = (1 - cond.mask)[:, :, None, None, None] / (1 - cond.mask).sum(1).view(-1, 1, 1, 1, 1)
        linear = (features(cond) @ self.u).view(-1, 1, 1, 1, 1)
        return (free * (linear * xt + self.q * xt**2)).sum((1, 2, 3, 4))


def put_in(patch, script, network, clips):
    """Tiny networks and clips take the places of what a script's train() makes or loads."""
    frozen = network.eval().requires_grad_(False)
    if script is teacher:
        patch.setattr(teacher, "UNet", lambda channels: network.requires_grad_(True))
        patch.setattr(teacher, "load_clips", lambda *args: (SimpleNamespace(phones=[]), clips))
    else:
        load = "load_teacher" if script is stage1 else "load_stage1"
        patch.setattr(script, load, lambda *args: (frozen, MADE))
        patch.setattr(script, "load_data", lambda *args: (clips, clips, None))
    patch.setattr(stage2, "Discriminator", Quadratic)
    patch.setattr(stage2, "preview", lambda clips, n: clips.batch(n, None))
    patch.setattr(script, "load_autoencoder", lambda *args: None)
    for name in ("contact_sheet", "save_training"):
        patch.setattr(script, name, lambda *args, **more: None)
    patch.setattr(script, "Log", lambda *args: lambda *args, **more: None)


def found(student, steps):
    """-> w and s of a student's samples in so many steps: by least squares, over free frames."""
    generator = torch.Generator().manual_seed(1)
    _, cond = Clips().batch(2000, generator)
    noise = lambda: torch.randn(2000, *SHAPE, generator=generator)
    x = few_step_sample(student, cond, noise, steps)[:, 1:]
    w = torch.linalg.lstsq(features(cond), x.mean((1, 2, 3, 4))[:, None]).solution.flatten()
    return w, (x - (features(cond) @ w).view(-1, 1, 1, 1, 1)).std()


# ---- the teacher


def test_the_loop_of_the_teacher_finds_the_datas_mean_and_variance(monkeypatch):
    clips = Clips([0.5, 1.0, -0.6, 0.1], 0.5)
    put_in(monkeypatch, teacher, Denoiser([0.0, 0.0, 0.0, 0.0], 1.0, 1.0), clips)
    cfg = teacher.Config(recipe="plain", steps=100, batch=32, lr=0.05, warmup=5, ema=0.9)
    cfg.drop_ref = cfg.drop_audio = 0.0
    network = teacher.train(cfg)
    assert_close(network.w, clips.data.w.detach(), rtol=0, atol=0.05)
    assert abs(network.log_spread.exp() - 0.5) < 0.05


@pytest.mark.parametrize("u, times", [(0.0, [1000, 500]), (1 - 2**-24, [500, 1000])])
def test_the_teachers_times_reach_T_and_not_0(monkeypatch, u, times):
    put_in(monkeypatch, teacher, Denoiser([0.0, 0.0, 0.0, 0.0], 1.0, 1.0), Clips())
    asked = spy(monkeypatch, teacher, "add_noise")
    monkeypatch.setattr(torch, "rand", lambda size, generator: u * torch.ones(size))
    teacher.train(teacher.Config(recipe="plain", steps=1, batch=2, sample_every=9))
    ((_, _, t),) = asked
    assert_close(t, torch.tensor(times, dtype=torch.float32), rtol=0, atol=1e-3)
    assert (t > 0).all()


def test_portrait_and_sound_are_dropped_at_the_rates_asked_for(monkeypatch):
    """Of eight draws 1/16, 3/16, ... a quarter below drop_ref, another one below their sum and a
    half above."""
    put_in(monkeypatch, teacher, Denoiser([0.0, 0.0, 0.0, 0.0], 1.0, 1.0), Clips())
    places = (torch.arange(8) + 0.5) / 8
    fresh = lambda: torch.randn(8, *SHAPE)
    monkeypatch.setattr(teacher, "draws", lambda *args: (lambda: places, fresh))
    dropped = spy(monkeypatch, teacher, "drop")
    cfg = teacher.Config(recipe="plain", steps=1, drop_ref=0.125, drop_audio=0.375)
    teacher.train(cfg)
    (_, keep_ref, keep_audio), *_ = dropped
    assert keep_ref.tolist() == [0] + 7 * [1] and keep_audio.tolist() == 4 * [0] + 4 * [1]


# ---- stage 1

TEACHER = [0.3, 0.6, -0.5, 0.1], 0.5, 0.8  # w and s; a student that starts from it makes 0.8


def test_the_loop_of_stage_1_moves_the_student_to_the_guided_teachers_mean_and_variance(
    monkeypatch,
):
    put_in(monkeypatch, stage1, Denoiser(*TEACHER), Clips())
    rollouts = spy(monkeypatch, stage1, "rollout")
    cfg = stage1.Config(steps=120, warm_fake=10, batch=16, lr=0.04, fake_lr=0.08, fake_updates=2)
    cfg.target_steps, cfg.s_ref, cfg.s_audio = 2, 1.5, 2.0
    student = stage1.train(cfg)
    for steps in 1, 2:
        w, spread = found(student, steps)
        assert_close(w, torch.tensor([0.3, 1.5 * 0.6, 2 * -0.5, 0.1]), rtol=0, atol=0.05)
        assert abs(spread - 0.5) < 0.05
    assert {tuple(taus) for *_, taus in rollouts} == {(T,), (T, T / 2)}  # its last step learns, too


@pytest.mark.parametrize("u, score, fake", [(0.0, 20, 1000), (1 - 2**-24, 980, 0)])
def test_the_times_of_stage_1_reach_both_ends(monkeypatch, u, score, fake):
    """Of the scores in g 0.02 T and 0.98 T; of the fake score's own loss T, and not quite 0."""
    put_in(monkeypatch, stage1, Denoiser(*TEACHER), Clips())
    fresh = lambda: torch.randn(8, *SHAPE)
    monkeypatch.setattr(stage1, "draws", lambda *args: (lambda: torch.full((8,), u), fresh))
    asked = spy(monkeypatch, Denoiser, "forward")
    stage1.train(stage1.Config(steps=1, warm_fake=0, target_steps=1, fake_updates=1))
    times = [t.unique().item() for _, _, t, _ in asked]
    assert times == [T, *2 * [pytest.approx(score)], pytest.approx(fake, abs=1e-3)] and min(times)


# ---- stage 2

DATA, REFERENCE = torch.tensor([0.5, 1.0, -0.6, 0.1]), torch.tensor([0.0, 0.4, 0.0, 0.1])


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_loop_of_stage_2_moves_the_student_between_the_data_and_the_reference(
    monkeypatch, weight
):
    """To the data's mean and variance; with λ_sc to where D can neither tell it from the data nor
    from the reference: its moments are their weighted means."""
    put_in(monkeypatch, stage2, Sampler(REFERENCE.tolist(), 1.0), Clips(DATA.tolist(), 0.5))
    cfg = stage2.Config(warm_disc=10, phase_steps=20, last_steps=120, batch=16, lr=0.04)
    cfg.disc_lr, cfg.self_compare = 0.03, weight
    w, spread = found(stage2.train(cfg), 1)
    mean = lambda of_data, of_reference: (of_data + weight * of_reference) / (1 + weight)
    wanted = mean(DATA, REFERENCE)
    squares = torch.tensor([1.0, 1, 1, 12.5])  # E of the features'
    second = mean(0.5**2 + DATA**2 @ squares, 1.0 + REFERENCE**2 @ squares)
    assert_close(w, wanted, rtol=0, atol=0.05)
    assert abs(spread - (second - wanted**2 @ squares).sqrt()) < 0.06


@pytest.mark.parametrize("u, disc, last", [(0.0, 0, 500), (1 - 2**-24, 300, 1000)])
def test_the_times_of_stage_2_reach_both_ends(monkeypatch, u, disc, last):
    """Of the clips that D sees 0 and 0.3 T; of phase 1's last step T / 2 and, once the gap is
    open, T."""
    put_in(monkeypatch, stage2, Sampler(REFERENCE.tolist(), 1.0), Clips())
    fresh = lambda: torch.randn(8, *SHAPE)
    monkeypatch.setattr(stage2, "draws", lambda *args: (lambda: torch.full((8,), u), fresh))
    asked, rollouts = spy(monkeypatch, Quadratic, "forward"), spy(monkeypatch, stage2, "rollout")
    noised = spy(monkeypatch, stage2, "add_noise")
    stage2.train(stage2.Config(warm_disc=1, phase_steps=1, last_steps=1, curriculum=1))
    for three in zip(noised[::3], noised[1::3], noised[2::3]):  # data, reference, student
        assert len({id(eps) for _, eps, _ in three}) == len({id(t) for *_, t in three}) == 1
    assert {round(t.item(), 3) for _, _, times, _ in asked for t in times} == {disc}
    assert_close(rollouts[-1][-1][-1], torch.full((8,), float(last)))


# ---- the optimisers of both


@pytest.mark.parametrize("script", [stage1, stage2])
def test_every_network_has_an_optimiser_of_its_own_parameters_without_momentum(monkeypatch, script):
    network = Denoiser(*TEACHER) if script is stage1 else Sampler(REFERENCE.tolist(), 1.0)
    put_in(monkeypatch, script, network, Clips())
    updates = spy(monkeypatch, script, "optimise")
    few = dict(warm_fake=1) if script is stage1 else dict(warm_disc=1, phase_steps=1, last_steps=1)
    script.train(script.Config(**(few | dict(steps=2) if script is stage1 else few)))
    assert len({id(optimiser) for _, _, _, optimiser, *_ in updates}) == 2
    for _, _, trained, optimiser, *_ in updates:
        (group,) = optimiser.param_groups
        assert set(map(id, group["params"])) == set(map(id, trained.parameters()))
        assert group["betas"] == (0.0, 0.99) and group["weight_decay"] == 0.01
