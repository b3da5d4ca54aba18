"""The network, and that another can take its place."""

from copy import deepcopy

import pytest
import test_distill_stage1
import test_distill_stage2
import test_teacher
import torch
from helpers import condition, prepare, small_unet
from torch import nn
from torch.testing import assert_close

import distill_stage1
import distill_stage2
import teacher
from latents import cond_map
from listener import Listener
from unet import Block, UNet


@pytest.fixture(scope="module")
def unet():
    return small_unet().eval()


def test_untrained_network_predicts_zero():
    assert (
        UNet(16)(torch.randn(2, 16, 16, 8, 8), torch.tensor([1.0, 2.0]), condition()).abs().max()
        == 0
    )


@pytest.mark.parametrize("field", ["ref", "audio", "context", "mask"])
def test_every_condition_reaches_the_output(unet, field):
    c, x, t = condition(1, given=4), torch.randn(1, 16, 16, 8, 8), torch.tensor([500.0])
    other = c._replace(**{field: getattr(c, field) + 1})
    assert (unet(x, t, c) - unet(x, t, other)).abs().max() > 1e-3


def test_the_sound_of_a_frame_reaches_that_frame_first(unet):
    """Frame-wise cross-attention: without attention over time, frame 7 hears window 7 and no
    other."""
    model, c = deepcopy(unet), condition(1)
    for block in model.modules():
        if isinstance(block, Block):
            torch.nn.init.zeros_(block.out_t.weight)
    c.audio.requires_grad_()
    model(torch.randn(1, 16, 16, 8, 8), torch.tensor([500.0]), c)[0, 7].square().sum().backward()
    heard = c.audio.grad.abs().sum((0, 2, 3))
    assert heard[7] > 0 and heard.sum() == heard[7]


def test_clips_of_a_batch_do_not_mix(unet):
    c, x, t = condition(2), torch.randn(2, 16, 16, 8, 8), torch.tensor([300.0, 700.0])
    alone = unet(x[1:], t[1:], cond_map(c, lambda y: y[1:]))
    assert_close(unet(x, t, c)[1:], alone, rtol=1e-4, atol=1e-5)


def test_gradient_reaches_every_parameter(unet):
    model = deepcopy(unet)
    model(
        torch.randn(1, 16, 16, 8, 8), torch.tensor([500.0]), condition(1, given=4)
    ).square().sum().backward()
    assert [
        n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ] == []


def test_shapes_that_do_not_fit_are_named(unet):
    with pytest.raises(ValueError, match="does not fit the condition.*audio"):
        unet(torch.randn(1, 12, 16, 8, 8), torch.tensor([1.0]), condition(1))


def test_features_are_the_levels_of_the_first_half_and_the_rest_does_not_touch_them(unet):
    c, x, t = condition(2), torch.randn(2, 16, 16, 8, 8), torch.tensor([300.0, 700.0])
    levels = unet.features(x, t, c)
    assert [level.shape for level in levels] == [(32, 16, 8, 8), (32, 16, 4, 4)]
    other = deepcopy(unet)
    for p in (*other.up1.parameters(), *other.up2.parameters(), *other.outlet.parameters()):
        nn.init.zeros_(p)
    for a, b in zip(levels, other.features(x, t, c)):
        assert_close(a, b, rtol=0, atol=0)


# ---- another network in its place


class DiT(nn.Module):
    """A transformer over places and frames: every place of every frame is a token (DiT, 2212.09748,
    much reduced)."""

    def __init__(self, channels=16, latent=16):
        super().__init__()
        c = channels
        self.audio = Listener(c)
        self.inlet, self.outlet = nn.Linear(3 * latent + 1, c), nn.Linear(c, latent)
        self.time, self.sound = nn.Linear(1, c), nn.Linear(self.audio.size, c)
        self.place = nn.Parameter(0.02 * torch.randn(64, c))
        self.first, self.second = (
            nn.TransformerEncoderLayer(c, 2, 2 * c, 0.0, batch_first=True) for _ in range(2)
        )

    def tokens(self, xt, t, cond):
        b, f, c, h, w = xt.shape
        mask = cond.mask[:, :, None, None, None].expand(b, f, 1, h, w)
        x = torch.cat(
            [xt, cond.ref[:, None].expand_as(xt), cond.context, mask], 2
        )  # (B, F, 3 C + 1, H, W)
        heard = self.sound(self.audio(cond.audio.flatten(0, 1)).mean(1)).view(b, f, 1, -1)
        x = (
            self.inlet(x.flatten(3).transpose(2, 3))
            + self.place
            + heard
            + self.time(t.view(b, 1, 1, 1) / 1000)
        )
        return self.first(x.flatten(0, 1))  # (B F, H W, c)

    def features(self, xt, t, cond):
        x = self.tokens(xt, t, cond)
        return [x.transpose(1, 2).unflatten(2, xt.shape[-2:])]  # one level: (B F, c, H, W)

    def forward(self, xt, t, cond):
        x = self.outlet(self.second(self.tokens(xt, t, cond)))  # (B F, H W, C)
        return x.transpose(1, 2).reshape(xt.shape).float()


def test_every_stage_trains_with_a_transformer_in_the_unets_place(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher, "UNet", DiT)
    monkeypatch.setattr(teacher, "contact_sheet", lambda *args: None)  # 120 evaluations
    monkeypatch.chdir(prepare(tmp_path, videos=1))
    short = dict(save_every=9)
    trained = [
        teacher.train(
            teacher.Config(
                **{**test_teacher.SMALL, "steps": 2, "sound_steps": 0},
                out="t",
                weights="teacher.pt",
            )
        )
    ]
    trained += [
        distill_stage1.train(
            distill_stage1.Config(
                **{**test_distill_stage1.SMALL, "steps": 2, "warm_fake": 0} | short,
                out="1",
                weights="stage1.pt",
            )
        )
    ]
    trained += [
        distill_stage2.train(
            distill_stage2.Config(
                **{**test_distill_stage2.SMALL, "phase_steps": 0} | short, out="2", weights="2.pt"
            )
        )
    ]
    assert all(isinstance(model, DiT) for model in trained)
    for before, after in zip(trained, trained[1:]):
        assert any((a != b).any() for a, b in zip(before.parameters(), after.parameters()))
