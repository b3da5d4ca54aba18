"""Lab 1: noise, v and DDIM. test_K_... marks task K."""

import math

import pytest
import torch
from tiny import condition, near

import diffusion
import teacher

THIRD, HALF = math.sqrt(3) / 2, 0.5  # α and σ at t = T / 3


def times(*t):
    return torch.tensor(t, dtype=torch.float64)


def clips(*numbers):
    """A clip (1, 1, 1, 1) in float64 for each number."""
    return torch.tensor(numbers, dtype=torch.float64).view(-1, 1, 1, 1, 1)


def numbers(x):
    return x.flatten().double()


# ---- 1 the schedule


def test_1_clean_at_0_and_pure_noise_at_T():
    alpha, sigma = diffusion.alpha_sigma(times(0, 1000))
    near(numbers(alpha), times(1, 0))
    near(numbers(sigma), times(0, 1))
    assert float(numbers(diffusion.alpha_sigma(torch.tensor([1000.0]))[0])) == 0  # exactly


def test_1_a_third_a_half_and_two_thirds_of_the_way():
    alpha, sigma = diffusion.alpha_sigma(times(1000 / 3, 500, 2000 / 3))
    near(numbers(alpha), times(THIRD, math.sqrt(0.5), HALF))
    near(numbers(sigma), times(HALF, math.sqrt(0.5), THIRD))


def test_1_one_number_a_clip_with_as_many_axes_as_asked_for():
    for ndim in (2, 5):
        for x in diffusion.alpha_sigma(times(10, 20, 30), ndim):
            assert tuple(x.shape) == (3, *[1] * (ndim - 1))
    assert tuple(diffusion.alpha_sigma(times(10, 20))[0].shape) == (2, 1, 1, 1, 1)


def test_1_a_plain_number_will_do():
    alpha, sigma = diffusion.alpha_sigma(500)
    assert tuple(alpha.shape) == tuple(sigma.shape) == (1, 1, 1, 1, 1)
    near(float(numbers(alpha)), math.sqrt(0.5))


def test_1_times_outside_are_refused():
    for t in (-1.0, 1000.5):
        with pytest.raises(ValueError):
            diffusion.alpha_sigma(times(500, t))


# ---- 2 noise


def test_2_at_0_the_clip_and_at_T_the_noise():
    made = diffusion.add_noise(clips(3, 3), clips(-2, -2), times(0, 1000))
    near(numbers(made), times(3, -2))


def test_2_at_a_third_by_hand():
    made = diffusion.add_noise(clips(2, 4), clips(10, 0), times(1000 / 3, 1000 / 3))
    near(numbers(made), times(2 * THIRD + 5, 4 * THIRD))


def test_2_a_time_for_each_clip_and_any_shape():
    x0, eps = torch.ones(2, 3, 4, 5, 5), torch.zeros(2, 3, 4, 5, 5)
    made = diffusion.add_noise(x0, eps, torch.tensor([1000 / 3, 2000 / 3]))
    assert made.shape == x0.shape
    near(made[0], torch.full((3, 4, 5, 5), THIRD))
    near(made[1], torch.full((3, 4, 5, 5), HALF))
    assert diffusion.add_noise(x0[:, 0, 0], eps[:, 0, 0], torch.zeros(2)).shape == (2, 5, 5)


# ---- 3 v


def test_3_at_0_the_noise_and_at_T_minus_the_clip():
    v = diffusion.v_target(clips(3, 3), clips(-2, -2), times(0, 1000))
    near(numbers(v), times(-2, -3))


def test_3_at_a_third_by_hand():
    v = diffusion.v_target(clips(2, 4), clips(10, 0), times(1000 / 3, 1000 / 3))
    near(numbers(v), times(10 * THIRD - 1, -2))


def test_3_a_time_for_each_clip_and_any_shape():
    x0, eps = torch.ones(2, 3, 4, 5, 5), torch.zeros(2, 3, 4, 5, 5)
    v = diffusion.v_target(x0, eps, torch.tensor([1000 / 3, 2000 / 3]))
    assert v.shape == x0.shape
    near(v[0], torch.full((3, 4, 5, 5), -HALF))
    near(v[1], torch.full((3, 4, 5, 5), -THIRD))


# ---- 4 from v to x0 and ε


def test_4_at_0_x0_is_x_and_at_T_it_is_minus_v():
    x0 = diffusion.x0_from_v(clips(3, 3), clips(-2, -2), times(0, 1000))
    near(numbers(x0), times(3, 2))


def test_4_at_0_the_noise_is_v_and_at_T_it_is_x():
    eps = diffusion.eps_from_v(clips(3, 3), clips(-2, -2), times(0, 1000))
    near(numbers(eps), times(-2, 3))


def test_4_at_a_third_by_hand():
    x, v, t = clips(2, 4), clips(10, 0), times(1000 / 3, 1000 / 3)
    near(numbers(diffusion.x0_from_v(x, v, t)), times(2 * THIRD - 5, 4 * THIRD))
    near(numbers(diffusion.eps_from_v(x, v, t)), times(1 + 10 * THIRD, 2))


def test_4_finite_at_both_ends():
    x, v = torch.ones(2, 3, 4, 5, 5), torch.full((2, 3, 4, 5, 5), 2.0)
    for made in (diffusion.x0_from_v, diffusion.eps_from_v):
        both = made(x, v, torch.tensor([0.0, 1000.0]))
        assert both.shape == x.shape and both.isfinite().all()


# ---- 5 the DDIM step


def test_5_to_0_it_returns_x0_hat():
    made = diffusion.ddim_step(clips(2), clips(10), times(1000 / 3), times(0))
    near(numbers(made), times(2 * THIRD - 5))


def test_5_to_the_same_time_it_changes_nothing():
    made = diffusion.ddim_step(clips(2, -7), clips(10, 3), times(400, 900), times(400, 900))
    near(numbers(made), times(2, -7))


def test_5_from_T_to_a_third_by_hand():
    """At T, x̂0 = −v and ε̂ = x: here −5 and 2."""
    made = diffusion.ddim_step(clips(2), clips(5), times(1000), times(1000 / 3))
    near(numbers(made), times(-5 * THIRD + 2 * HALF))


def test_5_two_steps_with_the_true_v_stay_on_the_path():
    """x0 = 3, ε = −2; v at T is −3, v at 2T/3 is −2 / 2 − 3 √3 / 2."""
    x = diffusion.ddim_step(clips(-2), clips(-3), times(1000), times(2000 / 3))
    x = diffusion.ddim_step(x, clips(-2 * HALF - 3 * THIRD), times(2000 / 3), times(1000 / 3))
    near(numbers(x), times(3 * THIRD - 2 * HALF))


# ---- 6 the sampler's loop


class Constant(torch.nn.Module):
    """Thinks that every clip is made of the number 3."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, xt, t, cond):
        self.seen.append((xt, t))
        angle = t.view(-1, 1, 1, 1, 1).double() / 1000 * math.pi / 2
        return ((angle.cos() * xt - 3) / angle.sin()).to(xt.dtype)


NOISE = torch.tensor([1.0, -1.0, 2.0, -2.0]).expand(2, 4).reshape(2, 4, 1, 1, 1)


def test_6_a_sure_network_is_believed():
    made = teacher.ddim_sample(Constant(), condition(), NOISE, 5, 1, 1)
    near(made, torch.full((2, 4, 1, 1, 1), 3.0))


def test_6_the_network_is_asked_once_a_step_from_T_down():
    network = Constant()
    teacher.ddim_sample(network, condition(), NOISE, 4, 1, 1)
    assert [t.double().tolist() for _, t in network.seen] == [[t, t] for t in (1000, 750, 500, 250)]


def test_6_on_the_way_it_sees_less_and_less_of_the_same_noise():
    network = Constant()
    teacher.ddim_sample(network, condition(), NOISE, 3, 1, 1)
    at_T, at_two_thirds, at_a_third = (x for x, _ in network.seen)
    near(at_T, NOISE)
    near(at_two_thirds, 3 * HALF + THIRD * NOISE)
    near(at_a_third, 3 * THIRD + HALF * NOISE)


def test_6_context_frames_hold_the_given_numbers_in_the_same_noise():
    network, cond = Constant(), condition(given=2, context=7.0)
    made = teacher.ddim_sample(network, cond, NOISE, 3, 1, 1)
    x = network.seen[1][0]  # at 2 T / 3
    near(x[:, :2], 7 * HALF + THIRD * NOISE[:, :2])
    near(x[:, 2:], 3 * HALF + THIRD * NOISE[:, 2:])
    near(made.flatten(1), torch.tensor([7.0, 7, 3, 3]).expand(2, 4))


def test_6_every_step_is_guided():
    """A network that answers 1 and, where there is sound, 2: v = 1 + 4 (2 − 1) = 5."""

    class Hears(torch.nn.Module):
        def forward(self, xt, t, cond):
            heard = cond.audio.flatten(1).any(1).float().view(-1, 1, 1, 1, 1)
            return torch.ones_like(xt) + heard

    cond = condition()._replace(audio=torch.ones(2, 4, 1, 1))
    made = teacher.ddim_sample(Hears(), cond, NOISE, 1, 1, 4.0)
    near(made, torch.full((2, 4, 1, 1, 1), -5.0))
