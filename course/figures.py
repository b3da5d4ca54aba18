"""Right beside wrong: the pictures and numbers of these pages, from what their runs wrote.

    python course/figures.py rows OUT.png right=../right/talk.mp4 wrong=../wrong/talk.mp4 --every 8
    python course/figures.py rows OUT.png right=000040.png:0 wrong=../wrong/out/bug/000040.png:0
    python course/figures.py curves OUT.png right=log.jsonl wrong=../wrong/log.jsonl --keys g,jaw
    python course/figures.py numbers right=../right/talk.mp4 wrong=../wrong/talk.mp4
    python course/figures.py bars OUT.png "16 videos=floors.json" "64 videos=docs/table.json"

rows: a row for each LABEL=FILE: every so many-th frame of a video, or of row K of a contact sheet
(FILE:K, counted from 0). curves: an axis for each key, a line for each log. numbers: each video
measured against the first one. bars: an axis for each of four numbers of tables that
`python -m evaluation --json` wrote, with the rows of the first.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import tiny_data  # noqa: E402
from autoencoder import to_pixels  # noqa: E402
from common import Parser, one_line_errors  # noqa: E402
from evaluation import measures, metrics  # noqa: E402
from evaluation.legend import METRICS  # noqa: E402
from evaluation.plots import plt, read_log, read_table, save  # noqa: E402
from generate import CHUNK, CONTEXT  # noqa: E402
from media import SIZE, load_frames  # noqa: E402
from student import READER  # noqa: E402

TILE = 2 * SIZE  # a frame of a contact sheet, whose margin is narrower


def frames_of(name):
    """A video, or SHEET.png:K, row K of a contact sheet -> (F, 64, 64, 3) uint8. Raises
    ValueError."""
    path, _, row = name.partition(".png:")
    if not row:
        return load_frames(name)
    try:
        sheet = np.asarray(Image.open(f"{path}.png").convert("RGB"))
        strip = sheet[TILE * int(row) :][:TILE, sheet.shape[1] % TILE :]
        return np.stack(np.split(strip, strip.shape[1] // TILE, axis=1))[:, ::2, ::2]
    except (OSError, ValueError):
        raise ValueError(f"{name} is no row of a contact sheet") from None


def rows(named, args):
    """One row of frames for each {label: file}, in few colours: a small PNG."""
    strips = [frames_of(file)[args.first :: args.every][: args.count] for file in named.values()]
    shortest = min(map(len, strips))
    if not shortest:
        raise ValueError(f"--first {args.first} is past the end")
    tiny_data.contact_sheet(args.out, [s[:shortest] for s in strips], scale=1, labels=[*named])
    few = Image.open(args.out).convert("RGB").quantize(args.colours, dither=Image.Dither.NONE)
    few.save(args.out, optimize=True)


def curves(named, args):
    """An axis for each key, a line for each {label: log}."""
    logs, keys = {label: read_log(file) for label, file in named.items()}, args.keys.split(",")
    figure, axes = plt.subplots(1, len(keys), figsize=(2.6 * len(keys), 2.6), squeeze=False)
    for axis, key in zip(axes[0], keys):
        for label, log in logs.items():
            if key not in log:
                raise ValueError(f"the log of {label} has no {key}")
            axis.plot(*log[key], label=label, marker=".")
        axis.set_title(key, fontsize=10)
        axis.set_xlabel("iteration")
    axes[0][0].legend(fontsize=8)
    save(figure, args.out)


def bars(named, args):
    """An axis for each number, a group of bars for each row of the first table, a bar in it for
    each {label: table}. Distances on a scale that is logarithmic above 1."""
    read = {label: read_table(file, "model") for label, file in named.items()}
    tables = {label: {row["model"]: row for row in rows} for label, rows in read.items()}
    names, keys = list(next(iter(tables.values()))), ("fid", "fvd", "jaw_corr", "sync_c")
    shape = dict(figsize=(12, 0.8 + 0.4 * len(names)), sharey=True)
    figure, axes = plt.subplots(1, len(keys), **shape)
    for axis, key in zip(axes, keys):
        for i, (label, table) in enumerate(tables.items()):
            height = 0.8 / len(tables)
            values = [table.get(name, {}).get(key) or 0 for name in names]
            axis.barh(np.arange(len(names)) + (i + 0.5) * height - 0.4, values, height, label=label)
        axis.set_title(f"{key} ({METRICS[key][0]})", fontsize=10)
        if key in ("fid", "fvd"):
            axis.set_xscale("symlog", linthresh=1)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    axes[-1].legend(fontsize=8)
    save(figure, args.out)


def numbers(named, args):
    """Prints, for each {label: video} beside the first: change from frame to frame and spread of
    the head, over its; the joins' change over that between other frames; mean shift of colour in
    levels of 255; correlation of the jaw with its jaw, and by how many frames it comes later."""
    reader, first = metrics.load_reader(READER), None
    print("| | change | joins | colour | jaw | lag | spread |\n|---|---:|---:|---:|---:|---:|---:|")
    for label, file in named.items():
        frames = load_frames(file)
        read = reader(to_pixels(frames, "cpu")).detach().numpy()
        steps = np.abs(np.diff(frames.astype(float), axis=0)).mean((1, 2, 3))
        joins = np.isin(np.arange(len(steps)) + 1, range(CHUNK, len(frames), CHUNK - CONTEXT))
        head, colour = measures.head_spread(read[None]), frames.mean((0, 1, 2))
        first = first or (steps.mean(), head, colour, read[:, 0])
        shift = np.abs(colour - first[2]).mean()
        jaw, lag = read[:, 0], measures.best_lag(read[:, 0], first[3])
        row = [steps.mean() / first[0], steps[joins].mean() / steps[~joins].mean(), shift]
        row += [measures.correlation(jaw, first[3]), lag, (head / first[1]).mean()]
        print(f"| {label} | " + " | ".join(f"{x:.2f}" for x in row) + " |")


def main(argv=None):
    parser, kinds = Parser(__doc__), dict(rows=rows, curves=curves, numbers=numbers, bars=bars)
    add = parser.add_argument
    add("what", choices=kinds)
    add("files", nargs="+", metavar="LABEL=FILE", help="before them, but for numbers, OUT.png")
    add("--first", type=int, default=0, help="rows: the first frame (default: %(default)s)")
    add("--every", type=int, default=1, help="rows: each so many-th (default: %(default)s)")
    add("--count", type=int, default=12, help="rows: frames in a row (default: %(default)s)")
    add("--colours", type=int, default=64, help="rows: of the PNG (default: %(default)s)")
    add("--keys", default="g,fake_loss,jaw,spread,colour", help="curves: default %(default)s")
    with one_line_errors():
        args = parser.parse_args(argv)
        args.out = None if args.what == "numbers" else args.files.pop(0)
        if not args.files or not all("=" in entry for entry in args.files):
            parser.error("each row or line is LABEL=FILE")
        kinds[args.what](dict(entry.split("=", 1) for entry in args.files), args)


if __name__ == "__main__":
    main()
