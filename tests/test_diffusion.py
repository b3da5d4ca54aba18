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


def literal(function, *numbers):
    """The values of function(x, y, t) at t = 0, T / 3 and T, for one x and one y."""
    t = torch.tensor([0, T / 3, T], dtype=torch.float64)
    return function(*(torch.full((3, 1), x, dtype=torch.float64) for x in numbers), t).flatten()


def test_values_at_0_a_third_of_T_and_T_worked_out_by_hand():
    """There α = 1, √3 / 2, 0 and σ = 0, 1 / 2, 1. Round trips alone would not see a sign that is
    wrong on both ways."""
    for function, wanted in (
        (add_noise, [2, 3.2320508, 3]),  # α 2 + σ 3
        (v_target, [3, 1.5980762, -2]),  # α 3 − σ 2
        (x0_from_v, [2, 0.2320508, -3]),  # α 2 − σ 3
        (eps_from_v, [3, 3.5980762, 2]),  # σ 2 + α 3
    ):
        wanted = torch.tensor(wanted, dtype=torch.float64)
        assert_close(literal(function, 2.0, 3.0), wanted, rtol=0, atol=1e-7)


# ---- DDIM


def test_a_ddim_step_worked_out_by_hand():
    """From T / 3 to 2 T / 3, x_t = 2 and v = 3: ½ 0.2320508 + √3 / 2 · 3.5980762."""
    t = torch.tensor([T / 3], dtype=torch.float64)
    found = ddim_step(torch.full((1, 1), 2.0).double(), torch.full((1, 1), 3.0).double(), t, 2 * t)
    assert_close(found.item(), 3.2320508, rtol=0, atol=1e-7)


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


def test_three_trailing_timesteps_are_thirds():
    assert trailing_timesteps(3) == pytest.approx([1000, 2000 / 3, 1000 / 3, 0])


# ---- guidance


def test_guidance_worked_out_by_hand():
    assert guide(1.0, 2.0, 4.0, 3.0, 5.0) == 14  # 1 + 3 (2 − 1) + 5 (4 − 2)


def test_guidance_with_scales_1_is_the_full_branch_and_with_0_the_empty_one():
    a, b, c = torch.randn(3, 5, dtype=torch.float64)
    assert_close(guide(a, b, c, 1, 1), c, **EXACT)
    assert_close(guide(a, b, c, 0, 0), a, **EXACT)
    assert_close(guide(a, b, c, 1, 0), b, **EXACT)
    assert_close(guide(a, a, a, 3, 7), a, **EXACT)


# ---- loss


def test_loss_worked_out_by_hand():
    """Errors of 9, 1 and 3, the first in a frame that is given: (1 + 9) / 2."""
    v_hat = torch.tensor([9.0, 2.0, 4.0]).view(1, 3, 1, 1, 1)
    v = torch.tensor([0.0, 1.0, 1.0]).view(1, 3, 1, 1, 1)
    assert v_loss(v_hat, v, torch.tensor([[1.0, 0.0, 0.0]])) == 5


def test_loss_is_zero_for_the_truth_and_counts_only_free_frames():
    v, mask = torch.randn(2, 16, 16, 8, 8), (torch.arange(16) < 4).float().expand(2, 16)
    assert v_loss(v, v, mask) == 0
    wrong = v.clone()
    wrong[:, :4] += 5
    assert v_loss(wrong, v, mask) == 0
    assert_close(v_loss(v + 2, v, mask), torch.tensor(4.0))
    assert_close(v_loss(v + 2, v, 0 * mask), torch.tensor(4.0))
