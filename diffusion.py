"""The equations of diffusion: noise, v-prediction, the DDIM step, guidance, the loss.

    x_t = α_t x0 + σ_t ε,    v = α_t ε − σ_t x0,    α_t = cos(πt / 2T),  σ_t = sin(πt / 2T)
    x̂0 = α_t x_t − σ_t v̂,    ε̂ = σ_t x_t + α_t v̂     (v̂: the network's answer, or v_g if guided)
    x_s = α_s x̂0 + σ_s ε̂                             (DDIM, η = 0, from x_T = ε down to t = 0)
    v_g = v̂(∅) + s_ref [v̂(ref) − v̂(∅)] + s_audio [v̂(ref, audio) − v̂(ref)]         (guidance)
    L   = E ‖v̂(x_t, t, c) − v‖²                      over the frames that are to be generated

c is a latents.Cond (portrait, sound, context), ∅ the same without portrait and sound; T is 1000.
Shapes: B batch, F frames, C latent channels (16), H W latent size (8 8). One equation, one function
"""

import torch

from parallel import process_mean

T = 1000


def alpha_sigma(t, ndim=5):
    """α_t = cos(πt / 2T), σ_t = sin(πt / 2T): ᾱ_0 = 1, and ᾱ_T = 0 exactly (zero terminal SNR,
    2305.08891).

    t (B,) or a number, 0 <= t <= T -> two tensors (B, 1, ..., 1) with ndim axes. Nichol &
    Dhariwal's cosine schedule (2102.09672) without its offset. Raises ValueError outside [0, T].
    """
    t = torch.as_tensor(t)
    # on a GPU this look at the numbers would make the CPU wait
    if t.device.type == "cpu" and t.numel() and not (0 <= float(t.min()) and float(t.max()) <= T):
        raise ValueError(f"t must lie in [0, {T}], got {float(t.min())} ... {float(t.max())}")
    u = t.to(torch.float64).reshape(-1, *[1] * (ndim - 1)) / T * torch.pi / 2
    # at t = T exactly 0: in floating point cos(pi / 2) is 6e-17
    alpha = torch.where(u == torch.pi / 2, 0.0, torch.cos(u))
    kind = t.dtype if t.dtype == torch.float64 else torch.float32
    return alpha.to(kind), torch.sin(u).to(kind)


def add_noise(x0, eps, t):
    """x_t = α_t x0 + σ_t ε. x0, ε (B, ...), t (B,) -> like x0. Ho et al., 2006.11239, eq. 4."""
    alpha, sigma = alpha_sigma(t, x0.ndim)
    return alpha * x0 + sigma * eps


def v_target(x0, eps, t):
    """v = α_t ε − σ_t x0. Shapes as add_noise. Salimans & Ho, 2202.00512, appendix D."""
    alpha, sigma = alpha_sigma(t, x0.ndim)
    return alpha * eps - sigma * x0


def x0_from_v(xt, v, t):
    """x̂0 = α_t x_t − σ_t v: no division, so it holds at t = T, where x̂0 = −v."""
    alpha, sigma = alpha_sigma(t, xt.ndim)
    return alpha * xt - sigma * v


def eps_from_v(xt, v, t):
    """ε̂ = σ_t x_t + α_t v: no division, so it holds at t = 0, where ε̂ = v."""
    alpha, sigma = alpha_sigma(t, xt.ndim)
    return sigma * xt + alpha * v


def ddim_step(xt, v, t, s):
    """x_s = α_s x̂0 + σ_s ε̂ from t to s < t. Song et al., 2010.02502, eq. 12 with η = 0. s = 0
    returns x̂0."""
    return add_noise(x0_from_v(xt, v, t), eps_from_v(xt, v, t), s)


def trailing_timesteps(steps):
    """T first, 0 last, equally spaced: (T, T − T/n, ..., T/n, 0), n + 1 numbers. Lin et al.,
    2305.08891, section 3.3."""
    if steps < 1:
        raise ValueError(f"the sampler needs at least one step, got {steps}")
    return [T * (steps - i) / steps for i in range(steps + 1)]


def guide(v_none, v_ref, v_full, s_ref, s_audio):
    """v_g = v(∅) + s_ref [v(ref) − v(∅)] + s_audio [v(ref, audio) − v(ref)]; scales of 1 give
    v(ref, audio).

    Classifier-free guidance (2207.12598) for two conditions, as in InstructPix2Pix (2211.09800),
    eq. 3. Scales: numbers, or tensors that broadcast.
    """
    return v_none + s_ref * (v_ref - v_none) + s_audio * (v_full - v_ref)


def v_loss(v_hat, v, mask):
    """Mean of (v̂ − v)² over the frames to be generated. v̂, v (B, F, C, H, W); mask (B, F), 1 =
    given as context."""
    free = (1 - mask)[:, :, None, None, None].expand_as(v)
    count = process_mean(free.sum())  # under torchrun all divide by the same number
    return (free * (v_hat - v) ** 2).sum() / count
