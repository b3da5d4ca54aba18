"""Baseline: consistency distillation, without an adversary and without phases of fewer steps.

    f(x_t, t, c) = α_t x_t − σ_t v̂(x_t, t, c)             x̂0 of the student; f(x, 0, c) = x
    x_s = one guided DDIM step of the teacher from x_t, s = max(0, t − T/n)
    L   = E ‖f(x_t, t, c) − f⁻(x_s, s, c)‖²,     x_t = α x0 + σ ε            (consistency_loss)

f⁻ is the student's moving average. Neighbours on the teacher's path must agree, and at s = 0 f⁻ is
the end of that path: so f comes to map every point to the end, and x_T in one evaluation. The gap
T/n halves from round to round (n = 2, 4, ... 32): with wide gaps the end of the path reaches large
t within a few updates, with narrow ones it gets there undistorted. Sources: Song et al.,
2303.01469, algorithm 2 (v-prediction keeps f(x, 0) = x); the shrinking gap: ECT, 2406.14548.

    python -m baselines.consistency --bf16     -> checkpoints/consistency.pt
    python -m baselines.consistency --smoke    everything at toy size
    python distill_stage2.py --bf16 --student checkpoints/consistency.pt --no-progressive \\
        --curriculum 0 --self-compare 0 --out out/consistency_adv \
        --weights checkpoints/consistency_adv.pt      "consistency, then adversarial" (Seaweed-APT)
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
from diffusion import T, add_noise, ddim_step, v_loss
from latents import contact_sheet, draws
from parallel import join
from student import (
    adam,
    load_data,
    network_of,
    optimise,
    predict,
    quick_eval,
    student_sampler,
    trainable,
)
from teacher import S_AUDIO, S_REF, guided_v, hold_context, load_teacher


@dataclass
class Config(Options):
    out: str = "out/consistency"  # log, contact sheets and the resumable checkpoint
    weights: str = "checkpoints/consistency.pt"  # output file for the one-step student
    autoencoder: str = "checkpoints/autoencoder.pt"  # frames <-> latents
    teacher: str = "checkpoints/teacher.pt"  # its path is followed; the student starts there
    recipe: str = "plain"  # noise as the teacher knows it; toy = as departures.py shapes it
    rounds: int = 5  # n = 2, 4, ... 2^rounds: the gap is T/n
    round_steps: int = 100  # updates in each round
    batch: int = 8  # clips per update
    lr: float = 1e-4  # peak learning rate; a warm-up, then a cosine to zero
    save_every: int = 100  # updates between checkpoints, contact sheets and quick evaluations

    def __post_init__(self):
        super().__post_init__()
        self.check("recipe", "plain", "toy")


SMOKE = smoke("consistency", autoencoder="out/smoke/autoencoder.pt")
SMOKE |= dict(teacher="out/smoke/teacher.pt", rounds=2, round_steps=2, batch=2, save_every=2)
WARMUP, LOG_EVERY = 10, 10  # updates
EMA = 0.95  # largest decay of the moving average, which is both the target and what is shipped


# ---------------------------------------------------------------- the equations


def teacher_step(velocity, xt, t, s, cond, eps):
    """One DDIM step of velocity(x, t, cond) -> v from t to s; context places hold the true latents,
    noised to s. Shapes as diffusion.ddim_step."""
    return hold_context(ddim_step(xt, velocity(xt, t, cond), t, s), cond, eps, s)


def consistency_loss(student, target, xt, xs, t, s, cond):
    """‖f(x_t, t, c) − stopgrad f⁻(x_s, s, c)‖², mean over the frames to be generated. x_t, x_s
    (B, F, C, H, W), t and s (B,). 2303.01469, eq. 7 with d = squared distance and λ = 1."""
    with torch.no_grad():
        x0_target = predict(target, xs, s, cond)
    return v_loss(predict(student, xt, t, cond), x0_target, cond.mask)


# ---------------------------------------------------------------- training


def train(cfg, resume=False):
    # 1 seed and device
    torch.manual_seed(cfg.seed)
    generator = torch.Generator().manual_seed(cfg.seed)
    device = join(pick_device(cfg.device))

    # 2 data
    autoencoder = load_autoencoder(cfg.autoencoder, device)
    teacher, checkpoint_config = load_teacher(cfg.teacher, device)
    network = network_of(checkpoint_config)
    clips, held_out, lip_reader = load_data(cfg, network["frames"], autoencoder, device)

    # 3 networks
    student = trainable(deepcopy(teacher))
    ema = deepcopy(student).eval().requires_grad_(False)

    # 4 optimiser
    optimiser = adam(student, cfg.lr)

    # 5 resume
    plan = [2 ** (1 + r) for r in range(cfg.rounds) for _ in range(cfg.round_steps)]
    parts = dict(student=student, ema=ema, optimiser=optimiser)
    first = resume_training(cfg, "stage1", generator, len(plan), **parts) if resume else 0
    log, rows = Log(cfg.out, cfg, device, resume), []
    uniform, fresh = draws(cfg.batch, clips, generator)
    student_noise = noise_source(cfg.recipe, "student", fresh)
    bfloat16 = partial(torch.autocast, device.type, torch.bfloat16, cfg.bf16)
    guided = partial(guided_v, teacher, s_ref=S_REF, s_audio=S_AUDIO)

    # 6 loop
    for step in range(first, len(plan)):
        n = plan[step]

        # batch: real clips at t ~ U(0, T], and a little further along the teacher's path
        x0, cond = clips.batch(cfg.batch, generator, network["context"])
        t = T * (1 - uniform())
        s = (t - T / n).clamp_min(0)
        eps = student_noise()
        xt = hold_context(add_noise(x0, eps, t), cond, eps, t)
        with bfloat16(), torch.no_grad():
            xs = teacher_step(guided, xt, t, s, cond, eps)

        # step
        with bfloat16():
            loss = consistency_loss(student, ema, xt, xs, t, s, cond)
        lr = cfg.lr * cosine_decay(step / len(plan)) * min(1, (step + 1) / WARMUP)
        norm = optimise(step, "student", student, optimiser, lr, loss)
        update_ema(ema, student, step, EMA)  # ema
        rows.append(dict(loss=loss.item(), gradient=norm))

        if (step + 1) % LOG_EVERY == 0:  # log
            log(step + 1, n=n, **mean_rows(rows))
            rows = []
        if (step + 1) % cfg.save_every == 0 or step + 1 == len(plan):  # sample, save
            sampler = student_sampler(ema, asdict(cfg), steps=1)
            shown = {"student": sampler}
            contact_sheet(f"{cfg.out}/{step + 1:06d}.png", shown, held_out, autoencoder)
            if lip_reader:
                log(step + 1, n=n, **quick_eval(sampler, held_out, autoencoder, *lip_reader))
            one_step = dict(network, target_steps=1)
            save_training(cfg, "stage1", step + 1, generator, network=one_step, **parts)
    return ema


if __name__ == "__main__":
    with one_line_errors():
        train(*parse(Config, __doc__, SMOKE))
