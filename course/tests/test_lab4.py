"""Lab 4: backward simulation and two time scales. test_K_... marks task K."""

import math

import torch
from tiny import SHAPE, Clips, Gaussian, Generator, condition, near, rounds, train_stage1
from torch import nn

import student as module

THIRD = math.sqrt(3) / 2  # α at T / 3; σ is 1 / 2


class Answers(nn.Module):
    """v̂ = number; remembers its calls."""

    def __init__(self, number):
        super().__init__()
        self.number, self.calls = number, []

    def forward(self, xt, t, cond):
        self.calls.append((xt, t))
        return torch.full_like(xt, self.number)


# ---- 1 one evaluation of the student


def test_1_at_T_it_is_minus_v_and_at_a_third_by_hand():
    xt = torch.full((2, *SHAPE), 2.0)
    near(module.predict(Answers(4.0), xt, 1000, condition()), 0 * xt - 4)
    near(module.predict(Answers(4.0), xt, 1000 / 3, condition()), 0 * xt + 2 * THIRD - 2)


def test_1_a_time_for_each_clip():
    network, xt = Answers(4.0), torch.full((2, *SHAPE), 2.0)
    x0 = module.predict(network, xt, torch.tensor([1000.0, 0.0]), condition())
    near(x0.flatten(1), torch.tensor([[-4.0] * 4, [2.0] * 4]))
    assert network.calls[0][1].tolist() == [1000, 0]


def test_1_the_network_is_asked_once_with_a_time_for_each_clip():
    network = Answers(4.0)
    module.predict(network, torch.zeros(2, *SHAPE), 250.0, condition())
    assert [t.tolist() for _, t in network.calls] == [[250, 250]]


def test_1_context_frames_hold_the_truth():
    x0 = module.predict(Answers(4.0), torch.zeros(2, *SHAPE), 1000, condition(2, 2, 7.0))
    near(x0.flatten(1), torch.tensor([[7.0, 7, -4, -4]] * 2))


# ---- 2 backward simulation


class Sure(nn.Module):
    """x̂0 = 3 w_i in its i-th call, whatever it sees."""

    def __init__(self, calls=4):
        super().__init__()
        self.w, self.calls = nn.Parameter(torch.ones(calls)), []

    def forward(self, xt, t, cond):
        w = self.w[len(self.calls)]
        self.calls.append((xt, t, torch.is_grad_enabled()))
        angle = (t / 1000 * torch.pi / 2).view(-1, 1, 1, 1, 1)
        return (angle.cos() * xt - 3 * w) / angle.sin()


def counted(*numbers):
    """noise() -> clips of the first number, then of the second, ...; then of none."""
    turn = iter(numbers)
    return lambda: torch.full((2, *SHAPE), next(turn, math.nan))


def test_2_one_step_is_one_evaluation_of_pure_noise():
    network = Sure()
    x0 = module.rollout(network, condition(), counted(5.0), [1000])
    near(x0, torch.full((2, *SHAPE), 3.0))
    near(network.calls[0][0], torch.full((2, *SHAPE), 5.0))


def test_2_between_two_steps_x0_hat_is_noised_afresh():
    """To T / 3: 3 · √3 / 2 + 8 / 2."""
    network = Sure()
    module.rollout(network, condition(), counted(5.0, 8.0), [1000, 1000 / 3])
    near(network.calls[1][0], torch.full((2, *SHAPE), 3 * THIRD + 4))


def test_2_so_many_evaluations_at_these_times():
    network, taus = Sure(), [1000.0, 750.0, 500.0, 250.0]
    module.rollout(network, condition(), counted(1.0, 2.0, 3.0, 4.0), taus)
    assert [t.tolist() for _, t, _ in network.calls] == [[tau, tau] for tau in taus]


def test_2_only_the_last_evaluation_carries_gradient():
    for k in (1, 2, 3, 4):
        network = Sure()
        taus = [1000.0, 750.0, 500.0, 250.0][:k]
        module.rollout(network, condition(), counted(1.0, 2.0, 3.0, 4.0), taus).sum().backward()
        assert [bool(g) for g in network.w.grad] == [i == k - 1 for i in range(4)]


def test_2_under_no_grad_none_does():
    with torch.no_grad():
        x0 = module.rollout(Sure(), condition(), counted(1.0, 2.0), [1000.0, 500.0])
    assert not x0.requires_grad, "x̂0 carries gradient"


def test_2_a_timestep_may_be_one_for_each_clip():
    network = Sure()
    taus = [1000, torch.tensor([1000 / 3, 1000.0])]
    module.rollout(network, condition(), counted(5.0, 8.0), taus)
    seen = network.calls[1][0].flatten(1)
    near(seen, torch.tensor([[3 * THIRD + 4] * 4, [8.0] * 4]))


# ---- 3 one network's update


def update(network, loss, lr=0.5, **optimiser):
    sgd = torch.optim.SGD(network.parameters(), lr=123.0, **optimiser)
    return module.optimise(0, "student", network, sgd, lr, loss)


def test_3_a_small_gradient_is_followed_at_the_rate_given():
    network = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(network.weight)
    norm = update(network, network(torch.tensor([0.3, 0.4])).sum())
    near(network.weight.detach(), torch.tensor([[-0.15, -0.2]]))
    near(norm, 0.5)


def test_3_a_large_one_is_clipped_to_norm_1_and_reported_as_it_was():
    network = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(network.weight)
    norm = update(network, network(torch.tensor([30.0, 40.0])).sum())
    near(network.weight.detach(), torch.tensor([[-0.3, -0.4]]))
    near(norm, 50.0)


def test_3_other_networks_in_the_loss_get_no_gradient():
    other, network = nn.Linear(2, 2), nn.Linear(2, 1)
    update(network, network(other(torch.ones(2))).sum())
    got = [name for name, p in other.named_parameters() if p.grad is not None and p.grad.any()]
    assert not got


def test_3_gradients_of_former_updates_are_gone():
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    for want in (-0.05, -0.10, -0.15):
        update(network, 0.1 * network(torch.ones(1)).sum())
        near(float(network.weight.detach()), want)


def test_3_frozen_parameters_stay():
    network = nn.Linear(2, 1)
    network.weight.requires_grad_(False)
    before = network.weight.clone()
    update(network, network(torch.ones(2)).sum())
    near(network.weight, before)


# ---- 4 samples and two time scales, in the loop


def spread(xt, t, x0):
    """The noise in x_t, if x0 is what was noised."""
    angle = (t / 1000 * torch.pi / 2).view(-1, 1, 1, 1, 1)
    return (xt - x0 * angle.cos()) / angle.sin().clamp_min(0.01)


def test_4_the_student_takes_the_first_k_of_its_own_steps(tmp_path, monkeypatch):
    student = Generator(3, 0)
    networks = Gaussian(0.7, 0.5), Gaussian(-1, 1.5), student
    train_stage1(tmp_path, monkeypatch, *networks, steps=60, lr=0, fake_lr=0)
    lengths = [len(calls) for calls in rounds(student)]
    assert len(lengths) == 60 and set(lengths) == {1, 2, 3, 4}
    assert all(lengths.count(k) > 4 for k in (1, 2, 3, 4))
    for calls in rounds(student):
        times = [float(t[0]) for _, t, _ in calls]
        assert times == [1000, 750, 500, 250][: len(calls)]
        assert [grad for *_, grad in calls] == [False] * (len(calls) - 1) + [True]
        for xt, t, _ in calls[1:]:  # its own sample, noised afresh; not the data
            assert abs(spread(xt, t, 3).mean()) < 0.5


def test_4_with_simulate_data_it_sees_noised_real_clips(tmp_path, monkeypatch):
    student = Generator(3, 0)
    networks = Gaussian(0.7, 0.5), Gaussian(-1, 1.5), student
    options = dict(steps=40, lr=0, fake_lr=0, simulate="data")
    train_stage1(tmp_path, monkeypatch, *networks, Clips(5, 0), **options)
    assert len(student.calls) == 40
    times = [float(t[0]) for _, t, _ in student.calls]
    assert set(times) == {1000, 750, 500, 250}
    noise = torch.cat([spread(xt, t, 5) for xt, t, _ in student.calls])
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1


def test_4_the_fake_score_learns_what_the_student_makes(tmp_path, monkeypatch):
    """A student that stands still at N(−1, 1.5²); the fake score starts at N(0.7, 0.5²)."""
    networks = Gaussian(0.7, 0.5), Gaussian(0.7, 0.5), Generator(-1, 1.5)
    options = dict(target_steps=1, steps=150, lr=0, fake_lr=0.1, fake_updates=3)
    train_stage1(tmp_path, monkeypatch, *networks, **options)
    _, fake, student = networks
    mean, spread = fake.m.item(), fake.log_c.exp().item()
    assert abs(mean + 1) < 0.2 and abs(spread - 1.5) < 0.2
    assert float(student.m) == -1 and float(student.c) == 1.5


def test_4_several_updates_on_one_sample_at_times_of_their_own(tmp_path, monkeypatch):
    fake = Gaussian(-1, 1.5)
    networks = Gaussian(0.7, 0.5), fake, Generator(3, 0)
    options = dict(target_steps=1, steps=10, lr=0, fake_lr=0, fake_updates=4)
    rows = train_stage1(tmp_path, monkeypatch, *networks, **options)
    assert len(fake.calls) == 10 * (1 + 4)
    asked = [call for i, call in enumerate(fake.calls) if i % 5]  # the first is the student's
    noise = torch.cat([spread(xt, t, 3) for xt, t, _ in asked])
    times = torch.cat([t for _, t, _ in asked])
    first, last, deviation = times.min().item(), times.max().item(), noise.std().item()
    assert 0 < first < 15 and 985 < last <= 1000 and len(times.unique()) > 900
    assert abs(deviation - 1) < 0.1
    assert all(math.isfinite(row["fake_loss"]) for row in rows)


def test_4_the_fake_score_falls_behind_without_its_updates(tmp_path, monkeypatch):
    fake = Gaussian(-1, 1.5)
    networks = Gaussian(0.7, 0.5), fake, Generator(3, 0)
    options = dict(target_steps=1, steps=5, fake_updates=0)
    train_stage1(tmp_path, monkeypatch, *networks, **options)
    assert float(fake.m) == -1 and len(fake.calls) == 5
