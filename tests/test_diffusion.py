import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from diffusion import (FACE, MOUTH, T, add_noise, alpha_sigma, ddim_step, eps_from_v, guide, mouth_guidance, shape_noise, trailing_timesteps, v_loss, v_target,
                       x0_from_v)
from tiny_data import faces

torch.manual_seed(0)
X0, EPS = torch.randn(2, 3, 4, 8, 8, dtype=torch.float64), torch.randn(2, 3, 4, 8, 8, dtype=torch.float64)
TIMES = torch.tensor([0.0, 1.0, 250.0, 500.0, 999.0, 1000.0], dtype=torch.float64)
EXACT = dict(rtol=0, atol=1e-12)


# ---- schedule and conversions

def test_schedule_is_clean_at_0_and_pure_noise_at_T():
    assert [x.item() for x in alpha_sigma(torch.tensor([0.0]))] == [1, 0]
    assert [x.item() for x in alpha_sigma(torch.tensor([float(T)]))] == [0, 1]


def test_schedule_is_the_cosine():
    alpha, sigma = alpha_sigma(torch.tensor([T / 3, T / 2, 2 * T / 3], dtype=torch.float64))
    assert_close(alpha.flatten(), torch.tensor([0.75, 0.5, 0.25], dtype=torch.float64).sqrt(), **EXACT)
    assert_close(sigma.flatten(), alpha.flatten().flip(0), **EXACT)


def test_schedule_preserves_variance_and_falls():
    a, s = alpha_sigma(torch.linspace(0, T, 101, dtype=torch.float64))
    assert_close(a ** 2 + s ** 2, torch.ones_like(a), **EXACT)
    assert (a.flatten().diff() < 0).all()


@pytest.mark.parametrize("t", [-1.0, T + 1.0, float("nan")])
def test_schedule_refuses_times_outside(t):
    with pytest.raises(ValueError, match="t must lie"):
        alpha_sigma(torch.tensor([t]))


@pytest.mark.parametrize("t", TIMES)
def test_x0_eps_v_round_trips(t):
    t = t.expand(2)
    xt, v = add_noise(X0, EPS, t), v_target(X0, EPS, t)
    assert_close(x0_from_v(xt, v, t), X0, **EXACT)
    assert_close(eps_from_v(xt, v, t), EPS, **EXACT)


def test_each_clip_of_a_batch_has_its_own_time():
    t = torch.tensor([300.0, 900.0], dtype=torch.float64)
    both = add_noise(X0, EPS, t)
    for i in range(2):
        assert_close(both[i:i + 1], add_noise(X0[i:i + 1], EPS[i:i + 1], t[i:i + 1]), **EXACT)


# ---- DDIM

def test_ddim_step_to_the_same_time_is_the_identity():
    t = torch.full((2,), 400.0, dtype=torch.float64)
    assert_close(ddim_step(X0, EPS, t, t), X0, **EXACT)


def test_ddim_step_to_zero_returns_x0_hat():
    t = torch.full((2,), 400.0, dtype=torch.float64)
    assert_close(ddim_step(X0, EPS, t, 0 * t), x0_from_v(X0, EPS, t), **EXACT)


def test_ddim_with_the_true_v_stays_on_the_path():
    t, s = torch.full((2,), 800.0, dtype=torch.float64), torch.full((2,), 300.0, dtype=torch.float64)
    assert_close(ddim_step(add_noise(X0, EPS, t), v_target(X0, EPS, t), t, s), add_noise(X0, EPS, s), **EXACT)


def test_trailing_timesteps_start_at_T_and_end_at_0():
    assert trailing_timesteps(4) == [1000, 750, 500, 250, 0]
    assert trailing_timesteps(1) == [1000, 0]
    with pytest.raises(ValueError):
        trailing_timesteps(0)


# ---- the noise

def test_shaped_noise_stays_normal_is_alike_over_its_length_and_weak_at_the_mouth():
    eps = torch.randn(200, 16, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = shape_noise(eps, 3.0, 1.0)
    assert_close(smooth.std((0, 2, 3, 4)), torch.ones(16), rtol=0, atol=0.02)
    brow = smooth[..., :4, :]
    for lag in (1, 3, 6):
        assert_close((brow[:, lag:] * brow[:, :-lag]).mean().item(), math.exp(-lag ** 2 / 18), rtol=0, atol=0.03)
    assert_close(shape_noise(eps.flip(1), 3.0, 1.0), smooth.flip(1))              # no frame is special
    assert_close(shape_noise(eps[:, :1], 3.0, 1.0), eps[:, :1])
    for length in (0.0, 3.0):                                                       # at the mouth it is independent, and as strong as asked
        weak = shape_noise(eps, length, 0.25)
        assert_close(weak[..., *MOUTH], 0.25 * eps[..., *MOUTH], rtol=0, atol=0)
        assert_close(weak[..., :4, :], shape_noise(eps, length, 1.0)[..., :4, :], rtol=0, atol=0)
    before = eps.clone()
    assert_close(shape_noise(eps, 0.0, 1.0), before, rtol=0, atol=0)              # the paper's
    shape_noise(eps, 0.0, 0.0)
    assert_close(eps, before, rtol=0, atol=0)                                       # what it is given stays as it is


def test_noise_that_keeps_to_motion_is_its_projection_and_nothing_at_the_mouth():
    eps, v = torch.randn(3, 16, 16, 8, 8, generator=torch.Generator().manual_seed(0)), torch.linalg.qr(torch.randn(1024, 5))[0].T
    kept = shape_noise(eps, 0.0, 1.0, v)
    kept[..., *MOUTH] = (eps.flatten(2) @ v.T @ v).view_as(eps)[..., *MOUTH]        # undo the mouth's own
    assert torch.linalg.matrix_rank(kept.flatten(0, 1).flatten(1), rtol=1e-4) == 5
    assert_close(kept.flatten(2) @ v.T, eps.flatten(2) @ v.T, rtol=1e-4, atol=1e-4)      # in these directions it is as it was
    assert (shape_noise(eps, 3.0, 0.0, v)[..., *MOUTH] == 0).all()
    assert_close(shape_noise(eps, 3.0, 0.5, v)[..., *MOUTH], 0.5 * eps[..., *MOUTH], rtol=0, atol=0)
    off = v.reshape(5, 16, 8, 8).clone()
    off[..., *MOUTH] = 0                                                        # as motion_directions has them
    off = off.flatten(1)
    assert_close(shape_noise(eps, 3.0, 0.0, off), shape_noise(shape_noise(eps, 3.0, 0.0), 0.0, 0.0, off), rtol=1e-4, atol=1e-5)    # alike over the frames, too


# ---- guidance

def test_guidance_with_scales_1_is_the_full_branch_and_with_0_the_empty_one():
    a, b, c = torch.randn(3, 5, dtype=torch.float64)
    assert_close(guide(a, b, c, 1, 1), c, **EXACT)
    assert_close(guide(a, b, c, 0, 0), a, **EXACT)
    assert_close(guide(a, b, c, 1, 0), b, **EXACT)
    assert_close(guide(a, a, a, 3, 7), a, **EXACT)


def test_the_sounds_guidance_is_the_mouths_alone_and_grows_from_none_in_pure_noise_with_the_scale_as_its_mean():
    t = torch.linspace(0, T, 101)
    scale = mouth_guidance(3.0, t)
    assert scale.shape == (101, 1, 1, 8, 8)
    at_mouth = scale[..., *MOUTH].flatten(1)
    assert_close(at_mouth, (5 - 4 * t / T)[:, None].expand_as(at_mouth))       # 5 at t = 0, 3 on average, 1 at T
    scale[..., *MOUTH] = 1
    assert (scale == 1).all()
    assert (mouth_guidance(1.0, t) == 1).all()


# ---- loss

def test_loss_is_zero_for_the_truth_and_counts_only_free_frames():
    v, mask = torch.randn(2, 16, 16, 8, 8), (torch.arange(16) < 4).float().expand(2, 16)
    assert v_loss(v, v, mask) == 0
    wrong = v.clone()
    wrong[:, :4] += 5
    assert v_loss(wrong, v, mask) == 0
    assert_close(v_loss(v + 2, v, mask), torch.tensor(4.0))
    assert_close(v_loss(v + 2, v, 0 * mask), torch.tensor(4.0))


@pytest.mark.parametrize("place, weight", [((5, 3), 3), ((3, 2), 3), ((2, 2), 1), ((3, 6), 1), ((7, 5), 1), ((0, 0), 1)])      # mouth, eye, and others
def test_mouth_and_eyes_weigh_more(place, weight):
    v, mask = torch.randn(2, 3, 16, 8, 8), torch.zeros(2, 3)
    wrong = v.clone()
    wrong[..., *place] += 8
    assert_close(v_loss(wrong, v, mask, face=3.0), torch.tensor(weight * 64.0 / (48 + 3 * 16)))


def test_weighing_places_leaves_the_best_answer_the_same():
    v, mask = torch.randn(2, 3, 16, 8, 8), torch.zeros(2, 3)
    answer = torch.zeros_like(v[:1]).requires_grad_(True)                     # one answer for two targets: the best is their mean
    best = v.mean(0, keepdim=True)
    v_loss(answer.expand_as(v) + best, v, mask, face=3.0).backward()
    assert_close(answer.grad, torch.zeros_like(answer), rtol=0, atol=1e-6)


@pytest.mark.parametrize("part, regions", [("blink", [FACE]), ("jaw", [FACE, MOUTH])])
def test_mouth_and_eyes_lie_where_they_weigh_more_whatever_the_head_does(part, regions):
    changed, column = np.zeros((8, 8)), faces.MOTION.index(part)
    for seed in range(12):
        who, rng = faces.identity(seed), np.random.default_rng(seed)
        off = faces.motion(seed, rng.random((24, 3)))
        on = off.copy()
        off[:, column], on[:, column] = 0, 1
        difference = np.abs(faces.render(who, off).astype(float) - faces.render(who, on))
        changed += difference.sum((0, 3)).reshape(8, 8, 8, 8).sum((1, 3))     # a place of the latent is 8 x 8 pixels
    assert all(changed[region].sum() > 0.9 * changed.sum() for region in regions)
