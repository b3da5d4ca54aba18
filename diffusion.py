"""The equations of diffusion: noise, v-prediction, the DDIM step, guidance, the loss. One equation, one function; T is 1000.

    x_t = α_t x0 + σ_t ε,    v = α_t ε − σ_t x0,    α_t = cos(πt / 2T),  σ_t = sin(πt / 2T)
    x̂0 = α_t x_t − σ_t v̂,    ε̂ = σ_t x_t + α_t v̂               (v̂: the network's answer, or v_g where it is guided)
    x_s = α_s x̂0 + σ_s ε̂                                       (DDIM, η = 0, from x_T = shape_noise(ε) down to t = 0)
    v_g = v̂(∅) + s_ref [v̂(ref) − v̂(∅)] + s_audio [v̂(ref, audio) − v̂(ref)]      (guidance, 3 branches; s_audio grows as t falls at the mouth, and is 1 elsewhere)
    L   = E ‖v̂(x_t, t, c) − v‖²                                 over the frames that are to be generated; in the teacher's, mouth and eyes weigh more

c is a latents.Cond (portrait, sound, context), ∅ the same with portrait and sound dropped.
Shapes: B batch, F frames, C latent channels (16), H W latent size (8 8), T diffusion steps.
"""
import torch

T = 1000
MOUTH = slice(4, 7), slice(2, 6)       # latent rows and columns in which the mouth lies, whatever the head does
FACE = slice(3, 7), slice(2, 6)        # and with the eyes, which are the row above it


def alpha_sigma(t, ndim=5):
    """α_t = cos(πt / 2T), σ_t = sin(πt / 2T): ᾱ_0 = 1, and ᾱ_T = 0 exactly (zero terminal SNR, 2305.08891).

    t (B,) or a number, 0 <= t <= T -> two tensors (B, 1, ..., 1) with ndim axes. Nichol & Dhariwal's cosine schedule
    (2102.09672) without its offset. Raises ValueError outside [0, T].
    """
    t = torch.as_tensor(t)
    if t.numel() and not (0 <= float(t.min()) and float(t.max()) <= T):
        raise ValueError(f"t must lie in [0, {T}], got {float(t.min())} ... {float(t.max())}")
    u = t.to(torch.float64).reshape(-1, *[1] * (ndim - 1)) / T * torch.pi / 2
    alpha = torch.where(u == torch.pi / 2, 0.0, torch.cos(u))       # cos(pi/2) is 6e-17 in floating point
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
    """x_s = α_s x̂0 + σ_s ε̂ from t to s < t. Song et al., 2010.02502, eq. 12 with η = 0. s = 0 returns x̂0."""
    return add_noise(x0_from_v(xt, v, t), eps_from_v(xt, v, t), s)


def trailing_timesteps(steps):
    """T first, 0 last, equally spaced: (T, T − T/n, ..., T/n, 0), n + 1 numbers. Lin et al., 2305.08891, section 3.3."""
    if steps < 1:
        raise ValueError(f"the sampler needs at least one step, got {steps}")
    return [T * (steps - i) / steps for i in range(steps + 1)]


def shape_noise(eps, smooth, mouth_noise, motion=None):
    """A sampler's ε -> ε', alike over ℓ = smooth frames, only where faces move, mouth_noise times as strong at the mouth. (B, F, C, H, W).
    (0, 1) leaves ε as it is.

    Alike: ε' = A ε over the frames, A Aᵀ = K, K_fg = exp(−(f − g)² / 2ℓ²): a Gaussian process (Rasmussen & Williams, eq. 4.9), N(0, I) in
    every frame as before. What moves a head is smooth, and slow noise decides slow motion (FreeInit, 2312.07537; frames share noise in PYoCo, too,
    2305.10474). A = √K is symmetric: no frame is special.
    Where faces move: every frame's ε' = Vᵀ V ε, with V = motion (k, C H W), orthonormal rows (distill_stage1.motion_directions), None for all: noise
    of k of the C H W dimensions, no longer N(0, I).
    The mouth's places get mouth_noise · ε. Noise is what a sample has beyond its condition: there the sound decides, and noise only shakes the
    lips. (Less noise, less variety, better samples: the truncation trick of BigGAN, 1809.11096, here in one place only.)
    """
    shaped = eps.clone()
    with torch.autocast(eps.device.type, enabled=False):                       # noise stays exact under --bf16
        if smooth:
            f = torch.arange(eps.shape[1], dtype=torch.float64)
            values, vectors = torch.linalg.eigh(torch.exp(-(f[:, None] - f) ** 2 / (2 * smooth ** 2)))
            root = vectors * values.clamp_min(0).sqrt() @ vectors.T            # rounding makes the smallest eigenvalues negative
            shaped = torch.einsum("fg,bgchw->bfchw", root.to(eps), shaped)
        if motion is not None:
            shaped = (shaped.flatten(2) @ motion.T @ motion).view_as(eps)
    shaped[..., *MOUTH] = mouth_noise * eps[..., *MOUTH]
    return shaped


def guide(v_none, v_ref, v_full, s_ref, s_audio):
    """v_g = v(∅) + s_ref [v(ref) − v(∅)] + s_audio [v(ref, audio) − v(ref)]; scales of 1 give v(ref, audio).

    Classifier-free guidance (2207.12598) for two conditions, as in InstructPix2Pix (2211.09800), eq. 3. Scales: numbers, or tensors that broadcast.
    """
    return v_none + s_ref * (v_ref - v_none) + s_audio * (v_full - v_ref)


def mouth_guidance(s_audio, t):
    """s_audio -> its scale at every place (B, 1, 1, 8, 8) at t (B,): 1 + 2 (s_audio − 1) (1 − t / T) at the mouth, 1 elsewhere.

    Guidance gives up variety for what the condition decides. The sound decides the lips alone: elsewhere it would only calm the head. And it is
    worth most when little noise is left, so its scale grows as t falls; the mean over t is s_audio (Wang et al., 2404.13040). A sampler of few steps
    stays below that mean: in one step, at T, the scale is 1.
    """
    scale = torch.ones(len(t), 1, 1, 8, 8, device=t.device)
    scale[..., *MOUTH] = (1 + 2 * (s_audio - 1) * (1 - t / T)).view(-1, 1, 1, 1, 1)
    return scale


def v_loss(v_hat, v, mask, face=1.0):
    """Mean of (v̂ − v)² over the frames to be generated. v̂, v (B, F, C, H, W); mask (B, F), 1 = given as context.

    face: how much the places of mouth and eyes (FACE, 16 of 64) weigh. The best answer at a place is the mean of v given x_t and c
    whatever it weighs: weights leave the optimum where it is, and only steer what a small network spends its capacity on.
    """
    place = torch.ones(v.shape[-2:], device=v.device)
    place[FACE] = face
    free = ((1 - mask)[:, :, None, None, None] * place).expand_as(v)
    return (free * (v_hat - v) ** 2).sum() / free.sum()
