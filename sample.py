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
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

import tiny_data
from audio_features import FPS, FRAME, ROWS, audio_windows, log_mel
from autoencoder import load_autoencoder, to_pixels, to_uint8
from common import Parser, one_line_errors, pick_device
from distill_stage1 import load_stage1
from distill_stage2 import load_stage2
from latents import Cond
from media import finished_file, load_audio, load_portrait, write_video
from student import student_sampler
from teacher import S_AUDIO, S_REF, Config, load_teacher, teacher_sampler
from tiny_data import faces

HERE = Path(__file__).resolve().parent
CHUNK, CONTEXT = (
    Config.frames,
    Config.context,
)  # 16 frames that the network sees at once; 4 of these may be given by the chunk before
CAPTION = 28  # pixels of the line under the pictures of --compare
# name: its loader, sampler(model, its Config as a dict, **settings) -> sample(cond, noise) -> x0;
# weights: checkpoints/<name>.pt
MODELS = {
    "teacher": (
        load_teacher,
        lambda model, made, **k: teacher_sampler(model, made.get("recipe", "toy"), **k),
    ),
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
    x, done, own = (
        torch.zeros(len(ref), CHUNK, *ref.shape[1:], device=ref.device),
        0,
        torch.Generator(),
    )

    def noise():
        return torch.randn(x.shape, generator=own).to(ref.device)

    while done < n_frames:
        own.manual_seed(
            int(torch.randint(2**62, (), generator=generator))
        )  # a chunk's first ε is the same for every model
        given = CONTEXT if done else 0
        audio = np.stack([w[done - given : done - given + CHUNK] for w in windows])  # (B, F, R, A)
        context, mask = torch.zeros_like(x), torch.zeros(len(ref), CHUNK, device=ref.device)
        context[:, :given], mask[:, :given] = x[:, CHUNK - given :], 1
        x = sampler(Cond(ref, torch.from_numpy(audio).to(ref.device), context, mask), noise)
        if not torch.isfinite(x).all():
            raise FloatingPointError(
                f"the network's answer for frame {done} is not finite: less guidance, or other "
                "weights"
            )
        yield x[:, given:][:, : n_frames - done]
        done += CHUNK - given


def speak(sampler, autoencoder, portrait, mel, generator, seconds=None):
    """Yield the video's frames, chunk by chunk: uint8 (n, 64, 64, 3), n <= 16.

    portrait (64, 64, 3) uint8; mel (rows, 64) from log_mel: ceil(rows / 4) frames; sampler and
    generator as in generate_latents. seconds: a Counter that gathers denoising and decoding times.
    """
    seconds, n_frames = Counter() if seconds is None else seconds, math.ceil(len(mel) / ROWS)
    ref = autoencoder.encode(to_pixels(portrait[None], autoencoder.mean.device))
    chunks = generate_latents(
        sampler, ref, [audio_windows(mel, n_frames + CHUNK)], n_frames, generator
    )
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


# ---------------------------------------------------------------- writing


def enlarge(frames, size, how):
    """(n, 64, 64, 3) uint8 -> (n, size, size, 3). "nearest" shows the pixels that were made,
    "smooth" is bicubic."""
    return to_uint8(
        F.interpolate(
            to_pixels(frames), size=(size, size), mode="nearest" if how == "nearest" else "bicubic"
        )
    )


def caption(texts, size):
    """A line of text under each of several pictures of `size` pixels -> (CAPTION, len(texts) *
    size, 3) uint8."""
    image, font = (
        Image.new("RGB", (len(texts) * size, CAPTION), "white"),
        ImageFont.load_default(size / 20),
    )
    for i, text in enumerate(texts):
        ImageDraw.Draw(image).text(
            ((i + 0.5) * size, CAPTION / 2), text, fill="black", font=font, anchor="mm"
        )
    return np.asarray(image)


def write_sheet(path, chunks, n_frames, size, audio):
    """Frames -> a .png: up to 48 of them, evenly spaced, 12 in a row. Only these are kept in
    memory."""
    columns = min(n_frames, max(1, 12 * size[1] // size[0]))
    places = np.linspace(0, n_frames - 1, columns * min(4, n_frames // columns)).round()
    picked = [
        frame for k, frame in enumerate(f for frames in chunks for f in frames) if k in places
    ]
    tiny_data.contact_sheet(
        path, [picked[i : i + columns] for i in range(0, len(picked), columns)], scale=1
    )


WRITERS = {".mp4": write_video, ".gif": write_video, ".png": write_sheet}


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
    parser.add_argument(
        "--audio",
        default=str(HERE / "assets/sentence.wav"),
        help="sound, or a video with sound (default: the shipped sentence)",
    )
    face = parser.add_mutually_exclusive_group()
    face.add_argument("--image", help="the portrait, an image file of at least 64 x 64 pixels")
    face.add_argument(
        "--portrait",
        type=number(int, 0, 2**31),
        default=2_000_124,
        metavar="SEED",
        help="or a toy face (default: 2000124)",
    )
    parser.add_argument(
        "--out", default="talk.mp4", help=".mp4 with sound, .gif or .png (default: talk.mp4)"
    )
    parser.add_argument(
        "--model",
        choices=MODELS,
        help="which network speaks: 120, 4 or 1 evaluations a chunk (default: stage2, the "
        "one-step student)",
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="all of them side by side, with evaluations and denoising time under each",
    )
    parser.add_argument("--weights", help="its checkpoint (default: the shipped one)")
    parser.add_argument(
        "--autoencoder",
        default=str(HERE / "checkpoints/autoencoder.pt"),
        help="the autoencoder's checkpoint",
    )
    parser.add_argument(
        "--steps",
        type=number(int, 1, 1000),
        help="sampler steps per chunk (default: the model's; teacher 40, stage1 4, stage2 1)",
    )
    parser.add_argument(
        "--guidance-ref",
        type=number(float, 0, 100),
        dest="s_ref",
        metavar="S",
        help=f"of the portrait (default, teacher: {S_REF})",
    )
    parser.add_argument(
        "--guidance-audio",
        type=number(float, 0, 100),
        dest="s_audio",
        metavar="S",
        help=f"of the sound (default, teacher: {S_AUDIO})",
    )
    parser.add_argument(
        "--seed",
        type=number(int, 0, 2**63 - 1),
        default=0,
        help="of the noise: head motion and blinks (default: 0)",
    )
    parser.add_argument(
        "--size",
        type=even,
        default=256,
        metavar="PIXELS",
        help="of the picture: 64 are made and enlarged, since video halves colour's resolution "
        "(default: 256)",
    )
    parser.add_argument(
        "--upscale",
        choices=["smooth", "nearest"],
        default="smooth",
        help="nearest shows the true pixels (default: smooth)",
    )
    parser.add_argument("--device", default="auto", help="auto = cuda if there is one, else cpu")
    parser.add_argument(
        "--bf16",
        action="store_true",
        help="run the network in bfloat16 (CPUs with AMX or AVX-512 bfloat16, and GPUs: faster)",
    )
    return parser.parse_args(argv)


def load_to_sample(loader, path, device, bf16=False):
    """loader(path, device) -> (network, its Config as a dict). Raises ValueError if it was trained
    on chunks of another length than it is to sample. bf16: to be run under autocast, which would
    cast these weights anew at every call; so it is done once, and the result is the same."""
    model, config = loader(path, device)
    if (config.get("frames", CHUNK), config.get("context", CONTEXT)) != (CHUNK, CONTEXT):
        raise ValueError(
            f"these weights were trained with --frames {config['frames']} --context "
            f"{config['context']}; sampling wants {CHUNK} and {CONTEXT}"
        )
    for layer in model.modules() if bf16 else ():
        if isinstance(layer, (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d)):
            layer.to(torch.bfloat16)
    return model, config


def make_sampler(name, args, device, evaluations):
    """A model of MODELS -> sample(cond, noise) -> x0; `evaluations` gathers the batch of every
    call: guidance is three in one."""
    loader, sampler = MODELS[name]
    given = {
        k: getattr(args, k) for k in ("steps", "s_ref", "s_audio") if getattr(args, k) is not None
    }
    if name != "teacher" and {"s_ref", "s_audio"} & given.keys():
        raise ValueError(
            f"--model {name} has no guidance: leave --guidance-ref and --guidance-audio out"
        )
    model, config = load_to_sample(
        loader,
        HERE / f"checkpoints/{name}.pt" if args.weights is None else args.weights,
        device,
        args.bf16,
    )
    model.register_forward_pre_hook(lambda _, inputs: evaluations.append(len(inputs[0])))

    sampler = sampler(model, config, **given)

    def sample(cond, noise):
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            return sampler(cond, noise)

    return sample


def main(argv=None):
    with one_line_errors():
        args, seconds = parse_args(argv), Counter()
        names = [args.model or "stage2"]
        if args.compare:
            if any(
                x is not None
                for x in (args.model, args.weights, args.steps, args.s_ref, args.s_audio)
            ):
                raise ValueError(
                    "--compare shows every model as it is: leave --model, --weights, --steps and "
                    "--guidance-... out"
                )
            names = [name for name in MODELS if (HERE / f"checkpoints/{name}.pt").exists()]
            if not names:
                raise ValueError(
                    f"no model's weights in {HERE / 'checkpoints'}: train them first (see README)"
                )
        with finished_file(args.out, [args.audio, args.image], WRITERS) as temporary:
            portrait = (
                load_portrait(args.image) if args.image is not None else toy_portrait(args.portrait)
            )
            with clock(seconds, "features"):
                wave = load_audio(args.audio)
                mel, n_frames, duration = (
                    log_mel(wave),
                    math.ceil(len(wave) / FRAME),
                    len(wave) / (FPS * FRAME),
                )
            device = pick_device(args.device)
            autoencoder = load_autoencoder(args.autoencoder, device)
            runs = [
                (name, calls := [], make_sampler(name, args, device, calls), Counter())
                for name in names
            ]

            def pictures():
                streams = [
                    speak(
                        sampler,
                        autoencoder,
                        portrait,
                        mel,
                        torch.Generator().manual_seed(args.seed),
                        own,
                    )
                    for _, _, sampler, own in runs
                ]
                line = None
                with tqdm(total=n_frames, unit="frame", disable=None, leave=False) as bar:
                    for parts in zip(*streams):
                        seconds.setdefault("first", time.perf_counter() - start)
                        frames = np.concatenate(
                            [enlarge(part, args.size, args.upscale) for part in parts], axis=2
                        )
                        if args.compare:
                            if line is None:  # times of the first chunk
                                line = caption(
                                    [
                                        f"{name}: {sum(calls)} "
                                        f"evaluation{'s' * (sum(calls) > 1)}, "
                                        f"{1000 * own['denoising'] / len(parts[0]):.3g} ms a frame"
                                        for name, calls, _, own in runs
                                    ],
                                    args.size,
                                )
                            frames = np.concatenate(
                                [frames, np.broadcast_to(line, (len(frames), *line.shape))], axis=1
                            )
                        yield frames
                        bar.update(len(frames))

            start = time.perf_counter()
            size = (len(runs) * args.size, args.size + CAPTION * args.compare)
            WRITERS[temporary.suffix](temporary, pictures(), n_frames, size, args.audio)
            sampling = time.perf_counter() - start
        chunks = 1 + max(0, math.ceil((n_frames - CHUNK) / (CHUNK - CONTEXT)))
        print(
            f"{args.out}: {duration:.2f} s of sound, {n_frames} frames | features "
            f"{seconds['features']:.2f} s"
        )
        for name, calls, _, own in runs:
            print(
                f"{name}: {sum(calls) // chunks} evaluations a chunk, {sum(calls)} in all | "
                f"denoising {own['denoising']:.2f} s, decoding {own['decoding']:.2f} s"
            )
        making = sum(own["denoising"] + own["decoding"] for *_, own in runs)
        print(
            f"writing {sampling - making:.2f} s | first chunk after "
            f"{seconds['features'] + seconds['first']:.2f} s | "
            f"{duration / (sampling + seconds['features']):.2f} x real time"
        )


if __name__ == "__main__":
    main()
