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
from autoencoder import load_autoencoder, to_pixels, to_uint8
from common import HERE, Parser, one_line_errors, pick_device
from distill_stage1 import load_stage1
from distill_stage2 import load_stage2
from evaluation import metrics
from evaluation.judge import Judge
from evaluation.legend import METRICS, legend, text_table
from evaluation.speed import speeds
from evaluation.truth import floors, redrawn, ten_seconds, truth_of
from generate import CHUNK, generate_latents, load_to_sample
from student import student_sampler
from teacher import load_teacher, teacher_sampler

AT_ONCE = 8  # videos that are generated together
FIXED = ("autoencoder", "blurred", "frozen", "still")  # rows without chance: one run is enough


# ---------------------------------------------------------------- the models: one line each


def models(folder, device, bf16=False):
    """Every model whose checkpoint is in the folder -> [(name, network evaluations, sampler(cond,
    noise) -> x0)].

    noise() draws a fresh ε, so a sampler of several steps may ask for it more than once.
    """
    folder, rows = Path(folder), []
    if (folder / "teacher.pt").exists():
        teacher, checkpoint_config = load_to_sample(
            load_teacher, folder / "teacher.pt", device, bf16
        )
        ddim = partial(teacher_sampler, teacher, checkpoint_config.get("recipe", "toy"))
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
        ("progressive", load_stage1, (("progressive", 1),)),
        ("consistency", load_stage1, (("consistency", 1),)),
        ("consistency_adv", load_stage2, (("consistency_adv", 1),)),
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


# ---------------------------------------------------------------- measuring


@torch.no_grad()
def generate_videos(sampler, truth, ref, autoencoder, seed, bf16=False):
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
    if len(truth.frames) == 1 and n_frames < CHUNK + 4:  # one clip of CHUNK frames has no spread
        how = "leave --quick out" if args.quick else "give more --clips or --frames"
        raise ValueError(
            f"a single test clip of {n_frames} frames has no Fréchet distance: {how}, or add clips "
            f"to {args.data}"
        )
    judge, ref = (
        Judge(truth, nets, device),
        autoencoder.encode(to_pixels(truth.portraits, device)),
    )

    table = [(name, nfe, source, None) for name, nfe, source in floors(truth, autoencoder, device)]
    for name, nfe, sampler in models(folder, device, args.bf16):
        if name == "wrong_audio" and len(truth.frames) == 1:  # no other sentence to hear
            continue
        heard = truth._replace(windows=truth.windows.roll(1, 0)) if name == "wrong_audio" else truth
        table.append(
            (
                name,
                nfe,
                partial(generate_videos, sampler, heard, ref, autoencoder, bf16=args.bf16),
                sampler,
            )
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
                    generate_videos(
                        sampler, longer, ref[: args.long], autoencoder, args.seed, args.bf16
                    )
                    if sampler
                    else redrawn(longer, args.seed)
                )
                row["identity_10s"], row["colour_10s"] = judge.faithfulness(frames[:, -FPS:])
            rows.append(row)
            bar.update(args.seeds)
        if samplers := {name: sampler for name, _, _, sampler in table if sampler}:
            bar.set_description("speed")
            with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
                measured = speeds(
                    samplers, truth.windows, ref, autoencoder, device, 1 if args.quick else 5
                )
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


def arguments(argv=None):
    """The command line, checked. Raises ValueError."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--data",
        default=tiny_data.HOME,
        help="the toy set, or a folder of video clips with sound (default: %(default)s)",
    )
    parser.add_argument(
        "--checkpoints",
        default=HERE / "checkpoints",
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
        help="people who also generate_videos for ten seconds, once (default: %(default)s)",
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
