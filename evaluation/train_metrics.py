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

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

import tiny_data
from autoencoder import load_autoencoder, to_pixels, to_uint8
from common import (
    Log,
    Options,
    check_finite,
    cosine_decay,
    half,
    load_checkpoint,
    one_line_errors,
    parse,
    pick_device,
    same_run,
    save_checkpoint,
    smoke,
)
from evaluation.measures import sync_scores
from evaluation.metrics import CLIP, DISORDER, NETWORKS, READ, blurred, over, r_squared
from tiny_data import faces
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


def tint(x, generator, strength):
    """A colour gain and offset per frame and channel: another camera."""
    gain, offset = strength * torch.randn(2, len(x), 3, 1, 1, generator=generator).to(x.device)
    return x * (1 + gain) + offset


def reader_faces(people, lips, autoencoder, device, frames=4):
    """What the reader learns from: many people, a few frames each -> frames (N, 64, 64, 3) uint8,
    motion (N, 11).

    lips (M, 3): jaw, width and rounding, of which rows are drawn; but every eighth person has
    independent ones, uniform in 0 .. 1: otherwise the reader would guess the width from the jaw, as
    speech has it. Every third person is seen through the autoencoder, the latents a little noisy,
    as generated ones are: that blurs the lips' corners, by which a reader of clean faces tells how
    round they are. The first 1080 people are the training split's; none is of the other splits.
    """
    rng, made = np.random.default_rng(3), []
    for i in tqdm(range(people), desc="faces for the reader", unit="person", disable=None):
        drawn = (
            rng.uniform(size=(frames, 3))
            if i % 8 == 0
            else lips[rng.integers(len(lips), size=frames)]
        )
        move = faces.motion(int(rng.integers(2**31)), drawn)
        x = faces.render(faces.identity(tiny_data.FIRST_SEED["train"] + i), move)
        if i % 3 == 0:
            with torch.no_grad():
                z = autoencoder.encode(to_pixels(x, device))
                noise = torch.from_numpy(rng.standard_normal(z.shape, np.float32)).to(device)
                x = to_uint8(autoencoder.decode(z + 0.4 * rng.uniform() * noise))
        made.append((x, move))
    return tuple(np.concatenate(a) for a in zip(*made))


def batch_reader(frames, motion, size, generator, device):
    """Frames a little blurred, noisy and tinted (as decoders leave them), half of them mirrored ->
    x, motion (N, 7)."""
    i = torch.randint(len(frames), (size,), generator=generator).numpy()
    x, m, u = (
        to_pixels(frames[i], device),
        motion[i].clone(),
        torch.rand(4, size, generator=generator).to(device),
    )
    x = tint(blurred(x, 0.3 * u[0] * (u[1] < 0.5)), generator, 0.05)
    x = x + 0.02 * u[2, :, None, None, None] * torch.randn(x.shape, generator=generator).to(device)
    flip = u[3] < 0.5
    m[:, [3, 5]] = torch.where(flip[:, None], -m[:, [3, 5]], m[:, [3, 5]])  # x and roll change sign
    return torch.where(flip[:, None, None, None], x.flip(3), x), m


def batch_features(data, size, generator, device):
    """Two frames each of size / 2 videos, half of the frames damaged -> x, rows of data.frames,
    damage (N, 3)."""

    def draw(high, n):
        return (torch.rand(n, generator=generator).numpy() * high).astype(int)

    video = draw(len(data.starts) - 1, size // 2).repeat(2)
    i, j = (data.starts[video] + draw(np.diff(data.starts)[video], len(video)) for _ in range(2))
    damage = torch.rand(len(i), 3, generator=generator) * (
        torch.rand(len(i), 3, generator=generator) < 0.35
    )
    blur, noise, ghost = damage.to(device).T
    x = torch.lerp(
        to_pixels(data.frames[i], device),
        to_pixels(data.frames[j], device),
        0.5 * ghost[:, None, None, None],
    )
    x = blurred(x, blur) + 0.15 * noise[:, None, None, None] * torch.randn(
        x.shape, generator=generator
    ).to(device)
    return x, i, damage.to(device)


def info_nce(scores):
    """Symmetric cross-entropy: row i of a square table of scores belongs to column i, among all
    columns; and the reverse."""
    own = torch.arange(len(scores), device=scores.device)
    return 0.5 * (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own))


def frame_loss(net, x, motion, damage):
    """Σ of: motion, damage, and who it is. InfoNCE over cosines / 0.1; frames 2i and 2i + 1 show
    one person."""
    h = F.silu(net.trunk(x))
    who = F.normalize(net.who(h).float(), dim=-1)
    loss = (
        info_nce(who[::2] @ who[1::2].T / 0.1) + (net.damage(h).float() - damage).pow(2).mean() * 10
    )
    clean = damage.sum(1) == 0
    return (
        loss + (net.motion(h).float() - motion)[clean].pow(2).mean()
        if len(motion) and clean.any()
        else loss
    )


def disordered(clip, kind, generator, damaged):
    """(n, D) features of 2 CLIP neighbouring frames -> (CLIP, D) with the disorder of that kind
    (index into DISORDER)."""
    k, name = torch.arange(CLIP), DISORDER[kind]
    stop = int(torch.randint(CLIP - 4, (), generator=generator))
    order = {
        "frozen": k.clamp(max=stop),
        "shuffled": torch.randperm(CLIP, generator=generator),
        "stutter": k // 2 * 2,
        "fast": 2 * k,
    }.get(name, k)
    if name == "flicker":  # every frame perfect or damaged at random
        pick = torch.rand(CLIP, 1, generator=generator).to(clip.device) < 0.5
        return torch.where(pick, clip[k], damaged[k])
    return clip[order]


def clip_batch(clean, damaged, starts, size, generator):
    """`size` clips, each with a random disorder -> (size, CLIP, D + 11) of features and motion,
    kind (size,)."""
    kind, clips = torch.randint(len(DISORDER), (size,), generator=generator), []
    for k in kind:
        video = int(torch.randint(len(starts) - 1, (), generator=generator))
        first = int(starts[video]) + int(
            torch.randint(
                int(starts[video + 1] - starts[video]) - 2 * CLIP + 1, (), generator=generator
            )
        )
        clips.append(
            disordered(
                clean[first : first + 2 * CLIP], k, generator, damaged[first : first + 2 * CLIP]
            )
        )
    return torch.stack(clips), kind


def speed_of(motion):
    """(B, CLIP, 11) standardised -> (B, 22): standard deviation over time and mean |step| of each
    parameter."""
    return torch.cat([motion.std(1), motion.diff(dim=1).abs().mean(1)], 1)


def sync_batch(data, windows, generator, device, videos=12, length=28):
    """Pieces of different videos, tinted, mirrored or not, the crop moved by up to 2 pixels, sound
    up to 3 dB softer or louder."""
    frames, sound = [], []
    for video in torch.randperm(len(windows), generator=generator)[:videos]:
        n = int(data.starts[video + 1] - data.starts[video])
        k = int(torch.randint(max(1, n - length + 1), (), generator=generator))
        x = to_pixels(
            data.frames[data.starts[video] + k : data.starts[video] + min(n, k + length)], device
        )
        dx, dy, flip = (int(torch.randint(r, (), generator=generator)) for r in (5, 5, 2))
        x = x.roll((dx - 2, dy - 2), (3, 2))
        frames.append(tint(x.flip(3) if flip else x, generator, 0.05))
        sound.append(
            torch.from_numpy(windows[video][k : k + length].copy()).to(device)
            + 0.075 * float(torch.randn((), generator=generator))
        )
    return torch.stack(frames), torch.stack(sound)


def sync_loss(v, a):
    """InfoNCE over −‖v_k − a_j‖²: all windows of a batch compete, those of the same video a few
    frames off as well.

    v, a (V, K, D). Chung & Zisserman's margin loss sees one wrong offset at a time; this sees all,
    and learns faster.
    """
    v, a = v.flatten(0, 1), a.flatten(0, 1)
    return info_nce(
        -(v[:, None] - a[None]).pow(2).sum(-1)
    )  # not 2 v aᵀ − ‖v‖² − ‖a‖²: under --bf16 that cancels to noise


def fit(name, parameters, steps, loss_of, cfg, log, device):
    """Minimise loss_of() by AdamW: warm-up of 50 steps, cosine decay to zero."""
    parameters = list(parameters)
    optimiser, seen = (
        torch.optim.AdamW(parameters, lr=cfg.lr, betas=(0.9, 0.99), weight_decay=0.01),
        [],
    )
    for step in range(steps):
        with torch.autocast(device.type, torch.bfloat16, enabled=cfg.bf16):
            loss = loss_of()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.param_groups[0]["lr"] = (
            cfg.lr * min(1, (step + 1) / 50) * cosine_decay(step / steps)
        )
        check_finite(step, **{name: loss.item(), "gradient": norm.item()})
        optimiser.step()
        seen.append(loss.item())
        if (step + 1) % cfg.log_every == 0:
            log(
                step + 1,
                **{name: float(np.mean(seen[-cfg.log_every :]))},
                gradient=norm.item(),
                lr=optimiser.param_groups[0]["lr"],
            )


def train(cfg, resume=False):
    # 1 seed and device
    torch.manual_seed(cfg.seed)
    generator = torch.Generator().manual_seed(cfg.seed)
    device = pick_device(cfg.device)
    if cfg.only and cfg.only not in NETWORKS:
        raise ValueError(f"--only {cfg.only}: choose one of {', '.join(NETWORKS)}")
    if cfg.batch < 2:
        raise ValueError(f"--batch {cfg.batch}: 2 or more are wanted, to tell from each other")

    # 2 data
    data, held_out = (
        tiny_data.load(cfg.data, split, cfg.videos, 2 * CLIP) for split in ("train", "val")
    )  # "fast" takes 2 CLIP frames
    motion, truth = (torch.from_numpy(np.array(d.motion)).to(device) for d in (data, held_out))
    mean, std = (motion.mean(0), motion.std(0)) if len(motion) else (0, 1)
    standard = (motion - mean) / std

    moving = np.delete((data.frames[1:] != data.frames[:-1]).any((1, 2, 3)), data.starts[1:-1] - 1)
    if not moving.any():
        raise ValueError(f"the clips of {cfg.data} do not move: give videos of faces that speak")

    # 3 networks; 4 optimisers are made in fit()
    nets = {
        name: net().to(device, memory_format=torch.channels_last)
        for name, net in NETWORKS.items()
        if len(motion) or name != "reader"
    }
    if cfg.only and cfg.only not in nets:
        raise ValueError(
            "--only reader: your own clips have no true motion that a reader could learn"
        )

    # 5 resume: networks that were finished are kept
    progress = f"{cfg.out}/last.pt"
    saved = (
        load_checkpoint(progress, "metrics")
        if resume
        else load_checkpoint(cfg.weights, "metrics")
        if cfg.only
        else {"kind": "metrics"}
    )
    if resume:
        same_run(cfg, saved["config"], progress, saved.get("data"))
    saved |= dict(config=asdict(cfg), data=tiny_data.fingerprint(cfg.data))
    todo = [cfg.only] if cfg.only else [n for n in nets if n not in saved]
    if not todo:
        print(f"{progress} is finished: train one of its networks again with --only NAME")
    log = Log(cfg.out, cfg, device, resume or bool(cfg.only))
    print(
        ", ".join(
            f"{n} {sum(p.numel() for p in net.parameters()) / 1e6:.2f} M parameters"
            for n, net in nets.items()
        )
        + f", {device}"
    )

    # 6 loop
    for name in todo:
        net = nets[name]
        if name == "reader":
            net.mean.copy_(mean[:7]), net.std.copy_(std[:7])
            # mirrored labels change sign about 0, so x and roll are standardised without their mean
            net.mean[[3, 5]] = 0
            autoencoder = load_autoencoder(cfg.autoencoder, device)
            seen, seen_motion = reader_faces(cfg.people, data.motion[:, :3], autoencoder, device)
            seen_motion = (torch.from_numpy(seen_motion[:, :7]).to(device) - net.mean) / net.std

            def loss_of():
                x, m = batch_reader(seen, seen_motion, cfg.batch, generator, device)
                return (net.standard(x) - m).pow(2).mean()

            fit(name, net.parameters(), cfg.steps_reader, loss_of, cfg, log, device)
            net.eval()
            for row, edit in dict(
                r2=lambda x: x, r2_decoded=lambda x: autoencoder.decode(autoencoder.encode(x))
            ).items():
                r2 = r_squared(over(net, held_out.frames, device, edit), truth[:, :7])
                log(cfg.steps_reader, **{f"{row}_{n}": float(r) for n, r in zip(READ, r2)})

        if name == "features":

            def loss_of():
                x, rows, damage = batch_features(data, cfg.batch, generator, device)
                return frame_loss(net, x, standard[rows] if len(standard) else standard, damage)

            fit("frames", net.parameters(), cfg.steps_features, loss_of, cfg, log, device)
            net.requires_grad_(False)
            clean = over(net.trunk, data.frames, device)
            net.frame_mean.copy_(clean.mean(0)), net.frame_std.copy_(clean.std(0))

            def harm(x):
                soft = blurred(x, torch.rand(len(x), generator=generator).to(device))
                return soft + 0.05 * torch.randn(x.shape, generator=generator).to(device)

            extra = (
                standard if len(standard) else torch.zeros(len(clean), len(MOTION), device=device)
            )
            clean, damaged = (
                torch.cat([f, extra], 1)
                for f in (
                    (clean - net.frame_mean) / net.frame_std,
                    over(net.frames, data.frames, device, harm),
                )
            )
            for part in (net.over_time, net.clip_out, net.speed, net.disorder):
                part.requires_grad_(True)

            def loss_of():
                clips, kind = clip_batch(clean, damaged, data.starts, cfg.batch, generator)
                h = net.clip_raw(clips[..., : -len(MOTION)])
                loss = F.cross_entropy(net.disorder(F.silu(h)).float(), kind.to(device))
                return (
                    loss
                    + (net.speed(F.silu(h)).float() - speed_of(clips[..., -len(MOTION) :]))
                    .pow(2)
                    .mean()
                    if len(motion)
                    else loss
                )

            fit(
                "clips",
                [p for p in net.parameters() if p.requires_grad],
                cfg.steps_features,
                loss_of,
                cfg,
                log,
                device,
            )
            raw = torch.cat(
                [
                    net.clip_raw(clean[None, i : i + CLIP, : -len(MOTION)]).detach()
                    for i in range(0, len(clean) - CLIP, CLIP)
                ]
            )
            net.clip_mean.copy_(raw.mean(0)), net.clip_std.copy_(raw.std(0))
            log(cfg.steps_features, **judge_features(net, held_out, (truth - mean) / std, device))

        if name == "sync":
            windows = [data.windows(i) for i in range(len(data.starts) - 1)]
            fit(
                name,
                net.parameters(),
                cfg.steps_sync,
                lambda: sync_loss(*net(*sync_batch(data, windows, generator, device))),
                cfg,
                log,
                device,
            )
            log(cfg.steps_sync, **judge_sync(net, held_out, device))

        saved[name] = half(net.state_dict())  # save
        save_checkpoint(progress, **saved)
    save_checkpoint(cfg.weights, **saved)


@torch.no_grad()
def judge_features(net, data, truth, device):
    """Held-out: how well the features know the motion, and whether a frame's nearest of one other
    frame per person is its own."""
    f = over(net.frames, data.frames, device)
    who = net.identity(f)
    first, last = who[data.starts[:-1]], who[data.starts[1:] - 1]
    row = {
        "same_person": float(
            (first @ last.T).argmax(1).eq(torch.arange(len(first), device=device)).float().mean()
        )
    }
    return row | (
        {
            "r2_motion": float(
                r_squared(net.motion(F.silu(f * net.frame_std + net.frame_mean)), truth).mean()
            )
        }
        if len(truth)
        else {}
    )


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
