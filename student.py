"""What both stages share: the few-step sampler, data, the optimiser step, a quick evaluation.

    x_T = ε;   x̂0 = G(x_τ, τ, c),   x_τ' = α_τ' x̂0 + σ_τ' ε',   τ = T, ..., T/N

N evaluations; ε' is always fresh. Backward simulation (DMD2 2405.14867, section 4.5): in training
the student's inputs come from this sampler, and only the last evaluation carries gradient.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from common import HERE, check_finite
from departures import noise_source
from diffusion import add_noise, trailing_timesteps, x0_from_v
from evaluation import metrics
from evaluation.measures import correlation, head_spread
from latents import load_clips, preview, preview_noise
from listener import Listener
from parallel import average_gradients
from teacher import hold_context

READER = (
    HERE / "checkpoints/metrics.pt"
)  # reads lips and heads from pixels; without it, no quick_eval
LIPS = ("jaw", "width", "rounding")


# ---------------------------------------------------------------- the sampler


def predict(student, xt, tau, cond):
    """x̂0 = G(x_τ, τ, c), with the true latents at context frames. tau: a number or (B,); the
    network is given (B,) float32."""
    t = torch.as_tensor(tau, dtype=torch.float32, device=xt.device).expand(len(xt))
    return hold_context(x0_from_v(xt, student(xt, t, cond), t), cond)


def rollout(student, cond, noise, taus):
    """x_T = ε; x̂0 = G(x_τ, τ), x_τ' = α_τ' x̂0 + σ_τ' ε'; the last x̂0. DMD2, section 4.5.

    taus: falling timesteps, numbers or tensors (B,); noise() -> a fresh ε (B, F, C, H, W).
    len(taus) evaluations, of which only the last carries gradient, none under no_grad
    (Self-Forcing, 2506.08009).
    """
    xt = noise()
    with torch.no_grad():
        for tau, next_tau in zip(taus, taus[1:]):
            x0_hat = predict(student, xt, tau, cond)
            xt = add_noise(x0_hat, noise(), torch.as_tensor(next_tau, device=xt.device))
    # older torch keeps weights that were cast without gradient, and would then train none of them
    torch.clear_autocast_cache()
    return predict(student, xt, taus[-1], cond)


def few_step_sample(student, cond, noise, steps):
    """x0 (B, F, C, H, W) in `steps` evaluations; noise() -> a fresh ε of that shape."""
    with torch.no_grad():
        return rollout(student, cond, noise, trailing_timesteps(steps)[:-1])


def student_sampler(student, checkpoint_config, steps=None):
    """-> sampler(cond, noise) -> x0, with its recipe's noise. checkpoint_config: as stored in the
    file; steps: overrides the number it was trained for."""
    steps = steps or checkpoint_config.get("target_steps", 1)
    recipe = checkpoint_config.get("recipe", "toy")  # old files do not say

    def sampler(cond, noise):
        student_noise = noise_source(recipe, "student", noise)
        return few_step_sample(student, cond, student_noise, steps)

    return sampler


# ---------------------------------------------------------------- what a training starts from


def network_of(checkpoint_config):
    """The entries of a checkpoint's config that describe its network; students copy them into
    theirs."""
    return {k: checkpoint_config[k] for k in ("channels", "frames", "context")}


def with_recipe(cfg, checkpoint_config):
    """cfg, with the starting network's recipe unless --recipe was given."""
    return replace(cfg, recipe=cfg.recipe or checkpoint_config.get("recipe", "toy"))


def load_data(cfg, frames, autoencoder, device):
    """-> training Clips, held-out Clips, and for quick_eval the reader of lips and the true motion
    (V, F, 11), or None where there is no reader or nobody knows the motion (your own clips)."""
    _, clips = load_clips(cfg, "train", autoencoder, device, frames)
    videos, held_out = load_clips(cfg, "val", autoencoder, device, frames)
    if not (len(videos.motion) and Path(READER).exists()):
        return clips, held_out, None
    motion = np.stack([videos.motion[a : a + frames] for a in videos.starts[:-1]])
    return clips, held_out, (metrics.load_reader(READER, device), motion)


# ---------------------------------------------------------------- steps and looks


def trainable(network):
    """The network, in place, ready to train: everything but its listener."""
    network.train().requires_grad_(True)
    for module in network.modules():
        if isinstance(module, Listener):
            module.requires_grad_(False)
    return network


def adam(network, lr):
    """The optimiser of both stages: no momentum, as usual for GANs."""
    params = network.parameters()
    return torch.optim.AdamW(params, lr=lr, betas=(0.0, 0.99), weight_decay=0.01, fused=True)


def optimise(step, name, network, optimiser, lr, loss):
    """One optimiser step at rate lr, the gradient clipped to norm 1 -> its norm before that.
    Former gradients are forgotten, and only this network's parameters receive new ones, even if
    the loss passes through others."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward(inputs=[p for p in network.parameters() if p.requires_grad])
    average_gradients(network)
    norm = nn.utils.clip_grad_norm_(network.parameters(), 1.0).item()
    check_finite(step, **{f"the {name}'s loss": loss.item(), f"the {name}'s gradient": norm})
    optimiser.param_groups[0]["lr"] = lr
    optimiser.step()
    return norm


def quick_eval(sampler, clips, autoencoder, reader, motion):
    """How well sampler(cond, noise) -> x0 speaks on 16 held-out clips, from the same noise each
    time.

    -> dict: jaw, width and rounding, correlations with the true lips; spread of the head and change
    from frame to frame, over those of the true clips after the autoencoder; colour, mean shift in
    levels of 255.
    """
    x0, cond = preview(clips, 16)
    x = sampler(cond, preview_noise(x0))
    frames, true_frames = (autoencoder.decode(z.flatten(0, 1)) for z in (x, x0))
    read, true = (
        reader(f).view(*x0.shape[:2], -1).float().cpu().numpy() for f in (frames, true_frames)
    )
    truth = motion[: len(x0), : clips.frames]
    found = {name: correlation(read[..., i], truth[..., i]) for i, name in enumerate(LIPS)}
    found["spread"] = float((head_spread(read) / head_spread(true)).mean())
    change, true_change = (
        f.unflatten(0, x0.shape[:2]).diff(dim=1).abs().mean() for f in (frames, true_frames)
    )
    found["change"] = float(change / true_change)
    found["colour"] = float(
        127.5 * (frames.mean((0, 2, 3)) - true_frames.mean((0, 2, 3))).abs().mean()
    )
    return found
