"""Trains what judges the videos: three small networks, none on people who are held out.

    Reader     L = ‖m̂ − m‖², m standardised motion; an eighth of its faces have lips that no
               sentence makes, a third are decoded
    Features   L = InfoNCE of who it is + ‖m̂ − m‖² + amounts of damage; clips: speed and disorder
    Sync       L = InfoNCE over −‖v_k − a_j‖²

    python -m evaluation.train_metrics --bf16         half an hour on one CPU core (AVX-512, AMX)
    python -m evaluation.train_metrics --only sync    one of them again, the others are kept
Writes checkpoints/metrics.pt (float16) and out/metrics/log.jsonl. metrics.py holds the networks.
"""

import os
import sys
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import tiny_data
from autoencoder import load_autoencoder, to_pixels
from checkpoint import half, load_checkpoint, same_run, save_checkpoint
from common import (
    Log,
    Options,
    check_finite,
    cosine_decay,
    one_line_errors,
    parse,
    pick_device,
    smoke,
)
from evaluation.measures import sync_scores
from evaluation.metrics import CLIP, NETWORKS, READ, blurred, over, r_squared
from evaluation.metrics_losses import (
    batch_features,
    batch_reader,
    clip_batch,
    clip_loss,
    frame_loss,
    reader_faces,
    sync_batch,
    sync_loss,
)
from tiny_data.faces import MOTION


@dataclass
class Config(Options):
    out: str = "out/metrics"  # the log, and the networks that are finished while others are not
    weights: str = "checkpoints/metrics.pt"  # where the trained networks go
    autoencoder: str = "checkpoints/autoencoder.pt"  # decodes a third of the reader's faces
    only: str = ""  # train just this one (reader, features, sync); the others are in --weights
    steps_reader: int = 10000  # optimiser steps; your own clips have no reader
    people: int = 20000  # for the reader, four frames each
    steps_features: int = 1000  # the same number again, much cheaper, for the clip features
    steps_sync: int = 800  # optimiser steps
    batch: int = 64  # frames per step (reader, features)
    lr: float = 2e-3  # peak learning rate (AdamW, short warm-up, cosine decay to zero)
    log_every: int = 100  # steps


SMOKE = smoke("metrics", autoencoder="out/smoke/autoencoder.pt", people=4, batch=8, log_every=2)
SMOKE |= dict(steps_reader=4, steps_features=4, steps_sync=4)


class Run(NamedTuple):
    """What the three trainings share."""

    cfg: Config
    data: tiny_data.Videos
    held_out: tiny_data.Videos
    mean: torch.Tensor  # (11,) of the training split's motion
    std: torch.Tensor  # (11,)
    generator: torch.Generator
    device: torch.device
    log: Log

    def standard(self, videos):
        """The videos' motion, standardised: (N, 11), or (0, 11) where nobody knows it."""
        return (torch.from_numpy(np.array(videos.motion)).to(self.device) - self.mean) / self.std


def fit(run, name, parameters, steps, loss_of):
    """Minimise loss_of() by AdamW: warm-up of 50 steps, cosine decay to zero."""
    cfg, parameters, seen = run.cfg, list(parameters), []
    optimiser = torch.optim.AdamW(parameters, lr=cfg.lr, betas=(0.9, 0.99), weight_decay=0.01)
    for step in range(steps):
        with torch.autocast(run.device.type, torch.bfloat16, enabled=cfg.bf16):
            loss = loss_of()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        lr = cfg.lr * min(1, (step + 1) / 50) * cosine_decay(step / steps)
        optimiser.param_groups[0]["lr"] = lr
        check_finite(step, **{name: loss.item(), "gradient": norm.item()})
        optimiser.step()
        seen.append(loss.item())
        if (step + 1) % cfg.log_every == 0:
            recent = float(np.mean(seen[-cfg.log_every :]))
            run.log(step + 1, **{name: recent}, gradient=norm.item(), lr=lr)


def train_reader(net, run):
    """L = ‖m̂ − m‖², on faces made for it."""
    net.mean.copy_(run.mean[:7]), net.std.copy_(run.std[:7])
    # mirrored labels change sign about 0, so x and roll are standardised without their mean
    net.mean[[3, 5]] = 0
    autoencoder = load_autoencoder(run.cfg.autoencoder, run.device)
    lips = run.data.motion[:, :3]
    faces, motion = reader_faces(run.cfg.people, lips, autoencoder, run.device)
    motion = (torch.from_numpy(motion[:, :7]).to(run.device) - net.mean) / net.std

    def loss_of():
        x, m = batch_reader(faces, motion, run.cfg.batch, run.generator, run.device)
        return (net.standard(x) - m).pow(2).mean()

    fit(run, "reader", net.parameters(), run.cfg.steps_reader, loss_of)
    net.eval()
    truth = torch.from_numpy(np.array(run.held_out.motion)).to(run.device)[:, :7]

    def decoded(x):
        return autoencoder.decode(autoencoder.encode(x))

    for row, edit in ("r2", lambda x: x), ("r2_decoded", decoded):
        r2 = r_squared(over(net, run.held_out.frames, run.device, edit), truth)
        run.log(run.cfg.steps_reader, **{f"{row}_{n}": float(r) for n, r in zip(READ, r2)})


def train_features(net, run):
    """Features of frames; then, from these, of clips: the order and the speed of the frames."""
    data, generator, device = run.data, run.generator, run.device
    motion = run.standard(data)

    def loss_of_frames():
        x, rows, damage = batch_features(data, run.cfg.batch, generator, device)
        return frame_loss(net, x, motion[rows] if len(motion) else motion, damage)

    fit(run, "frames", net.parameters(), run.cfg.steps_features, loss_of_frames)
    net.requires_grad_(False)
    clean = over(net.trunk, data.frames, device)
    net.frame_mean.copy_(clean.mean(0)), net.frame_std.copy_(clean.std(0))

    def harm(x):
        soft = blurred(x, torch.rand(len(x), generator=generator).to(device))
        return soft + 0.05 * torch.randn(x.shape, generator=generator).to(device)

    extra = motion if len(motion) else torch.zeros(len(clean), len(MOTION), device=device)
    clean = torch.cat([(clean - net.frame_mean) / net.frame_std, extra], 1)
    damaged = torch.cat([over(net.frames, data.frames, device, harm), extra], 1)
    for part in (net.over_time, net.clip_out, net.speed, net.disorder):
        part.requires_grad_(True)

    def loss_of_clips():
        clips, kind = clip_batch(clean, damaged, data.starts, run.cfg.batch, generator)
        return clip_loss(net, clips, kind.to(device), len(motion))

    learns = [p for p in net.parameters() if p.requires_grad]
    fit(run, "clips", learns, run.cfg.steps_features, loss_of_clips)
    features = clean[:, : -len(MOTION)]
    starts = whole_clips(data.starts)
    raw = torch.cat([net.clip_raw(features[None, i : i + CLIP]).detach() for i in starts])
    net.clip_mean.copy_(raw.mean(0)), net.clip_std.copy_(raw.std(0))
    found = judge_features(net, run.held_out, run.standard(run.held_out), device)
    run.log(run.cfg.steps_features, **found)


def whole_clips(starts):
    """Where clips of CLIP frames begin, side by side, each within one video. (V + 1,) -> list."""
    return [i for a, b in zip(starts, starts[1:]) for i in range(a, b - CLIP + 1, CLIP)]


def train_sync(net, run):
    """InfoNCE of windows of lips and of sound."""
    windows = [run.data.windows(i) for i in range(len(run.data.starts) - 1)]

    def loss_of():
        return sync_loss(*net(*sync_batch(run.data, windows, run.generator, run.device)))

    fit(run, "sync", net.parameters(), run.cfg.steps_sync, loss_of)
    run.log(run.cfg.steps_sync, **judge_sync(net, run.held_out, run.device))


TRAININGS = dict(reader=train_reader, features=train_features, sync=train_sync)


def train(cfg, resume=False):
    # 1 seed and device
    torch.manual_seed(cfg.seed)
    generator = torch.Generator().manual_seed(cfg.seed)
    device = pick_device(cfg.device)
    if cfg.only and cfg.only not in NETWORKS:
        raise ValueError(f"--only {cfg.only}: choose one of {', '.join(NETWORKS)}")
    if cfg.batch < 2:
        raise ValueError(f"--batch must be at least 2, to tell one from another, got {cfg.batch}")

    # 2 data: of 2 CLIP frames, since the disorder "fast" takes so many
    data = tiny_data.load(cfg.data, "train", cfg.videos, 2 * CLIP)
    held_out = tiny_data.load(cfg.data, "val", cfg.videos, 2 * CLIP)
    motion = torch.from_numpy(np.array(data.motion)).to(device)
    mean, std = (motion.mean(0), motion.std(0)) if len(motion) else (0, 1)

    clips = np.split(data.frames, data.starts[1:-1])
    if all((clip == clip[:1]).all() for clip in clips):  # the first that moves ends it
        raise ValueError(f"the clips of {cfg.data} do not move: give videos of faces that speak")

    # 3 networks; 4 optimisers are made in fit()
    nets = {
        name: net().to(device, memory_format=torch.channels_last)
        for name, net in NETWORKS.items()
        if len(motion) or name != "reader"
    }
    if cfg.only and cfg.only not in nets:
        raise ValueError("--only reader: your own clips have no motion that a reader could learn")

    # 5 resume: networks that were finished are kept
    progress, saved = f"{cfg.out}/last.pt", {"kind": "metrics"}
    if resume:
        saved = load_checkpoint(progress, "metrics")
        same_run(cfg, saved["config"], progress, saved.get("data"))
    elif cfg.only:
        saved = load_checkpoint(cfg.weights, "metrics")
    saved |= dict(config=asdict(cfg), data=tiny_data.fingerprint(cfg.data))
    todo = [cfg.only] if cfg.only else [n for n in nets if n not in saved]
    if not todo:
        print(f"{progress} is finished: train one of its networks again with --only NAME")
    log = Log(cfg.out, cfg, device, resume or bool(cfg.only))
    run = Run(cfg, data, held_out, mean, std, generator, device, log)
    for name, net in nets.items():
        count = sum(p.numel() for p in net.parameters()) / 1e6
        print(f"{name}: {count:.2f} M parameters, {device}")

    # 6 loop
    for name in todo:
        TRAININGS[name](nets[name], run)
        saved[name] = half(nets[name].state_dict())  # save
        save_checkpoint(progress, **saved)
    save_checkpoint(cfg.weights, **saved)


@torch.no_grad()
def judge_features(net, data, truth, device):
    """Held-out: how well the features know the motion, and whether a frame's nearest of one other
    frame per person is its own."""
    f = over(net.frames, data.frames, device)
    who = net.identity(f)
    first, last = who[data.starts[:-1]], who[data.starts[1:] - 1]
    own = torch.arange(len(first), device=device)
    row = {"same_person": float((first @ last.T).argmax(1).eq(own).float().mean())}
    if len(truth):
        guess = net.motion(F.silu(f * net.frame_std + net.frame_mean))
        row["r2_motion"] = float(r_squared(guess, truth).mean())
    return row


@torch.no_grad()
def judge_sync(net, data, device):
    """Held-out videos with their own sound, with the next video's, and with their own 3 frames
    late."""
    n = int(np.diff(data.starts).min())
    x = torch.stack([to_pixels(data.frames[s : s + n], device) for s in data.starts[:-1]])
    w = torch.from_numpy(np.stack([data.windows(i)[:n] for i in range(len(x))])).to(device)
    v, a = net(x, w)
    (c, d, offset), (c_wrong, d_wrong, _) = sync_scores(v, a), sync_scores(v, a.roll(1, 0))
    late = sync_scores(v[:, 3:], a[:, :-3])[2]
    return dict(
        sync_c=c.mean(),
        sync_d=d.mean(),
        in_sync=(offset == 0).mean(),
        late_3=(late == 3).mean(),
        wrong_c=c_wrong.mean(),
        wrong_d=d_wrong.mean(),
    )


if __name__ == "__main__":
    with one_line_errors():
        # its losses compare every row of a batch with every other: one process does it all
        if int(os.environ.get("RANK", 0)):
            sys.exit()
        train(*parse(Config, __doc__, SMOKE))
