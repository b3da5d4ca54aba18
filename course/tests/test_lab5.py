"""Lab 5: phases, curriculum, samples. test_K_... marks task K."""

import torch
from tiny import Clips, Generator, near, rounds, train_stage2

import distill_stage2 as stage2
import phases

# ---- 1 the phases


def plan(**options):
    settings = dict(warm_disc=30, phase_steps=20, last_steps=300)
    return [tuple(phase) for phase in phases.phases(stage2.Config(**settings | options))]


def test_1_the_discriminator_alone_then_4_to_3_to_2_to_1():
    assert plan() == [(4, 4, 30, False), (4, 3, 20, True), (3, 2, 20, True), (2, 1, 300, True)]


def test_1_without_progression_as_many_updates_of_one_phase():
    assert plan(progressive=False) == [(4, 4, 30, False), (4, 1, 340, True)]


def test_1_the_numbers_are_the_options():
    want = [(4, 4, 5, False), (4, 3, 7, True), (3, 2, 7, True), (2, 1, 11, True)]
    assert plan(warm_disc=5, phase_steps=7, last_steps=11) == want
    default = stage2.Config()
    updates = [phase.updates for phase in phases.phases(default)]
    assert updates == [default.warm_disc, *[default.phase_steps] * 2, default.last_steps]


# ---- 2 a phase's timesteps


def test_2_four_and_two():
    near(list(phases.phase_timesteps(4)), [1000, 750, 500, 250])
    near(list(phases.phase_timesteps(2)), [1000, 500])


def test_2_three():
    near(list(phases.phase_timesteps(3)), [1000, 2000 / 3, 1000 / 3])


def test_2_one():
    near(list(phases.phase_timesteps(1)), [1000])


# ---- 3 the last timestep drawn

U = torch.tensor([0.0, 0.5, 1.0])


def test_3_a_tenth_of_the_gap_at_the_first_of_ten_updates():
    """From T / 4 = 250 towards T / 3: 0, a half and all of a tenth of 83.3."""
    near(phases.draw_last(4, 3, 0, 10, U), [250, 250 + 83.3333 / 20, 250 + 83.3333 / 10])


def test_3_half_of_it_at_the_fifth():
    near(phases.draw_last(2, 1, 4, 10, U), [500, 625, 750])


def test_3_all_of_it_at_the_last():
    near(phases.draw_last(3, 2, 9, 10, U), [1000 / 3, 1000 / 3 + 1000 / 12, 500])


def test_3_after_the_warm_up_the_new_one_and_no_other():
    for i in (10, 11, 99):
        near(phases.draw_last(4, 3, i, 10, U), [1000 / 3] * 3)
    near(phases.draw_last(2, 1, 0, 0, U), [1000] * 3)  # no warm-up


def test_3_in_the_discriminators_warm_up_there_is_no_gap():
    near(phases.draw_last(4, 4, 0, 10, U), [250] * 3)


# ---- 4 a step at T before it

LAST = torch.tensor([260.0, 300.0])


def steps(n, i, warm=10, last=LAST):
    """The timesteps, as numbers for each of two clips."""
    found = phases.warm_timesteps(n, i, warm, last)
    return [torch.as_tensor(t, dtype=torch.float32).expand(2).tolist() for t in found]


def test_4_the_last_of_the_phases_timesteps_is_the_drawn_one():
    near(steps(3, 0), [[1000, 1000], [2000 / 3, 2000 / 3], [260, 300]])
    near(steps(2, 5), [[1000, 1000], [260, 300]])
    near(steps(4, 0), [[1000, 1000], [750, 750], [500, 500], [260, 300]])


def test_4_phase_1_makes_a_step_at_T_while_its_last_timestep_is_drawn():
    near(steps(1, 0), [[1000, 1000], [260, 300]])
    near(steps(1, 9), [[1000, 1000], [260, 300]])


def test_4_and_one_step_afterwards():
    at_T = torch.tensor([1000.0, 1000.0])
    near(steps(1, 10, last=at_T), [[1000, 1000]])
    near(steps(1, 0, warm=0, last=at_T), [[1000, 1000]])


# ---- 5 the student's samples, in the loop


def train(tmp_path, monkeypatch, student, clips=None, **options):
    return train_stage2(
        tmp_path, monkeypatch, Generator(0, 1), student, clips or Clips(2, 0.5), **options
    )


def test_5_each_phase_takes_its_steps_and_the_last_timestep_moves(tmp_path, monkeypatch):
    student = Generator(3, 0)
    options = dict(warm_disc=2, phase_steps=6, last_steps=6, curriculum=4, lr=0)
    train(tmp_path, monkeypatch, student, **options)
    samples = rounds(student)
    assert len(samples) == 20
    phases = [(4, 4, 2), (4, 3, 6), (3, 2, 6), (2, 1, 6)]
    turns = [(before, n, i) for before, n, updates in phases for i in range(updates)]
    for (before, n, i), calls in zip(turns, samples):
        drawn = i < 4 and before > n
        old, new = 1000 / before, 1000 / n
        opened = old + (i + 1) / 4 * (new - old) if drawn else new
        head = [1000 * (n - j) / n for j in range(n - 1)] or [1000] * drawn
        near([float(t[0]) for _, t, _ in calls[:-1]], [float(t) for t in head])
        last = calls[-1][1]
        assert last.min() >= (old if drawn else new) - 1e-2 and last.max() <= opened + 1e-2
        assert not drawn or last.max() > old + 0.7 * (opened - old)
        assert (len(last.unique()) > 20) == drawn


def test_5_gradient_goes_through_the_last_evaluation_only(tmp_path, monkeypatch):
    student = Generator(3, 0)
    train(tmp_path, monkeypatch, student, phase_steps=3, last_steps=3, curriculum=2, lr=0)
    for calls in rounds(student):
        assert [grad for *_, grad in calls] == [False] * (len(calls) - 1) + [True]


def test_5_every_step_starts_from_fresh_noise(tmp_path, monkeypatch):
    student = Generator(3, 0)
    train(tmp_path, monkeypatch, student, phase_steps=5, last_steps=1, curriculum=0, lr=0)
    for calls in rounds(student)[:5]:
        noises = []
        for xt, t, _ in calls:
            angle = (t / 1000 * torch.pi / 2).view(-1, 1, 1, 1, 1)
            noises.append(((xt - 3 * angle.cos()) / angle.sin()).flatten())
        assert all(abs(noise.std() - 1) < 0.3 for noise in noises)
        assert all(abs(torch.corrcoef(torch.stack([noises[0], x]))[0, 1]) < 0.4 for x in noises[1:])


def test_5_the_student_moves_to_the_data(tmp_path, monkeypatch):
    """From a mean of 0 towards 2, in one phase of one step."""
    student = Generator(0, 0.5)
    options = dict(progressive=False, last_steps=40, curriculum=0, self_compare=0, penalty=0.0)
    train(tmp_path, monkeypatch, student, lr=0.15, disc_lr=0.1, disc_noise=0.0, **options)
    assert 1 < student.m < 3


def test_5_the_log_says_where_the_last_timestep_is(tmp_path, monkeypatch):
    _, rows = train(
        tmp_path, monkeypatch, Generator(3, 0), phase_steps=1, last_steps=1, curriculum=0
    )
    near([row["last_t"] for row in rows], [1000 / 3, 500, 1000])
