"""Stage 2, progressive adversarial distillation: 4 evaluations -> 3 -> 2 -> 1.

    x̂0 = the student's sampler with N steps, gradient only through the last            (N = 3, 2, 1: the phases)
    L_D  = softplus(−(D(x0) − D(x̂0))) + λ_sc softplus(−(D(x_ref) − D(x̂0))) + λ_ws softplus(−(D(x0, c) − D(x0, c'))) + λ [R(x0) + R(x̂0) + R(x_ref)]
    L_G  = softplus(−(D(x̂0) − D(x0))) + λ_sc softplus(−(D(x̂0) − D(x_ref)))             (relativistic pairing, self-compare)
    R(x) = mean (D(x_t) − D(x_t + σ_p n))²                                             (gradient penalties by finite noise: R1, R2, R3)

D(x) is short for D(x_t, t, c), x_t = α_t x + σ_t ε, t ~ U[0, 0.3 T], with the same t, ε and condition c for x0, x̂0 and x_ref. x_ref is a 4-step sample of the
frozen stage-1 student, from noise of its own: better than what N steps make, and easier to reach than the data. D starts as a copy of that student and
listens (below); each phase resets it to what it was then, and first trains it alone. Student and moving average go on from phase to phase.
c' is c with the sound of another clip. D is given the sound, but nothing makes it listen: pictures alone tell real from fake (after such a training it
ranked right above wrong sound in half of the pairs). So it first learns whose sound it is, on real clips, and is asked again in every iteration.
At the start of a phase the last timestep is drawn between the old phase's and the new one's, so that the last step learns to jump further and further.
Sources: TurboTalk 2604.14580, stage 2; R3GAN 2501.05441 (pairing); Seaweed-APT 2501.08316 (finite-noise penalties); Diffusion-GAN 2206.02262 (noised
clips); GAN-CLS 1605.05396 (real samples with a wrong condition).

    python distill_stage2.py --bf16              22 minutes on one CPU core (AVX-512 and AMX; torch 2.13.0): the shipped weights
    python distill_stage2.py --smoke             everything at toy size in seconds (after the other scripts' --smoke)
Writes checkpoints/stage2.pt (the moving average, float16) and out/stage2/: log.jsonl, last.pt, contact sheets.
"""
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from autoencoder import load_autoencoder
from common import Log, cosine_decay, mean_rows, one_line_errors, parse, pick_device, resume_training, save_training, update_ema
from departures import draw_noise
from diffusion import T, add_noise, trailing_timesteps
from distill_stage1 import adam, inherit, load_stage1, look, material, rollout, student_sampler, update
from latents import contact_sheet
from teacher import UNet, hold_context, load_teacher, trainable


@dataclass
class Config:
    data: str = "data/tiny"      # toy set (built if missing) or a folder of video clips
    videos: int = 0              # videos per split when the toy set has to be built, 0 = 1080 / 48 / 96
    out: str = "out/stage2"      # log, contact sheets and the resumable checkpoint
    weights: str = "checkpoints/stage2.pt"  # where the one-step student goes
    autoencoder: str = "checkpoints/autoencoder.pt"  # frames <-> latents
    student: str = "checkpoints/stage1.pt"  # the 4-step student: where student and discriminator start, and the reference
    metrics: str = "checkpoints/metrics.pt"  # the reader, which looks at the student now and then; "" = don't
    recipe: str = ""             # plain = the method, toy = with departures.py; "" = the 4-step student's
    batch: int = 8               # clips per iteration
    lr: float = 6e-5             # peak rate of the student (AdamW) in phase 1; divided by N in phases 3 and 2, whose steps jump less far
    warmup: int = 10             # student updates of linear warm-up in each phase, times a cosine that falls to zero over the phase
    disc_lr: float = 5e-4        # of the discriminator
    ema: float = 0.99            # upper limit of the moving average's decay, which is (1 + n) / (10 + n) after n updates: 0.97 at the end of the default run; the average is what is shipped
    log_every: int = 10          # iterations
    save_every: int = 50         # iterations between checkpoints
    sample_every: int = 100      # iterations between looks: lip-sync, spread, contact sheet
    seed: int = 0
    device: str = "auto"         # auto = cuda if there is one, else cpu
    bf16: bool = False           # run the networks in bfloat16 (CPUs with AMX or AVX-512 bfloat16, and GPUs: faster)
    warm_disc: int = 10          # ablation: iterations at the start of a phase in which only the discriminator learns
    phase_steps: int = 20        # ablation: student updates in each of the phases 3 and 2
    last_steps: int = 300        # ablation: student updates in phase 1
    progressive: bool = True     # ablation: phases 3 and 2; without, phase 1 has all their updates
    curriculum: int = 10         # ablation: W, student updates at the start of a phase in which the last timestep is drawn; 0 = none
    self_compare: float = 2.0    # ablation: λ_sc; 0 = without the self-compare objective, and so without R3
    wrong_sound: float = 1.0     # ablation: λ_ws, real clips with their own sound above the same with another clip's; 0 = none, as in the paper
    listen: int = 300            # ablation: iterations before all others, in which the discriminator learns just that; 0 = none, as in the paper
    gan: str = "relativistic"    # ablation: relativistic, hinge or vanilla
    penalty: float = 20.0        # ablation: λ of the gradient penalties; 0 = none
    sigma: float = 0.1           # ablation: σ_p of their noise; λ and σ_p together act like R1 with γ = 2 λ σ_p²
    disc_noise: float = 0.3      # ablation: D sees clips noised to a t drawn up to this share of T; 0 = clean clips
    disc_init: str = "student"   # ablation: the discriminator starts as the student, or random
    context_rate: float = 0.5    # ablation: share of the clips that carry context frames
    channels: int = 0            # of the UNet: always the 4-step student's, filled in for the log
    frames: int = 0              # of a clip: the same
    context: int = 0             # frames given from the previous chunk: the same


SMOKE = dict(videos=4, batch=2, listen=1, warm_disc=1, phase_steps=1, last_steps=2, curriculum=1, log_every=1, save_every=2, sample_every=5, data="data/smoke",
             out="out/smoke/stage2", weights="out/smoke/stage2.pt", student="out/smoke/stage1.pt", autoencoder="out/smoke/autoencoder.pt", metrics="")


# ---------------------------------------------------------------- the equations

def phase_timesteps(n):
    """τ^N = (T, (N−1) T / N, ..., T / N): the N timesteps of phase N. TurboTalk, stage 2."""
    return trailing_timesteps(n)[:-1]


def draw_last(before, n, i, warm, u):
    """Progressive timestep sampling: the last timestep at student update i (from 0) of phase N. TurboTalk, stage 2.

    Uniform, u in [0, 1), over a gap that begins at the last one of the phase before, T / before, and opens linearly towards the new one, T / N:
    by (i + 1) / W of the way, W = warm: T / before + u (i + 1) / W (T / N − T / before) for i < W. From then on it is T / N. u (B,) -> (B,) timesteps. before = N + 1, or 4 when phases are left out.
    """
    old, new = T / before, T / n
    return torch.full_like(u, new) if i >= warm else old + u * (i + 1) / warm * (new - old)


def warm_timesteps(n, i, warm, last):
    """The timesteps at student update i of phase N: τ^N with its last one replaced by last (B,).

    Phase 1 has one timestep, T. Were that one drawn, the network would get pure noise labelled t < T: an input that no sampler makes. So while
    its last timestep is drawn, phase 1 makes a step at T and then one at the drawn t, which jumps further and further.
    """
    head = phase_timesteps(n)[:-1]
    if n == 1 and i < warm:
        head = [T]
    return [*head, last]


def pair_loss(above, below):
    """softplus(−(D(above) − D(below))), mean: only the difference counts. D's values (B,), (B,) -> scalar. R3GAN, 2501.05441."""
    return F.softplus(-(above - below)).mean()


def disc_loss(kind, real, fake):
    """What the discriminator minimises. D's values (B,), (B,) -> scalar. Relativistic: R3GAN, 2501.05441.
    hinge: max(0, 1 − D(x0)) + max(0, 1 + D(x̂0)); vanilla: softplus(−D(x0)) + softplus(D(x̂0)).
    """
    if kind == "relativistic":
        return pair_loss(real, fake)                                          # same condition: a pair
    if kind == "hinge":
        return (F.relu(1 - real) + F.relu(1 + fake)).mean()
    return (F.softplus(-real) + F.softplus(fake)).mean()


def gen_loss(kind, real, fake):
    """What the student minimises. D's values (B,), (B,) -> scalar. hinge: −D(x̂0); vanilla, non-saturating: softplus(−D(x̂0))."""
    if kind == "relativistic":
        return pair_loss(fake, real)
    return -fake.mean() if kind == "hinge" else F.softplus(-fake).mean()


def self_compare_loss(better, worse):
    """softplus(−(D(better) − D(worse))), mean. D learns (x_ref, x̂0), the student the opposite order. TurboTalk, stage 2, self-compare."""
    return pair_loss(better, worse)


def wrong_sound(cond):
    """c': every clip of a batch hears what its neighbour should. Cond -> Cond."""
    return cond._replace(audio=cond.audio.roll(1, 0))


def listening_loss(right, wrong):
    """softplus(−(D(x0, c) − D(x0, c'))), mean: the same clip, so only the sound can tell. D's values (B,), (B,) -> scalar. As GAN-CLS, 1605.05396."""
    return pair_loss(right, wrong)


def disc_objective(kind, real, reference, fake, weight):
    """L_D + λ_sc L_sc,D: real above fake, and reference above fake; D is not asked to rank real and reference. D's values (B,) -> scalar."""
    return disc_loss(kind, real, fake) + weight * self_compare_loss(reference, fake)


def gen_objective(kind, real, reference, fake, weight):
    """L_G + λ_sc L_sc,G: fake above real, and fake above reference. D's values (B,) -> scalar."""
    return gen_loss(kind, real, fake) + weight * self_compare_loss(fake, reference)


def penalty(disc, xt, t, value, cond, sigma, n):
    """mean (D(x_t) − D(x_t + σ_p n))²: how steep D is around x_t; sigma is σ_p, value = D(x_t), and both values carry gradient.
    Context places hold the true latents (hold_context) here, too. Seaweed-APT, 2501.08316, approximated R1.
    """
    return (value - disc(hold_context(xt + sigma * n, cond), t, cond)).square().mean()


# ---------------------------------------------------------------- the discriminator

class Discriminator(nn.Module):
    """x_t (B, F, C, H, W), t (B,), Cond -> (B,): the first half of the few-step student with a head on each of its two levels.

    A value for every place, summed over a frame and both levels, averaged over the frames that are not context. The last layer is zero, so the
    adversarial gradient grows from 0, and has no bias, which would cancel in D(a) − D(b).
    """

    def __init__(self, unet):
        super().__init__()
        self.unet, c = unet, unet.inlet.out_channels
        del unet.grow, unet.up1, unet.up2, unet.norm, unet.outlet
        self.heads = nn.ModuleList(nn.Sequential(nn.GroupNorm(8, c), nn.Conv2d(c, c, 1), nn.SiLU(), nn.Conv2d(c, 1, 1, bias=False)) for _ in range(2))
        self.zero_heads()

    def zero_heads(self):
        for head in self.heads:
            nn.init.zeros_(head[-1].weight)

    def forward(self, xt, t, cond):
        levels = self.unet.encode(xt, t, cond)[0][1:]                                            # (B F, c, 8, 8), (B F, c, 4, 4)
        free = 1 - cond.mask
        values = sum(head(h).float().sum((1, 2, 3)) for head, h in zip(self.heads, levels)).view_as(free)
        return (values * free).sum(1) / free.sum(1)


load_stage2 = partial(load_teacher, kind="stage2")


# ---------------------------------------------------------------- training

def listen(disc, clips, cfg, generator, device, log):
    """D learns which of two sounds belongs to a real clip (listening_loss), `cfg.listen` iterations long. What its body has learnt stays, the last layer
    of each head is zero again. The generator is the training's: a run that listens longer or not at all sees other clips and noise afterwards."""
    optimiser, rows = adam(disc, cfg.disc_lr), []
    for step in range(cfg.listen):
        x0, cond = clips.batch(cfg.batch, generator, cfg.context, cfg.context_rate)
        t = (cfg.disc_noise * T * torch.rand(cfg.batch, generator=generator)).to(device)
        xt = hold_context(add_noise(x0, torch.randn(x0.shape, generator=generator).to(device), t), cond)
        with torch.autocast(device.type, torch.bfloat16, enabled=cfg.bf16):
            right, wrong = disc(xt, t, cond), disc(xt, t, wrong_sound(cond))
            loss = listening_loss(right, wrong)
        update(step + 1 - cfg.listen, "discriminator", disc, optimiser, cfg.disc_lr, loss)
        rows.append(dict(heard=(right > wrong).float().mean().item(), loss_d=loss.item()))
        if (step + 1) % cfg.log_every == 0:
            log(step + 1 - cfg.listen, **mean_rows(rows))                     # up to step 0: before the first phase
            rows = []
    disc.zero_heads()


def train(cfg, resume=False):
    for name, allowed in dict(gan=("relativistic", "hinge", "vanilla"), disc_init=("student", "random")).items():
        if getattr(cfg, name) not in allowed:
            raise ValueError(f"--{name.replace('_', '-')} must be {', '.join(allowed[:-1])} or {allowed[-1]}, got {getattr(cfg, name)!r}")
    if not 0 <= cfg.disc_noise <= 1:
        raise ValueError(f"--disc-noise is a share of T, 0 to 1, got {cfg.disc_noise}")
    if cfg.batch < 2 and (cfg.wrong_sound or cfg.listen):
        raise ValueError("a wrong sound is another clip's of the batch: --batch 2 or more is wanted, or --wrong-sound 0 --listen 0")

    # 1 seed and device
    torch.manual_seed(cfg.seed)
    generator = torch.Generator().manual_seed(cfg.seed)                       # batches, timesteps and noise: on the CPU
    device = pick_device(cfg.device)

    # 2 data
    autoencoder = load_autoencoder(cfg.autoencoder, device)
    reference, made = load_stage1(cfg.student, device)
    if made.get("target_steps", 4) != 4:
        raise ValueError(f"{cfg.student} is a student of {made['target_steps']} steps: stage 2 starts from one of 4")
    cfg = inherit(cfg, made)
    clips, held_out, judge = material(cfg, autoencoder, device)

    # 3 networks
    refer = student_sampler(reference, made, "reference")
    student = trainable(deepcopy(reference))
    ema = deepcopy(student).eval().requires_grad_(False)
    disc = deepcopy(reference) if cfg.disc_init == "student" else UNet(cfg.channels).to(device, memory_format=torch.channels_last)
    disc.audio.load_state_dict(reference.audio.state_dict())                  # a random one too has the student's listener
    disc = Discriminator(trainable(disc)).to(device, memory_format=torch.channels_last)
    start = deepcopy(disc)                                                    # so it begins each phase, once it has listened

    # 4 optimisers
    optimiser, disc_optimiser = adam(student, cfg.lr), adam(disc, cfg.disc_lr)

    # 5 resume
    parts = dict(student=student, disc=disc, start=start, ema=ema, optimiser=optimiser, disc_optimiser=disc_optimiser)
    first = resume_training(cfg, "stage2", generator, **parts) if resume else 0
    log, rows = Log(cfg.out, cfg, device, resume), []
    if not first:
        listen(start, clips, cfg, generator, device, log)
    if cfg.progressive:                                                       # (steps of the phase before, steps, student updates)
        phases = [(4, 3, cfg.phase_steps), (3, 2, cfg.phase_steps), (2, 1, cfg.last_steps)]
    else:
        phases = [(4, 1, 2 * cfg.phase_steps + cfg.last_steps)]
    plan = [(before, n, i, updates) for before, n, updates in phases for i in range(-cfg.warm_disc, updates)]     # i < 0: only the discriminator learns

    # 6 loop
    for step in range(first, len(plan)):
        before, n, i, updates = plan[step]                                    # the phase before, the phase, the student's update i of how many within it
        learn, k = i >= 0, max(i, 0)                                          # while only D learns, the curriculum stands at the student's first update
        if i == -cfg.warm_disc:                                               # a new phase: what tells 3-step samples from the data misjudges 2-step ones
            disc.load_state_dict(start.state_dict())
            optimiser.state.clear(), disc_optimiser.state.clear()
        x0, cond = clips.batch(cfg.batch, generator, cfg.context, cfg.context_rate)            # batch
        noise = lambda: torch.randn(x0.shape, generator=generator).to(device)
        own = draw_noise(cfg.recipe, "student", noise, student.motion)         # the student's
        last = draw_last(before, n, k, cfg.curriculum, torch.rand(cfg.batch, generator=generator)).to(device)
        t_disc, eps_disc = (cfg.disc_noise * T * torch.rand(cfg.batch, generator=generator)).to(device), noise()
        seen = lambda x: hold_context(add_noise(x, eps_disc, t_disc), cond)   # what D sees of a clip: in noise real and false ones overlap; context stays clean
        value = lambda x, cond=cond: disc(seen(x), t_disc, cond)
        with torch.autocast(device.type, torch.bfloat16, enabled=cfg.bf16):
            with torch.set_grad_enabled(learn):
                x0_hat = rollout(student, cond, own, warm_timesteps(n, k, cfg.curriculum, last), made.get("renoise", "fresh"))
            x_ref = refer(cond, noise)

            samples = x0, x0_hat.detach(), x_ref                               # detach: the discriminator must not train the student
            d_real, d_fake, d_ref = values = [value(x) for x in samples]      # loss of the discriminator
            count = 3 if cfg.self_compare else 2
            one = int(torch.randint(count, (), generator=generator))           # R1, R2 or R3, three times: their sum on average, at a third of its cost
            n_penalty = noise()                                               # drawn also without penalty: both runs see the same clips and noise
            loss_r = cfg.penalty * count * penalty(disc, seen(samples[one]), t_disc, values[one], cond, cfg.sigma, n_penalty) if cfg.penalty else torch.zeros(())
            d_wrong = value(x0, wrong_sound(cond)) if cfg.wrong_sound else d_real
            loss_d = disc_objective(cfg.gan, d_real, d_ref, d_fake, cfg.self_compare) + cfg.wrong_sound * listening_loss(d_real, d_wrong) + loss_r
        update(step, "discriminator", disc, disc_optimiser, cfg.disc_lr, loss_d)               # step

        row = dict(real=d_real.mean(), reference=d_ref.mean(), fake=d_fake.mean(), accuracy=(d_real > d_fake).float().mean(), loss_d=loss_d,
                   penalty=loss_r, last_t=last.mean(), latent_std=x0_hat.std())
        if cfg.wrong_sound:
            row["heard"] = (d_real > d_wrong).float().mean()
        if learn:
            with torch.autocast(device.type, torch.bfloat16, enabled=cfg.bf16):                    # loss of the student
                with torch.no_grad():                                         # D has just changed: its values again
                    g_real, g_ref = value(x0), value(x_ref)
                g_fake = value(x0_hat)
                loss_g = gen_objective(cfg.gan, g_real, g_ref, g_fake, cfg.self_compare)
            lr = cfg.lr / n * cosine_decay(i / updates) * min(1, (i + 1) / max(1, cfg.warmup))
            update(step, "student", student, optimiser, lr, loss_g)           # step
            done = sum(earlier >= 0 for _, _, earlier, _ in plan[:step])          # student updates so far
            update_ema(ema, student, done, cfg.ema)                           # ema
            row["loss_g"] = loss_g
        rows.append({k: v.item() for k, v in row.items()})

        if (step + 1) % cfg.log_every == 0:                                   # log
            log(step + 1, phase=n, **mean_rows(rows))
            rows = []
        if (step + 1) % cfg.sample_every == 0 or step + 1 == len(plan):       # sample
            sampler = student_sampler(ema, asdict(cfg), steps=n, renoise=made.get("renoise", "fresh"))
            contact_sheet(f"{cfg.out}/{step + 1:06d}.png", [sampler, refer], held_out, autoencoder)
            if judge:
                log(step + 1, phase=n, **look(sampler, held_out, autoencoder, *judge))
        if (step + 1) % cfg.save_every == 0 or step + 1 == len(plan):         # save
            save_training(cfg, "stage2", step + 1, generator, ship=n == 1 and learn, **parts)     # before that it is no one-step model
    return ema


if __name__ == "__main__":
    with one_line_errors():
        train(*parse(Config, __doc__, SMOKE))
