"""Lab 2: conditions and guidance. test_K_... marks task K."""

from types import SimpleNamespace

import torch
from tiny import SHAPE, condition, near
from torch import nn

import diffusion
import latents
import teacher


def full_condition(given=0):
    """Two clips: portrait 1 and 2, sound 10 and 20, context 7 where given."""
    one, two = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])
    cond = condition(2, given, 7.0)
    return cond._replace(
        ref=one.view(2, 1, 1, 1), audio=two.view(2, 1, 1, 1).expand(2, 4, 3, 5).clone()
    )


# ---- 1 dropped conditions


def test_1_a_dropped_portrait_is_zero_and_the_sound_stays():
    left = latents.drop(full_condition(), torch.tensor([0.0, 1.0]), torch.ones(2))
    assert left.ref.flatten().tolist() == [0, 2]
    near(left.audio, full_condition().audio)


def test_1_a_dropped_sound_is_zero_and_the_portrait_stays():
    left = latents.drop(full_condition(), torch.ones(2), torch.tensor([1.0, 0.0]))
    assert left.ref.flatten().tolist() == [1, 2]
    assert left.audio[0].unique().tolist() == [10] and left.audio[1].unique().tolist() == [0]


def test_1_context_is_never_dropped_and_the_argument_is_left_alone():
    cond = full_condition(given=2)
    left = latents.drop(cond, torch.zeros(2), torch.zeros(2))
    assert left.context.flatten().tolist() == [7, 7, 0, 0] * 2
    assert left.mask.flatten().tolist() == [1, 1, 0, 0] * 2
    assert not left.ref.any() and not left.audio.any()
    assert cond.ref.flatten().tolist() == [1, 2] and cond.audio.unique().tolist() == [10, 20]


# ---- 2 guidance


def test_2_by_hand():
    """1 + 2 (4 − 1) + 3 (9 − 4) = 22."""
    none, ref, full = torch.tensor([1.0]), torch.tensor([4.0]), torch.tensor([9.0])
    near(diffusion.guide(none, ref, full, 2, 3), torch.tensor([22.0]))
    near(diffusion.guide(none, ref, full, 0.5, 2.0), torch.tensor([12.5]))


def test_2_scales_of_1_and_0_pick_a_branch():
    none, ref, full = torch.tensor([[1.0, -1.0], [4.0, 2.0], [9.0, 5.0]])
    for scales, branch in (((1, 1), full), ((1, 0), ref), ((0, 0), none)):
        near(diffusion.guide(none, ref, full, *scales), branch)


def test_2_scales_may_be_tensors():
    none, ref, full = torch.zeros(2, 3), torch.ones(2, 3), torch.full((2, 3), 3.0)
    s_ref, s_audio = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [10.0]])
    made = diffusion.guide(none, ref, full, s_ref, s_audio)
    near(made, torch.tensor([[1.0] * 3, [22.0] * 3]))


# ---- 3 context frames


def test_3_context_places_hold_the_context_and_the_others_x():
    x = torch.arange(8.0).view(2, *SHAPE)
    made = teacher.hold_context(x, condition(2, 2, 7.0))
    assert made.flatten().tolist() == [7, 7, 2, 3, 7, 7, 6, 7]
    assert x.flatten().tolist() == list(range(8))  # left as it was


def test_3_without_context_nothing_changes():
    x = torch.arange(8.0).view(2, *SHAPE)
    near(teacher.hold_context(x, condition(2)), x)


def test_3_noised_context_at_its_own_time():
    """7 and ε = 10 at T / 3 and at T: 7 √3 / 2 + 5, and 10."""
    x, eps = torch.zeros(2, *SHAPE), torch.full((2, *SHAPE), 10.0)
    made = teacher.hold_context(x, condition(2, 2, 7.0), eps, torch.tensor([1000 / 3, 1000.0]))
    near(made[:, :2].flatten(), torch.tensor([11.0622, 11.0622, 10, 10]))
    assert not made[:, 2:].any()


def test_3_each_clip_has_its_own_mask():
    cond = condition(2, 2, 7.0)
    cond.mask[1], cond.context[1] = 0, 0
    made = teacher.hold_context(torch.full((2, *SHAPE), 3.0), cond)
    assert made.flatten().tolist() == [7, 7, 3, 3, 3, 3, 3, 3]


# ---- 4 three branches in one batch


class Adds(nn.Module):
    """Answers 1, plus the portrait, plus the sound squared. Counts evaluations, remembers t."""

    def __init__(self):
        super().__init__()
        self.evaluations, self.times, self.contexts = 0, [], []

    def forward(self, xt, t, cond):
        self.evaluations += len(xt)
        self.times += t.tolist()
        self.contexts += cond.context.flatten(1).tolist()
        return (
            torch.ones_like(xt) + cond.ref[:, None] + cond.audio[:, 0, 0, 0].view(-1, *[1] * 4) ** 2
        )


T2, X = torch.tensor([400.0, 900.0]), torch.zeros(2, *SHAPE)


def test_4_three_branches_by_hand():
    """Clip 1: branches 1, 2, 102: 1 + 2 · 1 + 3 · 100. Clip 2: 1, 3, 403: 1 + 2 · 2 + 3 · 400."""
    network = Adds()
    v = teacher.guided_v(network, X, T2, full_condition(), 2.0, 3.0)
    near(v.flatten(1), torch.tensor([[303.0] * 4, [1205.0] * 4]))
    assert network.evaluations == 6


def test_4_with_the_portraits_scale_at_1_two_evaluations_do():
    network = Adds()
    v = teacher.guided_v(network, X, T2, full_condition(), 1, 3.0)
    near(v.flatten(1), torch.tensor([[302.0] * 4, [1203.0] * 4]))
    assert network.evaluations == 4


def test_4_with_both_scales_at_1_one_evaluation_does():
    network = Adds()
    v = teacher.guided_v(network, X, T2, full_condition(), 1, 1)
    near(v.flatten(1), torch.tensor([[102.0] * 4, [403.0] * 4]))
    assert network.evaluations == 2


def test_4_every_branch_keeps_time_and_context():
    network = Adds()
    teacher.guided_v(network, X, T2, full_condition(given=2), 2.0, 3.0)
    assert sorted(network.times) == [400.0] * 3 + [900.0] * 3
    assert network.contexts == [[7, 7, 0, 0]] * 6


def test_4_every_branch_sees_the_same_clip():
    class Echo(nn.Module):
        def forward(self, xt, t, cond):
            return xt

    x = torch.arange(8.0).view(2, *SHAPE)
    near(teacher.guided_v(Echo(), x, T2, full_condition(), 1.5, 4.0), x)


# ---- 5 the masked loss


def test_5_a_mean_square_by_hand():
    v = torch.zeros(2, *SHAPE)
    v_hat = torch.tensor([1.0, 2, 3, 4, 0, 0, 0, 0]).view(2, *SHAPE)
    near(diffusion.v_loss(v_hat, v, torch.zeros(2, 4)), 30 / 8)


def test_5_context_frames_count_neither_above_nor_below_the_line():
    v = torch.zeros(2, *SHAPE)
    v_hat = torch.tensor([1.0, 2, 3, 4, 0, 0, 0, 0]).view(2, *SHAPE)
    mask = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0]])
    near(diffusion.v_loss(v_hat, v, mask), 25 / 6)


def test_5_the_mean_is_over_numbers_not_over_frames():
    v, mask = torch.zeros(2, 4, 3, 2, 2), torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 0]])
    near(diffusion.v_loss(v + 2, v, mask), 4.0)


def test_5_the_gradient_goes_to_v_hat_at_free_frames():
    v_hat = torch.ones(2, *SHAPE, requires_grad=True)
    diffusion.v_loss(v_hat, torch.zeros(2, *SHAPE), condition(2, 2).mask).backward()
    near(v_hat.grad.flatten(), torch.tensor([0, 0, 0.5, 0.5] * 2))


# ---- 6 the teacher's loss, in the loop


class Data:
    """A portrait p and a sound s, each N(0, 1); the clip is 2 p + 3 s in every frame."""

    frames, latents, device = 4, torch.zeros(1, 1, 1, 1), torch.device("cpu")

    def __init__(self, given):
        self.given = given

    def batch(self, size, generator, *rest):
        p = torch.randn(size, 1, 1, 1, generator=generator)
        s = torch.randn(size, 1, 1, 1, generator=generator)
        cond = condition(size, self.given)
        x0 = (2 * p + 3 * s)[:, None].expand(size, *SHAPE).clone()
        if self.given:
            x0[:, : self.given] += 100  # so wrong that it shows if these frames count
        context = x0 * cond.mask.view(size, *SHAPE)
        return x0, cond._replace(ref=p, audio=s.expand(size, 4, 1, 1), context=context)


class Linear(nn.Module):
    """Knows the noise's law, learns that x̂0 = a p + b s. Remembers t, portrait, sound."""

    def __init__(self, channels):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
        self.audio, self.calls = nn.Identity(), []

    def forward(self, xt, t, cond):
        self.calls.append((xt.detach(), t.detach(), cond.ref[:, 0, 0, 0], cond.audio[:, 0, 0, 0]))
        angle = (t / 1000 * torch.pi / 2).view(-1, 1, 1, 1, 1)
        x0 = (self.a * cond.ref + self.b * cond.audio[:, :1])[:, None]
        return (angle.cos() * xt - x0) / angle.sin().clamp_min(0.05)


def train(tmp_path, monkeypatch, steps, given=0, **options):
    """teacher.train with Linear and Data -> the network."""
    made = []

    def network(channels):
        made.append(Linear(channels))
        return made[0]

    videos = SimpleNamespace(phones=None)
    monkeypatch.setattr(teacher, "UNet", network)
    monkeypatch.setattr(teacher, "load_autoencoder", lambda *_: None)
    monkeypatch.setattr(teacher, "load_clips", lambda *_: (videos, Data(given)))
    monkeypatch.setattr(teacher, "contact_sheet", lambda *_: None)
    monkeypatch.setattr(teacher, "save_training", lambda *_, **__: None)
    settings = dict(frames=4, context=0, batch=32, warmup=0, log_every=1000, lr=0.15)
    cfg = teacher.Config(
        recipe="plain",
        out=str(tmp_path),
        steps=steps,
        **settings | dict(sample_every=9999) | options,
    )
    teacher.train(cfg)
    return made[0]


def test_6_the_network_learns_what_portrait_and_sound_say(tmp_path, monkeypatch):
    network = train(tmp_path, monkeypatch, 120)
    assert abs(network.a - 2) < 0.15 and abs(network.b - 3) < 0.15


def test_6_context_frames_teach_nothing(tmp_path, monkeypatch):
    network = train(tmp_path, monkeypatch, 120, given=2)
    assert abs(network.a - 2) < 0.15 and abs(network.b - 3) < 0.15


def test_6_conditions_are_dropped_at_their_rates(tmp_path, monkeypatch):
    """In 20 % both, in a further 40 % the sound alone, the portrait alone never."""
    network = train(tmp_path, monkeypatch, 100, drop_ref=0.2, drop_audio=0.4)
    ref = torch.cat([ref for _, _, ref, _ in network.calls[:100]]) != 0
    sound = torch.cat([sound for *_, sound in network.calls[:100]]) != 0
    assert abs((~ref & ~sound).float().mean() - 0.2) < 0.03
    assert abs((ref & ~sound).float().mean() - 0.4) < 0.03
    assert not (~ref & sound).any()


def test_6_the_network_sees_noise_of_every_strength(tmp_path, monkeypatch):
    network = train(tmp_path, monkeypatch, 30, drop_ref=0, drop_audio=0, lr=0.0)
    times = torch.cat([t for _, t, *_ in network.calls[:30]])
    assert times.min() < 50 and times.max() > 950 and len(times.unique()) > 500
    late = torch.cat([xt[t > 900].flatten() for xt, t, *_ in network.calls[:30]])
    assert abs(late.std() - 1) < 0.1
    for xt, t, ref, sound in network.calls[:30]:
        noise = xt.flatten(1) - (2 * ref + 3 * sound)[:, None]  # at t near 0: hardly any
        assert noise[t < 50].abs().max() < 0.6 if (t < 50).any() else True
