"""Beyond the paper: stage 2 with stage 1's gradient kept beside the adversarial one.

    a      = ∂L_G/∂x̂0                                             (distill_stage2.gen_objective)
    ∂L/∂x̂0 = g/n + r (rms of g/n / rms of a) a                                      (both)

g of distill_stage1.dmd_gradient at the sampler's last step, n the free numbers, r = 0.3: the
adversarial part is kept at three tenths of g whatever D's logits grow to. The fake score starts as
the teacher and learns on every sample, as in stage 1; all else is stage 2's. Most public one-step
recipes keep both losses: DMD2, 2405.14867, section 4.4.

    python -m baselines.keep_dmd --bf16     -> checkpoints/keep_dmd.pt
    python -m baselines.keep_dmd --smoke    everything at toy size
"""

from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import torch

import distill_stage2
from common import cosine_decay, one_line_errors, parse, smoke
from departures import noise_source
from diffusion import T, add_noise
from distill_stage1 import Config as Stage1
from distill_stage1 import dmd_gradient, fake_loss, fake_score, real_score
from latents import draws
from parallel import process_mean
from phases import phases
from student import adam, optimise, trainable
from teacher import load_teacher


@dataclass
class Config(distill_stage2.Config):
    out: str = "out/keep_dmd"  # log, contact sheets and the resumable checkpoint
    weights: str = "checkpoints/keep_dmd.pt"  # output file for the one-step student
    teacher: str = "checkpoints/teacher.pt"  # the real score; the fake score starts there
    adversarial: float = 0.3  # r: rms of the adversarial gradient on x̂0 over that of g / n


SMOKE = distill_stage2.SMOKE | smoke("keep_dmd", teacher="out/smoke/teacher.pt")


def both(g, adversarial, mask, r):
    """g / n + r (rms of g / n / rms of a) a, and the ratio of the two rms. g and a (B, F, C, H, W),
    mask (B, F) with 1 = context. Under torchrun n and both rms are all processes'."""
    n = process_mean((1 - mask)[:, :, None, None, None].expand_as(g).sum())
    squares = torch.stack([(g / n).square().sum(), adversarial.square().sum()])
    rms_g, rms_a = process_mean(squares).sqrt()
    ratio = rms_g / rms_a.clamp_min(1e-20)
    return g / n + r * ratio * adversarial, ratio


class KeepDMD:
    """What distill_stage2.train asks at every iteration."""

    def __init__(self, cfg, clips, generator, device):
        self.cfg, self.first = cfg, Stage1()
        self.teacher, _ = load_teacher(cfg.teacher, device)
        self.fake = trainable(deepcopy(self.teacher))
        self.optimiser = adam(self.fake, self.first.fake_lr)
        self.parts = dict(fake=self.fake, fake_optimiser=self.optimiser)
        self.uniform, fresh = draws(cfg.batch, clips, generator)
        self.score_noise = noise_source(cfg.recipe, "teacher", fresh)
        self.bfloat16 = partial(torch.autocast, device.type, torch.bfloat16, cfg.bf16)
        self.updates = sum(phase.updates for phase in phases(cfg) if phase.student_learns)

    def __call__(self, step, loss_g, x0_hat, cond, row):
        """-> a loss whose gradient on x̂0 is `both`; None while D learns alone. Then the fake
        score's steps, as in stage 1. row: what is logged of this iteration."""
        loss = None
        if loss_g is not None:
            (adversarial,) = torch.autograd.grad(loss_g, x0_hat)
            g = self.dmd(x0_hat, cond)
            gradient, ratio = both(g, adversarial.float(), cond.mask, self.cfg.adversarial)
            loss = (gradient.detach() * x0_hat.float()).sum()
            row["dmd_over_adversarial"] = ratio.item()
        decay = cosine_decay(max(0, step - self.cfg.warm_disc) / max(1, self.updates))
        row["fake_loss"] = 0.0
        for _ in range(self.first.fake_updates):
            with self.bfloat16():
                t = T * (1 - self.uniform())
                fake = fake_loss(self.fake, x0_hat, cond, t, self.score_noise())
            lr = self.first.fake_lr * decay
            optimise(step, "fake score", self.fake, self.optimiser, lr, fake)
            row["fake_loss"] += fake.item() / self.first.fake_updates
        return loss

    def dmd(self, x0_hat, cond):
        """g on x̂0, as in the loop of distill_stage1.py."""
        t = T * (0.02 + 0.96 * self.uniform())
        xt = add_noise(x0_hat.detach(), self.score_noise(), t)
        with self.bfloat16(), torch.no_grad():
            s_ref, s_audio = self.first.s_ref, self.first.s_audio
            x0_real = real_score(self.teacher, xt, t, cond, s_ref, s_audio)
            x0_fake = fake_score(self.fake, xt, t, cond)
        return dmd_gradient(x0_fake, x0_real, x0_hat, cond.mask)


def train(cfg, resume=False):
    return distill_stage2.train(cfg, resume, beside=KeepDMD)


if __name__ == "__main__":
    with one_line_errors():
        train(*parse(Config, __doc__, SMOKE))
