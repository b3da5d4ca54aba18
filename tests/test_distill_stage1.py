import contextlib
import math
from dataclasses import replace
from functools import partialmethod
from types import SimpleNamespace

import pytest
import torch
from helpers import SHIPPED, condition, prepare, small_unet, spy, train_with_a_power_cut
from torch import nn
from torch.testing import assert_close

import autoencoder
import distill_stage1 as stage1
import latents
import student
import teacher
from departures import MOUTH, NOISE, noise_source, shape_noise
from diffusion import T, add_noise, alpha_sigma, v_loss, x0_from_v
from distill_stage1 import dmd_gradient, dmd_loss, fake_loss, fake_score, real_score
from latents import Cond
from student import few_step_sample, quick_eval, rollout, student_sampler

torch.manual_seed(0)
SHAPE = (2, 16, 16, 8, 8)
TAUS = [1000.0, 750.0, 500.0, 250.0]


class Gaussian(nn.Module):
    """The exact v̂ for data N(m, c²), m and log c learnable: E[x0 | x_t] = m + α c² (x_t − α m) /
    (α² c² + σ²)."""

    def __init__(self, m, c):
        super().__init__()
        self.m, self.log_c = (
            nn.Parameter(torch.tensor(float(m))),
            nn.Parameter(torch.tensor(float(c)).log()),
        )

    def forward(self, xt, t, cond):
        a, s = alpha_sigma(t)
        c2 = (2 * self.log_c).exp()
        x0 = self.m + a * c2 * (xt - a * self.m) / (a**2 * c2 + s**2)
        return (a * xt - x0) / s.clamp_min(1e-6)


class OneStep(nn.Module):
    """A one-step generator x̂0 = m + c ε, as a v-prediction at t = T, where x̂0 = −v."""

    def __init__(self, m, c):
        super().__init__()
        self.m, self.c = nn.Parameter(torch.tensor(float(m))), nn.Parameter(torch.tensor(float(c)))

    def forward(self, xt, t, cond):
        return -(self.m + self.c * xt)


# ---- the distribution matching gradient and its surrogate


def test_gradient_of_the_surrogate_is_g():
    x0_hat, g = (
        torch.randn(SHAPE, dtype=torch.float64, requires_grad=True),
        torch.randn(SHAPE, dtype=torch.float64),
    )
    dmd_loss(x0_hat, g, torch.zeros(2, 16)).backward()
    assert_close(x0_hat.grad * g.numel(), g, rtol=1e-9, atol=1e-12)


def test_both_losses_of_stage_1_at_numbers_worked_out_by_hand():
    """½ g² = 2 for g = 2; and for x0 = 2 at t = T, where v = −2, a network that answers 1 errs by
    3."""
    ones, free = torch.ones(2, 3, 1, 1, 1), torch.zeros(2, 3)
    assert_close(dmd_loss(7 * ones, 2 * ones, free), torch.tensor(2.0))
    answer, cond = lambda xt, t, cond: ones, SimpleNamespace(mask=free)
    loss = fake_loss(answer, 2 * ones, cond, torch.full((2,), float(T)), 5 * ones)
    assert_close(loss, torch.tensor(9.0))


def test_surrogate_leaves_context_frames_alone():
    x0_hat, mask = torch.randn(SHAPE, requires_grad=True), condition(given=4).mask
    dmd_loss(x0_hat, torch.ones(SHAPE), mask).backward()
    assert not x0_hat.grad[:, :4].any() and (x0_hat.grad[:, 4:] > 0).all()


def test_dmd_gradient_vanishes_when_fake_equals_real():
    x = torch.randn(SHAPE)
    assert not dmd_gradient(x, x, torch.randn(SHAPE), torch.zeros(2, 16)).any()


def test_dmd_gradient_points_from_real_to_fake_so_that_descent_goes_to_real():
    real, fake, x0_hat = torch.zeros(SHAPE), torch.ones(SHAPE), torch.full(SHAPE, 2.0)
    g = dmd_gradient(fake, real, x0_hat, torch.zeros(2, 16))
    assert_close(g, torch.full(SHAPE, 0.5))  # (1 − 0) / mean |2 − 0|


def test_dmd_gradient_is_normalised_for_each_clip_and_over_its_free_frames():
    real, fake, x0_hat = torch.zeros(SHAPE), torch.ones(SHAPE), torch.ones(SHAPE)
    x0_hat[1] = 10
    x0_hat[:, :4] = 1e6  # context places: must not count
    g = dmd_gradient(fake, real, x0_hat, condition(given=4).mask)
    assert not g[:, :4].any()
    assert_close(g[0, 4:], torch.full_like(g[0, 4:], 1.0))
    assert_close(g[1, 4:], torch.full_like(g[1, 4:], 0.1))


def test_dmd_gradient_is_of_one_size_down_to_a_difference_of_a_hundred_thousandth():
    real, free = torch.zeros(SHAPE), torch.zeros(2, 16)
    for size, wanted in ((1e-2, 1.0), (1e-4, 1.0), (1e-6, 0.1)):
        x = torch.full(SHAPE, size)
        assert_close(dmd_gradient(x, real, x, free), torch.full(SHAPE, wanted))


def test_dmd_gradient_is_finite_when_real_equals_the_sample_and_carries_no_gradient():
    x = torch.randn(SHAPE, requires_grad=True)
    g = dmd_gradient(x + 1e-3, x, x, torch.zeros(2, 16))
    assert g.isfinite().all() and not g.requires_grad


def test_scores_agree_with_v_and_nothing_divides():
    """x0_fake − x0_real = −σ (v_fake − v_real): finite at every t."""
    xt, v1, v2, t = (
        torch.randn(SHAPE),
        torch.randn(SHAPE),
        torch.randn(SHAPE),
        torch.tensor([20.0, 1000.0]),
    )
    assert_close(
        x0_from_v(xt, v1, t) - x0_from_v(xt, v2, t),
        -alpha_sigma(t)[1] * (v1 - v2),
        rtol=1e-4,
        atol=1e-5,
    )


def test_real_score_of_the_exact_denoiser_is_the_posterior_mean():
    xt, t = torch.randn(2, 16, 16, 8, 8), torch.tensor([300.0, 800.0])
    a, s = alpha_sigma(t)
    with torch.no_grad():
        assert_close(
            real_score(Gaussian(0.7, 0.5), xt, t, condition(), 1, 1),
            0.7 + a * 0.25 * (xt - a * 0.7) / (a**2 * 0.25 + s**2),
            rtol=1e-4,
            atol=1e-4,
        )


def test_fake_loss_is_the_x0_error_over_sigma_squared():
    x0, eps, t, c = (
        torch.randn(SHAPE),
        torch.randn(SHAPE),
        torch.tensor([200.0, 700.0]),
        condition(given=4),
    )
    fake = Gaussian(0.1, 1.3)
    x0_fake = x0_from_v(xt := add_noise(x0, eps, t), fake(xt, t, c), t)
    weighted = (x0 - x0_fake) / alpha_sigma(t)[1]
    assert_close(
        fake_loss(fake, x0, c, t, eps),
        v_loss(weighted, torch.zeros_like(weighted), c.mask),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("recipe", ["plain", "toy"])
def test_a_gaussian_student_moves_to_its_teachers_mean_and_variance(recipe):
    """The whole loop with two networks, in either recipe's noise: student N(−1, 1.5²) -> teacher
    N(0.7, 0.5²)."""
    torch.manual_seed(0)
    real, fake, student = Gaussian(0.7, 0.5), Gaussian(-1, 1.5), OneStep(-1, 1.5)
    shape = 64, 4, 1, 1, 1
    cond = Cond(
        torch.zeros(64, 1, 1, 1), torch.zeros(64, 1, 1, 1), torch.zeros(shape), torch.zeros(64, 4)
    )
    opt, fake_opt = (
        torch.optim.Adam(student.parameters(), 0.03, betas=(0.9, 0.99)),
        torch.optim.Adam(fake.parameters(), 0.05, betas=(0.9, 0.99)),
    )

    # one place, none of the mouth's, where there would be no noise
    noise, score_noise = (
        noise_source(recipe, whose, lambda: torch.randn(shape)) for whose in ("student", "teacher")
    )
    tail = []
    for i in range(200):
        x0_hat, t = rollout(student, cond, noise, [T]), 20 + 960 * torch.rand(64)
        with torch.no_grad():
            xt = add_noise(x0_hat, score_noise(), t)
            g = dmd_gradient(
                fake_score(fake, xt, t, cond),
                real_score(real, xt, t, cond, 1, 1),
                x0_hat,
                cond.mask,
            )
        opt.zero_grad()
        dmd_loss(x0_hat, g, cond.mask).backward()
        opt.step()
        for _ in range(4):
            fake_opt.zero_grad()
            fake_loss(fake, x0_hat, cond, 20 + 960 * torch.rand(64), score_noise()).backward()
            fake_opt.step()
        if i >= 120:
            tail.append([student.m.item(), abs(student.c.item())])
    mean, spread = torch.tensor(tail).mean(0)
    assert abs(mean - 0.7) < 0.05 and abs(spread - 0.5) < 0.05


# ---- who gets gradient


def test_teacher_and_fake_get_no_gradient_in_the_students_step_and_the_student_none_in_the_fakes():
    (real, fake, student), c = (small_unet(i) for i in range(3)), condition()
    noise, t = lambda: torch.randn(SHAPE), torch.tensor([300.0, 700.0])
    x0_hat = rollout(student, c, noise, TAUS[:2])
    xt = add_noise(x0_hat, noise(), t)
    g = dmd_gradient(
        x0_from_v(xt, fake(xt, t, c), t), real_score(real, xt, t, c, 1.5, 2), x0_hat, c.mask
    )
    dmd_loss(x0_hat, g, c.mask).backward()
    assert all(p.grad is None for m in (real, fake) for p in m.parameters())
    assert any(p.grad is not None and p.grad.any() for p in student.parameters())
    student.zero_grad()
    fake_loss(fake, rollout(student, c, noise, TAUS), c, t, noise()).backward()
    assert all(p.grad is None for p in student.parameters())
    assert any(p.grad is not None and p.grad.any() for p in fake.parameters())


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_rollout_calls_the_network_k_times_and_only_the_last_call_carries_gradient(k):
    calls = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, xt, t, cond):
            assert not xt.requires_grad
            calls.append(t)
            return 2 * xt * self.weight[len(calls) - 1]

    spy, draws = Spy(), []
    noise = lambda: draws.append(1) or torch.randn(SHAPE)
    rollout(spy, condition(), noise, TAUS[:k]).square().sum().backward()
    assert [t.tolist() for t in calls] == [[tau] * 2 for tau in TAUS[:k]]
    assert [bool(g) for g in spy.weight.grad] == [i == k - 1 for i in range(4)]
    assert len(draws) == k  # one to start, one between each two steps
    calls.clear()
    with torch.no_grad():
        assert not rollout(spy, condition(), noise, TAUS[:k]).requires_grad


def test_under_bfloat16_the_last_call_still_trains_convolutions_and_matrices():
    """Autocast caches cast weights: a cast made without gradient in an earlier step must not be
    used in the last."""
    model = small_unet()
    with torch.autocast("cpu", torch.bfloat16):
        x0_hat = rollout(model, condition(), lambda: torch.randn(SHAPE), TAUS[:3])
    x0_hat.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


# ---- the sampler


def test_the_real_score_takes_the_portraits_scale_first_and_the_sounds_second():
    """A teacher that adds 1 for the portrait and 10 for the sound: v = 0 + s_ref 1 + s_audio 10."""

    class Teacher(nn.Module):
        def forward(self, xt, t, cond):
            has = lambda x: x.flatten(1).any(1).float()[:, None, None, None, None]
            return torch.zeros_like(xt) + has(cond.ref) + 10 * has(cond.audio)

    xt, t = torch.zeros(SHAPE), torch.full((2,), float(T))
    assert_close(
        real_score(Teacher(), xt, t, condition(), 1.5, 3.0), -torch.full(SHAPE, 31.5)
    )  # at T, x̂0 = −v


@pytest.mark.parametrize("recipe", ["plain", "toy"])
def test_every_noise_of_the_student_is_its_recipes(recipe):
    class Spy(nn.Module):
        seen, motion = [], None

        def forward(self, xt, t, cond):
            self.seen.append(xt)
            return torch.zeros_like(xt)

    shape = lambda eps: shape_noise(eps, *NOISE["student"][recipe][:2])
    network, first, second = Spy(), torch.randn(SHAPE), torch.randn(SHAPE)
    draws = iter([first, second])
    student_sampler(network, dict(recipe=recipe, target_steps=2))(
        condition(), lambda: next(draws)
    )  # at T it answers x̂0 = 0, so its second input is σ ε'
    assert_close(network.seen[-2], shape(first))
    assert_close(
        network.seen[-1], add_noise(torch.zeros(SHAPE), shape(second), torch.full((2,), T / 2))
    )


def test_a_student_is_sampled_in_the_steps_it_was_trained_for_unless_others_are_asked_for():
    calls = []
    network = small_unet().eval()
    network.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[1][0].item()))
    for made, steps, wanted in (
        (dict(target_steps=4), None, TAUS),
        (dict(target_steps=4), 2, [1000, 500]),
        (dict(), None, [1000]),
    ):
        student_sampler(network, dict(recipe="plain") | made, steps)(
            condition(), lambda: torch.randn(SHAPE)
        )
        assert calls == wanted
        calls.clear()


def test_few_steps_with_an_exact_posterior_sampler_keep_the_distribution():
    """A student that answers with samples of p(x0 | x_t), not their mean, is what re-noising with
    fresh ε wants."""

    class Posterior(Gaussian):
        def forward(self, xt, t, cond):
            a, s = alpha_sigma(t)
            mean = x0_from_v(xt, super().forward(xt, t, cond), t)
            x0 = mean + 0.5 * s / (a**2 * 0.25 + s**2).sqrt() * torch.randn_like(xt)
            return (a * xt - x0) / s

    x = few_step_sample(
        Posterior(0.7, 0.5).requires_grad_(False), condition(), lambda: torch.randn(SHAPE), 4
    )
    assert abs(x.mean() - 0.7) < 0.02 and abs(x.std() - 0.5) < 0.02


def test_context_places_hold_the_noised_truth_and_are_returned_as_given():
    c, seen = condition(given=4), []

    class Spy(nn.Module):
        def forward(self, xt, t, cond):
            seen.append(xt)
            return torch.randn_like(xt)

    draws = [torch.randn(SHAPE) for _ in range(4)]
    out = rollout(Spy(), c, iter(draws).__next__, TAUS)
    for xt, tau, eps in zip(seen, TAUS, draws):
        assert_close(xt[:, :4], add_noise(c.context, eps, torch.full((2,), tau))[:, :4])
    assert_close(out[:, :4], c.context[:, :4], rtol=0, atol=0)


def test_rollout_takes_a_timestep_for_each_clip():
    x, model = torch.randn(SHAPE), small_unet().eval()
    with torch.no_grad():
        both = rollout(model, condition(), lambda: x, [T, torch.tensor([300.0, 600.0])])
        alone = rollout(model, condition(), lambda: x, [T, 600.0])
    assert_close(both[1], alone[1], rtol=1e-4, atol=1e-4)


# ---- training

SMALL = dict(
    data="data",
    videos=1,
    autoencoder="ae.pt",
    teacher="teacher.pt",
    steps=4,
    warm_fake=1,
    batch=2,
    fake_updates=2,
    save_every=2,
)


@pytest.fixture(scope="module", autouse=True)
def short():
    """Two updates of warm-up, a line of the log for every iteration, context in every clip."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage1, "WARMUP", 2)
        patch.setattr(stage1, "LOG_EVERY", 1)
        patch.setattr(latents.Clips, "batch", partialmethod(latents.Clips.batch, context_rate=1.0))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("stage1"), "teacher", videos=1)


@pytest.fixture()
def workplace(folder, monkeypatch):
    monkeypatch.chdir(folder)


BASE = replace(stage1.Config(**SMALL, out="a", weights="a.pt"), steps=2, warm_fake=0)


def bare(cfg):
    """Train, with neither pictures nor quick evaluations nor checkpoints on the way."""
    with pytest.MonkeyPatch.context() as patch:
        for name in "contact_sheet", "save_training":
            patch.setattr(stage1, name, lambda *args, **parts: None)
        patch.setattr(student, "READER", "none")
        return stage1.train(cfg)


@pytest.fixture(scope="module")
def usual(folder):
    """What BASE trains, to compare each ablation with."""
    with contextlib.chdir(folder):
        return bare(BASE)


def changed(usual, ema):
    return any((a != b).any() for a, b in zip(usual.parameters(), ema.parameters()))


WHOLE = replace(stage1.Config(**SMALL, out="a", weights="a.pt"), s_ref=1.1)


@pytest.fixture(scope="module")
def whole(folder):
    """What WHOLE trains, and the calls of some functions on the way."""
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        calls = {
            name: spy(patch, stage1, name)
            for name in ("dmd_loss", "fake_loss", "optimise", "update_ema", "student_sampler")
        }
        x0_hat, g, real, fake = [], [], [], []
        calls["real_score"], calls["fake_score"] = (
            spy(patch, stage1, "real_score", real),
            spy(patch, stage1, "fake_score", fake),
        )
        calls["rollout"] = spy(patch, stage1, "rollout", x0_hat)
        calls["dmd_gradient"] = spy(patch, stage1, "dmd_gradient", g)
        return SimpleNamespace(
            ema=stage1.train(WHOLE), x0_hat=x0_hat, g=g, x0_real=real, x0_fake=fake, **calls
        )


def test_resume_equals_no_interruption(workplace, whole, monkeypatch):
    monkeypatch.setattr(stage1, "quick_eval", lambda *args: {})  # whether one looks or not
    resumed = train_with_a_power_cut(
        stage1, replace(WHOLE, out="b", weights="b.pt"), monkeypatch, call=1
    )
    for a, b in zip(whole.ema.parameters(), resumed.parameters()):
        assert_close(a, b, rtol=0, atol=0)
    model, made = stage1.load_stage1("b.pt")
    assert made["recipe"] == "plain" and math.isfinite(
        student_sampler(model, made)(condition(frames=8), lambda: torch.randn(2, 8, 16, 8, 8)).sum()
    )


def test_the_moving_average_leaves_where_the_student_started(workplace, whole):
    assert any(
        (a != b).any()
        for a, b in zip(whole.ema.parameters(), teacher.load_teacher("teacher.pt")[0].parameters())
    )


@pytest.mark.parametrize(
    "flag", [dict(target_steps=1), dict(s_ref=1.0, s_audio=1.0), dict(fake_updates=0)]
)
def test_every_ablation_runs_and_changes_the_result(workplace, usual, flag):
    assert changed(usual, bare(replace(BASE, **flag)))


def test_both_scores_see_the_noise_in_which_the_teacher_samples(workplace, monkeypatch):
    seen = spy(monkeypatch, student, "add_noise")
    noised = spy(monkeypatch, stage1, "add_noise")
    # one step: the student's own sampler adds no noise
    bare(replace(BASE, target_steps=1, recipe="toy"))
    assert not seen and len(noised) == BASE.steps * (1 + BASE.fake_updates)
    eps = torch.cat([eps for _, eps, _ in noised])
    assert (eps[..., *MOUTH] == 0).all()
    brow = eps[..., :4, :]
    assert abs(brow.std() - 1) < 0.02
    assert (
        abs(
            (brow[:, 1:] * brow[:, :-1]).mean()
            - math.exp(-1 / (2 * NOISE["teacher"]["toy"].smooth ** 2))
        )
        < 0.02
    )


def test_the_two_scores_of_the_gradient_are_asked_about_the_same_and_stand_in_their_places(whole):
    fake = next(network for _, who, network, *_ in whole.optimise if who == "fake score")
    scores = zip(
        whole.real_score,
        whole.fake_score,
        whole.dmd_gradient,
        whole.x0_hat[WHOLE.warm_fake :],
        whole.x0_real,
        whole.x0_fake,
    )
    for (_, xt, t, cond, *_), (asked, xt_too, t_too, cond_too), (
        x0_fake,
        x0_real,
        x0_hat,
        mask,
    ), made, real, false in scores:
        assert (
            asked is fake and xt is xt_too and t is t_too and cond is cond_too and mask is cond.mask
        )
        assert x0_hat is made and x0_real is real and x0_fake is false


def test_the_teacher_is_asked_at_the_times_with_the_guidance_and_after_the_steps_asked_for(
    workplace, whole
):
    given = teacher.load_teacher("teacher.pt")[0]
    assert len(whole.real_score) == WHOLE.steps - WHOLE.warm_fake
    for network, _, t, _, *guidance in whole.real_score:
        assert all(
            torch.equal(a, b) for a, b in zip(network.parameters(), given.parameters())
        )  # not the fake score, which learns
        assert (0.02 * T <= t).all() and (t <= 0.98 * T).all() and guidance == [1.1, WHOLE.s_audio]
    taken = [taus for _, _, _, taus in whole.rollout[: WHOLE.steps]]
    assert (
        all(taus == TAUS[: len(taus)] for taus in taken) and len(set(map(len, taken))) > 1
    )  # stopped after k of the steps, k drawn


def test_the_student_learns_from_its_sample_and_the_fake_score_from_the_same_at_other_times(whole):
    learning = list(zip(whole.rollout, whole.x0_hat))[WHOLE.warm_fake :]
    for ((_, cond, *_), x0_hat), (_, _, x0, mask), g, (x0_too, g_too, mask_too) in zip(
        learning, whole.dmd_gradient, whole.g, whole.dmd_loss
    ):
        assert (
            x0 is x0_too is x0_hat
            and g is g_too
            and mask is mask_too is cond.mask
            and mask[:, :4].all()
        )
    calls, times = iter(whole.fake_loss), []
    for (_, cond, *_), x0_hat in zip(whole.rollout[: WHOLE.steps], whole.x0_hat):
        for _ in range(WHOLE.fake_updates):
            _, x0, c, t, _ = next(calls)
            assert x0 is x0_hat and c is cond
            times.append(t)
    times, noises = torch.cat(times), [eps for *_, eps in whole.fake_loss]
    assert (
        (0 < times).all()
        and (times <= T).all()
        and len(times.unique()) == len(times)
        and times.min() < 0.4 * T
        and times.max() > 0.6 * T
    )
    assert all((a != b).any() for a, b in zip(noises, noises[1:]))


def test_the_moving_average_counts_the_students_updates_and_is_what_the_contact_sheet_shows(whole):
    assert [done for _, _, done, _ in whole.update_ema] == [0, 1, 2] and all(
        decay == stage1.EMA for *_, decay in whole.update_ema
    )
    assert whole.student_sampler and all(model is whole.ema for model, _ in whole.student_sampler)


def test_everything_but_the_listener_is_trainable():
    network = student.trainable(small_unet().eval().requires_grad_(False))
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {f"audio.{name}" for name, _ in network.audio.named_parameters()}
    assert network.training


def test_an_update_changes_one_network_by_a_clipped_gradient():
    passed, trained = nn.Linear(3, 3), nn.Linear(3, 1)
    optimiser, before = student.adam(trained, 1.0), trained.weight.detach().clone()
    norm = student.optimise(
        0, "student", trained, optimiser, 0.01, 1e3 * trained(passed(torch.ones(2, 3))).sum()
    )
    assert norm > 10 and passed.weight.grad is None
    assert_close(
        torch.cat([p.grad.flatten() for p in trained.parameters()]).norm(),
        torch.tensor(1.0),
        rtol=1e-3,
        atol=0,
    )
    assert (
        0 < (trained.weight - before).abs().max() < 0.02
    )  # at the rate given, not the optimiser's own


def test_the_gradient_of_one_update_does_not_reach_the_next():
    network, x = nn.Linear(2, 1, bias=False), torch.tensor([[0.3, 0.4]])
    optimiser = student.adam(network, 0.0)
    step = lambda: student.optimise(0, "student", network, optimiser, 0.0, network(x).sum())
    assert [step(), step()] == pytest.approx([0.5, 0.5])


def test_the_ablation_with_data_shows_noised_real_clips_at_the_students_own_times(
    workplace, monkeypatch
):
    noised, asked = spy(monkeypatch, stage1, "add_noise"), spy(monkeypatch, stage1, "real_score")
    bare(replace(BASE, simulate="data", steps=4, fake_updates=0))
    times = set()
    # the student's input, the scores' input
    for (real, eps, tau), (x0_hat, *_), (_, _, _, cond, *_) in zip(
        noised[::2], noised[1::2], asked
    ):
        assert abs(eps.std() - 1) < 0.05
        times.add(float(tau))
        assert (
            torch.equal(real[:, :4], cond.context[:, :4])
            and torch.equal(x0_hat[:, :4], cond.context[:, :4])
            and (x0_hat[:, 4:] != real[:, 4:]).any()
        )
    assert times <= set(TAUS) and len(times) > 1


def test_both_rates_fall_along_a_cosine_and_the_student_warms_up(whole):
    wanted = []
    for step in range(WHOLE.steps):
        decay = 0.5 + 0.5 * math.cos(
            math.pi * max(0, step - 1) / (WHOLE.steps - 1)
        )  # warm_fake = 1
        wanted += [("student", WHOLE.lr * decay * min(1, step / 2))] * (step > 0) + [
            ("fake score", WHOLE.fake_lr * decay)
        ] * WHOLE.fake_updates
    assert [name for _, name, *_ in whole.optimise] == [name for name, _ in wanted]
    assert_close([rate for *_, rate, _ in whole.optimise], [rate for _, rate in wanted])


def test_bfloat16_trains_every_network(workplace, monkeypatch):
    calls = spy(monkeypatch, stage1, "optimise")
    ema, start = bare(replace(BASE, bf16=True)), teacher.load_teacher("teacher.pt")[0]
    for name in ("student", "fake score"):
        network = next(network for _, who, network, *_ in calls if who == name)
        assert not [
            key
            for (key, p), q in zip(network.named_parameters(), start.parameters())
            if p.requires_grad and torch.equal(p, q)
        ]
    assert all(p.isfinite().all() for p in ema.parameters())


def test_nobody_trains_the_listener(whole, folder):
    given = teacher.load_teacher(folder / "teacher.pt")[0].audio.state_dict()
    for network in [whole.ema, *(network for _, _, network, *_ in whole.optimise)]:
        assert all(torch.equal(a, given[key]) for key, a in network.audio.state_dict().items())


def test_the_student_starts_as_the_teacher(workplace):
    ema, given = bare(replace(BASE, steps=1, lr=0.0)), teacher.load_teacher("teacher.pt")[0]
    assert all(torch.equal(a, b) for a, b in zip(ema.parameters(), given.parameters()))


def test_while_the_fake_score_warms_up_the_student_stays(workplace):
    ema = bare(replace(BASE, steps=1, warm_fake=1))
    assert all(
        torch.equal(a, b)
        for a, b in zip(ema.parameters(), teacher.load_teacher("teacher.pt")[0].parameters())
    )


@pytest.mark.parametrize(
    "flag, message",
    [
        (dict(simulate="real"), "--simulate must be"),
        (dict(target_steps=0), "--target-steps must be a finite number >= 1"),
        (dict(recipe="mine"), "--recipe must be plain or toy"),
    ],
)
def test_a_wrong_switch_is_named(workplace, flag, message):
    with pytest.raises(ValueError, match=message):
        stage1.train(replace(stage1.Config(**SMALL), **flag))


def test_a_quick_look_finds_no_fault_with_the_truth(tmp_path, monkeypatch):
    """A student whose answer is the true clip: lips right, head as mobile, picture as steady,
    colours the same."""
    monkeypatch.setattr(student, "READER", str(SHIPPED / "metrics.pt"))
    device, cfg = torch.device("cpu"), stage1.Config(data=str(tmp_path), videos=2)
    coder = autoencoder.load_autoencoder(SHIPPED / "autoencoder.pt", device)
    _, held_out, judge = student.load_data(cfg, 16, coder, device)
    truth = latents.preview(held_out, 16)[0]
    oracle = lambda xt, t, cond: (alpha_sigma(t)[0] * xt - truth) / alpha_sigma(t)[1]
    found = quick_eval(
        lambda cond, noise: few_step_sample(oracle, cond, noise, 4), held_out, coder, *judge
    )
    assert found["jaw"] > 0.9
    assert (
        found["colour"] < 0.1
        and abs(found["spread"] - 1) < 0.01
        and abs(found["change"] - 1) < 0.01
    )
