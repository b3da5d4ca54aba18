"""What each training's loop gives to whom, with the tiny networks of test_stages.py."""

from types import SimpleNamespace

import pytest
import torch
from helpers import spy
from test_stages import MADE, REFERENCE, SHAPE, TEACHER, Clips, Denoiser, Sampler, put_in
from torch.testing import assert_close

import distill_stage1 as stage1
import distill_stage2 as stage2
import teacher

SHORT = {
    teacher: dict(recipe="plain", steps=2, batch=2),
    stage1: dict(steps=2, warm_fake=0, batch=2),
    stage2: dict(warm_disc=0, phase_steps=0, last_steps=2, batch=2),
}


def tiny(script, monkeypatch, clips=None):
    """Put a tiny network in -> the network."""
    network = Sampler(REFERENCE.tolist(), 1.0) if script is stage2 else Denoiser(*TEACHER)
    put_in(monkeypatch, script, network, clips or Clips())
    return network


@pytest.mark.parametrize("script", SHORT)
def test_the_moving_average_is_a_network_of_its_own_beside_the_one_that_learns(monkeypatch, script):
    tiny(script, monkeypatch)
    averaged = spy(monkeypatch, script, "update_ema")
    returned = script.train(script.Config(**SHORT[script], lr=0.1))
    assert len(averaged) == 2
    for ema, model, *_ in averaged:
        assert ema is returned and ema.w is not model.w and (ema.w != model.w).any()
        assert model.w.grad is not None and ema.w.grad is None


@pytest.mark.parametrize("script", SHORT)
def test_a_contact_sheet_shows_the_moving_average_on_held_out_clips(monkeypatch, script):
    clips, held_out, sheets = Clips(), Clips(), []
    tiny(script, monkeypatch, clips)
    splits = dict(train=clips, val=held_out)
    load = lambda cfg, split, *how: (SimpleNamespace(phones=[]), splits[split])
    if script is teacher:
        monkeypatch.setattr(script, "load_clips", load)
    else:
        monkeypatch.setattr(script, "load_data", lambda *args: (clips, held_out, None))
    monkeypatch.setattr(script, "contact_sheet", lambda *args: sheets.append(args))
    sampler = "teacher_sampler" if script is teacher else "student_sampler"
    made = spy(monkeypatch, script, sampler)
    ema = script.train(script.Config(**SHORT[script]))
    assert sheets and all(shown is held_out for _, _, shown, _ in sheets)
    if script is stage2:  # the first one is the reference's, as it came
        assert made.pop(0)[1] is MADE
    assert made and all(network is ema for network, *_ in made)


def test_the_teachers_sheet_has_a_row_of_one_step_without_guidance(monkeypatch):
    tiny(teacher, monkeypatch)
    asked, sheets = spy(monkeypatch, Denoiser, "forward"), []
    monkeypatch.setattr(teacher, "contact_sheet", lambda *args: sheets.append(args[1]))
    teacher.train(teacher.Config(**SHORT[teacher]))
    _, cond = Clips().batch(2, torch.Generator().manual_seed(0))
    rows = {}
    for name, sampler in sheets[-1].items():
        asked.clear()
        sampler(cond, lambda: torch.randn(2, *SHAPE))
        rows[name] = sum(len(xt) for _, xt, *_ in asked) // len(cond.ref)
    assert rows == {"40 steps": 120, "1 step": 1}


class Same(Clips):
    """One batch, again and again, some way from what the network believes."""

    def batch(self, size, generator, *how):
        x0, cond = super().batch(size, torch.Generator().manual_seed(0))
        return 3 + x0, cond


def test_the_teachers_gradient_is_clipped_and_none_of_it_reaches_the_next_step(monkeypatch):
    network, rows = tiny(teacher, monkeypatch, Same()), []
    descend = lambda model, *how: [torch.optim.SGD(model.parameters(), 1.0)]
    monkeypatch.setattr(teacher, "make_optimisers", descend)
    monkeypatch.setattr(teacher, "Log", lambda *args: lambda step, **row: rows.append(row))
    half = lambda: torch.full((2,), 0.5)
    monkeypatch.setattr(teacher, "draws", lambda *args: (half, lambda: torch.zeros(2, *SHAPE)))
    monkeypatch.setattr(torch, "rand", lambda size, generator: torch.tensor(0.5))
    before = torch.cat([p.detach().flatten() for p in network.parameters()])
    teacher.train(teacher.Config(**SHORT[teacher], lr=1e-6, warmup=0, log_every=1))
    after = torch.cat([p.detach().flatten() for p in network.parameters()])
    first, second = (row["gradient"] for row in rows)
    assert 2 < first < 100 and second == pytest.approx(first, rel=1e-3)
    moved = sum(row["lr"] for row in rows)  # two steps of length 1 at these rates
    assert_close((after - before).norm().item(), moved, rtol=0.1, atol=0)


def test_each_of_the_teachers_optimisers_steps_at_the_rate_of_the_log(monkeypatch):
    """The toy recipe has two: Muon and AdamW."""
    tiny(teacher, monkeypatch)
    used, rows = [], []

    class Watched(torch.optim.SGD):
        def step(self):
            used.append((id(self), self.param_groups[0]["lr"]))

    two = lambda model, *how: [Watched(model.parameters(), 7.0) for _ in range(2)]
    monkeypatch.setattr(teacher, "make_optimisers", two)
    monkeypatch.setattr(teacher, "Log", lambda *args: lambda step, **row: rows.append(row))
    teacher.train(teacher.Config(**SHORT[teacher], log_every=1))
    rates = [row["lr"] for row in rows]
    assert [lr for _, lr in used] == [lr for lr in rates for _ in range(2)]
    assert len({who for who, _ in used}) == 2


@pytest.mark.parametrize("script", [stage1, stage2])
def test_students_are_given_their_own_noise_and_every_noise_is_shaped_once(monkeypatch, script):
    tiny(script, monkeypatch)
    made, given = [], []
    asked = spy(monkeypatch, script, "noise_source", made)
    rollouts = spy(monkeypatch, script, "rollout")
    sampler = lambda *args, **how: lambda cond, noise: given.append(noise) or torch.zeros(2, *SHAPE)
    monkeypatch.setattr(script, "student_sampler", sampler)
    script.train(script.Config(**SHORT[script], recipe="toy"))
    own = {whose: noise for (_, whose, _), noise in zip(asked, made)}["student"]
    assert rollouts and all(noise is own for _, _, noise, _ in rollouts)
    # the reference's sampler shapes what it is given
    assert all(noise is asked[0][2] for noise in given) and bool(given) == (script is stage2)
