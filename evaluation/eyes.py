"""Which portraits keep their eyes: the colour of the two irises in the videos of one model.

    python -m evaluation.eyes --model stage2 --portraits 2000100-2000139

A line for each toy portrait, the best first: the share of frames in which the two irises differ by
more than LIMIT, then the medians over frames of that difference and of the irises' distance from
their own colour over time, in levels of 255. The first line is of the same faces' true videos.
"""

import numpy as np
import torch

import tiny_data
from audio_features import log_mel
from autoencoder import load_autoencoder, to_pixels
from common import HERE, Parser, one_line_errors, pick_device
from evaluation import metrics
from generate import MODELS, generate_video, load_to_sample
from media import load_audio
from portrait import toy_portrait
from tiny_data import faces

LIMIT = 25  # levels of 255: 1 % of the frames of twelve true videos differ by more


def irises(frames, who, motion):
    """Colours where the irises of the toy face `who` are: frames (F, 64, 64, 3) uint8, motion
    (F, 7) columns metrics.READ -> (n, 2, 3) left and right, in levels of 255, of the n frames with
    open lids. The mean of a disc of 2 pixels, as gaze moves the iris by one."""
    seen = motion[:, 6] < 0.3
    hx, hy, roll = (column[seen, None, None] for column in np.asarray(motion, float).T[3:6])
    y, x = np.mgrid[: faces.SIZE, : faces.SIZE] + 0.5
    x, y = faces.turned(x - 32 - hx, y - 31 - hy, roll)
    eyes = []
    for side in (-1, 1):
        inside = np.hypot(x - side * who["eye_dx"], y - who["eye_y"]) < 2
        total = (frames[seen] * inside[..., None]).sum((1, 2))
        eyes.append(total / inside.sum((1, 2))[:, None])
    return np.stack(eyes, 1)


def eye_errors(eyes):
    """Irises (n, 2, 3) -> the share of frames in which left and right differ by more than LIMIT,
    the median of that difference, and of the distance from their own medians over time."""
    if not len(eyes):
        return float("nan"), float("nan"), float("nan")  # lids shut throughout
    sides = np.abs(eyes[:, 0] - eyes[:, 1]).mean(-1)
    times = np.abs(eyes - np.median(eyes, 0)).mean((1, 2))
    return (sides > LIMIT).mean(), np.median(sides), np.median(times)


@torch.no_grad()
def rank(args):
    """-> [(portrait, *eye_errors)], the best first, and the mean of the true videos'."""
    device, folder = pick_device("auto"), args.checkpoints
    autoencoder = load_autoencoder(f"{folder}/autoencoder.pt", device)
    reader = metrics.load_reader(f"{folder}/metrics.pt", device)
    loader, sampler_of = MODELS[args.model]
    sampler = sampler_of(*load_to_sample(loader, f"{folder}/{args.model}.pt", device))
    mel, rows, true = log_mel(load_audio(args.audio)), [], []

    def errors(portrait, frames):
        motion = reader(to_pixels(frames, device)).cpu().numpy()
        return eye_errors(irises(frames, faces.identity(portrait), motion))

    for portrait in range(args.portraits[0], args.portraits[1] + 1):
        generator = torch.Generator().manual_seed(args.seed)
        start = sampler, autoencoder, toy_portrait(portrait), mel, generator
        rows.append((portrait, *errors(portrait, np.concatenate(list(generate_video(*start))))))
        true.append(errors(portrait, tiny_data.make_video(portrait)[0]))
    return sorted(rows, key=lambda row: row[1:]), np.mean(true, 0)


def span(text):
    """An argparse type: "5-9" -> (5, 9)."""
    first, _, last = text.partition("-")
    first, last = int(first), int(last or first)
    if not 0 <= first <= last:
        raise ValueError
    return first, last


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("--model", choices=MODELS, default="stage2")
    parser.add_argument("--portraits", type=span, default=(2_000_100, 2_000_139), metavar="A-B")
    parser.add_argument("--audio", default=HERE / "assets/sentence.wav", help="what they say")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--checkpoints", default=HERE / "checkpoints")
    with one_line_errors():
        rows, true = rank(parser.parse_args(argv))
        print("portrait    eyes differ   left - right   over time")
        for name, share, sides, times in [("true", *true), *rows]:
            print(f"{name!s:10s} {share:10.0%} {sides:12.1f} {times:12.1f}")


if __name__ == "__main__":
    main()
