"""Lab 6: relativistic loss, self-compare, penalties. test_K_... marks task K."""

import math

import torch
from tiny import SHAPE, Clips, Generator, condition, near, train_stage2
from torch import nn

import distill_stage2 as stage2

TWO, MINUS_ONE, ZERO = torch.tensor([2.0]), torch.tensor([-1.0]), torch.zeros(3)


def softplus(x):
    return math.log1p(math.exp(x))


def slopes(loss, *values):
    """The signs of a loss's gradient in each of the values."""
    values = [torch.full((3,), float(x), requires_grad=True) for x in values]
    found = torch.autograd.grad(loss(*values), values, allow_unused=True)
    return [0 if g is None else int(g.sign().sum() / 3) for g in found]


# ---- 1 pairs


def test_1_by_hand():
    near(stage2.pair_loss(TWO, MINUS_ONE), softplus(-3))
    near(stage2.self_compare_loss(TWO, MINUS_ONE), softplus(-3))
    near(stage2.pair_loss(MINUS_ONE, TWO), softplus(3))


def test_1_ln_2_where_they_are_equal():
    near(stage2.pair_loss(ZERO, ZERO), math.log(2))
    near(stage2.self_compare_loss(ZERO + 5, ZERO + 5), math.log(2))


def test_1_the_mean_over_pairs():
    above, below = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 4.0])
    near(stage2.pair_loss(above, below), (softplus(-1) + softplus(4)) / 2)


def test_1_it_lifts_the_first_and_lowers_the_second():
    assert slopes(stage2.pair_loss, 0, 0) == [-1, 1]
    assert slopes(stage2.self_compare_loss, 0, 0) == [-1, 1]


def test_1_steady_at_large_values():
    near(stage2.pair_loss(torch.tensor([0.0]), torch.tensor([500.0])), 500)


# ---- 2 two players, three kinds


def test_2_relativistic_by_hand():
    near(stage2.disc_loss("relativistic", TWO, MINUS_ONE), softplus(-3))
    near(stage2.gen_loss("relativistic", TWO, MINUS_ONE), softplus(3))


def test_2_hinge_by_hand():
    near(stage2.disc_loss("hinge", TWO, MINUS_ONE), 0.0)
    near(stage2.disc_loss("hinge", -TWO, MINUS_ONE), 3.0)
    near(stage2.disc_loss("hinge", torch.tensor([0.5, 3]), torch.tensor([-3, 0.5])), 1.0)
    near(stage2.gen_loss("hinge", TWO, MINUS_ONE), 1.0)


def test_2_vanilla_by_hand():
    near(stage2.disc_loss("vanilla", TWO, MINUS_ONE), softplus(-2) + softplus(-1))
    near(stage2.gen_loss("vanilla", TWO, MINUS_ONE), softplus(1))


def test_2_the_players_pull_in_opposite_directions():
    for kind in ("relativistic", "hinge", "vanilla"):
        assert slopes(lambda r, f, kind=kind: stage2.disc_loss(kind, r, f), 0, 0) == [-1, 1]
        assert slopes(lambda r, f, kind=kind: stage2.gen_loss(kind, r, f), 0, 0)[1] == -1


def test_2_only_the_difference_counts_in_the_relativistic_ones():
    for loss in (stage2.disc_loss, stage2.gen_loss):
        near(loss("relativistic", TWO + 7, MINUS_ONE + 7), loss("relativistic", TWO, MINUS_ONE))


# ---- 3 with the reference


def objectives(kind, weight, real=2.0, reference=1.0, fake=-1.0):
    values = [torch.tensor([x]) for x in (real, reference, fake)]
    return stage2.disc_objective(kind, *values, weight), stage2.gen_objective(kind, *values, weight)


def test_3_by_hand():
    of_disc, of_gen = objectives("relativistic", 0.5)
    near(of_disc, softplus(-3) + 0.5 * softplus(-2))
    near(of_gen, softplus(3) + 0.5 * softplus(2))


def test_3_with_other_kinds_the_reference_is_compared_all_the_same():
    of_disc, of_gen = objectives("hinge", 0.5)
    near(of_disc, 0.5 * softplus(-2))
    near(of_gen, 1 + 0.5 * softplus(2))


def test_3_without_weight_nobody_looks_at_the_reference():
    of_disc, of_gen = objectives("relativistic", 0, reference=123.0)
    near(of_disc, softplus(-3))
    near(of_gen, softplus(3))


def test_3_the_discriminator_lifts_real_and_reference_and_the_student_its_own():
    def of_disc(real, reference, fake):
        return stage2.disc_objective("relativistic", real, reference, fake, 1.0)

    def of_gen(real, reference, fake):
        return stage2.gen_objective("relativistic", real, reference, fake, 1.0)

    assert slopes(of_disc, 0, 0, 0) == [-1, -1, 1]
    assert slopes(of_gen, 0, 0, 0)[2] == -1


# ---- 4 the penalty

CLEAN = torch.zeros(2)


def total(w):
    """D(x) = w times the sum of the clip."""
    return lambda x, t, cond: w * x.sum((1, 2, 3, 4))


def test_4_by_hand():
    """σ_p = 0.1, n = 1 in four frames: D rises by 3 · 0.4; squared 1.44."""
    x, n, disc = torch.zeros(2, *SHAPE), torch.ones(2, *SHAPE), total(3.0)
    near(stage2.penalty(disc, x, CLEAN, condition(), disc(x, CLEAN, None), n), 1.44)


def test_4_the_mean_over_clips_and_the_square_inside_it():
    x, disc = torch.zeros(2, *SHAPE), total(1.0)
    n = torch.tensor([1.0] * 4 + [-2.0] * 4).view(2, *SHAPE)
    near(stage2.penalty(disc, x, CLEAN, condition(), disc(x, CLEAN, None), n), (0.16 + 0.64) / 2)


def test_4_nothing_for_a_constant_discriminator():
    x, n = torch.zeros(2, *SHAPE), torch.ones(2, *SHAPE)
    found = stage2.penalty(lambda x, t, c: 5 + 0 * x.sum((1, 2, 3, 4)), x, CLEAN, condition(),
                           torch.full((2,), 5.0), n)  # fmt: skip
    near(found, 0.0)


def test_4_context_frames_stay_clean():
    x, n, disc = torch.zeros(2, *SHAPE), torch.ones(2, *SHAPE), total(1.0)
    cond = condition(2, 2, 7.0)
    x[:, :2] = 7
    near(stage2.penalty(disc, x, CLEAN, cond, disc(x, CLEAN, cond), n), 0.04)


def test_4_it_trains_through_both_values():
    """(4 w − 4.4 w)² = 0.16 w², whose slope is 0.32 w; were D(x) detached, it would be −3.5 w."""
    w = torch.tensor(2.0, requires_grad=True)
    x, n, disc = torch.ones(2, *SHAPE), torch.ones(2, *SHAPE), total(w)
    stage2.penalty(disc, x, CLEAN, condition(), disc(x, CLEAN, None), n).backward()
    near(w.grad, 0.64)


# ---- 5 the discriminator's value


class Levels(nn.Module):
    """features: level 1 is the frame's number in 1 channel on 2 x 2 places, level 2 ten times it
    on one place."""

    def features(self, xt, t, cond):
        number = xt.flatten(0, 1)  # (B F, 1, 1, 1)
        return [number.expand(-1, 1, 2, 2), 10 * number]


def disc_of_identity(*heads):
    disc = stage2.Discriminator(Levels(), [8, 8])
    disc.heads = nn.ModuleList(heads or [nn.Identity(), nn.Identity()])
    return disc


def test_5_places_and_levels_are_summed_frames_averaged():
    """A frame's number n counts 4 n + 10 n; the clips' means are 2.5 and 6.5."""
    x = torch.arange(1.0, 9.0).view(2, *SHAPE)
    near(disc_of_identity()(x, CLEAN, condition()), [35, 91])


def test_5_context_frames_do_not_count():
    x = torch.tensor([1e4, 1e4, 3, 4, 5, 6, 7, 8]).view(2, *SHAPE)
    cond = condition(2, 2)
    cond.mask[1] = 0
    near(disc_of_identity()(x, CLEAN, cond), [14 * 3.5, 14 * 6.5])


def test_5_each_level_has_its_own_head():
    class Times(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def forward(self, x):
            return self.factor * x

    x = torch.ones(2, *SHAPE)
    near(disc_of_identity(Times(2), Times(100))(x, CLEAN, condition()), [1008, 1008])


def test_5_a_new_one_says_0_everywhere():
    class Eight(nn.Module):
        def features(self, xt, t, cond):
            return [torch.randn(8, 8, 2, 2), torch.randn(8, 8, 1, 1)]

    disc = stage2.Discriminator(Eight(), [8, 8])
    near(disc(torch.ones(2, *SHAPE), CLEAN, condition()), [0, 0])


# ---- 6 both players' losses, in the loop


def train(tmp_path, monkeypatch, student, reference, mean=2, std=0.5, **options):
    """-> Disc, the log's rows. Phase 1 only, one step, clean clips for D."""
    settings = dict(progressive=False, curriculum=0, disc_noise=0.0, last_steps=40)
    settings |= dict(lr=0.15, disc_lr=0.1, penalty=0.0, self_compare=0.0)
    clips = Clips(mean, std)
    return train_stage2(tmp_path, monkeypatch, reference, student, clips, **settings | options)


def test_6_the_student_moves_to_the_data(tmp_path, monkeypatch):
    student = Generator(0, 0.5)
    train(tmp_path, monkeypatch, student, Generator(0, 0.5))
    assert 1 < student.m.item() < 3


def test_6_a_strong_self_compare_pulls_it_to_the_reference_instead(tmp_path, monkeypatch):
    student = Generator(0, 0.5)
    train(tmp_path, monkeypatch, student, Generator(-2, 0), self_compare=20.0)
    assert student.m.item() < -0.5


def test_6_the_student_is_judged_by_the_discriminator_that_has_just_learnt(tmp_path, monkeypatch):
    """D starts at 0 everywhere: judged by that, the student would not move in the first update."""
    student = Generator(0, 0.5)
    train(tmp_path, monkeypatch, student, Generator(0, 0.5), last_steps=1)
    assert student.m.item() > 1e-4


def test_6_the_references_penalty_counts_only_if_it_is_compared(tmp_path, monkeypatch):
    """D's slope grows with x: after one update it is steep for whichever clips hold 1000."""

    def penalty(real, fake, reference, weight, self_compare):
        networks = Generator(fake, 0), Generator(reference, 0)
        options = dict(last_steps=2, penalty=weight, self_compare=self_compare, lr=0)
        _, rows = train(tmp_path, monkeypatch, *networks, mean=real, **options)
        return rows[1]["penalty"] / weight

    assert penalty(1000, 0, 0, 1.0, 0.0) > 10
    assert penalty(0, 1000, 0, 1.0, 0.0) > 10
    assert penalty(0, 1, 1000, 1.0, 0.0) < 0.1
    compared = penalty(0, 1, 1000, 1.0, 1e-6)
    assert compared > 10
    near(penalty(0, 1, 1000, 0.01, 1e-6) / compared, 1)


def test_6_in_its_warm_up_the_discriminator_does_not_look_at_the_reference(tmp_path, monkeypatch):
    """Data and student are alike, the reference is far away: nothing to learn."""
    networks = Generator(2, 0), Generator(-9, 0)
    options = dict(warm_disc=10, last_steps=1, self_compare=9.0, lr=0)
    _, rows = train(tmp_path, monkeypatch, *networks, std=0.0, **options)
    assert len(rows) == 11 and all("loss_g" not in row for row in rows[:10])
    near([row["reference"] for row in rows], [0.0] * 11)


def test_6_both_losses_are_the_sums_of_their_parts(tmp_path, monkeypatch):
    """Data hold 2, student 0, reference −1. The student's loss is that of the updated D, whose
    values are in the next line of the log."""
    networks = Generator(0, 0), Generator(-1, 0)
    options = dict(last_steps=6, self_compare=0.5, penalty=7.0, lr=0)
    _, rows = train(tmp_path, monkeypatch, *networks, std=0.0, **options)
    near(rows[0]["loss_d"], 1.5 * math.log(2))  # D is 0 everywhere
    for now, after in zip(rows, rows[1:]):
        to_real, to_reference = (now["fake"] - now[name] for name in ("real", "reference"))
        pairs = softplus(to_real) + 0.5 * softplus(to_reference)
        near(now["loss_d"], pairs + now["penalty"])
        to_real, to_reference = (after["fake"] - after[name] for name in ("real", "reference"))
        near(now["loss_g"], softplus(-to_real) + 0.5 * softplus(-to_reference))
    assert rows[0]["penalty"] == 0 < rows[-1]["penalty"]
