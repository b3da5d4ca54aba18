"""The quick look at a student while it trains: its numbers on clips of which all is known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import student
from latents import preview_noise

VIDEOS, FRAMES = 3, 8


@pytest.fixture
def look(monkeypatch):
    """look(sampler) -> quick_eval's numbers on clips whose frames say their motion themselves; in
    truth the width is the opposite of what is read, and there is more motion than clips show."""
    moves = torch.randn(1, FRAMES, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    moves[..., 0, 3] *= 5  # heads move most from side to side
    x0 = (moves - moves.mean((1, 3, 4), keepdim=True)).expand(VIDEOS, -1, -1, -1, -1)
    monkeypatch.setattr(student, "preview", lambda clips, count: (x0, "cond"))
    coder = SimpleNamespace(decode=lambda z: z)
    reader = lambda frames: frames[:, 0].flatten(1)[:, :7]  # lips, head and lids
    motion = np.random.default_rng(0).normal(size=(VIDEOS + 2, FRAMES + 3, 7))
    motion[:VIDEOS, :FRAMES] = reader(x0.flatten(0, 1)).view(VIDEOS, FRAMES, 7)
    motion[..., 1] *= -1
    clips = SimpleNamespace(frames=FRAMES)
    return lambda make: student.quick_eval(
        lambda cond, noise: make(x0, noise), clips, coder, reader, motion
    )


def test_a_quick_look_sees_lips_the_wrong_way_and_half_the_motion(look):
    found = look(lambda x0, noise: -0.5 * x0)
    assert [found[name] for name in ("jaw", "width", "rounding")] == pytest.approx([-1, 1, -1])
    assert found["spread"] == pytest.approx(0.5) and found["change"] == pytest.approx(0.5)
    assert found["colour"] == pytest.approx(0, abs=1e-4)


def test_a_quick_look_at_heads_is_the_mean_of_three_ratios(look):
    factor = torch.ones(8, 8)
    factor[0, 3:6] = torch.tensor([2.0, 1.0, 0.5])
    assert look(lambda x0, noise: factor * x0)["spread"] == pytest.approx(3.5 / 3)


def test_a_quick_look_at_change_is_within_each_video_and_whatever_its_sign(look):
    made = {}

    def twice(x0, noise):
        """Every other frame is shown twice."""
        held = x0[:, torch.arange(FRAMES) // 2 * 2]
        held_steps, steps = ((x[:, 1:] - x[:, :-1]).abs().mean() for x in (held, x0))
        made["wanted"] = float(held_steps / steps)
        return held

    assert look(twice)["change"] == pytest.approx(made["wanted"])


def test_a_quick_look_adds_up_shifts_of_colour_whatever_their_sign(look):
    shift = torch.tensor([0.1, -0.2, 0.0])[:, None, None]
    found = look(lambda x0, noise: x0 + shift)
    assert found["colour"] == pytest.approx(127.5 * 0.1, rel=1e-4)
    assert [found[name] for name in ("jaw", "spread", "change")] == pytest.approx([1, 1, 1])


def test_every_quick_look_is_from_the_same_noise_and_draws_none_of_the_trainings(look):
    before = torch.get_rng_state()
    assert look(lambda x0, noise: noise()) == look(lambda x0, noise: noise())
    assert torch.equal(torch.get_rng_state(), before)
    noise = preview_noise(torch.zeros(2, 3))
    assert (noise() != noise()).all()


def test_a_student_learns_from_the_training_split_and_is_looked_at_on_the_other(monkeypatch):
    def load(cfg, split, coder, device, frames):
        motion = np.arange(60.0)[:, None] + (split == "val")
        return SimpleNamespace(motion=motion, starts=np.array([0, 20, 60])), f"{split}, {frames}"

    monkeypatch.setattr(student, "load_clips", load)
    monkeypatch.setattr(student, "READER", student.HERE)
    monkeypatch.setattr(student.metrics, "load_reader", lambda path, device: "reader")
    clips, held_out, (reader, motion) = student.load_data(None, 4, None, None)
    assert (clips, held_out, reader) == ("train, 4", "val, 4", "reader")
    wanted = [[1, 2, 3, 4], [21, 22, 23, 24]]  # each video's first frames
    assert_close(motion[..., 0], np.array(wanted, float))


def test_an_update_that_is_not_finite_stops_the_run_and_is_named():
    network = torch.nn.Linear(2, 1)
    optimiser = student.adam(network, 0.1)
    loss = network(torch.full((1, 2), float("inf"))).sum()
    with pytest.raises(FloatingPointError, match="the critic's loss is .* at step 7"):
        student.optimise(7, "critic", network, optimiser, 0.1, loss)
