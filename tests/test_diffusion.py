import pytest
import torch
from torch.testing import assert_close

from diffusion import (
    T,
    add_noise,
    alpha_sigma,
    ddim_step,
    eps_from_v,
    guide,
    trailing_timesteps,
    v_loss,
    v_target,
    x0_from_v,
)

torch.manual_seed(0)
X0, EPS = (
    torch.randn(2, 3, 4, 8, 8, dtype=torch.float64),
    torch.randn(2, 3, 4, 8, 8, dtype=torch.float64),
)
TIMES = torch.tensor([0.0, 1.0, 250.0, 500.0, 999.0, 1000.0], dtype=torch.float64)
EXACT = dict(rtol=0, atol=1e-12)


# ---- schedule and conversions


def test_schedule_is_clean_at_0_and_pure_noise_at_T():
    assert [x.item() for x in alpha_sigma(torch.tensor([0.0]))] == [1, 0]
    assert [x.item() for x in alpha_sigma(torch.tensor([float(T)]))] == [0, 1]


def test_schedule_is_the_cosine():
    alpha, sigma = alpha_sigma(torch.tensor([T / 3, T / 2, 2 * T / 3], dtype=torch.float64))
    assert_close(
        alpha.flatten(), torch.tensor([0.75, 0.5, 0.25], dtype=torch.float64).sqrt(), **EXACT
    )
    assert_close(sigma.flatten(), alpha.flatten().flip(0), **EXACT)


def test_schedule_preserves_variance_and_falls():
    a, s = alpha_sigma(torch.linspace(0, T, 101, dtype=torch.float64))
    assert_close(a**2 + s**2, torch.ones_like(a), **EXACT)
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
        assert_close(
            both[i : i + 1], add_noise(X0[i : i + 1], EPS[i : i + 1], t[i : i + 1]), **EXACT
        )


# ---- DDIM


def test_ddim_step_to_the_same_time_is_the_identity():
    t = torch.full((2,), 400.0, dtype=torch.float64)
    assert_close(ddim_step(X0, EPS, t, t), X0, **EXACT)


def test_ddim_step_to_zero_returns_x0_hat():
    t = torch.full((2,), 400.0, dtype=torch.float64)
    assert_close(ddim_step(X0, EPS, t, 0 * t), x0_from_v(X0, EPS, t), **EXACT)


def test_ddim_with_the_true_v_stays_on_the_path():
    t, s = (
        torch.full((2,), 800.0, dtype=torch.float64),
        torch.full((2,), 300.0, dtype=torch.float64),
    )
    assert_close(
        ddim_step(add_noise(X0, EPS, t), v_target(X0, EPS, t), t, s), add_noise(X0, EPS, s), **EXACT
    )


def test_trailing_timesteps_start_at_T_and_end_at_0():
    assert trailing_timesteps(4) == [1000, 750, 500, 250, 0]
    assert trailing_timesteps(1) == [1000, 0]
    with pytest.raises(ValueError):
        trailing_timesteps(0)


# ---- guidance


def test_guidance_with_scales_1_is_the_full_branch_and_with_0_the_empty_one():
    a, b, c = torch.randn(3, 5, dtype=torch.float64)
    assert_close(guide(a, b, c, 1, 1), c, **EXACT)
    assert_close(guide(a, b, c, 0, 0), a, **EXACT)
    assert_close(guide(a, b, c, 1, 0), b, **EXACT)
    assert_close(guide(a, a, a, 3, 7), a, **EXACT)


# ---- loss


def test_loss_is_zero_for_the_truth_and_counts_only_free_frames():
    v, mask = torch.randn(2, 16, 16, 8, 8), (torch.arange(16) < 4).float().expand(2, 16)
    assert v_loss(v, v, mask) == 0
    wrong = v.clone()
    wrong[:, :4] += 5
    assert v_loss(wrong, v, mask) == 0
    assert_close(v_loss(v + 2, v, mask), torch.tensor(4.0))
    assert_close(v_loss(v + 2, v, 0 * mask), torch.tensor(4.0))
