"""The table: every checkpoint present, on held-out people saying held-out sentences.

    python -m evaluation --bf16 --frames 28            an hour on one CPU core; without, hours
    python -m evaluation --quick                       4 videos of 16 frames, one seed: 75 seconds
    python -m evaluation --json FILE --markdown FILE --models teacher,ddim1
    python -m evaluation --data folder/                your clips: what needs no ground truth
    python -m evaluation --legend                      what every number means

Every model speaks the test sentences from one neutral portrait each, by chunks: 16 frames, then
12 at a time with the last 4 latents as context. The floors (real, blurred, frozen ...) say what the
numbers are worth.
"""

import json
import os
import platform
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

import tiny_data
from audio_features import FPS, FRAME, audio_windows, log_mel
from autoencoder import load_autoencoder, to_pixels, to_uint8
from common import Parser, one_line_errors, pick_device
from distill_stage1 import load_stage1
from distill_stage2 import load_stage2
from evaluation import metrics
from latents import Cond
from sample import CHUNK, CONTEXT, generate_latents, load_to_sample, toy_portrait
from student import student_sampler
from teacher import load_teacher, teacher_sampler
from tiny_data import FIRST_SEED, faces, speech

AT_ONCE = 8  # videos that are generated together
LONG = 10 * FPS  # frames of the long videos, of which the last second is compared with the portrait
FIXED = ("autoencoder", "blurred", "frozen", "still")  # rows without chance: one run is enough
#                      good is   meaning
METRICS = {
    "nfe": (
        "",
        "network evaluations for one chunk of video: the teacher's 120 are 40 steps of 3 "
        "guidance branches",
    ),
    "jaw_corr": (
        "up",
        "correlation of the jaw opening read from the pixels with the true one of the sentence, "
        "over all frames of all videos",
    ),
    "width_corr": ("up", "the same for the width of the lips"),
    "round_corr": ("up", "the same for the rounding of the lips"),
    "jaw_mae": ("down", "mean absolute error of the jaw opening, which goes from 0 to 1"),
    "width_mae": ("down", "the same for the width of the lips"),
    "round_mae": ("down", "the same for the rounding of the lips"),
    "lag": (
        "0",
        "frames of 40 ms by which the jaw comes after the sound, where its correlation is best",
    ),
    "closed_rate": (
        "up",
        "share of the frames within m, b, p in which the lips are shut (jaw read below 0.15)",
    ),
    "open_rate": (
        "up",
        "share of the frames within wide vowels in which the mouth is open (jaw read above 0.35)",
    ),
    "sync_c": (
        "up",
        "Sync-C: median minus minimum of the lip-sound distance over offsets of ±15 frames; "
        "certainty that they belong together",
    ),
    "sync_d": ("down", "Sync-D: the minimum of that distance"),
    "sync_offset": (
        "0",
        "frames by which the sound comes after the lips at that minimum, median over videos; "
        "Sync-C and Sync-D are blind to it",
    ),
    "fid": (
        "down",
        "FID-toy: Fréchet distance of single frames' features to those of the true videos of the "
        "same people",
    ),
    "fvd": ("down", "FVD-toy: the same for clips of 16 frames, so it sees motion"),
    "head_std_ratio": (
        "1",
        "how far the head moves and rolls (standard deviation within a video), over the data's: "
        "the mean of the next three",
    ),
    "head_x_ratio": ("1", "the same for its sideways motion alone"),
    "head_y_ratio": ("1", "the same for its motion up and down"),
    "roll_ratio": ("1", "the same for its roll"),
    "lid_std_ratio": (
        "1",
        "the same for the lids' closure: finer than counting a few blinks, half a blink counts "
        "half",
    ),
    "blink_rate_ratio": ("1", "blinks per second over the data's"),
    "blink_seconds": ("data", "mean duration of a blink"),
    "diversity": (
        "1",
        "how differently the head moves from seed to seed for one portrait and sentence, over "
        "the data's own; 0 = always the same",
    ),
    "frame_change_ratio": (
        "1",
        "mean change from frame to frame, over the data's: above 1 flickers, below 1 is stiff",
    ),
    "moving_share_ratio": (
        "1",
        "share of the pixels that change by more than 3 levels from frame to frame, over the "
        "data's: flicker that can be seen",
    ),
    "identity": (
        "up",
        "cosine of the identity embeddings of frame and portrait; compare with `real` and with "
        "other people's value in the setting",
    ),
    "colour_shift": (
        "down",
        "mean difference of a video's mean colour from the true video's, in levels of 255",
    ),
    "contrast_ratio": ("1", "standard deviation of the pixels, over the data's"),
    "drift": (
        "down",
        "mean difference of the mean colour between a video's first and last 12 frames, in "
        "levels of 255; data's own in `real`",
    ),
    "identity_10s": (
        "up",
        "cosine of the identity embeddings of the portrait and the last second of a video of ten",
    ),
    "colour_10s": (
        "down",
        "mean difference of the face's colour between the portrait and that second, in levels of "
        "255",
    ),
    "denoise_ms_per_frame": ("down", "denoiser's time per new frame, one video at a time"),
    "total_ms_per_frame": ("down", "the same with sound features and decoder"),
    "first_chunk_ms": ("down", "time from the sound to the first 16 decoded frames"),
    "rtf": (
        "up",
        "real-time factor: seconds of video per second of computing; above 1 is faster than speech",
    ),
    "speedup": ("up", "the teacher's denoising time over this one's, measured in the same run"),
    "peak_mb": (
        "down",
        "largest memory of the whole evaluating process so far, not of the model alone",
    ),
}
SHOWN = (
    "nfe jaw_corr width_corr round_corr lag sync_c sync_d sync_offset fid fvd head_std_ratio "
    "blink_rate_ratio diversity frame_change_ratio moving_share_ratio "
    "identity identity_10s colour_10s denoise_ms_per_frame rtf speedup"
).split()


# ---------------------------------------------------------------- the models: one line each


def models(folder, device, bf16=False):
    """Every model whose checkpoint is in the folder -> [(name, network evaluations, sampler(cond,
    noise) -> x0)].

    noise() draws a fresh ε, so a sampler of several steps may ask for it more than once.
    """
    folder, rows = Path(folder), []
    if (folder / "teacher.pt").exists():
        teacher, made = load_to_sample(load_teacher, folder / "teacher.pt", device, bf16)
        ddim = partial(teacher_sampler, teacher, made.get("recipe", "toy"))
        rows += [
            ("teacher", 120, ddim(steps=40)),
            ("teacher_noguide", 40, ddim(steps=40, s_ref=1, s_audio=1)),
            ("ddim4", 4, ddim(steps=4, s_ref=1, s_audio=1)),
            ("ddim4_guided", 12, ddim(steps=4)),
            ("ddim2", 2, ddim(steps=2, s_ref=1, s_audio=1)),
            ("ddim2_guided", 6, ddim(steps=2)),
            ("ddim1", 1, ddim(steps=1, s_ref=1, s_audio=1)),
            ("ddim1_guided", 3, ddim(steps=1)),
            ("wrong_audio", 120, ddim(steps=40)),
            ("plain_teacher", 120, teacher_sampler(teacher, "plain")),
        ]
    students = (
        ("stage1", load_stage1, (("stage1", 4), ("stage1_2steps", 2), ("stage1_1step", 1))),
        ("stage2", load_stage2, (("stage2", 1),)),
        ("direct1", load_stage1, (("direct1", 1),)),
    )
    for prefix, place in ("", folder), ("plain_", folder / "plain"):
        for file, loader, named in students:
            if (place / f"{file}.pt").exists():
                loaded = load_to_sample(loader, place / f"{file}.pt", device, bf16)
                rows += [
                    (prefix + name, steps, student_sampler(*loaded, steps=steps))
                    for name, steps in named
                ]
    return rows


# ---------------------------------------------------------------- the data


class Truth(NamedTuple):
    """V true videos of F frames, and what is needed to make them again."""

    frames: np.ndarray  # (V, F, 64, 64, 3) uint8
    windows: (
        torch.Tensor
    )  # (V, F + 16, R, A): 16 more, in which the sound goes on, or is silent after its end
    portraits: np.ndarray  # (V, 64, 64, 3) uint8, one a person
    motion: np.ndarray  # (V, F, 11), or None for your own clips
    closed: np.ndarray  # (V, F) within m b p, lips together
    opened: np.ndarray  # (V, F) within wide vowels
    seeds: list  # of the toy videos, or None


def truth_of(videos, first, count, n_frames, device):
    """The first n_frames frames of `count` videos from video `first` on. The toy portrait is
    neutral and looks ahead, so it tells nothing of the video's motion; your own clips have no other
    picture than one of their frames: the last one."""
    pick = range(first, min(first + count, len(videos.starts) - 1))
    frames = np.stack([videos.frames[videos.starts[i] : videos.starts[i] + n_frames] for i in pick])
    windows = torch.from_numpy(
        np.stack([videos.windows(i, more=CHUNK)[: n_frames + CHUNK] for i in pick])
    ).to(device)
    if not len(videos.motion):
        return Truth(
            frames,
            windows,
            np.stack([videos.frames[videos.starts[i + 1] - 1] for i in pick]),
            None,
            None,
            None,
            None,
        )
    motion = np.stack([videos.motion[videos.starts[i] : videos.starts[i] + n_frames] for i in pick])
    seeds = [FIRST_SEED["test"] + i for i in pick]
    if not np.array_equal(faces.render(faces.identity(seeds[0]), motion[0, :1])[0], frames[0, 0]):
        raise ValueError(
            "the toy set was not built with seed 0 by this version: build it again with python "
            "-m tiny_data"
        )
    portraits = np.stack([toy_portrait(s) for s in seeds])
    symbols = np.array(
        [
            [
                next((p[0] for p in videos.phones[i] if p[1] <= (k + 0.5) / FPS < p[2]), "_")
                for k in range(n_frames)
            ]
            for i in pick
        ]
    )
    closed = np.isin(symbols, speech.CLOSED) & (motion[..., 0] < 0.05)  # a stop's release is open
    opened = np.isin(symbols, [s for s, p in speech.PHONES.items() if p.jaw >= 0.7]) & (
        motion[..., 0] > 0.5
    )
    return Truth(frames, windows, portraits, motion, closed, opened, seeds)


def redrawn(truth, seed):
    """The same people saying the same, with heads, blinks and gaze drawn anew: the renderer's own
    answer, what a perfect model would make. No real data set can offer this row."""
    return np.stack(
        [
            faces.render(faces.identity(s), faces.motion(s + 777_000_000 * (seed + 1), m[:, :3]))
            for s, m in zip(truth.seeds, truth.motion)
        ]
    )


def floors(truth, autoencoder, device):
    """The rows that are no models -> [(name, nfe, function(seed) -> frames (V, F, 64, 64, 3)
    uint8)]."""

    def per_video(edit):
        return np.stack([to_uint8(edit(to_pixels(f, device))) for f in truth.frames])

    def still(seed):
        return np.broadcast_to(truth.portraits[:, None], truth.frames.shape)

    def frozen(seed):
        return np.broadcast_to(truth.frames[:, :1], truth.frames.shape)

    def shuffled(seed):
        return truth.frames[:, np.random.default_rng(seed).permutation(truth.frames.shape[1])]

    rows = (
        [("real", 0, partial(redrawn, truth))]
        if truth.seeds
        else [("real", 0, lambda seed: truth.frames)]
    )
    return rows + [
        (
            "autoencoder",
            0,
            lambda seed: per_video(lambda x: autoencoder.decode(autoencoder.encode(x))),
        ),
        (
            "blurred",
            0,
            lambda seed: per_video(
                lambda x: metrics.blurred(x, torch.full((len(x),), 0.5, device=device))
            ),
        ),
        ("frozen", 0, frozen),
        ("shuffled", 0, shuffled),
        ("still", 0, still),
    ]


# ---------------------------------------------------------------- measuring


@torch.no_grad()
def speak(sampler, truth, ref, autoencoder, seed, bf16=False):
    """A model speaks all sentences -> frames (V, F, 64, 64, 3) uint8. ref (V, C, H, W) the
    portraits' latents."""
    n_frames, windows = truth.frames.shape[1], truth.windows.cpu().numpy()
    with torch.autocast(ref.device.type, torch.bfloat16, enabled=bf16):
        chunks = [
            generate_latents(
                sampler,
                ref[i : i + AT_ONCE],
                windows[i : i + AT_ONCE],
                n_frames,
                torch.Generator().manual_seed(seed + 1000 * i),
            )
            for i in range(0, len(ref), AT_ONCE)
        ]
        return np.stack(
            [
                to_uint8(autoencoder.decode(x).float())
                for group in chunks
                for x in torch.cat(list(group), 1)
            ]
        )


def ten_seconds(truth, people):
    """The first `people` of truth for ten seconds: the sentences of their neighbours follow their
    own. Only windows and motion."""
    n_frames = truth.frames.shape[1]
    order = range(-(-(LONG + CHUNK) // n_frames))

    def joined(x):
        return (
            None
            if x is None
            else torch.cat(
                [torch.as_tensor(x)[:, :n_frames].roll(-k, 0)[:people] for k in order], 1
            )
        )

    motion = joined(truth.motion)
    return truth._replace(
        windows=joined(truth.windows)[:, : LONG + CHUNK],
        motion=None if motion is None else motion[:, :LONG].numpy(),
        frames=np.broadcast_to(np.uint8(0), (people, LONG, 1, 1, 1)),
        seeds=truth.seeds and truth.seeds[:people],
    )


@torch.no_grad()
def speeds(samplers, truth, ref, autoencoder, device, rounds=5):
    """Milliseconds of denoiser, decoder and sound features, one video at a time, in this process:
    {name: sampler} -> {name: numbers}.

    The models take turns, so that a machine that slows down slows them all: in each of `rounds`
    rounds everything runs for a quarter of a second, once at least (the first of several runs warms
    up and does not count). Medians over the rounds of the median within a round.
    """
    z = torch.randn(1, CHUNK, *ref.shape[1:], generator=torch.Generator().manual_seed(0)).to(device)
    mask = (torch.arange(CHUNK, device=device) < CONTEXT).float()[None]
    later = Cond(ref[:1], truth.windows[:1, :CHUNK], z * mask[:, :, None, None, None], mask)
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
    times = {job: [] for job in jobs}
    for job in rounds * list(jobs):
        run = []
        while sum(run) < 250:
            torch.cuda.synchronize() if device.type == "cuda" else None
            start = time.perf_counter()
            jobs[job]()
            torch.cuda.synchronize() if device.type == "cuda" else None
            run.append(1000 * (time.perf_counter() - start))
        times[job].append(np.median(run[1:] or run))
    ms = {job: float(np.median(t)) for job, t in times.items()}
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


def diversity(reads):
    """Standard deviation from seed to seed of head x, y and roll, mean over videos and frames. List
    of (V, F, 7) -> (3,)."""
    return np.stack(reads)[..., 3:6].std(0, ddof=1).mean((0, 1))


def summary(name, nfe, numbers):
    """The seeds' numbers -> one row: every key of METRICS, means, and NAME_std (n - 1) where there
    are two seeds or more."""
    row = {"model": name, **dict.fromkeys(METRICS), "nfe": nfe, "seeds": len(numbers)}
    for key in numbers[0]:
        values = np.array([n[key] for n in numbers], float)
        row[key], row[f"{key}_std"] = values.mean(), values.std(ddof=1) if len(values) > 1 else None
    return row


def evaluate(args):
    """-> {"rows": [...], "setting": {...}}, as --json writes it."""
    device, folder = pick_device(args.device), Path(args.checkpoints)
    autoencoder, nets = (
        load_autoencoder(folder / "autoencoder.pt", device),
        metrics.load_metrics(args.metrics or folder / "metrics.pt", device),
    )
    videos = tiny_data.load(args.data, "test")
    n_frames = min(args.frames, int(np.diff(videos.starts).min()))
    truth = truth_of(videos, 0, args.clips, n_frames, device)
    judge, ref = (
        metrics.Judge(truth, nets, device),
        autoencoder.encode(to_pixels(truth.portraits, device)),
    )

    table = [(name, nfe, source, None) for name, nfe, source in floors(truth, autoencoder, device)]
    for name, nfe, sampler in models(folder, device, args.bf16):
        if name == "wrong_audio" and len(truth.frames) == 1:  # no other sentence to hear
            continue
        heard = truth._replace(windows=truth.windows.roll(1, 0)) if name == "wrong_audio" else truth
        table.append(
            (name, nfe, partial(speak, sampler, heard, ref, autoencoder, bf16=args.bf16), sampler)
        )
    known, wanted = [t[0] for t in table], [n.strip() for n in args.models.split(",") if n.strip()]
    if unknown := set(wanted) - set(known):
        raise ValueError(
            f"no model {', '.join(sorted(unknown))}: there are {', '.join(known)} (a model needs "
            f"its checkpoint in {folder})"
        )
    table = [t for t in table if not wanted or t[0] in wanted or t[0] == "real"]

    rows, own_diversity = [], None
    with tqdm(total=len(table) * args.seeds, unit="run", disable=None) as bar:
        for name, nfe, source, sampler in table:
            bar.set_description(name)
            runs = [judge(source(args.seed + k)) for k in range(1 if name in FIXED else args.seeds)]
            numbers, reads = zip(*runs)
            row = summary(name, nfe, numbers)
            if len(reads) > 1 and reads[0] is not None:
                own_diversity = (
                    diversity(reads) if own_diversity is None else own_diversity
                )  # the first row is `real`
                row["diversity"] = float((diversity(reads) / own_diversity).mean())
            if (
                args.long
                and name != "wrong_audio"
                and (sampler or (name == "real" and truth.seeds))
            ):
                longer = ten_seconds(truth, min(args.long, len(truth.frames)))
                frames = (
                    speak(sampler, longer, ref[: args.long], autoencoder, args.seed, args.bf16)
                    if sampler
                    else redrawn(longer, args.seed)
                )
                row["identity_10s"], row["colour_10s"] = judge.faithfulness(frames[:, -FPS:])
            with suppress(ImportError):  # Windows has no such module
                import resource

                row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
                    2**20 if sys.platform == "darwin" else 1024
                )
            rows.append(row)
            bar.update(args.seeds)
        if samplers := {name: sampler for name, _, _, sampler in table if sampler}:
            bar.set_description("speed")
            with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
                measured = speeds(samplers, truth, ref, autoencoder, device, 1 if args.quick else 5)
            rows = [row | measured.get(row["model"], {}) for row in rows]
    count = len(truth.frames)
    others = (
        truth_of(videos, count, count, n_frames, device).frames
        if len(videos.starts) - 1 >= count + 2
        else None
    )  # a covariance wants two
    slow = next((r["denoise_ms_per_frame"] for r in rows if r["model"] == "teacher"), None)
    for row in rows:
        row["speedup"] = (
            slow / row["denoise_ms_per_frame"] if slow and row["denoise_ms_per_frame"] else None
        )
    setting = dict(
        seed=args.seed,
        seeds=args.seeds,
        clips=count,
        frames=n_frames,
        data="toy" if truth.seeds else "own clips",
        bf16=args.bf16,
        machine=f"{platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads, "
        f"{device}, torch {torch.__version__}",
        **judge.references(others),
    )
    return plain({"rows": rows, "setting": setting})


def plain(x):
    """NumPy numbers -> Python's, NaN and infinity -> None: what JSON can hold."""
    if isinstance(x, dict):
        return {k: plain(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [plain(v) for v in x]
    x = x.item() if isinstance(x, np.generic) else x
    return None if isinstance(x, float) and not np.isfinite(x) else x


def text_table(rows, markdown=False):
    """The rows as aligned text or as Markdown, columns SHOWN, mean ± spread."""

    def cell(row, key):
        value, spread = row.get(key), row.get(f"{key}_std")

        def show(x):
            if abs(x) >= 100:
                return f"{x:.0f}"
            return f"{x:.3g}" if abs(x) >= 10 or x == int(x) else f"{x:.2f}"

        return "" if value is None else show(value) + (f" ±{show(spread)}" if spread else "")

    lines = [["model", *SHOWN]] + [[row["model"], *(cell(row, k) for k in SHOWN)] for row in rows]
    if markdown:
        lines.insert(1, ["---"] + ["---:"] * len(SHOWN))
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join(c.rjust(w) if j else c.ljust(w) for j, (c, w) in enumerate(zip(line, widths)))
        for line in lines
    )


def legend():
    """One line for each number: its name, the direction that is good, its meaning."""
    return "\n".join(
        f"- `{key}`{f' ({good})' if good else ''}: {meaning}"
        for key, (good, meaning) in METRICS.items()
    )


def arguments(argv=None):
    """The command line, checked. Raises ValueError."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--data",
        default="data/tiny",
        help="the toy set, or a folder of video clips with sound (default: %(default)s)",
    )
    parser.add_argument(
        "--checkpoints",
        default="checkpoints",
        help="folder of autoencoder.pt, metrics.pt, teacher.pt ... (default: %(default)s)",
    )
    parser.add_argument(
        "--metrics",
        help="another checkpoint of the measuring networks, such as one trained on your own clips",
    )
    parser.add_argument(
        "--models", default="", help="only these rows (and `real`): names with commas between"
    )
    parser.add_argument("--clips", type=int, default=64, help="test videos (default: %(default)s)")
    parser.add_argument(
        "--frames",
        type=int,
        default=40,
        help="frames of each: 16, then 12 at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--long",
        type=int,
        default=8,
        help="people who also speak for ten seconds, once (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds", type=int, default=3, help="repetitions with other noise (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="the first of them")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="4 clips of 16 frames, one seed: a look, not a measurement",
    )
    parser.add_argument("--bf16", action="store_true", help="denoiser and decoder in bfloat16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", help="file to write rows and setting to")
    parser.add_argument("--markdown", help="file to write the table and its legend to")
    parser.add_argument(
        "--legend", action="store_true", help="print what every number means, and stop"
    )
    args = parser.parse_args(argv)
    if args.quick:
        args.clips, args.frames, args.seeds, args.long = 4, 16, 1, 0
    if min(args.clips, args.seeds) < 1 or args.frames < CHUNK or args.seed < 0 or args.long < 0:
        parser.error(
            f"--clips and --seeds must be at least 1, --frames at least {CHUNK}, --seed and "
            "--long at least 0"
        )
    for path in (args.json, args.markdown):  # an hour of work must not end at a typo
        if path and not Path(path).resolve().parent.is_dir():
            parser.error(f"there is no folder for {path}")
    return args


def main(argv=None):
    with one_line_errors():
        args = arguments(argv)
        if args.legend:
            return print(legend())
        result = evaluate(args)
        setting = ", ".join(
            f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}"
            for k, v in result["setting"].items()
        )
        print(text_table(result["rows"]), setting, sep="\n\n")
        if args.json:
            Path(args.json).write_text(json.dumps(result, indent=1) + "\n")
        if args.markdown:
            Path(args.markdown).write_text(
                f"{text_table(result['rows'], markdown=True)}\n\n{setting}\n\n{legend()}\n"
            )


if __name__ == "__main__":
    main()
