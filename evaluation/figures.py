"""Figures to lecture with: what the samplers and the DMD gradient do to one held-out clip.

    python -m evaluation.figures                  all four -> docs/
    python -m evaluation.figures --only truth     one: trajectories, strips, dmd_gradient or truth

trajectories.png    x̂0 after every evaluation of the students, and at a few t of the teacher
dmd_gradient.png    what g asks for at four t: x_t, x0_real, x0_fake, and where they differ
strips.png          one clip by every model, and where it changes from frame to frame
truth.png           the toy set's ground truth on one time axis: sound, phones, lips, faces
From fixed noise: the same pictures every time.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch

import tiny_data
from audio_features import FPS, FRAME, ROWS, SR
from autoencoder import load_autoencoder, to_pixels, to_uint8
from common import HERE, Parser, one_line_errors, pick_device
from departures import noise_source
from diffusion import add_noise, x0_from_v
from distill_stage1 import Config, dmd_gradient, fake_score, real_score
from evaluation.models import generate_videos, models_in
from evaluation.plots import plt, save
from evaluation.truth import truth_of
from generate import CHUNK, MODELS
from latents import Clips, preview, preview_noise
from student import few_step_sample
from teacher import load_teacher

MIDDLE = 8  # of the clip's 16 frames: the one that is shown
SHOWN_T = (1000, 750, 500, 250, 25)  # of the teacher's 40 steps
STRIPS = """teacher stage1 stage2 direct1 progressive consistency consistency_adv keep_dmd
    plain_stage1 plain_stage2 plain_direct1""".split()
SCORE_T = (900, 600, 300, 100)  # where g is shown


def recorded(network, sample):
    """Run sample() -> [(t, x̂0 (B, F, C, H, W))] of every call of the network; of several guidance
    branches in one batch, the last one's, with portrait and sound."""
    seen = []

    def watch(_, inputs, v):
        xt, t = inputs[:2]
        seen.append((float(t[0]), x0_from_v(xt, v, t)[-1:]))

    hook = network.register_forward_hook(watch)
    try:
        sample()
    finally:
        hook.remove()
    return seen


def panels(rows, path, size=1.5):
    """rows: [(label, [(title, picture (H, W, 3) uint8)])] -> a PNG, a row each."""
    count = max(len(row) for _, row in rows)
    figure, axes = plt.subplots(len(rows), count, squeeze=False)
    figure.set_size_inches(size * count + 1.2, (size + 0.25) * len(rows))
    for line, (label, row) in zip(axes, rows):
        for axis in line:
            axis.axis("off")
        for axis, (title, picture) in zip(line, row):
            axis.imshow(picture)
            axis.set_title(title, fontsize=8)
        line[0].text(-0.15, 0.5, label, transform=line[0].transAxes, ha="right", va="center")
    return save(figure, path, bbox_inches="tight")


def picture(autoencoder, x):
    """The middle frame of the first clip of x (B, F, C, H, W) -> (H, W, 3) uint8."""
    return to_uint8(autoencoder.decode(x[:, MIDDLE]))[0]


def heat(x):
    """Numbers from 0 to 1 (H, W) -> colours (H, W, 3) uint8, black to white."""
    return np.uint8(255 * plt.get_cmap("magma")(x)[..., :3])


def trajectories(folder, autoencoder, clips, device, path):
    """x̂0 as the teacher and both students go from noise to a face."""
    (x0, cond), rows = preview(clips, 1), []
    for name, label, steps in (
        ("teacher", "teacher\n40 steps", 40),
        ("stage1", "stage 1\n4 steps", 4),
        ("stage2", "stage 2\n1 step", 1),
    ):
        loader, sampler_of = MODELS[name]
        network, config = loader(folder / f"{name}.pt", device)
        sampler = sampler_of(network, config, steps=steps)
        seen = recorded(network, partial(sampler, cond, preview_noise(x0)))
        kept = [pair for pair in seen if steps < 40 or round(pair[0]) in SHOWN_T]
        row = [(f"x̂0 at t = {t:.0f}", picture(autoencoder, x)) for t, x in kept]
        rows.append((label, [*row, ("truth", picture(autoencoder, x0))]))
    return panels(rows, path)


def strips(folder, autoencoder, videos, index, device, path):
    """One clip by the truth, the teacher and every student, a row each; last, the mean change of
    each pixel from frame to frame (black 0, white 24 levels or more): flicker is bright."""
    truth = truth_of(videos, index, 1, CHUNK, device)
    ref = autoencoder.encode(to_pixels(truth.portraits, device))
    clips = {"truth": truth.frames[0]}
    for name, nfe, sampler in models_in(folder, device):
        if name in STRIPS:
            label = name.replace("plain_", "plain ") + f", {nfe}"
            clips[label] = generate_videos(sampler, truth, ref, autoencoder, seed=0)[0]
    rows = []
    for label, frames in clips.items():
        change = np.abs(np.diff(frames.astype(float), axis=0)).mean((0, 3))  # (64, 64) levels
        row = [(f"frame {k}", frames[k]) for k in range(0, CHUNK, 2)]
        rows.append(
            (label, [*row, (f"change: {change.mean():.1f}", heat((change / 24).clip(0, 1)))])
        )
    return panels(rows, path, size=1.0)


def gradient(folder, autoencoder, clips, device, path):
    """What DMD asks of the teacher's blurred one-step sample, at four t. The fake score is the
    teacher without guidance, as at the first update: so g is what guidance by the sound adds."""
    x0, cond = preview(clips, 1)
    teacher, config = load_teacher(folder / "teacher.pt", device)
    recipe, fresh = config.get("recipe", "toy"), preview_noise(x0)
    s_ref, s_audio = Config.s_ref, Config.s_audio
    x0_hat = few_step_sample(teacher, cond, noise_source(recipe, "student", fresh), 1)
    score_noise, rows = noise_source(recipe, "teacher", fresh), []

    for t in SCORE_T:
        times = torch.full((1,), float(t), device=device)
        xt = add_noise(x0_hat, score_noise(), times)
        real = real_score(teacher, xt, times, cond, s_ref, s_audio)
        fake = fake_score(teacher, xt, times, cond)
        g = dmd_gradient(fake, real, x0_hat, cond.mask)
        size = g[0, MIDDLE].abs().mean(0).cpu().numpy()
        size = np.kron(size / size.max(), np.ones((8, 8)))
        named = [("x̂0", x0_hat), ("x_t", xt), ("x0_real", real), ("x0_fake", fake)]
        row = [(title, picture(autoencoder, x)) for title, x in named]
        row += [("x̂0 − g", picture(autoencoder, x0_hat - g)), ("|g|", heat(size))]
        rows.append((f"t = {t}", row))
    return panels(rows, path)


def time_axis(videos, path, seconds=2.0):
    """Sound, phones, lips and faces of one video on one time axis."""
    n = int(seconds * FPS)
    figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(11, 5), sharex=True)
    wave = videos.wave[: int(seconds * SR)]
    top.plot(np.arange(len(wave)) / SR, wave, linewidth=0.4)
    top.set_ylabel("sound")
    for symbol, start, end in videos.phones[0]:
        if start < seconds:
            top.axvline(start, color="grey", linewidth=0.5)
            top.text((start + min(end, seconds)) / 2, 0.9 * np.abs(wave).max(), symbol, ha="center")
    times = (np.arange(n) + 0.5) / FPS
    for i, name in enumerate(("jaw", "width", "rounding")):
        middle.plot(times, videos.motion[:n, i], marker=".", label=name)
    middle.set_ylabel("lips")
    middle.legend(fontsize=8, loc="upper right")
    step = 4
    strip = np.concatenate(videos.frames[:n:step], axis=1)
    bottom.imshow(strip, extent=(0, seconds, 0, seconds * step / n), aspect="auto")
    bottom.set_yticks([])
    bottom.set(xlabel="seconds", ylabel="faces")
    return save(figure, path, bbox_inches="tight")


def one_video(videos, index):
    """Videos with one of them only. Raises ValueError where there is none."""
    if not 0 <= index < len(videos.starts) - 1:
        raise ValueError(f"--video must lie between 0 and {len(videos.starts) - 2}, got {index}")
    a, b = (int(x) for x in videos.starts[index : index + 2])
    return videos._replace(
        frames=videos.frames[a:b],
        motion=videos.motion[a:b],
        mel=videos.mel[a * ROWS : b * ROWS],
        wave=videos.wave[a * FRAME : b * FRAME],
        starts=np.array([0, b - a]),
        phones=videos.phones[index : index + 1],
    )


def main(argv=None):
    parser = Parser(__doc__)
    names = ("trajectories", "strips", "dmd_gradient", "truth")
    parser.add_argument("--only", choices=names, help="one of them (default: all)")
    parser.add_argument("--video", type=int, default=3, help="of the test split, from 0")
    parser.add_argument("--data", default=tiny_data.HOME, help="the toy set (default: %(default)s)")
    parser.add_argument("--checkpoints", default=HERE / "checkpoints", type=Path)
    parser.add_argument("--out", default=HERE / "docs", type=Path, help="(default: %(default)s)")
    with one_line_errors(), torch.no_grad():
        args = parser.parse_args(argv)
        if not args.out.is_dir():
            raise ValueError(f"--out {args.out} is no folder")
        device = pick_device("auto")
        videos = tiny_data.load(args.data, "test")
        if not videos.phones:
            raise ValueError("nobody knows the truth of your own clips: leave --data out")
        video = one_video(videos, args.video)
        wanted = [args.only] if args.only else names
        if "truth" in wanted:
            print(time_axis(video, args.out / "truth.png"))
        if set(wanted) - {"truth"}:
            autoencoder = load_autoencoder(args.checkpoints / "autoencoder.pt", device)
        if "strips" in wanted:
            path = args.out / "strips.png"
            print(strips(args.checkpoints, autoencoder, videos, args.video, device, path))
        if {"trajectories", "dmd_gradient"} & set(wanted):
            clips = Clips(video, autoencoder, CHUNK, device)
            for name, draw in ("trajectories", trajectories), ("dmd_gradient", gradient):
                if name in wanted:
                    path = args.out / f"{name}.png"
                    print(draw(args.checkpoints, autoencoder, clips, device, path))


if __name__ == "__main__":
    main()
