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
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import tiny_data
from audio_features import FPS
from autoencoder import load_autoencoder, to_pixels
from common import HERE, Parser, one_line_errors, pick_device
from evaluation import metrics
from evaluation.judge import Judge
from evaluation.legend import METRICS, aligned, cells, legend, markdown
from evaluation.models import generate_videos, models_in
from evaluation.speed import speeds
from evaluation.truth import floors, redrawn, ten_seconds, truth_of
from generate import CHUNK

FIXED = ("autoencoder", "blurred", "frozen", "still")  # rows without chance: one run is enough


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


def table_rows(args, truth, ref, autoencoder, device):
    """Floors and models, those asked for -> [(name, nfe, function(seed) -> frames (V, F, 64, 64, 3)
    uint8, the model's sampler or None)]. Raises ValueError."""
    rows = [(*row, None) for row in floors(truth, autoencoder, device)]
    for name, nfe, sampler in models_in(args.checkpoints, device, args.bf16):
        heard = truth
        if name == "wrong_audio":
            if len(truth.frames) == 1:  # no other sentence to hear
                continue
            heard = truth._replace(windows=truth.windows.roll(1, 0))
        source = partial(generate_videos, sampler, heard, ref, autoencoder, bf16=args.bf16)
        rows.append((name, nfe, source, sampler))
    known, wanted = [row[0] for row in rows], [n.strip() for n in args.models.split(",")]
    wanted = [name for name in wanted if name] or known
    if unknown := set(wanted) - set(known):
        raise ValueError(
            f"no model {', '.join(sorted(unknown))}: there are {', '.join(known)} (a model needs "
            f"its checkpoint in {args.checkpoints})"
        )
    return [row for row in rows if row[0] in wanted or row[0] == "real"]


def after_ten_seconds(name, sampler, judge, ref, autoencoder, args):
    """-> identity_10s and colour_10s of a row; {} where there are no such videos."""
    truth = judge.truth
    if not args.long or name == "wrong_audio" or not (sampler or (name == "real" and truth.seeds)):
        return {}
    longer = ten_seconds(truth, min(args.long, len(truth.frames)))
    if sampler:
        ref = ref[: args.long]
        frames = generate_videos(sampler, longer, ref, autoencoder, args.seed, args.bf16)
    else:
        frames = redrawn(longer, args.seed)
    identity, colour = judge.faithfulness(frames[:, -FPS:])  # in the last second
    return dict(identity_10s=identity, colour_10s=colour)


def evaluate(args):
    """-> {"rows": [...], "setting": {...}}, as --json writes it."""
    device, folder = pick_device(args.device), Path(args.checkpoints)
    autoencoder = load_autoencoder(folder / "autoencoder.pt", device)
    nets = metrics.load_metrics(args.metrics or folder / "metrics.pt", device)
    videos = tiny_data.load(args.data, "test")
    n_frames = min(args.frames, int(np.diff(videos.starts).min()))
    truth = truth_of(videos, 0, args.clips, n_frames, device)
    count = len(truth.frames)
    if count == 1 and n_frames < CHUNK + 4:  # one clip of CHUNK frames has no spread
        how = "leave --quick out" if args.quick else "give more --clips or --frames"
        raise ValueError(
            f"a single test clip of {n_frames} frames has no Fréchet distance: {how}, or add clips "
            f"to {args.data}"
        )
    judge, ref = Judge(truth, nets, device), autoencoder.encode(to_pixels(truth.portraits, device))
    table = table_rows(args, truth, ref, autoencoder, device)

    rows, true_diversity = [], None
    with tqdm(total=len(table) * args.seeds, unit="run", disable=None) as bar:
        for name, nfe, source, sampler in table:
            bar.set_description(name)
            seeds = range(1 if name in FIXED else args.seeds)
            numbers, reads = zip(*(judge(source(args.seed + k)) for k in seeds))
            row = summary(name, nfe, numbers)
            if len(reads) > 1 and reads[0] is not None:
                if true_diversity is None:  # the first row is `real`
                    true_diversity = diversity(reads)
                row["diversity"] = float((diversity(reads) / true_diversity).mean())
            row |= after_ten_seconds(name, sampler, judge, ref, autoencoder, args)
            rows.append(row)
            bar.update(args.seeds)
        if samplers := {name: sampler for name, _, _, sampler in table if sampler}:
            bar.set_description("speed")
            rounds = 1 if args.quick else 5
            with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
                measured = speeds(samplers, truth.windows, ref, autoencoder, device, rounds)
            rows = [row | measured.get(row["model"], {}) for row in rows]
    slow = next((r["denoise_ms_per_frame"] for r in rows if r["model"] == "teacher"), None)
    for row in rows:
        own = row["denoise_ms_per_frame"]
        row["speedup"] = slow / own if slow and own else None

    others = None
    if len(videos.starts) - 1 >= count + 2:  # a covariance wants two
        others = truth_of(videos, count, count, n_frames, device).frames
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


def arguments(argv=None):
    """The command line, checked. Raises ValueError."""
    parser, usual = Parser(__doc__), "(default: %(default)s)"
    add = parser.add_argument
    add("--data", default=tiny_data.HOME, help=f"the toy set, or a folder of clips {usual}")
    folder = HERE / "checkpoints"
    add("--checkpoints", default=folder, help=f"autoencoder.pt, metrics.pt, teacher.pt ... {usual}")
    add("--metrics", help="other measuring networks, such as some trained on your own clips")
    add("--models", default="", help="only these rows (and `real`): names with commas between")
    add("--clips", type=int, default=64, help=f"test videos {usual}")
    add("--frames", type=int, default=40, help=f"frames of each: 16, then 12 at a time {usual}")
    add("--long", type=int, default=8, help=f"people who also speak for ten seconds, once {usual}")
    add("--seeds", type=int, default=3, help=f"repetitions with other noise {usual}")
    add("--seed", type=int, default=0, help="the first of them")
    quick = "4 clips of 16 frames, one seed: a look, not a measurement"
    add("--quick", action="store_true", help=quick)
    add("--bf16", action="store_true", help="denoiser and decoder in bfloat16")
    add("--device", default="auto")
    add("--json", help="file to write rows and setting to")
    add("--markdown", help="file to write the table and its legend to")
    add("--legend", action="store_true", help="print what every number means, and stop")
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
        lines = cells(result["rows"])
        print(aligned(lines), setting, sep="\n\n")
        if args.json:
            Path(args.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        if args.markdown:
            text = "\n\n".join([markdown(lines), setting, legend()])
            Path(args.markdown).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
