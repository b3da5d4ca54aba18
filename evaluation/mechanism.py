"""Why stage 2 goes by way of 3 and 2 steps: the mechanism the paper claims, measured.

Trained straight to one step, D would learn to win before the student can follow, and the student's
gradient would vanish; phases and curriculum would keep the two near each other (method: stage 2).

    gentle   stage 2 as it is: relativistic loss, penalties, noised clips for D, self-compare
    harsh    vanilla loss, no penalties, clean clips, no self-compare, D alone for long at first
    each     phases and curriculum  |  phases only  |  straight to one step, as many updates
The rate is the same in all, so a dose is a number of updates.

    python -m evaluation.mechanism --seeds 0,1              2 x 3 x 2 trainings
    python -m evaluation.mechanism --arms harsh_straight    one of them
    python -m evaluation.mechanism --smoke                  everything at toy size
Writes out/mechanism/: ARM-SEED/looks.jsonl, and of all that are there mechanism.json and
mechanism.png. An arm that is finished is not trained again.
"""

import json
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

import distill_stage2
import tiny_data
from autoencoder import load_autoencoder, to_pixels
from common import HERE, Parser, one_line_errors, parse, pick_device
from diffusion import T, add_noise
from evaluation import metrics
from evaluation.ablate import EQUAL_DOSES, VARIANTS
from evaluation.judge import Judge
from evaluation.legend import LIPS
from evaluation.models import generate_videos
from evaluation.plots import plt, read_log, save
from evaluation.table import plain
from evaluation.truth import truth_of
from latents import load_clips, preview, preview_noise
from student import student_sampler

HARSH = dict(gan="vanilla", penalty=0.0, disc_noise=0.0, self_compare=0.0)
PATHS = {
    "phased": VARIANTS["full"],  # phases 3, 2, 1, each with its curriculum
    "jumping": VARIANTS["no_curriculum"],  # phases only
    "straight": VARIANTS["straight"],
}
ARMS = {f"gentle_{path}": change for path, change in PATHS.items()}
ARMS |= {f"harsh_{path}": HARSH | change for path, change in PATHS.items()}
COLOURS = {"phased": "tab:blue", "jumping": "tab:green", "straight": "tab:red"}
PAIRS = 64  # held-out clips that D ranks
DRAWS = 4  # of timestep and noise, for each pair


@torch.no_grad()
def held_out_accuracy(disc, sampler, clips, disc_noise):
    """Share of held-out pairs that D ranks right, real above fake: x0 against the student's sample
    under the same condition, both in the same noise, as in training."""
    x0, cond = preview(clips, PAIRS)
    noise = preview_noise(x0)
    x0_hat = sampler(cond, noise)
    right = []
    for k in range(DRAWS):
        t = torch.full((len(x0),), disc_noise * T * (k + 0.5) / DRAWS, device=x0.device)
        eps = noise()
        real, fake = (disc(add_noise(x, eps, t), t, cond) for x in (x0, x0_hat))
        right.append((real > fake).float().mean().item())
    return float(np.mean(right))


def bench(cfg, args, device):
    """-> look(steps, student, disc, recipe) -> dict: D's held-out accuracy, and lips, FVD-toy and
    frame change of the student with so many steps, on val videos. The student itself: its moving
    average lags behind, some thirty updates after 300."""
    autoencoder = load_autoencoder(cfg.autoencoder, device)
    videos = tiny_data.load(cfg.data, "val", cfg.videos)
    truth = truth_of(videos, 0, args.clips, args.frames, device, split="val")
    judge = Judge(truth, metrics.load_metrics(args.metrics, device), device)
    ref = autoencoder.encode(to_pixels(truth.portraits, device))
    _, clips = load_clips(cfg, "val", autoencoder, device, args.frames)

    def look(steps, student, disc, recipe):
        sampler = student_sampler(student, dict(recipe=recipe), steps=steps)
        frames = generate_videos(sampler, truth, ref, autoencoder, 0)
        row, _ = judge(frames)
        return dict(
            accuracy=held_out_accuracy(disc, sampler, clips, cfg.disc_noise),
            lips=np.mean([row[k] for k in LIPS]),
            **{k: row[k] for k in ("fid", "fvd", "head_std_ratio", "frame_change_ratio")},
        )

    return look


def train_arm(base, name, seed, args, device):
    """Train an arm unless the same run is finished there; its looks go to looks.jsonl."""
    place = Path(args.out) / f"{name}-{seed}"
    warm = base.warm_disc if name.startswith("gentle") else args.harsh_warm
    cfg = replace(base, **ARMS[name], warm_disc=warm, seed=seed)
    cfg = replace(cfg, out=str(place), weights=str(place / "stage2.pt"))
    done, setting = place / "done.json", json.dumps(asdict(cfg))
    if done.exists() and done.read_text(encoding="utf-8") == setting:
        return
    done.unlink(missing_ok=True)
    place.mkdir(parents=True, exist_ok=True)
    look, rows = bench(cfg, args, device), []

    def watch(step, phase, student, disc):
        found = look(phase.steps, student, disc, cfg.recipe or "toy")
        rows.append(plain(dict(step=step, phase=phase.steps, **found)))
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (place / "looks.jsonl").write_text(text, encoding="utf-8")

    distill_stage2.train(cfg, watch=watch, equal_rates=True)
    done.write_text(setting, encoding="utf-8")


def draw(out):
    """All finished arms -> mechanism.json, and mechanism.png: a row a regime, a column a number, a
    line a training."""
    columns = {
        "accuracy": "D ranks held-out pairs right (0.5 = guesses)",
        "gradient": "norm of the student's gradient (before clipping)",
        "fvd": "FVD-toy with the phase's steps (down)",
        "lips": "lips with the phase's steps (up)",
    }
    figure, axes = plt.subplots(2, len(columns), figsize=(4.2 * len(columns), 6.4), squeeze=False)
    found = {}
    for done in sorted(Path(out).glob("*/done.json")):
        arm, _, seed = done.parent.name.rpartition("-")
        cfg, log = json.loads(done.read_text(encoding="utf-8")), read_log(done.parent / "log.jsonl")
        looks = read_log(done.parent / "looks.jsonl")
        curves = {"gradient": log.get("gradient", ([], []))}
        curves |= {k: v for k, v in looks.items() if k not in ("step", "phase")}
        found[f"{arm}-{seed}"] = curves
        regime, _, path = arm.partition("_")
        for axis, key in zip(axes[int(regime == "harsh")], columns):
            steps = np.array(curves[key][0]) - cfg["warm_disc"]
            line = "-" if seed == "0" else "--"
            axis.plot(steps, curves[key][1], line, color=COLOURS[path], label=path, alpha=0.8)
    for regime, row in zip(("gentle", "harsh"), axes):
        for axis, (key, title) in zip(row, columns.items()):
            axis.set_title(f"{regime}: {title}", fontsize=8)
            if key in ("gradient", "fvd"):
                axis.set_yscale("log")
        paths = {line.get_label(): line for line in reversed(row[0].lines)}  # seed 0's line first
        if paths:
            look = dict(loc="lower left", fontsize=7, title_fontsize=7)
            row[-1].legend(paths.values(), paths, title="dashed: other seeds", **look)
    for axis in axes[1]:
        axis.set_xlabel("student update")
    save(figure, Path(out) / "mechanism.png", dpi=100)
    (Path(out) / "mechanism.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def arguments(argv=None):
    """The command line, checked."""
    parser = Parser(__doc__)
    parser.add_argument("--arms", default=",".join(ARMS), help="(default: %(default)s)")
    parser.add_argument("--seeds", default="0", help="training seeds, such as 0,1")
    parser.add_argument(
        "--options",
        default=EQUAL_DOSES,
        help="of distill_stage2.py, for every arm (default: %(default)s)",
    )
    parser.add_argument(
        "--harsh-warm", type=int, default=200, help="iterations of D alone (default: %(default)s)"
    )
    parser.add_argument("--clips", type=int, default=48, help="val videos (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=16, help="of each (default: %(default)s)")
    parser.add_argument("--metrics", default=HERE / "checkpoints/metrics.pt", help="the judges")
    parser.add_argument("--out", default=HERE / "out/mechanism")
    parser.add_argument("--smoke", action="store_true", help="everything at toy size")
    args = parser.parse_args(argv)
    args.arms = [name.strip() for name in args.arms.split(",")]
    if unknown := set(args.arms) - ARMS.keys():
        parser.error(f"no arm {', '.join(sorted(unknown))}: there are {', '.join(ARMS)}")
    try:
        args.seeds = [int(seed) for seed in args.seeds.split(",")]
    except ValueError:
        parser.error(f"--seeds must be whole numbers with commas between, got {args.seeds}")
    if args.smoke:
        args.harsh_warm, args.clips = 1, 4
        args.out = HERE / "out/smoke/mechanism" if args.out == HERE / "out/mechanism" else args.out
    return args


def main(argv=None):
    with one_line_errors():
        args = arguments(argv)
        options = ["--smoke"] if args.smoke else shlex.split(args.options)
        doc = "the options of distill_stage2.py"
        base, _ = parse(distill_stage2.Config, doc, distill_stage2.SMOKE, options)
        for seed in args.seeds:
            for name in args.arms:
                train_arm(base, name, seed, args, pick_device(base.device))
        draw(args.out)
        print(f"{args.out}/mechanism.png")


if __name__ == "__main__":
    main()
