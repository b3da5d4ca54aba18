"""The paper's ablation of stage 2: variants from one stage-1 student, a table and a sheet.

    python -m evaluation.ablate --bf16                             all variants, one seed
    python -m evaluation.ablate --seeds 3 --variants full,hinge    some of them, three seeds
    python -m evaluation.ablate --options="--last-steps 200"       other options for all of them
    python -m evaluation.ablate --equal-doses                      phases that weigh the same
    python -m evaluation.ablate --smoke                            everything at toy size

Some 25 minutes a variant on one CPU core (bfloat16). Writes out/ablate/table.md, table.json,
sheet.png (a row each, the last the truth) and out/ablate/VARIANT-SEED/. A variant that was trained
with the same settings from the same student is not trained again. The rows "stage1_1step" and
"stage1" are the student before stage 2.
"""

import json
import shlex
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import distill_stage2
import tiny_data
from autoencoder import load_autoencoder, to_pixels
from common import HERE, Parser, one_line_errors, parse, pick_device
from distill_stage1 import load_stage1
from evaluation import metrics
from evaluation.judge import Judge
from evaluation.legend import markdown
from evaluation.models import generate_videos
from evaluation.table import plain, summary
from evaluation.truth import Truth, truth_of
from generate import load_to_sample
from student import student_sampler

VARIANTS = {  # what differs from the Config of distill_stage2.py
    "full": {},
    "no_self_compare": dict(self_compare=0.0),
    "no_curriculum": dict(curriculum=0),
    "no_progression": dict(progressive=False),
    "straight": dict(progressive=False, curriculum=0),
    "hinge": dict(gan="hinge"),
    "vanilla": dict(gan="vanilla"),
    "clean_disc": dict(disc_noise=0.0),
    "no_penalty": dict(penalty=0.0),
    "self_compare_0.1": dict(self_compare=0.1),
    "self_compare_0.5": dict(self_compare=0.5),
    "self_compare_8": dict(self_compare=8.0),
}
# by default phases 3 and 2 are 3.5 % of updates times rate: without them little changes
EQUAL_DOSES = "--phase-steps 100 --last-steps 100 --curriculum 50"  # and one rate; W = half a phase
SHOWN = (
    "jaw_corr width_corr round_corr sync_c fid fvd head_std_ratio blink_rate_ratio identity "
    "frame_change_ratio"
).split()


def table(rows):
    """[{"variant", metric: [one value a seed]}] -> a Markdown table of mean ± standard deviation
    over the seeds."""

    def cell(values):
        if not np.isfinite(values).all():  # nothing to count, or nobody knows: your own clips
            return ""
        spread = f" ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else ""
        return f"{np.mean(values):.3g}{spread}"

    lines = [[row["variant"], *(cell(row[k]) for k in SHOWN)] for row in rows]
    return markdown([["variant", *SHOWN], *lines])


def trained(base, name, seed, out, equal_rates):
    """The path of a variant's weights, trained unless the same run has left them there."""
    place = out / f"{name}-{seed}"
    weights, done = place / "stage2.pt", place / "done.json"
    cfg = replace(base, **VARIANTS[name], seed=seed, out=str(place), weights=str(weights))
    changed = Path(cfg.student).stat().st_mtime
    setting = json.dumps(asdict(cfg) | dict(student_changed=changed, equal_rates=equal_rates))
    if not (done.exists() and weights.exists() and done.read_text("utf-8") == setting):
        done.unlink(missing_ok=True)  # stopped halfway, it would vouch for other weights
        distill_stage2.train(cfg, equal_rates=equal_rates)
        done.write_text(setting, encoding="utf-8")
    return weights


def base_config(args):
    """-> the Config that all variants start from."""
    doses = EQUAL_DOSES if args.equal_doses and not args.smoke else ""
    options = shlex.split(f"{doses} {args.options}") + args.smoke * ["--smoke"]
    doc = "the options of distill_stage2.py"
    base, _ = parse(distill_stage2.Config, doc, distill_stage2.SMOKE, options)
    return replace(base, bf16=args.bf16, last_steps=max(1, round(base.last_steps * args.budget)))


class Bench(NamedTuple):
    """What every student is measured with."""

    truth: Truth
    ref: torch.Tensor  # (V, C, H, W) latents of the portraits
    autoencoder: torch.nn.Module
    judge: Judge
    bf16: bool


def measured(bench, name, students):
    """-> a row with a value for each student (its training seed), and the first 16 frames of one
    video. The mean of three sampling seeds: one alone moves the number of blinks by a third.
    students: [(network, its config, steps)]."""
    row = {"variant": name} | {k: [] for k in SHOWN}
    for model, checkpoint_config, steps in students:
        sampler = student_sampler(model, checkpoint_config, steps=steps)
        numbers = []
        for seed in range(3):
            videos = generate_videos(
                sampler, bench.truth, bench.ref, bench.autoencoder, seed, bench.bf16
            )
            numbers.append(bench.judge(videos)[0])
        found = summary(name, steps, numbers)
        for k in SHOWN:  # None where nobody knows the lips
            row[k].append(np.nan if found[k] is None else float(found[k]))
    return row, videos[0, :16]


def ablate(args):
    """Train what is missing, measure all -> rows as `table` takes them."""
    wanted = [name.strip() for name in args.variants.split(",")] if args.variants else [*VARIANTS]
    if unknown := set(wanted) - VARIANTS.keys():
        raise ValueError(
            f"no variant {', '.join(sorted(unknown))}: there are {', '.join(VARIANTS)}"
        )
    base = base_config(args)

    # judges and clips that cannot do complain now, not after the training
    out, device = Path(args.out), pick_device("auto")
    start, checkpoint_config = load_to_sample(load_stage1, base.student, device, args.bf16)
    autoencoder = load_autoencoder(base.autoencoder, device)
    nets = metrics.load_metrics(args.metrics, device)
    videos = tiny_data.load(base.data, "test", base.videos)
    frames = min(28, int(np.diff(videos.starts).min()))
    truth = truth_of(videos, 0, args.clips, frames, device)
    ref = autoencoder.encode(to_pixels(truth.portraits, device))
    bench = Bench(truth, ref, autoencoder, Judge(truth, nets, device), args.bf16)
    bench.judge(truth.frames)

    seeds = range(args.seeds)
    weights = {
        name: [trained(base, name, seed, out, args.equal_doses) for seed in seeds]
        for name in wanted
    }

    found = [measured(bench, "stage1", [(start, checkpoint_config, 4)])]
    found += [measured(bench, "stage1_1step", [(start, checkpoint_config, 1)])]
    for name, paths in weights.items():
        load = partial(load_to_sample, distill_stage2.load_stage2, device=device, bf16=args.bf16)
        found.append(measured(bench, name, [(*load(path), 1) for path in paths]))

    rows, pictures = zip(*found)
    labels = [row["variant"] for row in rows] + ["truth"]
    tiny_data.contact_sheet(out / "sheet.png", [*pictures, truth.frames[0, :16]], labels=labels)
    (out / "table.md").write_text(table(rows) + "\n", encoding="utf-8")
    result = plain(dict(rows=list(rows), setting=vars(args)))
    text = json.dumps(result, indent=1) + "\n"
    (out / "table.json").write_text(text, encoding="utf-8")
    return rows


def arguments(argv=None):
    """The command line, checked. Raises ValueError."""
    parser, usual = Parser(__doc__), "(default: %(default)s)"
    add = parser.add_argument
    add("--variants", default="", help=f"some of {', '.join(VARIANTS)} (default: all)")
    add("--seeds", type=int, default=1, help=f"training seeds of each variant {usual}")
    budget = "share of distill_stage2.py's updates in phase 1, for a quick look; the phases before "
    add("--budget", type=float, default=1.0, help=f"{budget}it are whole {usual}")
    doses = f"{EQUAL_DOSES}, and the same rate in all phases"
    add("--equal-doses", action="store_true", help=doses)
    options = "of distill_stage2.py, for every variant (but --bf16, --seed, --out, --weights and "
    options += 'what the variant itself changes), such as "--last-steps 200"'
    add("--options", default="", help=options)
    add("--clips", type=int, default=96, help=f"held-out clips of 28 frames {usual}")
    judges = HERE / "checkpoints/metrics.pt"
    add("--metrics", default=judges, help=f"the measuring networks {usual}")
    add("--out", default=HERE / "out/ablate")
    add("--bf16", action="store_true", help="networks in bfloat16")
    add("--smoke", action="store_true", help="everything at toy size")
    args = parser.parse_args(argv)
    if min(args.seeds, args.clips) < 1 or not 0 < args.budget < float("inf"):
        parser.error("--seeds and --clips must be at least 1, --budget a finite number above 0")
    if args.equal_doses and args.budget != 1:
        parser.error("--budget is a share of phase 1 alone: leave it out with --equal-doses")
    if args.smoke:
        args.out = HERE / "out/smoke/ablate" if args.out == HERE / "out/ablate" else args.out
    return args


def main(argv=None):
    with one_line_errors():
        print(table(ablate(arguments(argv))))


if __name__ == "__main__":
    main()
