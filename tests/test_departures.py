"""The toy recipe: its noise, Muon, and who draws what."""

import math

import numpy as np
import pytest
import torch
from helpers import small_unet
from torch.testing import assert_close

import departures
from departures import (
    MOUTH,
    Muon,
    make_optimisers,
    noise_source,
    orthogonal,
    shape_noise,
)
from tiny_data import faces

# ---- the noise


def test_shaped_noise_stays_normal_is_alike_over_its_length_and_weak_at_the_mouth():
    eps = torch.randn(200, 16, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = shape_noise(eps, 3.0, 1.0)
    assert_close(smooth.std((0, 2, 3, 4)), torch.ones(16), rtol=0, atol=0.02)
    brow = smooth[..., :4, :]
    for lag in (1, 3, 6):
        assert_close(
            (brow[:, lag:] * brow[:, :-lag]).mean().item(),
            math.exp(-(lag**2) / 18),
            rtol=0,
            atol=0.03,
        )
    assert_close(shape_noise(eps.flip(1), 3.0, 1.0), smooth.flip(1))  # no frame is special
    assert_close(shape_noise(eps[:, :1], 3.0, 1.0), eps[:, :1])
    for length in (0.0, 3.0):  # at the mouth it is independent, and as strong as asked
        weak = shape_noise(eps, length, 0.25)
        assert_close(weak[..., *MOUTH], 0.25 * eps[..., *MOUTH], rtol=0, atol=0)
        assert_close(weak[..., :4, :], shape_noise(eps, length, 1.0)[..., :4, :], rtol=0, atol=0)
    before = eps.clone()
    assert_close(shape_noise(eps, 0.0, 1.0), before, rtol=0, atol=0)  # the paper's
    shape_noise(eps, 0.0, 0.0)
    assert_close(eps, before, rtol=0, atol=0)  # what it is given stays as it is


# ---- Muon


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16)])
def test_orthogonal_keeps_the_singular_vectors_and_evens_out_the_values(shape):
    m = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, s, vt = torch.linalg.svd(m, full_matrices=False)
    found = u.T @ orthogonal(m) @ vt.T  # diagonal when the singular vectors are kept
    assert_close(found, torch.diag(found.diagonal()), rtol=0, atol=1e-9)
    big = s > 0.1 * s[0]
    assert (found.diagonal()[big] > 0.6).all() and (found.diagonal() < 1.3).all()


def test_muon_solves_a_least_squares_problem_and_resumes():
    def run(interrupt):
        torch.manual_seed(0)
        w, x = torch.nn.Parameter(torch.zeros(4, 3, 2, 2)), torch.randn(64, 12)
        target, opt = x @ torch.randn(12, 4), Muon([w], lr=0.05, weight_decay=0.0)
        for i in range(200):
            if i == 100 and interrupt:
                state, opt = opt.state_dict(), Muon([w], lr=0.05, weight_decay=0.0)
                opt.load_state_dict(state)
            loss = (x @ w.flatten(1).T - target).square().mean()
            (w.grad,) = torch.autograd.grad(loss, w)
            opt.param_groups[0]["lr"] = 0.3 * (1 - i / 200)
            opt.step()
        return loss, w

    (loss, w), (_, again) = run(False), run(True)
    assert loss < 0.01
    assert_close(w, again, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(4, 12), (12, 4)])
def test_an_update_of_muon_is_as_large_as_one_of_adamw_should_be(shape):
    """0.2 of the rate, in the root of the mean square, against the gradient and whatever its size;
    singular values of 0.6 to 1.3 leave it between 0.12 and 0.26."""
    w = torch.nn.Parameter(torch.zeros(shape))
    w.grad = 1e3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    Muon([w], lr=0.5, weight_decay=0.0).step()
    assert 0.12 < w.square().mean().sqrt() / 0.5 < 0.26 and (w * w.grad).sum() < 0


# ---- where and for whom


def test_the_jaw_moves_the_mouths_places_and_no_others_whatever_the_head_does():
    changed, column = np.zeros((8, 8)), faces.MOTION.index("jaw")
    for seed in range(12):
        who, rng = faces.identity(seed), np.random.default_rng(seed)
        shut = faces.motion(seed, rng.random((24, 3)))
        wide = shut.copy()
        shut[:, column], wide[:, column] = 0, 1
        difference = np.abs(faces.render(who, shut).astype(float) - faces.render(who, wide))
        changed += (
            difference.sum((0, 3)).reshape(8, 8, 8, 8).sum((1, 3))
        )  # a place of the latent is 8 x 8 pixels
    assert changed[MOUTH].sum() > 0.9 * changed.sum()


def test_plain_noise_is_the_noise_that_is_drawn_and_toy_noise_is_shaped():
    eps = torch.randn(2, 16, 16, 8, 8)
    for whose in ("teacher", "student"):
        assert noise_source("plain", whose, lambda: eps)() is eps
        shape = departures.NOISE[whose]["toy"]
        assert_close(
            noise_source("toy", whose, lambda: eps)(),
            shape_noise(eps, shape.smooth, shape.mouth),
            rtol=0,
            atol=0,
        )


def test_every_draw_is_a_fresh_one():
    draws = noise_source("toy", "student", lambda: torch.randn(1, 16, 16, 8, 8))
    assert (draws() != draws())[..., :4, :].all()


def test_muon_takes_the_matrices_inside_the_blocks_and_adamw_all_else():
    model = small_unet()
    adamw, muon = make_optimisers(model, "toy", 1e-3, False)
    (whole,) = make_optimisers(model, "plain", 1e-3, False)
    assert adamw.defaults["betas"] == whole.defaults["betas"] == (0.9, 0.99)
    taken = [set(map(id, o.param_groups[0]["params"])) for o in (adamw, muon, whole)]
    assert not taken[0] & taken[1] and taken[0] | taken[1] == taken[2] == {
        id(p) for p in model.parameters()
    }
    for name, p in model.named_parameters():
        inside = name.startswith(("down", "mid", "up")) and name.endswith("weight") and p.ndim > 1
        assert (id(p) in taken[1]) == inside, name


def test_toy_noise_leaves_the_mouth_out_and_the_students_is_smoother_than_the_teachers():
    eps, alike = torch.randn(100, 16, 2, 8, 8, generator=torch.Generator().manual_seed(0)), {}
    for whose in "teacher", "student":
        noise = noise_source("toy", whose, lambda: eps)()
        assert not noise[..., *MOUTH].any()
        brow = noise[..., :4, :]
        alike[whose] = (brow[:, 1:] * brow[:, :-1]).mean()
    assert 0.1 < alike["teacher"] < alike["student"] - 0.1


def test_two_steps_of_muon_are_nesterovs_and_decay_at_the_rate():
    """M = (1 − μ) g + μ m with m = μ m + (1 − μ) g: its U Vᵀ is the step, of 0.2 √columns."""
    torch.manual_seed(0)
    first, second, start = torch.randn(3, 4, 6, dtype=torch.float64)
    w, mu = torch.nn.Parameter(start.clone()), 0.95
    opt = Muon([w], lr=0.1, weight_decay=0.5, dtype=torch.float64)
    wanted, mean = start.clone(), torch.zeros_like(start)
    for g in first, second:
        mean = mu * mean + (1 - mu) * g
        step = orthogonal((1 - mu) * g + mu * mean)
        wanted = (1 - 0.1 * 0.5) * wanted - 0.1 * 0.2 * 6**0.5 * step
        w.grad = g.clone()
        opt.step()
    assert_close(w.detach(), wanted, rtol=1e-9, atol=1e-12)
