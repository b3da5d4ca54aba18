"""Stage 2, progressive adversarial distillation: 4 evaluations -> 3 -> 2 -> 1.

    x̂0 = the student's sampler with N steps, gradient only through the last      (N = 3, 2, 1)
    L_D = softplus(−(D(x0) − D(x̂0))) + λ_sc softplus(−(D(x_ref) − D(x̂0)))         (disc_objective)
          + λ [R(x0) + R(x̂0) + R(x_ref)]
    L_G = softplus(−(D(x̂0) − D(x0))) + λ_sc softplus(−(D(x̂0) − D(x_ref)))         (gen_objective)
    R(x) = mean (D(x_t) − D(x_t + σ_p n))²                                        (penalty)

D(x) is short for D(x_t, t, c), x_t = α_t x + σ_t ε, t ~ U[0, 0.3 T], with the same t, ε and
condition c for x0, x̂0 and x_ref. x_ref is a 4-step sample of the frozen stage-1 student, from noise
of its own: better than an N-step sample, and easier to match than the data. D starts as a copy of
that student and is first trained alone, on its 4-step samples. Then come the phases; student, D and
both optimisers go on from one to the next, only the student's rate starts anew. At the start of a
phase the last timestep is drawn between the old phase's and the new one's, so the last step learns
to jump further and further.
Sources: TurboTalk 2604.14580, stage 2; R3GAN 2501.05441 (pairing); Seaweed-APT 2501.08316
(finite-noise penalties); Diffusion-GAN 2206.02262 (noised clips).

    python distill_stage2.py --bf16     18 minutes on one CPU core (AVX-512 with bfloat16)
    python distill_stage2.py --smoke    everything at toy size (after the other scripts' --smoke)
Writes checkpoints/stage2.pt (the moving average, float16) and out/stage2/: log.jsonl, last.pt,
contact sheets.
"""

from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial

import torch
import torch.nn.functional as F

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
from diffusion import T, add_noise
from discriminator import Discriminator
from distill_stage1 import load_stage1
from latents import contact_sheet, draws, preview
from parallel import join
from phases import draw_last, phases, warm_timesteps
from student import (
    adam,
    load_data,
    network_of,
    optimise,
    quick_eval,
    rollout,
    student_sampler,
    trainable,
    with_recipe,
)
from teacher import hold_context, load_teacher


@dataclass
class Config(Options):
    out: str = "out/stage2"  # log, contact sheets and the resumable checkpoint
    weights: str = "checkpoints/stage2.pt"  # output file for the one-step student
    autoencoder: str = "checkpoints/autoencoder.pt"  # frames <-> latents
    student: str = "checkpoints/stage1.pt"  # 4-step student: initialises student, D; makes x_ref
    recipe: str = ""  # plain = the method, toy = with departures.py; "" = the 4-step student's
    batch: int = 8  # clips per iteration
    lr: float = 6e-5  # peak rate of the student in phase N = 1; divided by N in phases 3 and 2
    disc_lr: float = 5e-4  # of the discriminator
    save_every: int = 50  # iterations between checkpoints, contact sheets and quick evaluations
    warm_disc: int = 30  # ablation: iterations before phase 3 in which only D learns
    phase_steps: int = 20  # ablation: student updates in each of the phases 3 and 2
    last_steps: int = 300  # ablation: student updates in phase 1
    progressive: bool = True  # ablation: phases 3 and 2; without, phase 1 gets their updates
    curriculum: int = 10  # ablation: W, updates in which the last timestep is drawn; 0 = none
    self_compare: float = 2.0  # ablation: λ_sc; 0 = no self-compare objective, and no R(x_ref)
    gan: str = "relativistic"  # ablation: relativistic, hinge or vanilla
    penalty: float = 20.0  # ablation: λ of the gradient penalties; 0 = none
    disc_noise: float = 0.3  # ablation: D sees clips noised up to this share of T; 0 = clean

    def __post_init__(self):
        super().__post_init__()
        self.check("recipe", "", "plain", "toy")
        self.check("gan", "relativistic", "hinge", "vanilla")
        if self.disc_noise > 1:
            raise ValueError(f"--disc-noise is a share of T, 0 to 1, got {self.disc_noise}")


SMOKE = smoke("stage2", autoencoder="out/smoke/autoencoder.pt", student="out/smoke/stage1.pt")
SMOKE |= dict(batch=2, warm_disc=1, phase_steps=1, last_steps=2, curriculum=1, save_every=2)
WARMUP = 10  # student updates of each phase
EMA = 0.99  # largest decay of the moving average, which is what is shipped (common.update_ema)
LOG_EVERY = 10  # iterations
SIGMA = 0.1  # σ_p of the penalties' noise: λ and σ_p together act like R1 with γ = 2 λ σ_p²


# ---------------------------------------------------------------- the equations


def pair_loss(above, below):
    """softplus(−(D(above) − D(below))), mean: only the difference counts. D's values (B,), (B,) ->
    scalar. R3GAN, 2501.05441."""
    return F.softplus(-(above - below)).mean()


def disc_loss(kind, real, fake):
    """What the discriminator minimises. D's values (B,), (B,) -> scalar. Relativistic: R3GAN,
    2501.05441. hinge: max(0, 1 − D(x0)) + max(0, 1 + D(x̂0)); vanilla: softplus(−D(x0)) +
    softplus(D(x̂0)).
    """
    if kind == "relativistic":
        return pair_loss(real, fake)  # same condition: a pair
    if kind == "hinge":
        return (F.relu(1 - real) + F.relu(1 + fake)).mean()
    return (F.softplus(-real) + F.softplus(fake)).mean()


def gen_loss(kind, real, fake):
    """What the student minimises. D's values (B,), (B,) -> scalar. Relativistic: disc_loss with the
    clips exchanged; hinge: −D(x̂0); vanilla, non-saturating: softplus(−D(x̂0))."""
    if kind == "relativistic":
        return pair_loss(fake, real)
    return -fake.mean() if kind == "hinge" else F.softplus(-fake).mean()


def self_compare_loss(better, worse):
    """softplus(−(D(better) − D(worse))), mean. D learns (x_ref, x̂0), the student the opposite
    order. TurboTalk, stage 2, self-compare."""
    return pair_loss(better, worse)


def disc_objective(kind, real, reference, fake, weight):
    """L_D + λ_sc L_sc,D: real above fake, and reference above fake; D is not asked to rank real and
    reference. D's values (B,) -> scalar."""
    return disc_loss(kind, real, fake) + weight * self_compare_loss(reference, fake)


def gen_objective(kind, real, reference, fake, weight):
    """L_G + λ_sc L_sc,G: fake above real, and fake above reference. D's values (B,) -> scalar."""
    return gen_loss(kind, real, fake) + weight * self_compare_loss(fake, reference)


def penalty(disc, xt, t, cond, value, n):
    """R(x) = mean (D(x_t) − D(x_t + σ_p n))²: how steep D is around x_t. value = D(x_t); both
    values carry gradient. Context places hold the true latents (hold_context) here, too.
    Seaweed-APT, 2501.08316, approximated R1.
    """
    return (value - disc(hold_context(xt + SIGMA * n, cond), t, cond)).square().mean()


# ---------------------------------------------------------------- training

load_stage2 = partial(load_teacher, kind="stage2")


def train(cfg, resume=False, watch=None, equal_rates=False, beside=None):
    """-> the moving average. For evaluation/mechanism.py: watch(step, phase, student, disc), called
    where a checkpoint is saved; equal_rates: phases 3 and 2 have the rate of phase 1. For
    baselines/keep_dmd.py: beside, what makes another loss for the student."""
    # 1 seed and device
    torch.manual_seed(cfg.seed)
    generator = torch.Generator().manual_seed(cfg.seed)  # batches, timesteps and noise: on the CPU
    device = join(pick_device(cfg.device))

    # 2 data
    autoencoder = load_autoencoder(cfg.autoencoder, device)
    reference, checkpoint_config = load_stage1(cfg.student, device)
    steps = checkpoint_config.get("target_steps", 4)
    if steps != 4 and cfg.progressive:
        needs = "progression starts from a student of 4 (with --no-progressive any will do)"
        raise ValueError(f"{cfg.student} has {steps} steps: {needs}")
    cfg, network = with_recipe(cfg, checkpoint_config), network_of(checkpoint_config)
    clips, held_out, lip_reader = load_data(cfg, network["frames"], autoencoder, device)

    # 3 networks
    student = trainable(deepcopy(reference))
    ema = deepcopy(student).eval().requires_grad_(False)
    x0, cond = preview(held_out, 1)
    levels = reference.features(x0, torch.zeros(1, device=device), cond)
    disc = Discriminator(trainable(deepcopy(reference)), [level.shape[1] for level in levels])
    disc = disc.to(device, memory_format=torch.channels_last)
    reference_sampler = student_sampler(reference, checkpoint_config, steps=4)

    # 4 optimisers
    optimiser, disc_optimiser = adam(student, cfg.lr), adam(disc, cfg.disc_lr)
    other_loss = beside(cfg, clips, generator, device) if beside else None

    # 5 resume
    plan = [(phase, i) for phase in phases(cfg) for i in range(phase.updates)]
    parts = dict(student=student, disc=disc, ema=ema)
    parts |= dict(optimiser=optimiser, disc_optimiser=disc_optimiser)
    parts |= other_loss.parts if other_loss else {}
    first = resume_training(cfg, "stage2", generator, len(plan), **parts) if resume else 0
    log, rows = Log(cfg.out, cfg, device, resume), []
    uniform, fresh = draws(cfg.batch, clips, generator)
    student_noise = noise_source(cfg.recipe, "student", fresh)
    bfloat16 = partial(torch.autocast, device.type, torch.bfloat16, cfg.bf16)

    # 6 loop
    for step in range(first, len(plan)):
        phase, i = plan[step]

        # batch: real clips, the student's samples and the reference's for the same condition
        x0, cond = clips.batch(cfg.batch, generator, network["context"])
        last = draw_last(phase.before, phase.steps, i, cfg.curriculum, uniform())
        taus = warm_timesteps(phase.steps, i, cfg.curriculum, last)
        with bfloat16(), torch.set_grad_enabled(phase.student_learns):
            x0_hat = rollout(student, cond, student_noise, taus)  # gradient: last step only
        with bfloat16():
            x_ref = reference_sampler(cond, fresh)

        # the discriminator's step: all three in the same noise, context clean
        t, eps = cfg.disc_noise * T * uniform(), fresh()
        xt_real, xt_ref = (hold_context(add_noise(x, eps, t), cond) for x in (x0, x_ref))
        xt_fake = hold_context(add_noise(x0_hat, eps, t), cond)
        xts = xt_real, xt_fake.detach(), xt_ref  # detach: D must not train the student
        penalty_noises = [fresh() for _ in xts]
        with bfloat16():
            values = real, fake, ref = [disc(xt, t, cond) for xt in xts]
            # during D's warm-up x̂0 and x_ref have one distribution: nothing to compare
            weight = cfg.self_compare if phase.student_learns else 0
            loss_d = disc_objective(cfg.gan, real, ref, fake, weight)
            triples = zip(xts, values, penalty_noises)
            r1, r2, r3 = (penalty(disc, xt, t, cond, value, n) for xt, value, n in triples)
            r = r1 + r2 + r3 if cfg.self_compare else r1 + r2
            loss_d = loss_d + cfg.penalty * r
        optimise(step, "discriminator", disc, disc_optimiser, cfg.disc_lr, loss_d)
        row = dict(real=real.mean(), reference=ref.mean(), fake=fake.mean(), loss_d=loss_d)
        row |= dict(accuracy=(real > fake).float().mean(), penalty=cfg.penalty * r)
        row |= dict(last_t=last.mean(), latent_std=x0_hat.std())
        row = {name: value.item() for name, value in row.items()}

        # the student's step, against the discriminator that has just learnt
        if phase.student_learns:
            with bfloat16():
                with torch.no_grad():
                    real, ref = disc(xt_real, t, cond), disc(xt_ref, t, cond)
                fake = disc(xt_fake, t, cond)
                loss_g = gen_objective(cfg.gan, real, ref, fake, cfg.self_compare)
            row["loss_g"] = loss_g.item()
            if other_loss:
                loss_g = other_loss(step, loss_g, x0_hat, cond, row)
            lr = cfg.lr if equal_rates else cfg.lr / phase.steps
            lr = lr * cosine_decay(i / phase.updates) * min(1, (i + 1) / WARMUP)
            row["gradient"] = optimise(step, "student", student, optimiser, lr, loss_g)
            update_ema(ema, student, step - cfg.warm_disc, EMA)  # ema
        elif other_loss:
            other_loss(step, None, x0_hat, cond, row)
        rows.append(row)

        if (step + 1) % LOG_EVERY == 0:  # log
            log(step + 1, phase=phase.steps, **mean_rows(rows))
            rows = []
        if (step + 1) % cfg.save_every == 0 or step + 1 == len(plan):  # sample, save
            sampler = student_sampler(ema, asdict(cfg), steps=phase.steps)
            shown = {f"student, {phase.steps}": sampler, "reference, 4": reference_sampler}
            contact_sheet(f"{cfg.out}/{step + 1:06d}.png", shown, held_out, autoencoder)
            if lip_reader:
                found = quick_eval(sampler, held_out, autoencoder, *lip_reader)
                log(step + 1, phase=phase.steps, **found)
            if watch:
                watch(step + 1, phase, student, disc)
            ship = phase.steps == 1  # before that it is no one-step student
            save_training(cfg, "stage2", step + 1, generator, ship=ship, network=network, **parts)
    return ema


if __name__ == "__main__":
    with one_line_errors():
        train(*parse(Config, __doc__, SMOKE))
