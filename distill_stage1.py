"""Stage 1, Distribution Matching Distillation: the teacher's 120 evaluations -> 4.

    x_T = ε,  x̂0 = G(x_τ, τ, c),  x_τ' = α_τ' x̂0 + σ_τ' ε,  τ = T, 3T/4, T/2, T/4  (student.rollout)
    g = (x0_fake(x_t) − x0_real(x_t)) / mean |x̂0 − x0_real(x_t)|
        x_t = α_t x̂0 + σ_t ε,  t ~ U[0.02 T, 0.98 T]                               (dmd_gradient)
    L_DMD  = ½ mean (x̂0 − stopgrad(x̂0 − g))²         so ∂L/∂x̂0 = g / n            (dmd_loss)
    L_fake = E ‖v_fake(x_t, t, c) − (α_t ε − σ_t stopgrad(x̂0))‖²,  t ~ U(0, T]      (fake_loss)

x0_real is the frozen teacher with guidance. x0_fake starts as a copy of it and is trained, several
times per student update, to denoise what the student makes now. g vanishes where the student's
samples are distributed as the teacher's; guidance bends that aim, as it does when the teacher
samples. Sources: DMD 2311.18828; DMD2 2405.14867 (backward simulation, two time scales); TurboTalk
2604.14580, stage 1.

    python distill_stage1.py --bf16     10 minutes on one CPU core (AVX-512 with bfloat16)
    python distill_stage1.py --smoke    everything at toy size (after python teacher.py --smoke)
    python distill_stage1.py --bf16 --target-steps 1 --steps 400 --out out/direct1 \\
        --weights checkpoints/direct1.pt         the baseline "direct to one step"
Writes checkpoints/stage1.pt (the moving average, float16) and out/stage1/: log.jsonl, last.pt,
contact sheets.
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
from diffusion import T, add_noise, trailing_timesteps, v_loss, v_target, x0_from_v
from latents import contact_sheet, draws
from parallel import join
from student import (
    adam,
    load_data,
    network_of,
    optimise,
    predict,
    quick_eval,
    rollout,
    student_sampler,
    trainable,
    with_recipe,
)
from teacher import guided_v, load_teacher


@dataclass
class Config(Options):
    out: str = "out/stage1"  # log, contact sheets and the resumable checkpoint
    weights: str = "checkpoints/stage1.pt"  # output file for the student
    autoencoder: str = "checkpoints/autoencoder.pt"  # frames <-> latents
    teacher: str = "checkpoints/teacher.pt"  # the real score; student and fake score start there
    recipe: str = ""  # plain = the method, toy = with departures.py; "" = the teacher's
    steps: int = 250  # iterations: one student update and several of the fake score each
    warm_fake: int = 20  # initial iterations that train only the fake score
    batch: int = 8  # clips per iteration
    lr: float = 1e-4  # peak learning rate of the student; a warm-up, then a cosine to zero
    fake_lr: float = 2e-4  # of the fake score; falls along the same cosine
    save_every: int = 50  # iterations between checkpoints, contact sheets and quick evaluations
    target_steps: int = 4  # ablation: steps of the student; 1 = direct DMD to one step
    fake_updates: int = 3  # ablation: fake-score updates per student update, on the same samples
    s_ref: float = 1.0  # ablation: the real score's portrait guidance; larger: calmer heads
    s_audio: float = 2.0  # ablation: the real score's sound guidance (both 1: no guidance)
    simulate: str = "backward"  # ablation: student inputs from its own sampler; data = real clips

    def __post_init__(self):
        super().__post_init__()
        self.check("recipe", "", "plain", "toy")
        self.check("simulate", "backward", "data")


SMOKE = smoke("stage1", autoencoder="out/smoke/autoencoder.pt", teacher="out/smoke/teacher.pt")
SMOKE |= dict(steps=4, warm_fake=1, batch=2, fake_updates=2, save_every=2)
WARMUP = 20  # student updates
EMA = 0.99  # largest decay of the moving average, which is what is shipped (common.update_ema)
LOG_EVERY = 10  # iterations


# ---------------------------------------------------------------- the equations


def real_score(teacher, xt, t, cond, s_ref, s_audio):
    """x0_real: the guided teacher's estimate of x0 given x_t. 3 evaluations, 2 with s_ref = 1, 1
    with both scales at 1."""
    return x0_from_v(xt, guided_v(teacher, xt, t, cond, s_ref, s_audio), t)


def fake_score(fake, xt, t, cond):
    """x0_fake: the fake score's estimate of x0 given x_t, without guidance. 1 evaluation."""
    return x0_from_v(xt, fake(xt, t, cond), t)


def dmd_gradient(x0_fake, x0_real, x0_hat, mask):
    """g = (x0_fake − x0_real) / mean |x̂0 − x0_real|, the mean per clip and over its free frames.
    DMD, 2311.18828.

    All (B, F, C, H, W), mask (B, F) with 1 = context, where g is 0. Detached. The normaliser is at
    least 1e-5.
    """
    free = (1 - mask)[:, :, None, None, None]
    count = free.expand_as(x0_hat).sum((1, 2, 3, 4), keepdim=True)
    scale = (free * (x0_hat - x0_real).abs()).sum((1, 2, 3, 4), keepdim=True) / count
    return (free * (x0_fake - x0_real) / scale.clamp_min(1e-5)).detach()


def dmd_loss(x0_hat, g, mask):
    """½ ‖x̂0 − stopgrad(x̂0 − g)‖², mean over the n free numbers: its value is not
    informative; its gradient is g / n. (B, F, C, H, W), (B, F)."""
    target = (x0_hat - g).detach()  # detach: otherwise the two x̂0 cancel
    return 0.5 * v_loss(x0_hat, target, mask)  # v_loss is a masked mean square, here of x̂0


def fake_loss(fake, x0_hat, cond, t, eps):
    """E ‖v_fake(x_t, t, c) − v‖² on the student's own samples: plain v-MSE, which weighs (x̂0 −
    x0_fake)² by 1 / σ_t²."""
    x0_hat = x0_hat.detach()  # detach: the fake score must not train the student
    return v_loss(fake(add_noise(x0_hat, eps, t), t, cond), v_target(x0_hat, eps, t), cond.mask)


load_stage1 = partial(load_teacher, kind="stage1")


# ---------------------------------------------------------------- training


def train(cfg, resume=False):
    # 1 seed and device
    torch.manual_seed(cfg.seed)
    generator = torch.Generator().manual_seed(cfg.seed)  # batches, timesteps and noise: on the CPU
    device = join(pick_device(cfg.device))

    # 2 data
    autoencoder = load_autoencoder(cfg.autoencoder, device)
    teacher, checkpoint_config = load_teacher(cfg.teacher, device)
    cfg, network = with_recipe(cfg, checkpoint_config), network_of(checkpoint_config)
    clips, held_out, lip_reader = load_data(cfg, network["frames"], autoencoder, device)

    # 3 networks
    fake, student = trainable(deepcopy(teacher)), trainable(deepcopy(teacher))
    ema = deepcopy(student).eval().requires_grad_(False)
    taus = trailing_timesteps(cfg.target_steps)[:-1]

    # 4 optimisers
    optimiser, fake_optimiser = adam(student, cfg.lr), adam(fake, cfg.fake_lr)

    # 5 resume
    parts = dict(student=student, fake=fake, ema=ema)
    parts |= dict(optimiser=optimiser, fake_optimiser=fake_optimiser)
    first = resume_training(cfg, "stage1", generator, cfg.steps, **parts) if resume else 0
    log, rows = Log(cfg.out, cfg, device, resume), []
    uniform, fresh = draws(cfg.batch, clips, generator)
    student_noise = noise_source(cfg.recipe, "student", fresh)
    score_noise = noise_source(cfg.recipe, "teacher", fresh)
    bfloat16 = partial(torch.autocast, device.type, torch.bfloat16, cfg.bf16)

    # 6 loop
    for step in range(first, cfg.steps):
        student_learns = step >= cfg.warm_fake  # until then the fake score learns alone
        updates = max(0, step - cfg.warm_fake)  # of the student so far
        decay = cosine_decay(updates / max(1, cfg.steps - cfg.warm_fake))

        # batch: clips, and the student's answer after k of its steps, k drawn
        x0, cond = clips.batch(cfg.batch, generator, network["context"])
        k = 1 + int(torch.randint(cfg.target_steps, (), generator=generator))
        with bfloat16(), torch.set_grad_enabled(student_learns):
            if cfg.simulate == "backward":
                x0_hat = rollout(student, cond, student_noise, taus[:k])  # (B, F, C, H, W)
            else:  # ablation: noised real clips, inputs that sampling never meets
                tau = torch.tensor(taus[k - 1], device=device)
                x0_hat = predict(student, add_noise(x0, student_noise(), tau), tau, cond)
        row = dict(latent_mean=x0_hat.mean().item(), latent_std=x0_hat.std().item())

        # the student's step: along g, the difference of the two scores
        if student_learns:
            t = T * (0.02 + 0.96 * uniform())
            xt = add_noise(x0_hat.detach(), score_noise(), t)
            with bfloat16(), torch.no_grad():
                x0_real = real_score(teacher, xt, t, cond, cfg.s_ref, cfg.s_audio)
                x0_fake = fake_score(fake, xt, t, cond)
            g = dmd_gradient(x0_fake, x0_real, x0_hat, cond.mask)
            loss = dmd_loss(x0_hat, g, cond.mask)
            lr = cfg.lr * decay * min(1, (updates + 1) / WARMUP)
            row["gradient"] = optimise(step, "student", student, optimiser, lr, loss)
            row["g"] = g.abs().mean().item()
            update_ema(ema, student, updates, EMA)  # ema

        # the fake score's steps, after the student's: trained first on these samples, it would have
        # memorised them and bias g
        for _ in range(cfg.fake_updates):
            with bfloat16():
                loss = fake_loss(fake, x0_hat, cond, T * (1 - uniform()), score_noise())
            optimise(step, "fake score", fake, fake_optimiser, cfg.fake_lr * decay, loss)
            row["fake_loss"] = row.get("fake_loss", 0.0) + loss.item() / cfg.fake_updates
        rows.append(row)

        if (step + 1) % LOG_EVERY == 0:  # log
            log(step + 1, **mean_rows(rows))
            rows = []
        if (step + 1) % cfg.save_every == 0 or step + 1 == cfg.steps:  # sample, save
            sampler = student_sampler(ema, asdict(cfg))
            shown = {"student": sampler}
            contact_sheet(f"{cfg.out}/{step + 1:06d}.png", shown, held_out, autoencoder)
            if lip_reader:
                log(step + 1, **quick_eval(sampler, held_out, autoencoder, *lip_reader))
            save_training(cfg, "stage1", step + 1, generator, network=network, **parts)
    return ema


if __name__ == "__main__":
    with one_line_errors():
        train(*parse(Config, __doc__, SMOKE))
