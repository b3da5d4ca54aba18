"""How long everything that sample.py does takes, and how far the network is from the machine.

    python -m evaluation.speed                  a minute; --models teacher,stage1,stage2
    python -m evaluation.speed --checkpoints folder

Prints start-up, sound features, denoiser, decoder and writing apart; then one evaluation of the
network beside its floor, the time that its operations take as matrix products and as convolutions
of its size, measured in turns with it; and the kinds of operation in which the time goes. On a busy
machine only the ratios mean something.
"""

import platform
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from audio_features import FPS, FRAME, audio_windows, log_mel
from autoencoder import load_autoencoder, to_pixels, to_uint8
from common import HERE, Parser, one_line_errors, pick_device
from generate import CHUNK, CONTEXT, MODELS, load_to_sample
from latents import Cond
from media import write_video
from portrait import toy_portrait


def medians(jobs, device, rounds=5, turn=250):
    """{name: function} -> {name: milliseconds}. The jobs take turns, so that a machine that slows
    down slows them all: in each of `rounds` rounds each runs for `turn` milliseconds, once at least
    (the first of several runs warms up and does not count). Medians over the rounds of the median
    within a round."""
    times = {job: [] for job in jobs}
    for job in rounds * list(jobs):
        run = []
        while sum(run) < turn:
            torch.cuda.synchronize() if device.type == "cuda" else None
            start = time.perf_counter()
            jobs[job]()
            torch.cuda.synchronize() if device.type == "cuda" else None
            run.append(1000 * (time.perf_counter() - start))
        times[job].append(np.median(run[1:] or run))
    return {job: float(np.median(t)) for job, t in times.items()}


@torch.no_grad()
def speeds(samplers, windows, ref, autoencoder, device, rounds=5):
    """Milliseconds of denoiser, decoder and sound features, one video at a time, in this process:
    {name: sampler}, windows (1, F, R, A), ref (1, C, H, W) -> {name: numbers}."""
    z = torch.randn(1, CHUNK, *ref.shape[1:], generator=torch.Generator().manual_seed(0)).to(device)
    mask = (torch.arange(CHUNK, device=device) < CONTEXT).float()[None]
    later = Cond(ref[:1], windows[:1, :CHUNK], z * mask[:, :, None, None, None], mask)
    first = later._replace(context=torch.zeros_like(z), mask=torch.zeros_like(mask))
    wave = np.random.default_rng(0).standard_normal(CHUNK * FRAME).astype(np.float32)
    jobs = {
        (name, part): partial(sampler, cond, lambda: z)
        for name, sampler in samplers.items()
        for part, cond in (("first", first), ("later", later))
    }
    jobs |= {
        "decode": lambda: to_uint8(autoencoder.decode(z[0])),
        "features": lambda: audio_windows(log_mel(wave)).copy(),
    }
    ms = medians(jobs, device, rounds)
    rest = ms["decode"] + ms["features"]
    numbers = {}
    for name in samplers:
        denoise = ms[name, "later"] / (CHUNK - CONTEXT)
        total = denoise + rest / CHUNK
        numbers[name] = dict(
            denoise_ms_per_frame=denoise,
            decode_ms_per_frame=ms["decode"] / CHUNK,
            features_ms_per_frame=ms["features"] / CHUNK,
            total_ms_per_frame=total,
            first_chunk_ms=ms[name, "first"] + rest,
            rtf=1000 / FPS / total,
        )
    return numbers


@torch.no_grad()
def floor(model, cond, device, rounds=5):
    """One evaluation of the network for a chunk -> its operations (a multiplication and an addition
    are two), milliseconds, and the rates in operations a second of itself, of a matrix product and
    of a convolution of its most frequent size: 3 x 3, as wide as the network, on all frames."""
    x, t = torch.zeros_like(cond.context), torch.full((1,), 500.0, device=device)
    with FlopCounterMode(display=False) as counter:
        model(x, t, cond)
    pixels = x.shape[1] * x.shape[3] * x.shape[4]
    width = model.inlet.out_channels
    a, b = (torch.randn(n, 9 * width, device=device) for n in (pixels, width))
    conv = torch.nn.Conv2d(width, width, 3, padding=1, device=device)
    conv = conv.to(memory_format=torch.channels_last)
    h = torch.randn(x.shape[1], width, *x.shape[3:], device=device)
    h = h.to(memory_format=torch.channels_last)
    jobs = {"network": lambda: model(x, t, cond), "product": lambda: a @ b.T}
    ms = medians(jobs | {"convolution": lambda: conv(h)}, device, rounds)
    operations = counter.get_total_flops()
    one = 2 * pixels * width * 9 * width
    rates = dict(network=operations / ms["network"], product=one / ms["product"])
    rates |= dict(convolution=one / ms["convolution"])
    return operations, ms["network"], {name: 1000 * rate for name, rate in rates.items()}


@torch.no_grad()
def shares(model, cond, device, count=8):
    """The operations in which an evaluation spends its time -> [(name, share)], largest first."""
    x, t = torch.zeros_like(cond.context), torch.full((1,), 500.0, device=device)
    model(x, t, cond)
    on_gpu = device.type == "cuda"  # where kernels are listed beside the operations they belong to
    with torch.profiler.profile() as profile:
        for _ in range(5):
            model(x, t, cond)
    spent = {
        event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in profile.key_averages()
        if event.device_type.name == "CPU"
    }
    largest = sorted(spent, key=spent.get, reverse=True)[:count]
    return [(name, spent[name] / sum(spent.values())) for name in largest]


def start_up():
    """Seconds until `python sample.py` has read its command line: Python, torch, the scripts."""
    start = time.perf_counter()
    run = [sys.executable, str(HERE / "sample.py"), "--help"]
    subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def report(args):
    """-> the lines that are printed."""
    device, names = pick_device(args.device), args.models.split(",")
    if unknown := set(names) - MODELS.keys():
        raise ValueError(f"no model {', '.join(sorted(unknown))}: there are {', '.join(MODELS)}")
    started, begin = start_up(), time.perf_counter()
    autoencoder = load_autoencoder(f"{args.checkpoints}/autoencoder.pt", device)
    networks = {
        n: load_to_sample(MODELS[n][0], f"{args.checkpoints}/{n}.pt", device) for n in names
    }
    loading = time.perf_counter() - begin
    samplers = {name: MODELS[name][1](*networks[name]) for name in names}

    n_frames = 5 * FPS
    silence = log_mel(np.zeros(n_frames * FRAME, np.float32))
    windows = torch.from_numpy(audio_windows(silence)[None].copy()).to(device)
    ref = autoencoder.encode(to_pixels(toy_portrait(2_000_124)[None], device))
    measured = speeds(samplers, windows, ref, autoencoder, device, args.rounds)
    frames = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    chunk = frames.repeat(CHUNK - CONTEXT, 0)
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        chunks = (chunk[: n_frames - k] for k in range(0, n_frames, len(chunk)))
        write_video(Path(folder, "x.mp4"), chunks, n_frames, 256, HERE / "assets/sentence.wav")
        writing = time.perf_counter() - begin

    model, zeros = networks[names[-1]][0], torch.zeros(1, CHUNK, *ref.shape[1:], device=device)
    cond = Cond(ref, windows[:, :CHUNK], zeros, zeros[:, :, 0, 0, 0])
    operations, ms, rates = floor(model, cond, device, args.rounds)
    one = measured[names[-1]]
    lines = [
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, "
        f"{device}, torch {torch.__version__}",
        f"start-up {started:.2f} s, and {loading:.2f} s to read {len(names) + 1} networks",
        f"per frame of 40 ms: features {one['features_ms_per_frame']:.2f} ms, decoder "
        f"{one['decode_ms_per_frame']:.2f} ms, writing (ffmpeg, beside the others) "
        f"{1000 * writing / n_frames:.2f} ms, denoiser:",
    ]
    slowest = max(m["denoise_ms_per_frame"] for m in measured.values())
    for name, m in measured.items():
        ratio = slowest / m["denoise_ms_per_frame"]
        lines.append(
            f"  {name}: {m['denoise_ms_per_frame']:.2f} ms, {ratio:.3g} times as fast as the "
            f"slowest; first chunk after {m['first_chunk_ms']:.0f} ms; sound to frames "
            f"{m['rtf']:.3g} x real time"
        )
    own, product, convolution = (rate / 1e9 for rate in rates.values())
    lines.append(
        f"one evaluation: {operations / 1e9:.2f} GFLOP in {ms:.1f} ms, {own:.0f} GFLOP/s; a matrix "
        f"product of its size {product:.0f}, a convolution {convolution:.0f}: it takes "
        f"{product / own:.2f} and {convolution / own:.2f} times as long as they would"
    )
    spent = ", ".join(f"{name} {share:.0%}" for name, share in shares(model, cond, device))
    return [*lines, f"of it: {spent}"]


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("--models", default="teacher,stage1,stage2", help="default: %(default)s")
    parser.add_argument("--checkpoints", default=HERE / "checkpoints")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--rounds", type=int, default=5, help="turns of each (default: %(default)s)"
    )
    with one_line_errors():
        args = parser.parse_args(argv)
        if args.rounds < 1:
            parser.error("--rounds must be at least 1")
        print(*report(args), sep="\n")


if __name__ == "__main__":
    main()
