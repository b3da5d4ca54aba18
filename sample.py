"""A portrait + any sound -> a talking video with that sound, of any length.

    python sample.py                              the shipped sentence, a toy portrait -> talk.mp4
    python sample.py --audio speech.mp3           your sound: anything ffmpeg reads, of any length
    python sample.py --image me.jpg               your portrait: its middle square, at 64 x 64
    python sample.py --portrait 2000137           a toy face; from 2000000 on, none was trained on
    python sample.py --model teacher              120 evaluations a chunk instead of one
    python sample.py --out talk.gif (or .png)     without sound: an animation, or a sheet of frames
    python sample.py --compare --out all.mp4      every model side by side, from the same noise

A network that was trained on toy faces knows toy faces: a photograph needs a network trained on
photographs (--weights).

The video is made chunk by chunk (generate.py) and written as it is made, so memory grows with the
length only by the sound and its features.
"""

import argparse
import math
import time
from collections import Counter

import numpy as np
import torch
from tqdm import tqdm

from audio_features import FPS, FRAME, log_mel
from autoencoder import load_autoencoder
from common import HERE, Parser, one_line_errors, pick_device
from generate import CHUNK, CONTEXT, MODELS, clock, generate_video, load_to_sample
from media import SIZE, WRITERS, caption_line, finished_file, load_audio
from portrait import load_portrait, toy_portrait
from teacher import S_AUDIO, S_REF


def number(kind, low, high):
    """An argparse type: an int or float from low to high, so not NaN."""

    def convert(text):
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must lie between {low} and {high}, got {text}")
        return value

    convert.__name__ = kind.__name__
    return convert


def even(text):
    """An argparse type: the side of the picture. H.264 with 4:2:0 colour wants even numbers."""
    size = number(int, SIZE, 1024)(text)
    if size % 2:
        raise argparse.ArgumentTypeError(f"must be even, got {text}")
    return size


def parse_args(argv):
    parser = Parser(__doc__)
    add = parser.add_argument
    shipped = HERE / "assets/sentence.wav"
    add("--audio", default=shipped, help="sound, or a video with sound (default: a sentence)")
    face = parser.add_mutually_exclusive_group()
    face.add_argument("--image", help="the portrait, an image of at least 64 x 64 pixels")
    seed = dict(type=number(int, 0, 2**31), default=2_000_104, metavar="SEED")
    face.add_argument("--portrait", **seed, help="or a toy face (default: 2000104)")
    add("--out", default="talk.mp4", help=".mp4 with sound, .gif or .png (default: talk.mp4)")
    add("--model", choices=MODELS, help="120, 4 or 1 evaluations a chunk (default: stage2)")
    add("--compare", action="store_true", help="all of them, with their evaluations and times")
    add("--weights", help="its checkpoint (default: the shipped one)")
    coder = HERE / "checkpoints/autoencoder.pt"
    add("--autoencoder", default=coder, help="the autoencoder's checkpoint")
    add("--steps", type=number(int, 1, 1000), help="steps a chunk (default: the model's; 40, 4, 1)")
    scale = dict(type=number(float, 0, 100), metavar="S")
    add("--guidance-ref", **scale, dest="s_ref", help=f"by the portrait (teacher: {S_REF})")
    add("--guidance-audio", **scale, dest="s_audio", help=f"by the sound (teacher: {S_AUDIO})")
    noise = dict(type=number(int, 0, 2**63 - 1), default=0)
    add("--seed", **noise, help="of the noise: head motion and blinks (default: 0)")
    add("--size", type=even, default=256, help="pixels: 64 are made and enlarged (default: 256)")
    how = dict(choices=["smooth", "nearest"], default="smooth")
    add("--upscale", **how, help="nearest shows the true pixels (default: smooth)")
    add("--device", default="auto", help="auto = cuda if there is one, else cpu")
    add("--bf16", action="store_true", help="the network in bfloat16 (GPUs, CPUs with AMX)")
    return parser.parse_args(argv)


def make_sampler(name, args, device, evaluations):
    """A model of MODELS -> sample(cond, noise) -> x0; `evaluations` gathers the batch of every
    call: guidance is three in one."""
    loader, sampler_of = MODELS[name]
    given = dict(steps=args.steps, s_ref=args.s_ref, s_audio=args.s_audio)
    given = {key: value for key, value in given.items() if value is not None}
    if name != "teacher" and {"s_ref", "s_audio"} & given.keys():
        raise ValueError(f"--model {name} has no guidance: leave --guidance-... out")
    weights = args.weights or HERE / f"checkpoints/{name}.pt"
    model, config = load_to_sample(loader, weights, device, args.bf16)
    model.register_forward_pre_hook(lambda _, inputs: evaluations.append(len(inputs[0])))
    sampler = sampler_of(model, config, **given)

    def sample(cond, noise):
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            return sampler(cond, noise)

    return sample


def names_of(args):
    """The models to be run. Raises ValueError."""
    if not args.compare:
        return [args.model or "stage2"]
    if any(x is not None for x in (args.model, args.weights, args.steps, args.s_ref, args.s_audio)):
        raise ValueError(
            "--compare shows every model as it is: leave --model, --weights, --steps and "
            "--guidance-... out"
        )
    names = [name for name in MODELS if (HERE / f"checkpoints/{name}.pt").exists()]
    if not names:
        raise ValueError(f"no weights in {HERE / 'checkpoints'}: train them first (see README)")
    return names


def run(args):
    """Sample and write as the command line says, and print what it took."""
    names, seconds = names_of(args), Counter()
    calls, times = {name: [] for name in names}, {name: Counter() for name in names}
    with finished_file(args.out, [args.audio, args.image]) as temporary:
        portrait = toy_portrait(args.portrait) if args.image is None else load_portrait(args.image)
        with clock(seconds, "features"):
            wave = load_audio(args.audio)
            mel, n_frames = log_mel(wave), math.ceil(len(wave) / FRAME)
        device = pick_device(args.device)
        autoencoder = load_autoencoder(args.autoencoder, device)
        videos = []
        for name in names:
            sampler = make_sampler(name, args, device, calls[name])
            start = sampler, autoencoder, portrait, mel, torch.Generator().manual_seed(args.seed)
            videos.append(generate_video(*start, times[name]))

        def pictures():
            """The models' chunks side by side."""
            with tqdm(total=n_frames, unit="frame", disable=None, leave=False) as bar:
                for parts in zip(*videos):
                    seconds.setdefault("first", time.perf_counter() - begin)
                    yield np.concatenate(parts, axis=2)
                    bar.update(len(parts[0]))

        def caption():
            """Evaluations and times of the first chunk."""
            ms = {name: 1000 * times[name]["denoising"] / min(CHUNK, n_frames) for name in names}
            texts = [f"{n}: {sum(calls[n])} evaluations, {ms[n]:.3g} ms a frame" for n in names]
            return caption_line(texts, args.size)

        begin = time.perf_counter()
        write, line = WRITERS[temporary.suffix], caption if args.compare else None
        smooth = args.upscale == "smooth"
        write(temporary, pictures(), n_frames, args.size, args.audio, smooth, line)
        sampling = time.perf_counter() - begin

    duration = len(wave) / (FPS * FRAME)
    chunks = max(1, math.ceil((n_frames - CONTEXT) / (CHUNK - CONTEXT)))
    print(f"{args.out}: {duration:.2f} s of sound, {n_frames} frames")
    for name in names:
        count, spent = sum(calls[name]), times[name]
        print(
            f"{name}: {count // chunks} evaluations a chunk, {count} in all | "
            f"denoising {spent['denoising']:.2f} s, decoding {spent['decoding']:.2f} s"
        )
    features, writing = seconds["features"], sampling - sum(sum(t.values()) for t in times.values())
    print(
        f"features {features:.2f} s, writing {writing:.2f} s | first chunk after "
        f"{features + seconds['first']:.2f} s | {duration / (features + sampling):.2f} x real time"
    )
    if args.image is not None and args.weights is None:
        print("note: these weights know toy faces only, and draw a photograph as one of them")


def main(argv=None):
    with one_line_errors():
        run(parse_args(argv))


if __name__ == "__main__":
    main()
