"""What the judges learn from: batches of true frames, damaged and disordered, and the losses.

Shapes: N frames, B clips, V videos, K windows of a video, D features.
"""

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

import tiny_data
from autoencoder import to_pixels, to_uint8
from evaluation.metrics import CLIP, DISORDER, blurred
from tiny_data import faces
from tiny_data.faces import MOTION


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
        if i % 8 == 0:
            drawn = rng.uniform(size=(frames, 3))
        else:
            drawn = lips[rng.integers(len(lips), size=frames)]
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
    x, m = to_pixels(frames[i], device), motion[i].clone()
    u = torch.rand(4, size, generator=generator).to(device)
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
    amount = torch.rand(len(i), 3, generator=generator)
    damage = (amount * (torch.rand(len(i), 3, generator=generator) < 0.35)).to(device)
    blur, noise, ghost = damage.T
    x, other = to_pixels(data.frames[i], device), to_pixels(data.frames[j], device)
    x = blurred(torch.lerp(x, other, 0.5 * ghost[:, None, None, None]), blur)
    white = torch.randn(x.shape, generator=generator).to(device)
    return x + 0.15 * noise[:, None, None, None] * white, i, damage


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
    loss = info_nce(who[::2] @ who[1::2].T / 0.1)
    loss = loss + (net.damage(h).float() - damage).pow(2).mean() * 10
    clean = damage.sum(1) == 0
    if len(motion) and clean.any():
        loss = loss + (net.motion(h).float() - motion)[clean].pow(2).mean()
    return loss


def clip_loss(net, clips, kind, has_motion):
    """Cross-entropy of the disorder, and ‖ŝ − s‖² of the motion's speed. clips (B, CLIP, D + 11),
    kind (B,), as clip_batch makes them."""
    h = F.silu(net.clip_raw(clips[..., : -len(MOTION)]))
    loss = F.cross_entropy(net.disorder(h).float(), kind)
    if has_motion:
        loss = loss + (net.speed(h).float() - speed_of(clips[..., -len(MOTION) :])).pow(2).mean()
    return loss


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
        room = int(starts[video + 1] - starts[video]) - 2 * CLIP
        a = int(starts[video]) + int(torch.randint(room + 1, (), generator=generator))
        piece = slice(a, a + 2 * CLIP)
        clips.append(disordered(clean[piece], k, generator, damaged[piece]))
    return torch.stack(clips), kind


def speed_of(motion):
    """(B, CLIP, 11) standardised -> (B, 22): standard deviation over time and mean |step| of each
    parameter."""
    return torch.cat([motion.std(1), motion.diff(dim=1).abs().mean(1)], 1)


def sync_batch(data, windows, generator, device, videos=12, length=28):
    """Pieces of different videos, tinted, mirrored or not, the crop moved by up to 2 pixels, sound
    softer or louder with a spread of 3 dB."""
    frames, sound = [], []
    for video in torch.randperm(len(windows), generator=generator)[:videos]:
        n = int(data.starts[video + 1] - data.starts[video])
        k = int(torch.randint(max(1, n - length + 1), (), generator=generator))
        a = data.starts[video]
        x = to_pixels(data.frames[a + k : a + min(n, k + length)], device)
        dx, dy, flip = (int(torch.randint(r, (), generator=generator)) for r in (5, 5, 2))
        x = x.roll((dx - 2, dy - 2), (3, 2))
        frames.append(tint(x.flip(3) if flip else x, generator, 0.05))
        heard = torch.from_numpy(windows[video][k : k + length].copy()).to(device)
        sound.append(heard + 0.075 * float(torch.randn((), generator=generator)))
    return torch.stack(frames), torch.stack(sound)


def sync_loss(v, a):
    """InfoNCE over −‖v_k − a_j‖²: all windows of a batch compete, those of the same video a few
    frames off as well.

    v, a (V, K, D). Chung & Zisserman's margin loss sees one wrong offset at a time; this sees all,
    and learns faster.
    """
    v, a = v.flatten(0, 1), a.flatten(0, 1)
    # not 2 v aᵀ − ‖v‖² − ‖a‖²: under --bf16 that cancels to noise
    return info_nce(-(v[:, None] - a[None]).pow(2).sum(-1))
