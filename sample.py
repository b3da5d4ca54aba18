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

Chunk by chunk: the first has 16 new frames; each later one is given the last 4 latents of the one
before and adds 12 (latents are handed over: pixels would lose something in every encoding):
    frames   0 .. 15 | 16 .. 27 | 28 .. 39 | ...
    chunk 2: [12 13 14 15] 16 .. 27               [given, mask = 1]
Every chunk is decoded and written at once, so memory grows with the length only by the sound and
its features.
"""

import argparse
import contextlib
import math
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from audio_features import FPS, FRAME, ROWS, audio_windows, log_mel
from autoencoder import load_autoencoder, to_pixels, to_uint8
from common import Parser, one_line_errors, pick_device
from distill_stage1 import load_stage1
from distill_stage2 import load_stage2
from latents import Cond
from media import WRITERS, caption_line, finished_file, load_audio, load_portrait
from student import student_sampler
from teacher import S_AUDIO, S_REF, Config, load_teacher, teacher_sampler
from tiny_data import faces

HERE = Path(__file__).resolve().parent
CHUNK, CONTEXT = Config.frames, Config.context  # frames that the network sees; given ones of them


def sampler_of_teacher(model, checkpoint_config, **settings):
    """As student_sampler, for the teacher."""
    return teacher_sampler(model, checkpoint_config.get("recipe", "toy"), **settings)


# name: its loader, (network, config, **settings) -> sampler; weights: checkpoints/<name>.pt
MODELS = {
    "teacher": (load_teacher, sampler_of_teacher),
    "stage1": (load_stage1, student_sampler),
    "stage2": (load_stage2, student_sampler),
}


# ---------------------------------------------------------------- speaking


def generate_latents(sampler, ref, windows, n_frames, generator):
    """Yield the latents of B talking videos, chunk by chunk: (B, 16, C, H, W), then (B, 12, C, H,
    W) each, the last one cut.

    ref (B, C, H, W) the portraits' latents; windows: for each video (n_frames + 16 or more, R, A)
    from audio_windows, which pads with silence; sampler(cond, noise) -> x0 (B, 16, C, H, W), where
    noise() draws a fresh ε of that shape, on the CPU: the same on every device. Raises
    FloatingPointError when the network's answer is not finite.
    """
    x = torch.zeros(len(ref), CHUNK, *ref.shape[1:], device=ref.device)
    done, chunk_generator = 0, torch.Generator()

    def noise():
        return torch.randn(x.shape, generator=chunk_generator).to(ref.device)

    while done < n_frames:
        # a chunk's first ε is the same for every model
        chunk_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        given = CONTEXT if done else 0
        audio = np.stack([w[done - given : done - given + CHUNK] for w in windows])  # (B, F, R, A)
        context, mask = torch.zeros_like(x), torch.zeros(len(ref), CHUNK, device=ref.device)
        context[:, :given], mask[:, :given] = x[:, CHUNK - given :], 1
        x = sampler(Cond(ref, torch.from_numpy(audio).to(ref.device), context, mask), noise)
        if not torch.isfinite(x).all():
            raise FloatingPointError(f"frame {done} is not finite: less guidance, or other weights")
        yield x[:, given:][:, : n_frames - done]
        done += CHUNK - given


def generate_video(sampler, autoencoder, portrait, mel, generator, seconds=None):
    """Yield the video's frames, chunk by chunk: uint8 (n, 64, 64, 3), n <= 16.

    portrait (64, 64, 3) uint8; mel (rows, 64) from log_mel: ceil(rows / 4) frames; sampler and
    generator as in generate_latents. seconds: a Counter that gathers denoising and decoding times.
    """
    seconds, n_frames = Counter() if seconds is None else seconds, math.ceil(len(mel) / ROWS)
    ref = autoencoder.encode(to_pixels(portrait[None], autoencoder.mean.device))
    windows = [audio_windows(mel, n_frames + CHUNK)]
    chunks = generate_latents(sampler, ref, windows, n_frames, generator)
    while True:
        with clock(seconds, "denoising"):
            latents = next(chunks, None)
        if latents is None:
            return
        with clock(seconds, "decoding"):
            frames = to_uint8(autoencoder.decode(latents[0]))
        yield frames


@contextlib.contextmanager
def clock(seconds, name):
    """Add the wall time of the with-block to seconds[name]."""
    start = time.perf_counter()
    yield
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()  # kernels are queued: without this, others pay for them
    seconds[name] += time.perf_counter() - start


# ---------------------------------------------------------------- the portrait


def toy_portrait(seed):
    """The toy identity `seed`, at rest: lips closed, looking straight ahead -> (64, 64, 3)
    uint8."""
    rest = np.zeros((1, len(faces.MOTION)), np.float32)
    rest[:, faces.MOTION.index("width")] = 0.5  # what silence looks like in the training data
    return faces.render(faces.identity(seed), rest)[0]


# ---------------------------------------------------------------- the command line


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
    size = number(int, faces.SIZE, 1024)(text)
    if size % 2:
        raise argparse.ArgumentTypeError(f"must be even, got {text}")
    return size


def parse_args(argv):
    parser = Parser(__doc__)
    add = parser.add_argument
    shipped = str(HERE / "assets/sentence.wav")
    add(
        "--audio",
        default=shipped,
        help="sound, or a video with sound (default: a shipped sentence)",
    )
    face = parser.add_mutually_exclusive_group()
    face.add_argument("--image", help="the portrait, an image of at least 64 x 64 pixels")
    seed = dict(type=number(int, 0, 2**31), default=2_000_124, metavar="SEED")
    face.add_argument("--portrait", **seed, help="or a toy face (default: 2000124)")
    add("--out", default="talk.mp4", help=".mp4 with sound, .gif or .png (default: talk.mp4)")
    add("--model", choices=MODELS, help="120, 4 or 1 evaluations a chunk (default: stage2)")
    add(
        "--compare",
        action="store_true",
        help="all of them side by side, with evaluations and times",
    )
    add("--weights", help="its checkpoint (default: the shipped one)")
    coder = str(HERE / "checkpoints/autoencoder.pt")
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


def load_to_sample(loader, path, device, bf16=False):
    """loader(path, device) -> (network, its Config as a dict). Raises ValueError if it was trained
    on chunks of another length than it is to sample. bf16: to be run under autocast, which would
    cast these weights anew at every call; so it is done once, and the result is the same."""
    model, config = loader(path, device)
    trained = config.get("frames", CHUNK), config.get("context", CONTEXT)
    if trained != (CHUNK, CONTEXT):
        raise ValueError(
            f"these weights were trained with --frames {trained[0]} --context {trained[1]}; "
            f"sampling needs {CHUNK} and {CONTEXT}"
        )
    for layer in model.modules() if bf16 else ():
        if isinstance(layer, (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d)):
            layer.to(torch.bfloat16)
    return model, config


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
    seconds, names = Counter(), names_of(args)
    with finished_file(args.out, [args.audio, args.image]) as temporary:
        portrait = toy_portrait(args.portrait) if args.image is None else load_portrait(args.image)
        with clock(seconds, "features"):
            wave = load_audio(args.audio)
            mel, n_frames = log_mel(wave), math.ceil(len(wave) / FRAME)
        device = pick_device(args.device)
        autoencoder = load_autoencoder(args.autoencoder, device)
        calls, times = {name: [] for name in names}, {name: Counter() for name in names}
        samplers = {name: make_sampler(name, args, device, calls[name]) for name in names}

        def pictures():
            streams = []
            for name in names:
                generator = torch.Generator().manual_seed(args.seed)
                streams.append(
                    generate_video(
                        samplers[name], autoencoder, portrait, mel, generator, times[name]
                    )
                )
            with tqdm(total=n_frames, unit="frame", disable=None, leave=False) as bar:
                for parts in zip(*streams):
                    seconds.setdefault("first", time.perf_counter() - start)
                    yield np.concatenate(parts, axis=2)
                    bar.update(len(parts[0]))

        def caption():
            """Evaluations and times of the first chunk."""
            ms = {name: 1000 * times[name]["denoising"] / min(CHUNK, n_frames) for name in names}
            texts = [f"{n}: {sum(calls[n])} evaluations, {ms[n]:.3g} ms a frame" for n in names]
            return caption_line(texts, args.size)

        start = time.perf_counter()
        write, line = WRITERS[temporary.suffix], caption if args.compare else None
        smooth = args.upscale == "smooth"
        write(temporary, pictures(), n_frames, args.size, args.audio, smooth, line)
        sampling = time.perf_counter() - start
    chunks = 1 + max(0, math.ceil((n_frames - CHUNK) / (CHUNK - CONTEXT)))
    duration, first = len(wave) / (FPS * FRAME), seconds["features"] + seconds["first"]
    print(f"{args.out}: {duration:.2f} s of sound, {n_frames} frames")
    making = 0
    for name in names:
        count, spent = sum(calls[name]), times[name]
        making += sum(spent.values())
        print(
            f"{name}: {count // chunks} evaluations a chunk, {count} in all | "
            f"denoising {spent['denoising']:.2f} s, decoding {spent['decoding']:.2f} s"
        )
    print(
        f"features {seconds['features']:.2f} s, writing {sampling - making:.2f} s | first chunk "
        f"after {first:.2f} s | {duration / (sampling + seconds['features']):.2f} x real time"
    )

    if args.image is not None and args.weights is None:
        print("note: these weights know toy faces only, and draw a photograph as one of them")


def main(argv=None):
    with one_line_errors():
        run(parse_args(argv))


if __name__ == "__main__":
    main()
