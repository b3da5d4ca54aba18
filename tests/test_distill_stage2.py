import contextlib
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers import condition, prepare, small_unet, spy, train_with_a_power_cut
from test_distill_stage1 import SHAPE
from torch import nn
from torch.testing import assert_close

import distill_stage2 as stage2
import student
from common import parse
from diffusion import T, add_noise
from distill_stage2 import (
    SIGMA,
    Discriminator,
    disc_loss,
    gen_loss,
    penalty,
    self_compare_loss,
)
from latents import cond_map
from phases import Phase, draw_last, phase_timesteps, phases, warm_timesteps
from student import few_step_sample, rollout, student_sampler

CLEAN = torch.zeros(SHAPE[0])  # t of a clip without noise
KINDS = ("relativistic", "hinge", "vanilla")
WIDTHS = 16, 16  # of small_unet's levels


# ---- phases and the timestep curriculum


@pytest.mark.parametrize(
    "n, want",
    [
        (4, [1000.0, 750.0, 500.0, 250.0]),
        (3, [1000.0, 2000 / 3, 1000 / 3]),
        (2, [1000.0, 500.0]),
        (1, [1000.0]),
    ],
)
def test_phase_timesteps(n, want):
    assert_close(torch.tensor(phase_timesteps(n)), torch.tensor(want))


def test_every_phase_starts_from_the_one_before_and_direct_training_has_as_many_updates():
    cfg = stage2.Config(warm_disc=30, phase_steps=20, last_steps=300)
    alone = (4, 4, 30, False)
    wanted = [alone, (4, 3, 20, True), (3, 2, 20, True), (2, 1, 300, True)]
    assert phases(cfg) == wanted
    assert phases(replace(cfg, progressive=False)) == [alone, (4, 1, 340, True)]


@pytest.mark.parametrize("n", [3, 2, 1])
def test_warm_up_draws_between_the_old_and_the_new_last_timestep_and_ends_at_the_new(n):
    u, old, new = torch.rand(1000), T / (n + 1), T / n
    drawn = torch.stack([draw_last(n + 1, n, i, 100, u) for i in range(100)])  # (updates, draws)
    assert (drawn >= old).all() and (drawn <= new).all()
    least, widest = drawn.min(1).values, drawn.max(1).values
    assert (widest.diff() >= 0).all() and (
        least < old + 0.02 * (new - old)
    ).all()  # the gap opens at one end
    assert widest[0] < old + 0.02 * (new - old) and widest[-1] > old + 0.95 * (new - old)
    assert (draw_last(n + 1, n, 100, 100, u) == new).all() and (
        draw_last(n + 1, n, 0, 0, u) == new
    ).all()


def test_the_gap_opens_by_one_wth_at_each_update_and_is_whole_in_the_last():
    old, new, top = T / 3, T / 2, torch.ones(2)
    for i, part in ((0, 0.1), (4, 0.5), (9, 1.0)):
        assert_close(draw_last(3, 2, i, 10, top), (old + part * (new - old)) * top)


@pytest.mark.parametrize("n", [3, 2, 1])
@pytest.mark.parametrize("i", [0, 50, 99, 100, 500])
def test_every_rollout_starts_from_pure_noise_at_T(n, i):
    """Phase 1 too: noise labelled with t < T would be an input that no sampler makes."""
    last = draw_last(n + 1, n, i, 100, torch.full((2,), 0.5))
    taus = warm_timesteps(n, i, 100, last)
    first = torch.as_tensor(taus[0], dtype=torch.float32).expand(2)
    assert (first == T).all() and taus[-1] is last and len(taus) == (2 if n == 1 and i < 100 else n)


# ---- the losses at values computed by hand


def test_all_relativistic_losses_are_ln_2_when_the_head_is_zero():
    zero = torch.zeros(3)
    for loss in (
        disc_loss("relativistic", zero, zero),
        gen_loss("relativistic", zero, zero),
        self_compare_loss(zero, zero),
    ):
        assert_close(loss, torch.tensor(math.log(2)))


def test_losses_at_hand_computed_logits():
    real, fake, e = torch.tensor([2.0]), torch.tensor([-1.0]), math.exp
    assert_close(disc_loss("relativistic", real, fake).item(), math.log(1 + e(-3)))
    assert_close(gen_loss("relativistic", real, fake).item(), math.log(1 + e(3)))
    assert_close(disc_loss("hinge", real, fake).item(), 0.0)
    assert_close(disc_loss("hinge", -real, fake).item(), 3.0)
    assert_close(gen_loss("hinge", real, fake).item(), 1.0)
    assert_close(disc_loss("vanilla", real, fake).item(), math.log(1 + e(-2)) + math.log(1 + e(-1)))
    assert_close(gen_loss("vanilla", real, fake).item(), math.log(1 + e(1)))
    assert_close(self_compare_loss(real, fake).item(), math.log(1 + e(-3)))


def test_a_relativistic_loss_compares_pairs_not_means():
    above, below = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    wanted = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 2
    for loss in (disc_loss("relativistic", above, below), self_compare_loss(above, below)):
        assert_close(loss.item(), wanted)


def test_objectives_at_hand_computed_logits():
    real, reference, fake, e = *(torch.tensor([x]) for x in (2.0, 1.0, -1.0)), math.exp
    assert_close(
        stage2.disc_objective("relativistic", real, reference, fake, 0.5).item(),
        math.log(1 + e(-3)) + 0.5 * math.log(1 + e(-2)),
    )
    assert_close(
        stage2.gen_objective("relativistic", real, reference, fake, 0.5).item(),
        math.log(1 + e(3)) + 0.5 * math.log(1 + e(2)),
    )


def test_only_the_difference_counts_in_a_relativistic_loss():
    real, fake = torch.randn(4), torch.randn(4)
    for loss in (disc_loss, gen_loss):
        assert_close(
            loss("relativistic", real + 7, fake + 7),
            loss("relativistic", real, fake),
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.parametrize("kind", KINDS)
def test_the_two_players_pull_in_opposite_directions(kind):
    real, fake = torch.zeros(3), torch.zeros(3, requires_grad=True)
    (down,) = torch.autograd.grad(disc_loss(kind, real, fake), fake)
    (up,) = torch.autograd.grad(gen_loss(kind, real, fake), fake)
    assert (down > 0).all() and (up < 0).all()
    worse = torch.zeros(3, requires_grad=True)
    assert (
        torch.autograd.grad(self_compare_loss(torch.zeros(3), worse), worse)[0] > 0
    ).all()  # D: x̂0 below the reference
    assert (
        torch.autograd.grad(self_compare_loss(worse, torch.zeros(3)), worse)[0] < 0
    ).all()  # G: x̂0 above it


@pytest.mark.parametrize("kind", KINDS)
def test_what_both_players_do_with_real_reference_and_fake(kind):
    """D lifts real and reference and lowers fake; the student lifts fake, against both. Without a
    weight nobody looks at the reference."""
    for objective, fake_goes in ((stage2.disc_objective, 1), (stage2.gen_objective, -1)):
        real, reference, fake = values = [torch.zeros(3, requires_grad=True) for _ in range(3)]
        g = torch.autograd.grad(objective(kind, *values, 0.5), values, allow_unused=True)
        assert (g[2] * fake_goes > 0).all() and (g[1] * fake_goes < 0).all()
        if fake_goes == 1:
            assert (g[0] < 0).all()
        plain = torch.autograd.grad(objective(kind, *values, 0.0), values, allow_unused=True)
        assert not plain[1].any() and plain[2].abs().max() < g[2].abs().max()


# ---- the gradient penalties


def test_penalty_vanishes_for_a_constant_discriminator_and_grows_with_its_slope():
    x, n, c = torch.randn(SHAPE), torch.randn(SHAPE), condition()
    values = []
    for slope in (0.0, 1.0, 2.0):
        disc = lambda x, t, cond: 5 + slope * x.mean((1, 2, 3, 4))
        values.append(penalty(disc, x, CLEAN, c, disc(x, CLEAN, c), n).item())
    assert values[0] == 0
    assert_close(values[2], 4 * values[1], rtol=1e-3, atol=0)


def test_penalty_of_a_linear_discriminator_is_sigma_squared_times_its_slope_squared():
    """Why λ and σ act like R1 with γ = 2 λ σ²: E (D(x) − D(x + σ n))² = σ² ‖∇D‖²."""
    torch.manual_seed(0)
    w, c = torch.randn(SHAPE[1:]), condition(1, frames=1)
    c = cond_map(c, lambda x: x.expand(2000, *x.shape[1:]))
    x = torch.zeros(2000, *SHAPE[1:])[:, :1]
    disc = lambda x, t, cond: (x * w[:1]).sum((1, 2, 3, 4))
    found = penalty(disc, x, CLEAN, c, disc(x, CLEAN, c), torch.randn(x.shape))
    assert_close(found.item(), SIGMA**2 * w[:1].square().sum().item(), rtol=0.1, atol=0)


def test_penalty_leaves_context_alone_and_trains_through_both_values():
    c, x = condition(given=4), torch.randn(SHAPE)
    seen, w = [], torch.ones((), requires_grad=True)
    disc = lambda x, t, cond: seen.append(x) or w * (x[:, 4:] ** 2).sum((1, 2, 3, 4))
    found = penalty(disc, x, CLEAN, c, disc(x, CLEAN, c), torch.randn(SHAPE))
    found.backward()
    assert_close(seen[1][:, :4], c.context[:, :4], rtol=0, atol=0)
    assert found > 1
    assert_close(
        w.grad, 2 * found.detach(), rtol=1e-4, atol=0
    )  # the penalty is w² times something: both values carry gradient


# ---- the discriminator


def test_the_zero_head_makes_the_first_adversarial_gradient_zero_and_not_the_second():
    disc, c = Discriminator(small_unet(), WIDTHS), condition()
    real, fake = torch.randn(SHAPE), torch.randn(SHAPE, requires_grad=True)
    opt = torch.optim.SGD(disc.parameters(), 1.0)
    (grad,) = torch.autograd.grad(
        gen_loss("relativistic", disc(real, CLEAN, c), disc(fake, CLEAN, c)), fake
    )
    assert not grad.any() and not disc(real, CLEAN, c).any()
    disc_loss("relativistic", disc(real, CLEAN, c), disc(fake.detach(), CLEAN, c)).backward()
    opt.step()
    (grad,) = torch.autograd.grad(
        gen_loss("relativistic", disc(real, CLEAN, c), disc(fake, CLEAN, c)), fake
    )
    assert grad.abs().max() > 0


def trained_disc():
    disc = Discriminator(small_unet(), WIDTHS)
    for head in disc.heads:
        nn.init.normal_(head[-1].weight)
    return disc


def test_the_discriminators_value_is_of_both_levels_and_of_the_frames_that_are_not_given():
    disc, c = Discriminator(small_unet(), WIDTHS), condition(given=4)
    disc.heads = nn.ModuleList([nn.Identity(), nn.Identity()])
    number = torch.arange(32.0).view(32, 1, 1, 1)  # of a frame, 16 in each of two clips
    disc.network.features = lambda xt, t, cond: [
        number,
        0.5 * number.expand(-1, -1, 2, 1),
    ]  # 1 + 2 · ½: twice a frame's number
    assert_close(
        disc(torch.randn(SHAPE), CLEAN, c), 2 * torch.tensor([9.5, 25.5])
    )  # the means of 4 ... 15 and 20 ... 31


@pytest.mark.parametrize("field", ["ref", "audio", "context", "mask"])
def test_the_discriminator_sees_the_whole_condition(field):
    disc, c, x = trained_disc(), condition(given=4), torch.randn(SHAPE)
    other = (
        c._replace(mask=torch.zeros_like(c.mask))
        if field == "mask"
        else c._replace(**{field: getattr(c, field) + 1})
    )
    assert (disc(x, CLEAN, c) - disc(x, CLEAN, other)).abs().max() > 1e-4


def test_gradients_reach_exactly_the_networks_they_should():
    student, reference, disc, c = small_unet(1), small_unet(2), trained_disc(), condition()
    noise = lambda: torch.randn(SHAPE)
    fake, compared, real = (
        rollout(student, c, noise, phase_timesteps(2)),
        few_step_sample(reference, c, noise, 4),
        torch.randn(SHAPE),
    )
    assert not compared.requires_grad  # the reference carries no gradient
    fakes = fake.detach()
    (
        disc_loss("relativistic", disc(real, CLEAN, c), disc(fakes, CLEAN, c))
        + self_compare_loss(disc(compared, CLEAN, c), disc(fakes, CLEAN, c))
    ).backward()
    assert all(p.grad is None for m in (student, reference) for p in m.parameters())
    assert all(p.grad is not None for p in disc.heads.parameters())
    (
        gen_loss("relativistic", disc(real, CLEAN, c), disc(fake, CLEAN, c))
        + self_compare_loss(disc(fake, CLEAN, c), disc(compared, CLEAN, c))
    ).backward()
    assert any(p.grad is not None and p.grad.any() for p in student.parameters()) and all(
        p.grad is None for p in reference.parameters()
    )


# ---- training

SMALL = dict(
    data="data",
    videos=1,
    autoencoder="ae.pt",
    student="stage1.pt",
    batch=2,
    warm_disc=1,
    phase_steps=1,
    last_steps=2,
    curriculum=1,
    save_every=2,
)


@pytest.fixture(scope="module", autouse=True)
def short():
    """A line of the log for every iteration."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage2, "LOG_EVERY", 1)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("stage2"), "stage1", videos=1)


@pytest.fixture()
def workplace(folder, monkeypatch):
    monkeypatch.chdir(folder)


WHOLE = stage2.Config(**SMALL, out="whole", weights="whole.pt")
BASE = replace(
    WHOLE,
    out="a",
    weights="a.pt",
    last_steps=1,
    curriculum=2,
    save_every=99,
    progressive=False,
    phase_steps=0,
)


PLAN = [
    (4, 4, 0),
    (4, 3, 0),
    (3, 2, 0),
    (2, 1, 0),
    (2, 1, 1),
]  # WHOLE's iterations: phase before, phase, the update within it


@pytest.fixture(scope="module")
def whole(folder):
    """What D's warm-up and all three phases train, and on the way: which saves shipped the student,
    the calls of some functions, x_ref, and for each iteration the values that D gave, first of x0,
    x̂0 and x_ref."""
    seen, save, sampler = (
        SimpleNamespace(shipped=[], values=[], x0_hat=[], x_ref=[], sampled=[]),
        stage2.save_training,
        stage2.student_sampler,
    )

    def make(student, made, **given):
        sample = sampler(student, made, **given)
        seen.sampled.append((student, given))
        if len(seen.sampled) > 1:  # the contact sheet's
            return sample
        return lambda cond, noise: (
            seen.x_ref.append((cond, sample(cond, noise))) or seen.x_ref[-1][1]
        )

    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        for name in (
            "draw_last",
            "add_noise",
            "penalty",
            "disc_objective",
            "gen_objective",
            "optimise",
            "update_ema",
        ):
            setattr(seen, name, spy(patch, stage2, name))
        seen.rollout, seen.asked = (
            spy(patch, stage2, "rollout", seen.x0_hat),
            spy(patch, Discriminator, "forward", seen.values),
        )
        patch.setattr(stage2, "student_sampler", make)
        patch.setattr(
            stage2, "contact_sheet", lambda *args: None
        )  # so x_ref is the training's alone
        patch.setattr(
            stage2,
            "save_training",
            lambda *args, ship, **parts: (
                seen.shipped.append(ship) or save(*args, ship=ship, **parts)
            ),
        )
        seen.ema = stage2.train(WHOLE)
    seen.rows = [row for row in map(json.loads, open(folder / "whole/log.jsonl")) if "real" in row]
    return seen


def by_iteration(calls):
    """Of what happens six times while D learns (x0, x̂0, x_ref, each of them steeper by the
    penalty's noise) and then three times for the student (x0, x_ref, x̂0)."""
    calls = iter(calls)
    return [[next(calls) for _ in range(6 + 3 * (steps < 4))] for _, steps, _ in PLAN]


def bare(cfg, **how):
    """Train, with neither pictures nor quick evaluations nor checkpoints on the way."""
    with pytest.MonkeyPatch.context() as patch:
        for name in "contact_sheet", "save_training":
            patch.setattr(stage2, name, lambda *args, **parts: None)
        patch.setattr(student, "READER", "none")
        return stage2.train(cfg, **how)


@pytest.fixture(scope="module")
def usual(folder):
    """What BASE trains, to compare each ablation with, and the calls of some functions."""
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        calls = {name: spy(patch, stage2, name) for name in ("draw_last", "add_noise")}
        return SimpleNamespace(ema=bare(BASE), **calls)


def changed(usual, ema):
    return any((a != b).any() for a, b in zip(usual.ema.parameters(), ema.parameters()))


def test_resume_equals_no_interruption(workplace, whole, monkeypatch):
    monkeypatch.setattr(stage2, "quick_eval", lambda *args: {})  # whether one looks or not
    resumed = train_with_a_power_cut(
        stage2, replace(WHOLE, out="b", weights="b.pt"), monkeypatch, call=1
    )  # in the third iteration: the second student update
    for a, b in zip(whole.ema.parameters(), resumed.parameters()):
        assert_close(a, b, rtol=0, atol=0)
    model, made = stage2.load_stage2("b.pt")
    assert made["recipe"] == "plain" and math.isfinite(
        student_sampler(model, made)(condition(frames=8), lambda: torch.randn(2, 8, 16, 8, 8)).sum()
    )


def test_the_moving_average_leaves_where_the_student_started(workplace, whole):
    assert any(
        (a != b).any()
        for a, b in zip(whole.ema.parameters(), stage2.load_stage1("stage1.pt")[0].parameters())
    )


def test_the_shipped_student_is_written_in_phase_one_only(workplace, whole):
    assert (
        whole.shipped == [False, True, True]
        and torch.load("whole.pt", weights_only=True)["step"] == 5
    )  # saved after 2, 4, 5 iterations


def test_the_discriminator_starts_with_nothing_said_and_learns_alone_from_four_step_samples(whole):
    assert [row["phase"] for row in whole.rows] == [4, 3, 2, 1, 1]
    assert [row["real"] == row["reference"] == row["fake"] == 0 for row in whole.rows] == [
        True,
        False,
        False,
        False,
        False,
    ]  # zero heads, once
    assert ["loss_g" not in row for row in whole.rows] == [True, False, False, False, False]
    assert [call[3][:1] + call[3][-1:] for call in whole.rollout[:1]][0][0] == T and len(
        whole.rollout[0][3]
    ) == 4


def test_the_students_rate_is_over_n_warms_up_and_falls_in_each_phase_and_the_discriminators_stays(
    whole,
):
    wanted = []
    updates = {4: 1, 3: 1, 2: 1, 1: 2}
    for _, n, i in PLAN:
        wanted += [("discriminator", WHOLE.disc_lr)]
        wanted += [
            (
                "student",
                WHOLE.lr
                / n
                * (0.5 + 0.5 * math.cos(math.pi * i / updates[n]))
                * (i + 1)
                / stage2.WARMUP,
            )
        ] * (n < 4)
    assert [name for _, name, *_ in whole.optimise] == [name for name, _ in wanted]
    assert_close([rate for *_, rate, _ in whole.optimise], [rate for _, rate in wanted])


def test_every_iteration_has_its_phases_timesteps(whole):
    assert [call[:4] for call in whole.draw_last] == [
        (before, n, i, WHOLE.curriculum) for before, n, i in PLAN
    ]
    for call, (_, _, _, taus) in zip(whole.draw_last, whole.rollout):
        n, i = call[1:3]
        wanted = warm_timesteps(n, i, WHOLE.curriculum, draw_last(*call))
        assert len(taus) == len(wanted) and all(
            torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(taus, wanted)
        )


def test_both_players_are_shown_real_fake_and_reference_of_the_same_condition(whole):
    """In the same noise, context clean; the student's sample without gradient to D, and with it to
    the student."""
    contexts = 0
    noised = list(zip(whole.add_noise[::3], whole.add_noise[1::3], whole.add_noise[2::3]))
    assert len(noised) == len(PLAN)
    for (real, ref, fake), asked, (_, cond, *_), x0_hat, (heard, x_ref) in zip(
        noised, by_iteration(whole.asked), whole.rollout, whole.x0_hat, whole.x_ref
    ):
        t = real[2]
        assert (
            heard is cond
            and ref[0] is x_ref
            and fake[0] is x0_hat
            and ref[2] is t
            and fake[2] is t
            and real[1] is ref[1] is fake[1]
        )
        contexts += int(cond.mask.sum())
        for _, xt, t_asked, c in asked:
            given = cond.mask > 0
            assert (
                t_asked is t
                and all(torch.equal(a, b) for a, b in zip(c, cond))
                and torch.equal(xt[given], cond.context[given])
            )
        shown = [xt for _, xt, *_ in asked]
        assert not shown[1].requires_grad
        if len(asked) > 6:
            assert (
                shown[6] is shown[0]
                and shown[7] is shown[2]
                and torch.equal(shown[8], shown[1])
                and shown[8].requires_grad
            )
    assert contexts


def test_both_players_minimise_their_weighted_sums(whole):
    pair = lambda above, below: nn.functional.softplus(below - above).mean().item()
    student = iter(whole.gen_objective)
    for row, values in zip(whole.rows, by_iteration(whole.values)):
        real, fake, reference = values[:3]
        weight = WHOLE.self_compare * ("loss_g" in row)  # while D learns alone, nothing to compare
        assert_close(
            row["loss_d"],
            pair(real, fake) + weight * pair(reference, fake) + row["penalty"],
            rtol=1e-5,
            atol=0,
        )
        if "loss_g" in row:
            real, reference, fake = values[6:]
            assert (
                all(a is b for a, b in zip(next(student)[1:4], (real, reference, fake)))
                and fake.requires_grad
                and not real.requires_grad
            )
            assert_close(
                row["loss_g"],
                pair(fake, real) + WHOLE.self_compare * pair(fake, reference),
                rtol=1e-5,
                atol=0,
            )


def test_all_three_samples_are_penalised_in_noises_of_their_own(whole):
    calls = iter(whole.penalty)
    for asked, values, row in zip(
        by_iteration(whole.asked), by_iteration(whole.values), whole.rows
    ):
        noises = []
        for place in range(3):  # x0, x̂0, x_ref
            _, xt, t, cond, value, n = next(calls)
            _, xt_asked, t_asked, cond_asked = asked[place]
            assert (
                value is values[place]
                and xt is xt_asked
                and t is t_asked
                and cond is cond_asked
                and abs(n.std() - 1) < 0.05
            )
            noises.append(n)
        assert all((a != b).any() for a, b in zip(noises, noises[1:]))
        wanted = sum((a - b).square().mean().item() for a, b in zip(values[:3], values[3:6]))
        assert_close(row["penalty"], WHOLE.penalty * wanted, rtol=1e-4, atol=1e-12)


def test_while_the_discriminator_learns_alone_neither_student_nor_reference_changes(
    workplace, monkeypatch
):
    monkeypatch.setattr(stage2, "phases", lambda cfg: [Phase(4, 4, 1, False)])
    start, seen = stage2.load_stage1("stage1.pt")[0], []
    ema = bare(BASE, watch=lambda step, phase, *networks: seen.append(networks))
    ((learner, disc),) = seen
    for network in learner, ema:
        assert all(torch.equal(a, b) for a, b in zip(start.parameters(), network.parameters()))
    pairs = zip(start.down1.parameters(), disc.network.down1.parameters())
    assert any((a != b).any() for a, b in pairs)


def check_noise(calls, share):
    """x0, x_ref and x̂0 in the same noise, up to `share` of T."""
    assert len(calls) == 3 * (BASE.warm_disc + BASE.last_steps)
    for three in zip(calls[::3], calls[1::3], calls[2::3]):
        x, eps, t = ({value for value in values} for values in zip(*three))
        assert len(x) == 3 and len(eps) == len(t) == 1
    for x, eps, t in calls:
        assert (0 <= t).all() and (t <= share * T).all()
        assert share or torch.equal(add_noise(x, eps, t), x)  # 0: clean clips


def test_the_discriminator_sees_real_reference_and_fake_in_the_same_noise(usual):
    check_noise(usual.add_noise, BASE.disc_noise)


def test_without_noise_the_discriminator_sees_clean_clips(workplace, usual, monkeypatch):
    calls = spy(monkeypatch, stage2, "add_noise")
    assert changed(usual, bare(replace(BASE, disc_noise=0.0)))
    check_noise(calls, 0.0)


def test_without_self_compare_there_are_two_samples_to_penalise(workplace, usual, monkeypatch):
    values = []
    spy(monkeypatch, stage2, "penalty", values)
    assert changed(usual, bare(replace(BASE, self_compare=0.0, out="two")))
    logged = [row["penalty"] for row in map(json.loads, open("two/log.jsonl")) if "penalty" in row]
    assert_close(logged, [BASE.penalty * (a + b).item() for a, b in zip(values[::3], values[1::3])])


def test_the_student_faces_the_discriminator_that_has_just_learnt(whole):
    (_, *before, _), (_, *after, _) = whole.disc_objective[-1], whole.gen_objective[-1]
    assert all((old != new).all() for old, new in zip(before, after))  # of real, reference and fake


def test_the_reference_is_the_student_of_stage_1_and_stays(workplace, whole):
    (reference, given), *others = whole.sampled
    assert given == dict(steps=4)
    assert all(
        torch.equal(a, b)
        for a, b in zip(reference.parameters(), stage2.load_stage1("stage1.pt")[0].parameters())
    )
    assert [(model is whole.ema, how["steps"]) for model, how in others] == [
        (True, 3),
        (True, 1),
        (True, 1),
    ]  # the contact sheets'


def test_nobody_trains_the_listener(workplace, whole):
    given = stage2.load_stage1("stage1.pt")[0].audio.state_dict()
    saved = torch.load("whole/last.pt", weights_only=True)
    for name, before in (("student", "audio."), ("ema", "audio."), ("disc", "network.audio.")):
        assert all(torch.equal(saved[name][before + key], p) for key, p in given.items())


def test_the_moving_average_counts_the_students_updates(whole):
    assert [(done, decay) for *_, done, decay in whole.update_ema] == [
        (k, stage2.EMA) for k in range(4)
    ]


def test_without_progression_the_last_timestep_leaves_that_of_four_steps(usual):
    assert [call[:2] for call in usual.draw_last] == [(4, 4), (4, 1)]


@pytest.mark.parametrize(
    "flag",
    [
        dict(curriculum=0),
        dict(gan="hinge"),
        dict(penalty=0.0),
        dict(recipe="toy"),
        dict(warm_disc=0),
        pytest.param(dict(bf16=True), marks=pytest.mark.slow),
    ],
)
def test_every_ablation_runs_and_changes_the_result(workplace, usual, flag):
    assert changed(usual, bare(replace(BASE, **flag)))


@pytest.mark.parametrize(
    "flag, message",
    [
        (dict(gan="wgan"), "--gan must be"),
        (dict(disc_noise=1.1), "--disc-noise is a share"),
        (dict(recipe="mine"), "--recipe must be plain or toy"),
    ],
)
def test_a_wrong_switch_is_named(workplace, flag, message):
    with pytest.raises(ValueError, match=message):
        stage2.train(replace(WHOLE, **flag))


def test_a_run_that_would_make_no_one_step_student_is_refused():
    with pytest.raises(ValueError, match="--last-steps must be a finite number >= 1"):
        parse(stage2.Config, "", {}, ["--last-steps", "0"])


def test_accuracy_is_the_share_of_pairs_in_which_the_real_clip_is_above(whole):
    for row, values in zip(whole.rows, by_iteration(whole.values)):
        assert row["accuracy"] == (values[0] > values[1]).float().mean()


def test_without_progression_the_gap_opens_from_the_last_of_four_timesteps():
    none, all_of_it = torch.zeros(2), torch.ones(2)
    assert (draw_last(4, 1, 0, 10, none) == T / 4).all()
    assert_close(draw_last(4, 1, 4, 10, all_of_it), (T / 4 + 0.5 * (T - T / 4)) * all_of_it)
