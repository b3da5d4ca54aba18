"""The baseline of Salimans & Ho."""

import contextlib
import math

import pytest
import torch
from helpers import condition, prepare
from test_distill_stage1 import Gaussian, OneStep
from torch.testing import assert_close

from baselines import progressive
from baselines.progressive import progressive_loss, teacher_steps, two_step_target
from diffusion import T, add_noise, ddim_step, v_target
from distill_stage1 import load_stage1
from student import student_sampler
from teacher import ddim_sample

SHAPE = (2, 16, 16, 8, 8)


@pytest.mark.parametrize("t, s", [(1000.0, 500.0), (750.0, 250.0), (62.5, 0.0), (1000.0, 0.0)])
def test_one_ddim_step_with_the_target_goes_where_the_two_steps_went(t, s):
    torch.manual_seed(0)
    x_start, x_end = torch.randn(2, *SHAPE, dtype=torch.float64)
    t, s = (torch.full((2,), time, dtype=torch.float64) for time in (t, s))
    x0 = two_step_target(x_start, x_end, t, s)
    eps = (x_start - add_noise(x0, torch.zeros_like(x0), t)) / add_noise(
        torch.zeros_like(x0), torch.ones_like(x0), t
    )
    assert_close(ddim_step(x_start, v_target(x0, eps, t), t, s), x_end, rtol=1e-9, atol=1e-9)


def test_the_teachers_two_steps_are_ddims_and_keep_the_context():
    c, eps = condition(given=4), torch.randn(SHAPE)
    t, s = torch.full((2,), float(T)), torch.zeros(2)
    made = teacher_steps(Gaussian(0.7, 0.5).requires_grad_(False), eps, t, s, c, eps)
    assert_close(made, ddim_sample(Gaussian(0.7, 0.5), c, eps, 2, 1, 1), rtol=1e-4, atol=1e-4)
    assert_close(made[:, :4], c.context[:, :4], rtol=0, atol=0)


def test_a_one_step_student_learns_the_map_of_two_exact_steps():
    """Of the exact denoiser of N(0.7, 0.5²): x0 is affine in ε, and so is the student."""
    torch.manual_seed(0)
    teacher, student, c = Gaussian(0.7, 0.5).requires_grad_(False), OneStep(0.0, 1.0), condition()
    optimiser, t = torch.optim.Adam(student.parameters(), 0.05), torch.full((2,), float(T))
    for _ in range(150):
        eps = torch.randn(SHAPE)
        x_end = teacher_steps(teacher, eps, t, torch.zeros(2), c, eps)
        optimiser.zero_grad()
        progressive_loss(student, x_end, eps, t, torch.zeros(2), c).backward()
        optimiser.step()
    assert abs(student.m.item() - 0.7) < 0.01
    slope = ddim_sample(teacher, c, torch.ones(SHAPE), 2, 1, 1) - 0.7
    assert abs(student.c.item() - slope.mean().item()) < 0.01


def test_the_weight_is_the_truncated_snr():
    x0, t = torch.zeros(SHAPE), torch.tensor([250.0, 750.0])
    wrong = OneStep(1.0, 0.0)  # v = −1 everywhere, so x̂0 = α x_t + σ
    loss = progressive_loss(wrong, x0, x0, t, torch.zeros(2), condition())
    sigma = [math.sin(math.pi / 8), math.sin(3 * math.pi / 8)]
    weights = [1 / math.tan(math.pi / 8) ** 2, 1]
    wanted = sum(w * s**2 for w, s in zip(weights, sigma)) / 2
    assert_close(loss.item(), wanted, rtol=1e-4, atol=0)


def test_it_trains_ships_a_one_step_student_and_resumes(tmp_path):
    with contextlib.chdir(prepare(tmp_path, "teacher", videos=1)):
        small = dict(data="data", videos=1, autoencoder="ae.pt", teacher="teacher.pt", batch=2)
        cfg = progressive.Config(
            **small, first_steps=4, round_steps=2, save_every=2, out="p", weights="p.pt"
        )
        ema = progressive.train(cfg)
        network, made = load_stage1("p.pt")
        assert made["target_steps"] == 1 and made["recipe"] == "plain"
        noise = lambda: torch.randn(2, 8, 16, 8, 8)
        assert student_sampler(network, made)(condition(frames=8), noise).isfinite().all()
        again = progressive.train(cfg, resume=True)  # finished: nothing changes
        assert all(torch.equal(a, b) for a, b in zip(ema.parameters(), again.parameters()))


def test_rounds_must_halve():
    with pytest.raises(ValueError, match="--first-steps must be 2, 4, 8"):
        progressive.Config(first_steps=6)
