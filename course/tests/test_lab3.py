"""Lab 3: the distribution matching gradient. test_K_... marks task K."""

import math

import pytest
import torch
from tiny import SHAPE, Gaussian, Generator, condition, near, train_stage1
from torch import nn

import distill_stage1 as stage1

T3 = torch.tensor([1000 / 3, 1000 / 3])  # α = √3 / 2, σ = 1 / 2
NO_CONTEXT = torch.zeros(2, 4)


def clips(*numbers):
    """A clip whose frames all hold one number, for each number."""
    return torch.tensor(numbers).view(-1, 1, 1, 1, 1).expand(-1, *SHAPE).clone()


class Answers(nn.Module):
    """v̂ = number · w, and 10 more where there is sound; remembers its calls."""

    def __init__(self, number):
        super().__init__()
        self.w, self.number, self.calls = nn.Parameter(torch.ones(())), number, []

    def forward(self, xt, t, cond):
        self.calls.append((xt, t))
        heard = cond.audio.flatten(1).any(1).float().view(-1, 1, 1, 1, 1)
        return self.w * self.number * torch.ones_like(xt) + 10 * heard


def with_sound():
    return condition()._replace(audio=torch.ones(2, 4, 1, 1))


# ---- 1 the two scores


def test_1_the_fake_score_by_hand():
    """x̂0 = √3 / 2 · 2 − 1 / 2 · 4."""
    x0 = stage1.fake_score(Answers(4.0), clips(2.0, 2.0), T3, condition())
    near(x0, torch.full((2, *SHAPE), math.sqrt(3) - 2))


def test_1_the_fake_score_is_not_guided():
    network = Answers(4.0)
    x0 = stage1.fake_score(network, clips(2.0, 2.0), T3, with_sound())
    near(x0, torch.full((2, *SHAPE), math.sqrt(3) - 7))
    assert [len(xt) for xt, _ in network.calls] == [2]


def test_1_the_real_score_is_guided_by_the_scales_given():
    """v = 4 + 3 · (14 − 4) = 34: x̂0 = √3 − 17."""
    x0 = stage1.real_score(Answers(4.0), clips(2.0, 2.0), T3, with_sound(), 1.0, 3.0)
    near(x0, torch.full((2, *SHAPE), math.sqrt(3) - 17))


def test_1_without_guidance_both_scores_agree():
    for t in (T3, torch.tensor([20.0, 1000.0])):
        ask = Answers(4.0), clips(2.0, -3.0), t, with_sound()
        near(stage1.real_score(*ask, 1, 1), stage1.fake_score(*ask))


# ---- 2 the gradient g


def test_2_by_hand():
    """(7 − 1) / |3 − 1| = 3."""
    g = stage1.dmd_gradient(clips(7.0, 7.0), clips(1.0, 1.0), clips(3.0, 3.0), NO_CONTEXT)
    near(g, torch.full((2, *SHAPE), 3.0))


def test_2_the_mean_in_the_denominator_is_each_clips_own():
    """Deviations 1, 2, 3, 2 of the first clip and 20 of the second: means 2 and 20."""
    x0_hat = torch.tensor([1.0, -2, 3, -2, 20, 20, 20, -20]).view(2, *SHAPE)
    g = stage1.dmd_gradient(clips(4.0, 4.0), clips(0.0, 0.0), x0_hat, NO_CONTEXT)
    near(g.flatten(1), torch.tensor([[2.0] * 4, [0.2] * 4]))


def test_2_context_frames_have_no_gradient_and_do_not_count():
    x0_hat = torch.tensor([1e6, 1e6, 2, 2, 4, 4, 4, 4]).view(2, *SHAPE)
    mask = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0]])
    g = stage1.dmd_gradient(clips(6.0, 6.0), clips(0.0, 0.0), x0_hat, mask)
    near(g.flatten(1), torch.tensor([[0, 0, 3.0, 3], [1.5] * 4]))


def test_2_nothing_where_the_scores_agree_and_finite_where_the_student_is_right():
    same, other = clips(1.0, 2.0), clips(5.0, 5.0)
    near(stage1.dmd_gradient(same, same, other, NO_CONTEXT), torch.zeros(2, *SHAPE))
    g = stage1.dmd_gradient(same + 1, same, same, NO_CONTEXT)
    near(g, torch.full((2, *SHAPE), 1e5))  # the normaliser is 1e-5, not 0


def test_2_detached():
    fake, real, x0_hat = (x.requires_grad_() for x in (clips(7.0, 7), clips(1.0, 1), clips(3.0, 3)))
    g = stage1.dmd_gradient(fake, real, x0_hat, NO_CONTEXT)
    assert not g.requires_grad, "g carries gradient"


# ---- 3 the loss whose gradient is g


def test_3_its_gradient_is_g_over_the_count():
    x0_hat, g = clips(3.0, -1.0).requires_grad_(), torch.arange(8.0).view(2, *SHAPE)
    stage1.dmd_loss(x0_hat, g, NO_CONTEXT).backward()
    near(x0_hat.grad, g / 8)


def test_3_context_frames_get_none_and_do_not_count():
    x0_hat, g = clips(3.0, -1.0).requires_grad_(), torch.ones(2, *SHAPE)
    stage1.dmd_loss(x0_hat, g, torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0]])).backward()
    near(x0_hat.grad.flatten(1), torch.tensor([[0, 0, 1.0, 1], [1, 1, 1, 1]]) / 6)


def test_3_its_value_is_half_the_mean_square_of_g():
    loss = stage1.dmd_loss(clips(3.0, -1.0), clips(2.0, 4.0), NO_CONTEXT)
    near(loss, 5.0)


def test_3_a_step_against_it_goes_from_fake_to_real():
    x0_hat = clips(3.0, 3.0).requires_grad_()
    stage1.dmd_loss(x0_hat, clips(0.5, 0.5), NO_CONTEXT).backward()
    assert (x0_hat - 0.1 * x0_hat.grad < 3).all()


# ---- 4 the fake score's loss


def test_4_by_hand_at_T():
    """x_T = ε, v = −x̂0: (4 − (−3))² = 49."""
    t = torch.full((2,), 1000.0)
    loss = stage1.fake_loss(Answers(4.0), clips(3.0, 3.0), condition(), t, clips(9.0, -9.0))
    near(loss.detach(), 49.0)


def test_4_by_hand_at_a_third():
    """x_t = √3 / 2 · 2 + 1 / 2 · 10 is what the network sees, v = √3 / 2 · 10 − 1 / 2 · 2."""
    network = Answers(0.0)
    loss = stage1.fake_loss(network, clips(2.0, 2.0), condition(), T3, clips(10.0, 10.0))
    near(loss.detach(), (5 * math.sqrt(3) - 1) ** 2)
    near(network.calls[0][0], torch.full((2, *SHAPE), math.sqrt(3) + 5))
    near(network.calls[0][1], T3)


def test_4_context_frames_do_not_count():
    t, x0_hat = torch.full((2,), 1000.0), clips(3.0, 3.0)
    x0_hat[:, :2] = 1e3
    cond = condition(2, 2, 1e3)
    loss = stage1.fake_loss(Answers(4.0), x0_hat, cond, t, clips(0.0, 0.0))
    near(loss.detach(), 49.0)


def test_4_it_trains_the_fake_score_and_not_the_student():
    network, x0_hat = Answers(4.0), clips(3.0, 3.0).requires_grad_()
    stage1.fake_loss(network, x0_hat, condition(), T3, clips(1.0, 1.0)).backward()
    assert network.w.grad.abs() > 0, "the fake score has no gradient"
    assert x0_hat.grad is None or not x0_hat.grad.any(), "the student has a gradient"


# ---- 5 the student's step, in the loop


@pytest.fixture()
def ten(tmp_path, monkeypatch):
    """Ten iterations at rate 0: teacher, fake score, student, log. x̂0 = 3 + 0 ε."""
    networks = Gaussian(0.7, 0.5), Gaussian(-1, 1.5), Generator(3, 0)
    options = dict(target_steps=1, steps=10, fake_updates=1, s_audio=2.0)
    return *networks, train_stage1(tmp_path, monkeypatch, *networks, lr=0, fake_lr=0, **options)


def calls(network, size):
    """x_t (iterations, size, F, C, H, W) and t (iterations, size) of all clips it was asked about,
    however they were shared out over calls."""
    xt, t = (torch.cat(x) for x in list(zip(*network.calls))[:2])
    return xt.unflatten(0, (-1, size)), t.unflatten(0, (-1, size))


def test_5_the_student_comes_to_its_teachers_mean_and_spread(tmp_path, monkeypatch):
    """The teacher knows N(0.7, 0.5²); student and fake score start at N(−0.3, 1)."""
    networks = Gaussian(0.7, 0.5), Gaussian(-0.3, 1), Generator(-0.3, 1)
    options = dict(target_steps=1, steps=150, lr=0.04, fake_lr=0.08)
    train_stage1(tmp_path, monkeypatch, *networks, **options)
    mean, spread = networks[2].m.item(), abs(networks[2].c.item())
    assert abs(mean - 0.7) < 0.15 and abs(spread - 0.5) < 0.15


def test_5_the_scores_are_asked_at_2_to_98_percent_of_T(ten):
    teacher = ten[0]
    times = torch.cat([t for _, t, _ in teacher.calls])
    first, last = times.min().item(), times.max().item()
    assert 20 <= first < 150 and 850 < last <= 980
    assert len(times.unique()) > 315  # of 320: each clip has its own, and none is cut off


def test_5_both_are_asked_about_the_students_sample_in_one_noise(ten):
    teacher, fake, *_ = ten
    xt, t = calls(teacher, 64)  # the teacher is asked twice about each clip: guidance
    near(xt[:, 32:], xt[:, :32])
    xt, t = xt[:, :32], t[:, :32]
    at_fake, t_fake = (x[::2] for x in calls(fake, 32))  # every other call is its own update
    near(at_fake, xt)
    near(t_fake, t)
    angle = (t / 1000 * torch.pi / 2).view(10, 32, 1, 1, 1, 1)
    noise = (xt - 3 * angle.cos()) / angle.sin()
    mean, spread = noise.mean().item(), noise.std().item()
    assert abs(mean) < 0.1 and abs(spread - 1) < 0.1  # else it was not x̂0 that was noised


def test_5_the_teacher_is_guided_and_the_fake_score_is_not(ten):
    teacher, fake, *_ = ten
    assert sum(len(xt) for xt, *_ in teacher.calls) == 10 * 64  # portrait; portrait and sound
    assert sum(len(xt) for xt, *_ in fake.calls) == 10 * (32 + 32)  # g; its own update


def test_5_g_is_in_the_log(ten):
    assert all(0 < row["g"] < 10 for row in ten[3])
