"""A GPU without a GPU: on torch's "meta" device tensors have shapes but no numbers."""

import contextlib

import pytest
import torch
from helpers import condition, small_unet

from departures import noise_source
from diffusion import add_noise
from distill_stage1 import dmd_gradient, dmd_loss, fake_loss, real_score
from distill_stage2 import Discriminator, penalty
from latents import Cond
from student import predict, rollout
from teacher import ddim_sample, hold_context


@pytest.mark.slow
def test_a_step_mixes_no_devices_and_waits_for_no_number(monkeypatch):
    """Tensors on two devices fail here as on a GPU, and so does reading a number, .item(), which
    would make the CPU wait for the GPU. Slow: torch first loads its meta kernels."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    c = Cond(*(x.to("meta") for x in condition(given=4)))
    x0, net, t = torch.empty_like(c.context), small_unet().to("meta"), torch.empty(2, device="meta")
    fresh = noise_source("toy", "student", lambda: torch.empty_like(x0))

    x0_hat = rollout(net, c, fresh, [1000.0, 500.0])
    x0_real = real_score(net, add_noise(x0_hat, fresh(), t), t, c, 1.1, 2.0)
    dmd_loss(x0_hat, dmd_gradient(x0, x0_real, x0_hat, c.mask), c.mask).backward()
    fake_loss(net, x0_hat, c, t, fresh()).backward()
    tau = torch.tensor(750.0, device="meta")
    predict(net, add_noise(x0, fresh(), tau), tau, c)

    x0_hat, disc = x0_hat.detach(), Discriminator(net, [16, 16]).to("meta")
    value = disc(hold_context(x0_hat, c), t, c)
    penalty(disc, x0_hat, t, c, value, fresh()).backward()
    assert ddim_sample(net, c, fresh(), steps=2).device.type == "meta"
