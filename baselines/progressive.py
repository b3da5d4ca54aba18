"""Baseline: progressive distillation, 32 steps -> 16 -> 8 -> 4 -> 2 -> 1, without an adversary.

    x_t'' = two DDIM steps of the teacher from t, by way of t'      (guided in the first round)
    x̃    = (x_t'' − (σ''/σ) x_t) / (α'' − (σ''/σ) α)                     (two_step_target)
    L     = E max(1, α²/σ²) ‖x̂0(x_t, t, c) − x̃‖²,   x_t = α x0 + σ ε,   t one of the student's steps

One student step then goes where two of the teacher's went. The student's moving average at the end
of a round is the next round's teacher; the student itself goes on. Progression without a
discriminator: what the table's row lacks is what D adds.
Source: Salimans & Ho, 2202.00512, algorithm 2 and the truncated SNR weighting.

    python -m baselines.progressive --bf16     -> checkpoints/progressive.pt
    python -m baselines.progressive --smoke    everything at toy size
"""

from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial

import torch

from autoencoder import load_autoencoder
from checkpoint import resume_training, save_training
from common import (
    Log,
    Options,
    cosine_decay,
    mean_rows,
    one_line_errors,
    parse,
    pick_device,
    smoke,
    update_ema,
)
from departures import noise_source
from diffusion import T, add_noise, alpha_sigma, ddim_step, v_loss, x0_from_v
from latents import contact_sheet, draws
from parallel import join
from student import (
    adam,
    load_data,
    network_of,
    optimise,
    quick_eval,
    student_sampler,
    trainable,
)
from teacher import S_AUDIO, S_REF, guided_v, hold_context, load_teacher


@dataclass
class Config(Options):
    out: str = "out/progressive"  # log, contact sheets and the resumable checkpoint
    weights: str = "checkpoints/progressive.pt"  # output file for the one-step student
    autoencoder: str = "checkpoints/autoencoder.pt"  # frames <-> latents
    teacher: str = "checkpoints/teacher.pt"  # the first teacher, and where the student starts
    recipe: str = "plain"  # noise as the teacher knows it; toy = as departures.py shapes it
    first_steps: int = 32  # of the first teacher; each round halves them
    round_steps: int = 100  # updates in each round
    batch: int = 8  # clips per update
    lr: float = 1e-4  # peak learning rate, along a cosine in each round
    save_every: int = 100  # updates between checkpoints, contact sheets and quick evaluations

    def __post_init__(self):
        super().__post_init__()
        self.check("recipe", "plain", "toy")
        if self.first_steps < 2 or self.first_steps & (self.first_steps - 1):
            raise ValueError(f"--first-steps must be 2, 4, 8 ..., got {self.first_steps}")


SMOKE = smoke("progressive", autoencoder="out/smoke/autoencoder.pt")
SMOKE |= dict(teacher="out/smoke/teacher.pt", first_steps=4, round_steps=2, batch=2, save_every=2)
WARMUP, EMA, LOG_EVERY = 10, 0.99, 10  # updates; of the moving average, which is shipped; updates


# ---------------------------------------------------------------- the equations


def two_step_target(x_start, x_end, t, s):
    """x̃: the x̂0 with which ONE DDIM step from t to s < t goes from x_start to x_end. At s = 0 it is
    x_end. 2202.00512, algorithm 2. All (B, F, C, H, W), t and s (B,)."""
    alpha, sigma = alpha_sigma(t)
    alpha_s, sigma_s = alpha_sigma(s)
    ratio = sigma_s / sigma
    return (x_end - ratio * x_start) / (alpha_s - ratio * alpha)


def teacher_steps(velocity, xt, t, s, cond, eps):
    """Two DDIM steps of velocity(x, t, cond) -> v, from t half way to s and to s; context places
    hold the true latents, noised to the same t."""
    middle = (t + s) / 2
    for start, end in (t, middle), (middle, s):
        xt = ddim_step(xt, velocity(xt, start, cond), start, end)
        xt = hold_context(xt, cond, eps, end)
    return xt


def progressive_loss(student, x_end, xt, t, s, cond):
    """Truncated SNR: max(1, α²/σ²) (x̂0 − x̃)², mean over the frames to be generated."""
    x0_hat = x0_from_v(xt, student(xt, t, cond), t)
    alpha, sigma = alpha_sigma(t)
    weight = (alpha / sigma).clamp_min(1)
    return v_loss(weight * x0_hat, weight * two_step_target(xt, x_end, t, s), cond.mask)


# ---------------------------------------------------------------- training


def train(cfg, resume=False):
    # 1 seed and device
    torch.manual_seed(cfg.seed)
    generator = torch.Generator().manual_seed(cfg.seed)
    device = join(pick_device(cfg.device))

    # 2 data
    autoencoder = load_autoencoder(cfg.autoencoder, device)
    first_teacher, checkpoint_config = load_teacher(cfg.teacher, device)
    network = network_of(checkpoint_config)
    clips, held_out, lip_reader = load_data(cfg, network["frames"], autoencoder, device)

    # 3 networks
    student = trainable(deepcopy(first_teacher))
    teacher = deepcopy(student).requires_grad_(False)
    ema = deepcopy(student).eval().requires_grad_(False)

    # 4 optimiser
    optimiser = adam(student, cfg.lr)

    # 5 resume
    counts = [2**k for k in reversed(range(cfg.first_steps.bit_length() - 1))]  # 16, 8, 4, 2, 1
    plan = [(n, i) for n in counts for i in range(cfg.round_steps)]
    parts = dict(student=student, teacher=teacher, ema=ema, optimiser=optimiser)
    first = resume_training(cfg, "stage1", generator, len(plan), **parts) if resume else 0
    log, rows = Log(cfg.out, cfg, device, resume), []
    uniform, fresh = draws(cfg.batch, clips, generator)
    student_noise = noise_source(cfg.recipe, "student", fresh)
    bfloat16 = partial(torch.autocast, device.type, torch.bfloat16, cfg.bf16)
    guided = partial(guided_v, first_teacher, s_ref=S_REF, s_audio=S_AUDIO)

    # 6 loop
    for step in range(first, len(plan)):
        n, i = plan[step]
        if i == 0 and step:  # a new round: yesterday's student is the teacher
            teacher.load_state_dict(ema.state_dict())

        # batch: real clips, noised to one of the student's n timesteps
        x0, cond = clips.batch(cfg.batch, generator, network["context"])
        t = T * (1 + (n * uniform()).floor().clamp_max(n - 1)) / n
        s = (t - T / n).clamp_min(0)
        eps = student_noise()
        xt = hold_context(add_noise(x0, eps, t), cond, eps, t)
        with bfloat16(), torch.no_grad():
            x_end = teacher_steps(guided if n == counts[0] else teacher, xt, t, s, cond, eps)

        # step
        with bfloat16():
            loss = progressive_loss(student, x_end, xt, t, s, cond)
        lr = cfg.lr * cosine_decay(i / cfg.round_steps) * min(1, (i + 1) / WARMUP)
        norm = optimise(step, "student", student, optimiser, lr, loss)
        update_ema(ema, student, i, EMA)  # ema, anew in each round
        rows.append(dict(loss=loss.item(), gradient=norm))

        if (step + 1) % LOG_EVERY == 0:  # log
            log(step + 1, steps=n, **mean_rows(rows))
            rows = []
        if (step + 1) % cfg.save_every == 0 or step + 1 == len(plan):  # sample, save
            sampler = student_sampler(ema, asdict(cfg), steps=n)
            shown = {"student": sampler}
            contact_sheet(f"{cfg.out}/{step + 1:06d}.png", shown, held_out, autoencoder)
            if lip_reader:
                log(step + 1, steps=n, **quick_eval(sampler, held_out, autoencoder, *lip_reader))
            one_step = dict(network, target_steps=1)
            save_training(cfg, "stage1", step + 1, generator, n == 1, one_step, **parts)
    return ema


if __name__ == "__main__":
    with one_line_errors():
        train(*parse(Config, __doc__, SMOKE))
