"""python -m tiny_data [--out data/tiny] [--seed 0]: build the toy set and its contact sheets."""

from common import Parser, one_line_errors
from tiny_data import HOME, SPLITS, VIDEO_FRAMES, build


def arguments():
    """The command line, checked. Raises ValueError."""
    parser = Parser(__doc__)
    parser.add_argument("--out", default=HOME, help="folder to write (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="another seed gives other people saying other things"
    )
    parser.add_argument(
        "--videos", type=int, help="videos per split, for a small set (default: 1080 / 48 / 96)"
    )
    args = parser.parse_args()
    if args.seed < 0 or (args.videos is not None and args.videos < 1):
        parser.error("--seed must be >= 0 and --videos >= 1")
    return args


def main():
    with one_line_errors():
        args = arguments()
        for split in SPLITS:
            build(args.out, split, args.videos, args.seed)
    count = sum(args.videos or usual for usual in SPLITS.values())
    print(f"wrote {args.out}: {count} videos of {VIDEO_FRAMES} frames; see {args.out}/train.png")


if __name__ == "__main__":
    main()
