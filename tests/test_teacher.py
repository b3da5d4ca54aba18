import contextlib
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers import condition, prepare, small_unet, spy, train_with_a_power_cut
from torch.testing import assert_close

import latents
import teacher
from departures import NOISE, shape_noise
from diffusion import T, add_noise, alpha_sigma, ddim_step, guide, v_target
from latents import cond_map, drop
from teacher import ddim_sample, guided_v, hold_context, teacher_sampler
from unet import UNet


class Spy(torch.nn.Module):
    """Returns zeros and remembers what it was called with."""

    def __init__(self):
        super().__init__()
        self.calls, self.seen = [], []

    def forward(self, xt, t, cond):
        self.calls.append((len(xt), t.clone(), cond))
        self.seen.append(xt)
        return torch.zeros_like(xt)


# ---- the sampler


def test_hold_context_changes_only_the_given_places():
    c = condition(given=4)
    x = torch.randn_like(c.context)
    assert_close(hold_context(x, c)[:, 4:], x[:, 4:], rtol=0, atol=0)
    assert_close(hold_context(x, c)[:, :4], c.context[:, :4], rtol=0, atol=0)


class GaussianDenoiser(torch.nn.Module):
    """The exact v̂ for data N(m, c²): E[x0 | x_t] = m + α c² (x_t − α m) / (α² c² + σ²)."""

    m, c = 0.7, 0.5

    def forward(self, xt, t, cond):
        a, s = alpha_sigma(t.double())
        x0 = self.m + a * self.c**2 * (xt - a * self.m) / (a**2 * self.c**2 + s**2)
        return torch.where(s > 0, (a * xt - x0) / s.clamp_min(1e-12), 0)


@pytest.mark.parametrize("recipe", ["plain", "toy"])
@pytest.mark.parametrize("steps, tolerance", [(40, 0.04), (400, 0.004)])
def test_ddim_with_the_exact_denoiser_of_a_gaussian_samples_that_gaussian(steps, tolerance, recipe):
    """The probability flow maps the noise's quantiles to the data's: x0 = m + c ε, more exactly
    with more steps."""
    eps = torch.linspace(-2, 2, 2 * 16 * 16 * 64, dtype=torch.float64).view(2, 16, 16, 8, 8)
    c = cond_map(condition(), torch.Tensor.double)
    wanted = eps if recipe == "plain" else shape_noise(eps, *NOISE["teacher"]["toy"][:2])
    made = teacher_sampler(GaussianDenoiser(), recipe, steps, 1, 1)(c, lambda: eps)
    assert_close(made, 0.7 + 0.5 * wanted, rtol=0, atol=tolerance * float(wanted.abs().max()) / 2)


def test_one_ddim_step_returns_the_mean_of_the_data_whatever_the_noise():
    """Why one step of the teacher is blurred: at t = T the best prediction is the average."""
    out = ddim_sample(
        GaussianDenoiser(),
        cond_map(condition(), torch.Tensor.double),
        torch.randn(2, 16, 16, 8, 8, dtype=torch.float64),
        1,
        1,
        1,
    )
    assert_close(out, torch.full_like(out, 0.7), rtol=0, atol=1e-12)


# ---- guidance and evaluations


def test_forty_guided_steps_are_120_evaluations_and_unguided_40():
    spy = Spy()
    ddim_sample(spy, condition(1), torch.randn(1, 16, 16, 8, 8))
    assert sum(n for n, _, _ in spy.calls) == 120
    spy = Spy()
    ddim_sample(spy, condition(1), torch.randn(1, 16, 16, 8, 8), 40, 1, 1)
    assert sum(n for n, _, _ in spy.calls) == 40


def test_branches_are_none_then_portrait_then_portrait_and_sound():
    spy, c = Spy(), condition(1, given=4)
    guided_v(spy, torch.randn(1, 16, 16, 8, 8), torch.tensor([500.0]), c, 2, 3)
    got = spy.calls[0][2]
    assert [bool(x.any()) for x in got.ref] == [False, True, True]
    assert [bool(x.any()) for x in got.audio] == [False, False, True]
    assert_close(got.context, c.context.expand(3, -1, -1, -1, -1))  # the past is never dropped


def test_without_extra_portrait_guidance_the_branch_without_it_is_not_evaluated_and_not_missed():
    spy, model, c = Spy(), small_unet().eval(), condition(2)
    xt, t = torch.randn_like(c.context), torch.tensor([500.0, 900.0])
    guided_v(spy, xt, t, c, 1, 3)
    assert sum(n for n, _, _ in spy.calls) == 4  # two clips, two branches
    with torch.no_grad():
        none, ref, full = (
            model(xt, t, drop(c, *(torch.full((2,), float(x)) for x in keep)))
            for keep in ((0, 0), (1, 0), (1, 1))
        )
        for s_ref in 1, 2:
            assert_close(
                guided_v(model, xt, t, c, s_ref, 3),
                guide(none, ref, full, s_ref, 3),
                rtol=1e-4,
                atol=1e-5,
            )


def test_the_sampler_takes_guided_steps_with_the_scales_asked_for():
    model, c, x = small_unet().eval(), condition(1), torch.randn(1, 16, 16, 8, 8)
    made = ddim_sample(model, c, x, 2, 1.5, 3.0)
    with torch.no_grad():
        for t, s in (
            (torch.tensor([1000.0]), torch.tensor([500.0])),
            (torch.tensor([500.0]), torch.tensor([0.0])),
        ):
            x = ddim_step(x, guided_v(model, x, t, c, 1.5, 3.0), t, s)
    assert_close(made, x, rtol=1e-4, atol=1e-4)


def test_context_places_hold_the_noised_truth_as_in_training_and_are_returned_as_given():
    c, spy, eps = condition(2, given=4), Spy(), torch.randn(2, 16, 16, 8, 8)
    out = ddim_sample(spy, c, eps, 5, 1, 1)
    for xt, (_, t, _) in zip(spy.seen[1:], spy.calls[1:]):
        assert_close(xt[:, :4], add_noise(c.context, eps, t)[:, :4])
    assert_close(out[:, :4], c.context[:, :4], rtol=0, atol=0)


# ---- training

SMALL = dict(
    data="data",
    videos=1,
    autoencoder="ae.pt",
    steps=4,
    batch=2,
    frames=8,
    channels=16,
    warmup=2,
    sound_steps=2,
    log_every=1,
    save_every=2,
    sample_every=9,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("teacher"), videos=1)


@pytest.fixture()
def workplace(folder, monkeypatch):
    monkeypatch.chdir(folder)


WHOLE = teacher.Config(**SMALL, out="a", weights="a.pt", drop_ref=0.2, drop_audio=0.4)


@pytest.fixture(scope="module")
def whole(folder):
    """What WHOLE trains, and the calls of some functions on the way."""
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        dropped, noised = [], []
        calls = {name: spy(patch, teacher, name) for name in ("v_loss", "update_ema")}
        calls |= dict(
            drop=spy(patch, teacher, "drop", dropped),
            add_noise=spy(patch, teacher, "add_noise", noised),
        )
        calls |= dict(asked=spy(patch, UNet, "forward"), batch=spy(patch, latents.Clips, "batch"))
        return SimpleNamespace(ema=teacher.train(WHOLE), dropped=dropped, noised=noised, **calls)


def test_the_loss_is_of_v_over_all_times(whole):
    for (x0, eps, t), (v_hat, v, mask) in zip(whole.add_noise, whole.v_loss):
        assert_close(v, v_target(x0, eps, t), rtol=0, atol=0)
        assert v_hat.requires_grad and (mask.sum(1) <= WHOLE.context).all()
        assert sorted(((1 - t / T) * len(t)).int().tolist()) == list(
            range(len(t))
        )  # one t in each of B equal parts of (0, T]


def test_the_network_is_asked_about_noised_clips_with_what_is_left_of_their_condition(whole):
    steps = zip(
        whole.asked[: WHOLE.steps], whole.noised, whole.add_noise, whole.dropped, whole.v_loss
    )  # sampling comes after the last
    for (_, xt, t_asked, cond), noised, (_, _, t), left, (_, _, mask) in steps:
        assert xt is noised and t_asked is t and cond is left and mask is cond.mask
    for _, size, _, *how in whole.batch:
        assert (size, how) == (WHOLE.batch, [WHOLE.context, WHOLE.context_rate, WHOLE.ref_gap])


def test_the_moving_average_counts_the_steps(whole):
    assert [(step, decay) for *_, step, decay in whole.update_ema] == [
        (step, WHOLE.ema) for step in range(WHOLE.steps)
    ]


def test_the_rate_warms_up_and_falls_along_a_cosine(workplace, whole):
    rates = [row["lr"] for row in map(json.loads, open("a/log.jsonl")) if "lr" in row]
    assert_close(
        rates, [WHOLE.lr * share for share in (0.5, 1, 1, 0.5)]
    )  # two steps of warm-up, then cosine_decay at 0 and ½


def test_a_portrait_is_dropped_with_its_sound_and_more_sounds_alone(whole):
    ref, audio = (torch.cat(kept) for kept in list(zip(*whole.drop[: WHOLE.steps]))[1:])
    assert (audio <= ref).all() and 0 < audio.mean() < ref.mean() < 1


def test_resume_equals_no_interruption(workplace, whole, monkeypatch):
    monkeypatch.setattr(teacher, "contact_sheet", lambda *args: None)  # whether one looks or not
    # power fails in the third step, after the save at two
    resumed = train_with_a_power_cut(
        teacher, replace(WHOLE, out="b", weights="b.pt"), monkeypatch, call=2
    )
    for a, b in zip(whole.ema.parameters(), resumed.parameters()):
        assert_close(a, b, rtol=0, atol=0)
    model, config = teacher.load_teacher("b.pt")  # what is shipped samples
    assert config["channels"] == 16 and math.isfinite(
        ddim_sample(model, condition(1), torch.randn(1, 16, 16, 8, 8), 1).sum()
    )


def test_resuming_another_run_is_refused(workplace, whole):
    with pytest.raises(ValueError, match="--batch 2"):
        teacher.train(replace(WHOLE, batch=3), resume=True)


def test_a_diverging_run_stops_and_names_the_step(workplace):
    with pytest.raises(FloatingPointError, match="at step"):
        teacher.train(teacher.Config(**{**SMALL, "lr": 1e20}, out="c", weights="c.pt"))


def test_the_listener_stays_as_it_is_and_what_listens_to_it_learns(workplace, whole, monkeypatch):
    monkeypatch.setattr(
        teacher, "contact_sheet", lambda *args: None
    )  # half the time of so short a run
    still = teacher.train(
        teacher.Config(**{**SMALL, "steps": 1, "lr": 0.0}, out="e", weights="e.pt")
    ).state_dict()
    trained = whole.ema.state_dict()
    assert all(torch.equal(still[key], trained[key]) for key in still if key.startswith("audio."))
    assert (still["sound.3.weight"] != trained["sound.3.weight"]).any()
    deaf = teacher.train(
        teacher.Config(
            **{**SMALL, "steps": 1, "lr": 0.0, "sound_steps": 0}, out="h", weights="h.pt"
        )
    ).state_dict()
    assert any(
        not torch.equal(still[key], deaf[key]) for key in still if key.startswith("audio.")
    )  # before that it has learnt
