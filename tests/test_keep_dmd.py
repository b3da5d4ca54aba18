"""Stage 2 with stage 1's gradient beside the adversarial one."""

import contextlib
from dataclasses import replace

import torch
from helpers import condition, spy
from test_distill_stage1 import Gaussian
from torch.testing import assert_close

import distill_stage2
from baselines import keep_dmd
from baselines.keep_dmd import KeepDMD, both
from distill_stage2 import load_stage2

SHAPE = (2, 16, 16, 8, 8)


def test_the_adversarial_part_has_three_tenths_of_the_size_whatever_its_own():
    torch.manual_seed(0)
    g, adversarial, mask = torch.randn(SHAPE), torch.randn(SHAPE), condition(given=4).mask
    n = 2 * 12 * 16 * 8 * 8
    for size in 1e-6, 1.0, 1e6:
        found, ratio = both(g, size * adversarial, mask, 0.3)
        other = found - g / n
        assert_close(other.norm() / (g / n).norm(), torch.tensor(0.3), rtol=1e-3, atol=0)
        assert (other * adversarial).sum() > 0.99 * other.norm() * adversarial.norm()
        assert_close(ratio * size * adversarial.norm(), g.norm() / n, rtol=1e-4, atol=0)
    assert torch.equal(both(g, torch.zeros(SHAPE), mask, 0.3)[0], g / n)  # D sees no difference


def test_two_processes_with_half_a_batch_each_have_the_size_of_the_whole(monkeypatch):
    """Their losses are means over half the batch, so all gradients are twice as large; averaged
    over the two, they are the whole batch's. The second clip's g is ten times the first's."""
    torch.manual_seed(0)
    g, adversarial, mask = torch.randn(SHAPE), torch.randn(SHAPE), condition(given=4).mask
    g[1] *= 10
    mask[1] = 0  # and it has other free frames
    whole, ratio = both(g, adversarial, mask, 0.3)
    halves = [slice(0, 1), slice(1, 2)]
    free = [(1 - mask[i]).sum() * 16 * 8 * 8 for i in halves]
    n = (free[0] + free[1]) / 2
    squares = [
        torch.stack([(g[i] / n).square().sum(), (2 * adversarial[i]).square().sum()])
        for i in halves
    ]
    for k, i in enumerate(halves):
        others = iter([free[1 - k], squares[1 - k]])
        monkeypatch.setattr(keep_dmd, "process_mean", lambda x: (x + next(others)) / 2)
        half, same = both(g[i], 2 * adversarial[i], mask[i], 0.3)
        assert_close(half, 2 * whole[i])
        assert_close(same, ratio)


def loss_part(monkeypatch, teacher, fake):
    """A KeepDMD with these networks, and 2 clips a batch of an imaginary data set."""
    monkeypatch.setattr(keep_dmd, "load_teacher", lambda path, device: (teacher, {}))
    cfg = keep_dmd.Config(recipe="plain", batch=2)

    class Clips:
        frames, latents, device = 16, torch.zeros(1, *SHAPE[2:]), torch.device("cpu")

    made = KeepDMD(cfg, Clips, torch.Generator().manual_seed(0), torch.device("cpu"))
    if fake is not None:
        made.fake = fake
        made.optimiser = torch.optim.Adam(fake.parameters())
    return made


def test_the_loss_pulls_towards_the_teacher_and_the_adversary_adds_its_direction(monkeypatch):
    """Fake score N(−1, 0.5²), teacher N(1, 0.5²), so x̂0 should rise; D asks for the opposite."""
    teacher = Gaussian(1.0, 0.5).requires_grad_(False)
    part = loss_part(monkeypatch, teacher, Gaussian(-1.0, 0.5))
    cond, row = condition(given=4), {}
    x0_hat = torch.full(SHAPE, -1.0, requires_grad=True)
    part(31, x0_hat.mean(), x0_hat, cond, row).backward()  # its gradient is positive: falls
    free = x0_hat.grad[:, 4:]
    assert (free < 0).all()  # descent raises x̂0: DMD is the larger part
    assert row["dmd_over_adversarial"] > 0 and row["fake_loss"] > 0

    alone = torch.full(SHAPE, -1.0, requires_grad=True)
    other = loss_part(monkeypatch, teacher, Gaussian(-1.0, 0.5))
    other(31, -alone.mean(), alone, cond, {}).backward()  # now D asks for the same
    assert (alone.grad[:, 4:] < free).all()
    assert_close(free.mean() + alone.grad[:, 4:].mean(), 2 * part_without(part, cond).mean())


def part_without(part, cond):
    """g / n of the same draws, without an adversary."""
    fresh = torch.Generator().manual_seed(0)
    t = 1000 * (0.02 + 0.96 * torch.rand(2, generator=fresh))
    eps = torch.randn(SHAPE, generator=fresh)
    x0_hat = torch.full(SHAPE, -1.0)
    xt = keep_dmd.add_noise(x0_hat, eps, t)
    real = keep_dmd.real_score(Gaussian(1.0, 0.5), xt, t, cond, 1, 1)
    fake = keep_dmd.fake_score(Gaussian(-1.0, 0.5), xt, t, cond)
    g = keep_dmd.dmd_gradient(fake, real, x0_hat, cond.mask)
    return g.detach()[:, 4:] / (2 * 12 * 16 * 8 * 8)


def test_the_fake_score_learns_alone_while_the_discriminator_does(monkeypatch):
    part = loss_part(monkeypatch, Gaussian(1.0, 0.5).requires_grad_(False), None)
    x0_hat, row = torch.randn(SHAPE, requires_grad=True), {}
    before = part.fake.m.item()
    assert part(0, None, x0_hat, condition(), row) is None
    assert part.fake.m.item() != before and x0_hat.grad is None
    assert row.keys() == {"fake_loss"}


def test_it_trains_ships_a_one_step_student_and_resumes(teacher_and_student, monkeypatch):
    fakes = spy(monkeypatch, keep_dmd, "fake_loss")
    with contextlib.chdir(teacher_and_student):
        small = dict(data="data", videos=1, autoencoder="ae.pt", teacher="teacher.pt", batch=2)
        small |= dict(student="stage1.pt", out="k", weights="k.pt", warm_disc=1, phase_steps=1)
        cfg = keep_dmd.Config(**small, last_steps=1, curriculum=0, save_every=9)
        ema = keep_dmd.train(cfg)
        assert len(fakes) == 3 * 4  # D alone, then one update of each phase
        assert load_stage2("k.pt")[1]["adversarial"] == 0.3
        saved = torch.load("k/last.pt", weights_only=True)
        assert {"fake", "fake_optimiser", "disc"} <= saved.keys()
        again = keep_dmd.train(cfg, resume=True)  # finished: nothing changes
        assert all(torch.equal(a, b) for a, b in zip(ema.parameters(), again.parameters()))

        shared = {k: v for k, v in small.items() if k != "teacher"}
        plain = distill_stage2.Config(**shared, last_steps=1, curriculum=0, save_every=9)
        other = distill_stage2.train(replace(plain, out="p", weights="p.pt"))
        assert any(not torch.equal(a, b) for a, b in zip(ema.parameters(), other.parameters()))


def test_the_fake_score_is_a_copy_and_the_teacher_never_learns(monkeypatch):
    teacher = Gaussian(1.0, 0.5).requires_grad_(False)
    part = loss_part(monkeypatch, teacher, None)
    before = [p.clone() for p in teacher.parameters()]
    x0_hat = torch.full(SHAPE, -1.0, requires_grad=True)
    part(31, x0_hat.mean(), x0_hat, condition(given=4), {})
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters()))
    assert not any(torch.equal(a, b) for a, b in zip(before, part.fake.parameters()))
