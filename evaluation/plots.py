"""Pictures of the logs and of the table: curves to look at instead of columns of numbers.

    python -m evaluation.plots                                the shipped trainings' curves -> docs/
    python -m evaluation.plots --table table.json             and quality against evaluations
    python -m evaluation.plots --ablation table.json          and the ablation, a row a variant

table.json is what `python -m evaluation --json` writes, or for --ablation what
`python -m evaluation.ablate` does.
"""

import json
from pathlib import Path

import matplotlib
import numpy as np

from common import HERE, Parser, one_line_errors
from evaluation.legend import LIPS

matplotlib.use("Agg")  # files only: no window, no screen
from matplotlib import pyplot as plt  # noqa: E402

# what to plot of each log: title with what to look for, keys
CURVES = {
    "teacher": [("the loss falls for as long as you train", ["loss"])],
    "stage1": [
        ("g: noisy, falls slowly, no progress bar", ["g"]),
        ("fake_loss: rises while the student moves, then stays level", ["fake_loss"]),
        ("lips: what tells whether it works", ["jaw", "width", "rounding"]),
        ("head's spread and change over the true clips': towards 1", ["spread", "change"]),
    ],
    "stage2": [
        (
            "D's logits, less the reference's: below 0 is worse",
            ["real - reference", "fake - reference"],
        ),
        ("D ranks real above fake: 0.5 is a guess", ["accuracy"]),
        ("the student's gradient from D, before clipping to 1", ["gradient"]),
        ("lips: what tells whether it works", ["jaw", "width", "rounding"]),
        ("head's spread and change: far above 1 is flicker", ["spread", "change"]),
    ],
}
CURVES["direct1"] = CURVES["stage1"]
# rows of the table: those of one network, in the order of their evaluations
CHAINS = {
    "teacher": ["ddim1_guided", "ddim2_guided", "ddim4_guided", "teacher"],
    "stage 1": ["stage1_1step", "stage1_2steps", "stage1"],
    "stage 2": ["stage2"],
    "direct DMD": ["direct1"],
    "progressive": ["progressive"],
    "consistency": ["consistency"],
    "consistency, then adversarial": ["consistency_adv"],
    "stage 2 with DMD kept": ["keep_dmd"],
    "stage 1, plain": ["plain_stage1_1step", "plain_stage1_2steps", "plain_stage1"],
    "stage 2, plain": ["plain_stage2"],
    "direct DMD, plain": ["plain_direct1"],
}


def read_log(path):
    """log.jsonl -> {key: (steps, values)}. Raises ValueError for a file that is none."""
    found = {}
    try:
        rows = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
    except (OSError, ValueError):
        raise ValueError(f"{path} is no log of a training") from None
    for row in rows:
        for key, value in row.items() if "step" in row else ():
            steps, values = found.setdefault(key, ([], []))
            steps.append(row["step"])
            values.append(value)
    return found


def read_table(path, name):
    """The rows of a table's JSON, each with its `name`: "model", or "variant" of an ablation.
    Raises ValueError for a file that is none."""
    try:
        rows = json.loads(Path(path).read_text("utf-8"))["rows"]
        if all(name in row for row in rows):
            return rows
    except (OSError, ValueError, TypeError, KeyError):
        pass
    raise ValueError(f"{path} is no table of this project")


def plot_log(name, path, out):
    """One picture of a training's log, an axis for each entry of CURVES -> its path."""
    log = read_log(path)
    for a, b in ("real", "reference"), ("fake", "reference"):  # logits: only differences count
        if a in log:
            log[f"{a} - {b}"] = log[a][0], np.subtract(log[a][1], log[b][1])
    steps, phases = log.get("phase", ([], []))
    switches = [step for step, a, b in zip(steps[1:], phases, phases[1:]) if a != b]
    curves = [(title, [k for k in keys if k in log]) for title, keys in CURVES[name]]
    curves = [curve for curve in curves if curve[1]]
    figure, axes = plt.subplots(1, len(curves), figsize=(4.5 * len(curves), 3.2), squeeze=False)
    for axis, (title, keys) in zip(axes[0], curves):
        for key in keys:
            axis.plot(*log[key], label=key, marker="." if len(log[key][0]) < 20 else "")
        for step in switches:  # a new phase of stage 2
            axis.axvline(step, color="grey", linewidth=0.8, linestyle=":")
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("step" if name == "teacher" else "iteration")
        axis.legend(fontsize=8)
    return save(figure, out / f"{name}.png")


def plot_quality(rows, out):
    """FVD-toy and lips over the evaluations of a chunk, a line for each network; plain ones hollow
    and dashed, in the colour of the others -> the path."""
    rows, colours = {row["model"]: row for row in rows}, {}
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4))
    for label, names in CHAINS.items():
        chain = [rows[name] for name in names if name in rows]
        if chain:
            nfe = [row["nfe"] for row in chain]
            lips = [np.mean([row[k] for k in LIPS]) for row in chain]
            own = label.removesuffix(", plain")
            number = colours.setdefault(own, len(colours))
            look = dict(color=f"C{number}", marker="osD^vP*X"[number], label=label)
            if own != label:
                look |= dict(linestyle="--", markerfacecolor="none")
            left.plot(nfe, [row["fvd"] for row in chain], **look)
            right.plot(nfe, lips, **look)
    for axis, title in (left, "FVD-toy (down)"), (right, "lips: mean correlation (up)"):
        axis.set(xscale="log", xlabel="network evaluations for a chunk", title=title)
    left.set_yscale("log")
    right.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return save(figure, out / "quality.png")


def plot_ablation(rows, out):
    """A row for each variant, a column for each of six numbers, with their spread -> the path."""
    keys = ["jaw_corr", "fid", "fvd", "head_std_ratio", "blink_rate_ratio", "frame_change_ratio"]
    figure, axes = plt.subplots(1, len(keys), figsize=(13, 0.4 * len(rows) + 1), sharey=True)
    for axis, key in zip(axes, keys):
        values = [np.array(row[key], float) for row in rows]
        spread = [v.std(ddof=1) if len(v) > 1 else 0 for v in values]
        axis.errorbar([v.mean() for v in values], range(len(rows)), xerr=spread, fmt="o")
        axis.set_title(key, fontsize=9)
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_yticks(range(len(rows)), [row["variant"] for row in rows])
    axes[0].invert_yaxis()
    return save(figure, out / "ablation.png")


def save(figure, path, dpi=80, **how):
    """Write a figure, alike in every run -> its path."""
    figure.tight_layout()
    figure.savefig(path, dpi=dpi, metadata={"Software": None}, **how)
    plt.close(figure)
    return path


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("--logs", default=HERE / "checkpoints", help="folder of NAME.log.jsonl")
    parser.add_argument("--table", help="JSON of python -m evaluation")
    parser.add_argument("--ablation", help="JSON of python -m evaluation.ablate")
    parser.add_argument(
        "--out", default=HERE / "docs", help="folder of the pictures (default: %(default)s)"
    )
    with one_line_errors():
        args = parser.parse_args(argv)
        out, made = Path(args.out), []
        if not out.is_dir():
            raise ValueError(f"--out {args.out} is no folder")
        for name in CURVES:
            if (path := Path(args.logs, f"{name}.log.jsonl")).exists():
                made.append(plot_log(name, path, out))
        if args.table:
            made.append(plot_quality(read_table(args.table, "model"), out))
        if args.ablation:
            made.append(plot_ablation(read_table(args.ablation, "variant"), out))
        if not made:
            raise ValueError(f"nothing to draw: {args.logs} has no logs, and no table is given")
    print(*made, sep="\n")


if __name__ == "__main__":
    main()
