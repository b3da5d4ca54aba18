"""The baseline of Song et al."""

import contextlib

import pytest
import torch
from helpers import condition, small_unet, spy
from test_distill_stage1 import Gaussian
from torch import nn
from torch.testing import assert_close

import distill_stage2
from baselines import consistency
from baselines.consistency import consistency_loss, teacher_step
from checkpoint import load_checkpoint, save_checkpoint
from diffusion import T, add_noise, alpha_sigma
from distill_stage1 import load_stage1
from distill_stage2 import load_stage2
from student import predict, student_sampler
from teacher import ddim_sample

SHAPE = (2, 16, 16, 8, 8)


class Exact(nn.Module):
    """v̂ of f(x_t, t) = m + c (x_t − α m) / √(α² c² + σ²), the end of the exact path for N(m, c²);
    m and c learnable."""

    def __init__(self, m, c):
        super().__init__()
        self.m, self.c = nn.Parameter(torch.tensor(float(m))), nn.Parameter(torch.tensor(float(c)))

    def forward(self, xt, t, cond):
        a, s = alpha_sigma(t)
        x0 = self.m + self.c * (xt - a * self.m) / (a**2 * self.c**2 + s**2).sqrt()
        return (a * xt - x0) / s.clamp_min(1e-6)


def drawn(n):
    """x0 of N(0.7, 0.5²), noised to a random t, and s = t − T / n, ε."""
    x0, eps = 0.7 + 0.5 * torch.randn(SHAPE), torch.randn(SHAPE)
    t = T * (1 - torch.rand(2))
    return add_noise(x0, eps, t), t, (t - T / n).clamp_min(0), eps


def test_at_t_0_the_student_returns_what_it_is_given():
    x, t = torch.randn(SHAPE), torch.zeros(2)
    assert_close(predict(small_unet(), x, t, condition()), x, rtol=0, atol=1e-6)


def test_the_loss_of_the_exact_map_vanishes_with_the_gap():
    torch.manual_seed(0)
    teacher, exact, c = Gaussian(0.7, 0.5).requires_grad_(False), Exact(0.7, 0.5), condition()

    def loss(n):
        xt, t, s, eps = drawn(n)
        return consistency_loss(exact, exact, xt, teacher_step(teacher, xt, t, s, c, eps), t, s, c)

    losses = [loss(n).item() for n in (2, 16, 128)]
    assert losses[0] > 10 * losses[1] > 100 * losses[2] and losses[2] < 1e-5


def test_a_student_learns_where_the_teachers_path_ends():
    """From N(0, 1) to the map of N(0.7, 0.5²), at every t, and so at T in one step."""
    torch.manual_seed(0)
    teacher, student, c = Gaussian(0.7, 0.5).requires_grad_(False), Exact(0.0, 1.0), condition()
    optimiser = torch.optim.Adam(student.parameters(), 0.02)
    for _ in range(250):
        xt, t, s, eps = drawn(32)
        xs = teacher_step(teacher, xt, t, s, c, eps)
        optimiser.zero_grad()
        consistency_loss(student, student, xt, xs, t, s, c).backward()
        optimiser.step()
    assert abs(student.m.item() - 0.7) < 0.02 and abs(student.c.item() - 0.5) < 0.02
    eps, at_T = torch.randn(SHAPE), torch.full((2,), float(T))
    made = predict(student, eps, at_T, c)
    assert_close(made, ddim_sample(teacher, c, eps, 200, 1, 1), rtol=0, atol=0.05)


def test_the_target_carries_no_gradient():
    student, target, c = Exact(0.0, 1.0), Exact(0.5, 1.0), condition()
    xt, t, s, _ = drawn(8)
    consistency_loss(student, target, xt, xt, t, s, c).backward()
    assert student.m.grad is not None and target.m.grad is None


def test_context_frames_stay_true_along_the_teachers_step():
    c, eps = condition(given=4), torch.randn(SHAPE)
    t, s = torch.full((2,), 700.0), torch.full((2,), 450.0)
    xs = teacher_step(Gaussian(0.7, 0.5), torch.randn(SHAPE), t, s, c, eps)
    assert_close(xs[:, :4], add_noise(c.context, eps, s)[:, :4], rtol=0, atol=0)


def test_it_trains_halves_the_gap_ships_a_one_step_student_and_resumes(
    teacher_and_student, monkeypatch
):
    seen, usual = [], teacher_step

    def spied(velocity, xt, t, s, cond, eps):
        seen.append(round(T / (t - s).max().item()) if (s > 0).any() else None)
        return usual(velocity, xt, t, s, cond, eps)

    monkeypatch.setattr(consistency, "teacher_step", spied)
    losses = spy(monkeypatch, consistency, "consistency_loss")
    with contextlib.chdir(teacher_and_student):
        small = dict(data="data", videos=1, autoencoder="ae.pt", teacher="teacher.pt", batch=2)
        small |= dict(out="c", weights="c.pt")
        cfg = consistency.Config(**small, rounds=2, round_steps=2, save_every=2)
        ema = consistency.train(cfg)
        assert all(found in (None, n) for found, n in zip(seen, [2, 2, 4, 4], strict=True))
        # what learns, and its moving average, which does not
        assert all(f.training and target is ema for f, target, *_ in losses)
        network, made = load_stage1("c.pt")
        assert made["target_steps"] == 1 and made["recipe"] == "plain"
        noise = torch.randn(2, 8, 16, 8, 8)
        assert student_sampler(network, made)(condition(frames=8), lambda: noise).isfinite().all()
        again = consistency.train(cfg, resume=True)  # finished: nothing changes
        assert all(torch.equal(a, b) for a, b in zip(ema.parameters(), again.parameters()))


def test_the_adversarial_phase_goes_on_from_a_one_step_student_but_progression_does_not(
    teacher_and_student,
):
    with contextlib.chdir(teacher_and_student):
        saved = load_checkpoint("stage1.pt", "stage1")
        saved["config"]["target_steps"] = 1
        save_checkpoint("one.pt", **saved)
        small = dict(data="data", videos=1, autoencoder="ae.pt", student="one.pt", batch=2)
        small |= dict(warm_disc=1, phase_steps=0, last_steps=1, out="s2", weights="s2.pt")
        with pytest.raises(ValueError, match="progression starts from a student of 4"):
            distill_stage2.train(distill_stage2.Config(**small))
        direct = dict(progressive=False, curriculum=0, self_compare=0.0)
        distill_stage2.train(distill_stage2.Config(**small, **direct))
        load_stage2("s2.pt")
