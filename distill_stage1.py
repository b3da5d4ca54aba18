"""Stage 1, Distribution Matching Distillation: the teacher's 120 evaluations -> 4.

    x_T = ε,   x̂0 = G(x_τ, τ, c),   x_τ' = α_τ' x̂0 + σ_τ' ε,   τ = T, 3T/4, T/2, T/4      (the student's sampler, each time a fresh ε)
    g  = (x0_fake(x_t) − x0_real(x_t)) / mean |x̂0 − x0_real(x_t)|,   x_t = α_t x̂0 + σ_t ε,   t ~ U[0.02 T, 0.98 T]
    L_DMD  = ½ mean (x̂0 − stopgrad(x̂0 − g))²                                    (so ∂L/∂x̂0 = g / n, n free numbers in x̂0)
    L_fake = E ‖v_fake(x_t, t, c) − (α_t ε − σ_t stopgrad(x̂0))‖²,   t ~ U(0, T]

x0_real is the frozen teacher with guidance; x0_fake a copy of it that is trained, several times per student update, to denoise what the student
makes now. g vanishes where the student's samples are distributed as the teacher's, but for guidance, which bends that aim as it does when the teacher samples.
Sources: DMD 2311.18828, DMD2 2405.14867 (backward simulation, two time scales); TurboTalk 2604.14580, stage 1.

    python distill_stage1.py --bf16              14 minutes on one CPU core (AVX-512 and AMX; torch 2.13.0): the shipped weights
    python distill_stage1.py --smoke             everything at toy size in seconds (after python teacher.py --smoke)
    python distill_stage1.py --bf16 --target-steps 1 --steps 400 --out out/direct1 --weights checkpoints/direct1.pt      the baseline "direct to 1"
Writes checkpoints/stage1.pt (the moving average, float16) and out/stage1/: log.jsonl, last.pt, contact sheets.
"""
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import nn

import metrics
from autoencoder import load_autoencoder
from common import Log, check_finite, cosine_decay, mean_rows, one_line_errors, parse, pick_device, resume_training, save_training, update_ema
from departures import audio_scale, check_recipe, draw_noise, motion_basis
from diffusion import T, add_noise, eps_from_v, trailing_timesteps, v_loss, v_target, x0_from_v
from latents import contact_sheet, load_clips, preview
from teacher import UNet, guided_v, hold_context, load_teacher, trainable


@dataclass
class Config:
    data: str = "data/tiny"      # toy set (built if missing) or a folder of video clips
    videos: int = 0              # videos per split when the toy set has to be built, 0 = 1080 / 48 / 96
    out: str = "out/stage1"      # log, contact sheets and the resumable checkpoint
    weights: str = "checkpoints/stage1.pt"  # where the student goes
    autoencoder: str = "checkpoints/autoencoder.pt"  # frames <-> latents
    teacher: str = "checkpoints/teacher.pt"  # the real score, and where student and fake score start
    metrics: str = "checkpoints/metrics.pt"  # the reader, which looks at the student now and then; "" = don't
    recipe: str = ""             # plain = the method, toy = with departures.py; "" = the teacher's
    steps: int = 250             # iterations: one student update and several of the fake score each
    warm_fake: int = 20          # the first of them, in which the fake score learns alone
    batch: int = 8               # clips per iteration
    lr: float = 1e-4             # peak learning rate of the student (AdamW)
    fake_lr: float = 2e-4        # of the fake score
    warmup: int = 20             # student updates of linear warm-up, while both rates already fall to zero along a cosine
    ema: float = 0.99            # upper limit of the moving average's decay, which is (1 + n) / (10 + n) after n updates: 0.97 at the end of the default run; the average is what is shipped
    log_every: int = 10          # iterations
    save_every: int = 50         # iterations between checkpoints
    sample_every: int = 100      # iterations between looks: lip-sync, spread, contact sheet
    seed: int = 0
    device: str = "auto"         # auto = cuda if there is one, else cpu
    bf16: bool = False           # run the networks in bfloat16 (CPUs with AMX or AVX-512 bfloat16, and GPUs: faster)
    target_steps: int = 4        # ablation: steps of the student; 1 = direct DMD to one step
    fake_updates: int = 3        # ablation: fake-score updates per student update, on the samples that the student has just made
    s_ref: float = 1.0           # ablation: guidance of the real score, portrait; more than 1 calms the head
    s_audio: float = 2.0         # ablation: guidance of the real score, sound (both 1: none)
    simulate: str = "backward"   # ablation: the student's inputs: backward = from its own sampler, data = noised real clips
    renoise: str = "fresh"       # ablation: between its steps: fresh noise, or ddim (its own ε̂)
    t_min: float = 0.02          # ablation: scores are compared at t between t_min T
    t_max: float = 0.98          # ablation: and t_max T
    init: str = "teacher"        # ablation: the student starts as the teacher, or random
    context_rate: float = 0.5    # ablation: share of the clips that carry context frames
    channels: int = 0            # of the UNet: always the teacher's, filled in for the log
    frames: int = 0              # of a clip: the same
    context: int = 0             # frames given from the previous chunk: the same


SMOKE = dict(videos=4, steps=4, warm_fake=1, batch=2, warmup=1, fake_updates=2, log_every=1, save_every=2, sample_every=3, data="data/smoke", out="out/smoke/stage1",
             weights="out/smoke/stage1.pt", teacher="out/smoke/teacher.pt", autoencoder="out/smoke/autoencoder.pt", metrics="")


# ---------------------------------------------------------------- the equations

def rollout(student, cond, noise, taus, renoise="fresh"):
    """The student's sampler: x_T = ε; x̂0 = G(x_τ, τ); x_τ' = α_τ' x̂0 + σ_τ' ε'; the last x̂0 is returned. TurboTalk, stage 1.

    taus: falling timesteps, numbers or tensors (B,); noise() -> a fresh ε (B, F, C, H, W). len(taus) evaluations, and only the last
    carries gradient, none under no_grad (backward simulation with a gradient through one step: DMD2, section 4.5; Self-Forcing, 2506.08009).
    renoise "ddim" keeps ε' = ε̂ instead of drawing it, and at context places the first ε. These always hold the true latents, as in the teacher.
    """
    first = xt = noise()
    for i, tau in enumerate(taus):
        t = torch.as_tensor(tau, dtype=torch.float32, device=xt.device).expand(len(xt))
        last = i + 1 == len(taus)
        if last:
            torch.clear_autocast_cache()    # older torch keeps weights that were cast without gradient, and then trains none of them
        with torch.set_grad_enabled(last and torch.is_grad_enabled()):
            v = student(xt, t, cond)
            x0_hat = hold_context(x0_from_v(xt, v, t), cond)
        if last:
            return x0_hat
        s = torch.as_tensor(taus[i + 1], dtype=torch.float32, device=xt.device).expand(len(xt))
        if renoise == "fresh":
            eps = noise()
        else:                                                                 # what v says of given places was never taught: they keep their first ε
            eps = torch.where(cond.mask[:, :, None, None, None] > 0, first, eps_from_v(xt, v, t))
        xt = add_noise(x0_hat, eps, s)


def dmd_gradient(x0_fake, x0_real, x0_hat, mask):
    """g = (x0_fake − x0_real) / mean |x̂0 − x0_real|, the mean per clip and over its free frames. DMD, 2311.18828.

    All (B, F, C, H, W), mask (B, F) with 1 = context, where g is 0. Detached. The normaliser is at least 1e-5.
    """
    free = (1 - mask)[:, :, None, None, None]
    count = free.expand_as(x0_hat).sum((1, 2, 3, 4), keepdim=True)
    scale = (free * (x0_hat - x0_real).abs()).sum((1, 2, 3, 4), keepdim=True) / count
    return (free * (x0_fake - x0_real) / scale.clamp_min(1e-5)).detach()


def dmd_loss(x0_hat, g, mask):
    """½ ‖x̂0 − stopgrad(x̂0 − g)‖², mean over the n free numbers: its value says nothing, its gradient is g / n. (B, F, C, H, W), (B, F)."""
    target = (x0_hat - g).detach()                                            # detach: otherwise the two x̂0 cancel
    return 0.5 * v_loss(x0_hat, target, mask)                                 # v_loss is a masked mean square, here of x̂0


def real_score(teacher, xt, t, cond, s_ref, s_audio):
    """x0_real: what the guided teacher takes x_t for. 3 evaluations, 2 with s_ref = 1, or 1 with both scales at 1."""
    return x0_from_v(xt, guided_v(teacher, xt, t, cond, s_ref, s_audio), t)


def fake_loss(fake, x0_hat, cond, t, eps):
    """E ‖v_fake(x_t, t, c) − v‖² on the student's own samples: plain v-MSE, which weighs (x̂0 − x0_fake)² by 1 / σ_t²."""
    x0_hat = x0_hat.detach()                                                  # detach: the fake score must not train the student
    return v_loss(fake(add_noise(x0_hat, eps, t), t, cond), v_target(x0_hat, eps, t), cond.mask)


# ---------------------------------------------------------------- the student as a model

def few_step_sample(student, cond, noise, steps=4, renoise="fresh"):
    """x0 (B, F, C, H, W) in `steps` evaluations; noise() -> a fresh ε."""
    with torch.no_grad():
        return rollout(student, cond, noise, trailing_timesteps(steps)[:-1], renoise)


def student_sampler(student, made, whose=None, **given):
    """-> sampler(cond, noise) -> x0 of a student whose Config as a dict, of stage 1 or 2, is `made`. given: settings of few_step_sample instead of its own.
    whose: departures.NOISE, None = that of the student as it is used."""
    settings = dict(steps=made.get("target_steps", 1), renoise=made.get("renoise", "fresh")) | given
    whose = whose or ("stage2" if "target_steps" not in made else "direct1" if made["target_steps"] == 1 else "stage1")
    return lambda cond, noise: few_step_sample(student, cond, draw_noise(made.get("recipe", "toy"), whose, noise, student.motion), **settings)


load_stage1 = partial(load_teacher, kind="stage1")


def look(sampler, clips, autoencoder, reader, motion):
    """How well sampler(cond, noise) -> x0 speaks on held-out clips -> dict: jaw, width and rounding correlation, head's spread and frame-to-frame
    change over those of the true clips after the autoencoder, mean colour shift in levels of 255. The noise is always the same."""
    x0, cond = preview(clips, 16)
    generator = torch.Generator().manual_seed(0)
    x = sampler(cond, lambda: torch.randn(x0.shape, generator=generator).to(x0.device))
    frames = [autoencoder.decode(z.flatten(0, 1)) for z in (x, x0)]
    read, true = (reader(f).view(*x0.shape[:2], -1).float().cpu().numpy() for f in frames)
    lips = {name: metrics.correlation(read[..., i], motion[:len(x0), :clips.frames, i]) for i, name in enumerate(("jaw", "width", "rounding"))}
    change, change_true = (f.unflatten(0, x0.shape[:2]).diff(dim=1).abs().mean() for f in frames)
    return lips | dict(spread=float((metrics.head_spread(read) / metrics.head_spread(true)).mean()), change=float(change / change_true),
                       colour=float(127.5 * (frames[0].mean((0, 2, 3)) - frames[1].mean((0, 2, 3))).abs().mean()))


# ---------------------------------------------------------------- training: what both stages share, then stage 1

def inherit(cfg, made):
    """cfg with the size of the network that it starts from, whose Config `made` was. Raises ValueError if another was asked for."""
    size = {k: made[k] for k in ("channels", "frames", "context")}
    if other := [k for k, v in size.items() if getattr(cfg, k) not in (0, v)]:
        raise ValueError(f"--{other[0]} {getattr(cfg, other[0])}: the network to start from has {size[other[0]]}; leave the option out")
    size["recipe"] = cfg.recipe or made.get("recipe", "toy")                    # the first weights did not say: they are toy's
    check_recipe(size["recipe"])
    return replace(cfg, **size)


def material(cfg, autoencoder, device):
    """-> training Clips, held-out Clips, and (reader, true motion (V, F, 11)) for look, or None without --metrics or on your own clips."""
    _, clips = load_clips(cfg, "train", autoencoder, device)
    (videos, held_out), judge = load_clips(cfg, "val", autoencoder, device), None
    if cfg.metrics and len(videos.motion):
        judge = metrics.load_reader(cfg.metrics, device), np.stack([videos.motion[a:a + cfg.frames] for a in videos.starts[:-1]])
    return clips, held_out, judge


def adam(network, lr):
    """The optimiser of both stages: no momentum, as usual for GANs."""
    return torch.optim.AdamW(network.parameters(), lr=lr, betas=(0.0, 0.99), weight_decay=0.01, fused=True)


def update(step, name, network, optimiser, lr, loss):
    """One optimiser step -> the gradient's norm. lr is set each time, so it also holds after --resume with another one. Networks that
    the loss only passes through get no gradient."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward(inputs=[p for p in network.parameters() if p.requires_grad])
    norm = nn.utils.clip_grad_norm_(network.parameters(), 1.0).item()
    check_finite(step, **{f"the {name}'s loss": loss.item(), f"the {name}'s gradient": norm})
    optimiser.param_groups[0]["lr"] = lr
    optimiser.step()
    return norm


def train(cfg, resume=False):
    for name, allowed in dict(simulate=("backward", "data"), renoise=("fresh", "ddim"), init=("teacher", "random")).items():
        if getattr(cfg, name) not in allowed:
            raise ValueError(f"--{name} must be {' or '.join(allowed)}, got {getattr(cfg, name)!r}")
    if not (0 <= cfg.t_min < cfg.t_max <= 1 and cfg.target_steps >= 1):
        raise ValueError(f"0 <= --t-min < --t-max <= 1 and --target-steps >= 1 are wanted, got {cfg.t_min}, {cfg.t_max} and {cfg.target_steps}")

    # 1 seed and device
    torch.manual_seed(cfg.seed)
    generator = torch.Generator().manual_seed(cfg.seed)                       # batches, timesteps and noise: on the CPU
    device = pick_device(cfg.device)

    # 2 data
    autoencoder = load_autoencoder(cfg.autoencoder, device)
    teacher, made = load_teacher(cfg.teacher, device)
    cfg = inherit(cfg, made)
    clips, held_out, judge = material(cfg, autoencoder, device)

    # 3 networks
    fake = trainable(deepcopy(teacher))
    student = trainable(deepcopy(teacher) if cfg.init == "teacher" else UNet(cfg.channels).to(device, memory_format=torch.channels_last))
    student.audio.load_state_dict(teacher.audio.state_dict())                 # a random student too has the teacher's listener
    basis = motion_basis(clips.latents, clips.starts, cfg.recipe)
    student.motion = None if basis is None else basis.to(device)
    ema = deepcopy(student).eval().requires_grad_(False)
    taus, scale = trailing_timesteps(cfg.target_steps)[:-1], audio_scale(cfg.recipe, cfg.s_audio)

    # 4 optimisers
    optimiser, fake_optimiser = adam(student, cfg.lr), adam(fake, cfg.fake_lr)

    # 5 resume
    parts = dict(student=student, fake=fake, ema=ema, optimiser=optimiser, fake_optimiser=fake_optimiser)
    first = resume_training(cfg, "stage1", generator, **parts) if resume else 0
    log, rows = Log(cfg.out, cfg, device, resume), []

    def noise(like):
        return torch.randn(like.shape, generator=generator).to(device)

    def score_noise(like):
        return draw_noise(cfg.recipe, "score", lambda: noise(like))()

    def uniform():
        return torch.rand(cfg.batch, generator=generator).to(device)          # (B,) in [0, 1)

    def draw():
        """The condition of a batch, and the student's answer to it after k of its steps, k drawn."""
        real, cond = clips.batch(cfg.batch, generator, cfg.context, cfg.context_rate)
        k = int(torch.randint(cfg.target_steps, (), generator=generator)) + 1
        own = draw_noise(cfg.recipe, "student", lambda: noise(real), student.motion)
        if cfg.simulate == "backward":
            return cond, rollout(student, cond, own, taus[:k], cfg.renoise)
        t = torch.full((cfg.batch,), taus[k - 1], device=device)              # ablation: inputs that sampling never meets
        xt = add_noise(real, own(), t)
        return cond, hold_context(x0_from_v(xt, student(xt, t, cond), t), cond)

    # 6 loop
    for step in range(first, cfg.steps):
        alone = step < cfg.warm_fake
        progress = max(0, step - cfg.warm_fake) / max(1, cfg.steps - cfg.warm_fake)
        decay = cosine_decay(progress)
        with torch.autocast(device.type, torch.bfloat16, enabled=cfg.bf16), torch.set_grad_enabled(not alone):
            cond, x0_hat = draw()                                             # batch
        row = dict(latent_mean=x0_hat.mean().item(), latent_std=x0_hat.std().item())

        if not alone:                                                         # student
            with torch.autocast(device.type, torch.bfloat16, enabled=cfg.bf16), torch.no_grad():
                t = T * (cfg.t_min + (cfg.t_max - cfg.t_min) * uniform())
                xt = add_noise(x0_hat, score_noise(x0_hat), t)
                x0_real = real_score(teacher, xt, t, cond, cfg.s_ref, scale)
                g = dmd_gradient(x0_from_v(xt, fake(xt, t, cond), t), x0_real, x0_hat, cond.mask)
            lr = cfg.lr * decay * min(1, (step - cfg.warm_fake + 1) / max(1, cfg.warmup))
            row |= dict(g=g.abs().mean().item(), gradient=update(step, "student", student, optimiser, lr, dmd_loss(x0_hat, g, cond.mask)))
            update_ema(ema, student, step - cfg.warm_fake, cfg.ema)           # ema

        # fake score: after the student. Had it just been trained on these very samples, it would know them by heart and g would be biased
        for _ in range(cfg.fake_updates):
            with torch.autocast(device.type, torch.bfloat16, enabled=cfg.bf16):
                loss = fake_loss(fake, x0_hat, cond, T * (1 - uniform()), score_noise(x0_hat))
            update(step, "fake score", fake, fake_optimiser, cfg.fake_lr * decay, loss)
            row["fake_loss"] = row.get("fake_loss", 0.0) + loss.item() / cfg.fake_updates
        rows.append(row)

        if (step + 1) % cfg.log_every == 0:                                   # log
            log(step + 1, **mean_rows(rows))
            rows = []
        if (step + 1) % cfg.sample_every == 0 or step + 1 == cfg.steps:       # sample
            sampler = student_sampler(ema, asdict(cfg))
            contact_sheet(f"{cfg.out}/{step + 1:06d}.png", [sampler], held_out, autoencoder)
            if judge:
                log(step + 1, **look(sampler, held_out, autoencoder, *judge))
        if (step + 1) % cfg.save_every == 0 or step + 1 == cfg.steps:         # save
            save_training(cfg, "stage1", step + 1, generator, **parts)
    return ema


if __name__ == "__main__":
    with one_line_errors():
        train(*parse(Config, __doc__, SMOKE))
