"""The table's columns: what every number means, and how rows of numbers are printed."""

LEGEND = """
nfe                  |      | network evaluations for one chunk; 120 = 40 steps x 3 branches
jaw_corr             | up   | correlation of the jaw opening read from the pixels with the true one
width_corr           | up   | the same for the width of the lips
round_corr           | up   | the same for the rounding of the lips
lag                  | 0    | frames by which the jaw comes after the sound, at its best correlation
closed_rate          | up   | share of the frames within m, b, p with lips shut (jaw below 0.15)
open_rate            | up   | share of those within wide vowels with mouth open (jaw above 0.35)
sync_c               | up   | Sync-C: median minus minimum of the lip-sound distance over ±15 frames
sync_d               | down | Sync-D: that minimum; both are blind to a constant lag
sync_offset          | 0    | frames by which the sound comes after the lips at that minimum
fid                  | down | FID-toy: Fréchet distance of frames' features to the true videos'
fvd                  | down | FVD-toy: the same for clips of 16 frames, so it sees motion
head_std_ratio       | 1    | the head's spread in a video over the data's: mean of the next three
head_x_ratio         | 1    | ... sideways
head_y_ratio         | 1    | ... up and down
roll_ratio           | 1    | ... its roll
lid_std_ratio        | 1    | the same for the lids' closure: half a blink counts half
blink_rate_ratio     | 1    | blinks per second over the data's
diversity            | 1    | how differently heads move from seed to seed, over the data's own
frame_change_ratio   | 1    | mean change from frame to frame over the data's: more is flicker
moving_share_ratio   | 1    | share of pixels that change by over 3 levels a frame, over the data's
identity             | up   | cosine of the identity embeddings of frame and portrait
colour_shift         | down | mean colour of a video against the true video's, in levels of 255
contrast_ratio       | 1    | standard deviation of the pixels, over the data's
identity_10s         | up   | identity of the last second of a video of ten seconds
colour_10s           | down | colour of the face in that second against the portrait's, in levels
denoise_ms_per_frame | down | denoiser's time per new frame, one video at a time
total_ms_per_frame   | down | the same with sound features and decoder
first_chunk_ms       | down | time from the sound to the first 16 decoded frames
rtf                  | up   | seconds of video per second of computing
speedup              | up   | the teacher's denoising time over this one's, in the same run
"""
METRICS = dict(
    (key, (good, meaning))
    for key, good, meaning in (map(str.strip, row.split("|")) for row in LEGEND.strip().split("\n"))
)  # key -> which direction is good, what it means
LIPS = ("jaw_corr", "width_corr", "round_corr")  # of the first columns of metrics.READ
SHOWN = (
    "nfe jaw_corr width_corr round_corr sync_c fid fvd head_std_ratio blink_rate_ratio "
    "frame_change_ratio moving_share_ratio identity_10s colour_10s denoise_ms_per_frame speedup"
).split()


def cells(rows):
    """The table's rows -> lines of text, the heads first: columns SHOWN, mean ± spread."""

    def cell(row, key):
        value, spread = row.get(key), row.get(f"{key}_std")

        def show(x):
            if abs(x) >= 100:
                return f"{x:.0f}"
            return f"{x:.3g}" if abs(x) >= 10 or x == int(x) else f"{x:.2f}"

        return "" if value is None else show(value) + (f" ±{show(spread)}" if spread else "")

    return [["model", *SHOWN]] + [[row["model"], *(cell(row, k) for k in SHOWN)] for row in rows]


def markdown(lines):
    """Lines of cells, the first of them the heads -> a Markdown table, numbers to the right."""
    lines = [lines[0], ["---"] + ["---:"] * (len(lines[0]) - 1), *lines[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def aligned(lines):
    """The same as text, for a terminal."""
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
