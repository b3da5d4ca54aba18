"""The README's moving picture: one test video, its truth and what every model makes of its sound.

    python -m evaluation.film --out assets/film.gif

The portrait and the sentence are the test video's; the models draw from the same noise.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

import tiny_data
from audio_features import FPS
from autoencoder import load_autoencoder, to_pixels
from common import HERE, Parser, one_line_errors, pick_device
from evaluation.models import generate_videos, models_in
from evaluation.truth import truth_of
from media import caption_line, finished_file

ROWS = {"teacher": "teacher, 120", "stage1": "stage 1, 4", "stage2": "stage 2, 1"}
CAPTION = 30  # pixels of the line under the pictures


def film(args):
    """-> PIL images, one for every second frame: truth and models side by side, captioned."""
    device = pick_device("auto")
    autoencoder = load_autoencoder(Path(args.checkpoints, "autoencoder.pt"), device)
    videos = tiny_data.load(args.data, "test")
    n_frames = int(np.diff(videos.starts).min())
    truth = truth_of(videos, args.video, 1, n_frames, device)
    ref = autoencoder.encode(to_pixels(truth.portraits, device))
    columns = {"truth": truth.frames[0]}
    for name, _, sampler in models_in(args.checkpoints, device):
        if name in ROWS:
            columns[ROWS[name]] = generate_videos(sampler, truth, ref, autoencoder, args.seed)[0]
    if len(columns) == 1:
        raise ValueError(f"no model's weights in {args.checkpoints}: train them first (see README)")
    size, line, pictures = args.size, caption_line(list(columns), args.size, CAPTION), []
    for k in range(0, n_frames, 2):
        faces = [Image.fromarray(frames[k]) for frames in columns.values()]
        row = np.concatenate([face.resize((size, size), Image.BICUBIC) for face in faces], 1)
        picture = Image.fromarray(np.concatenate([row, line]))
        pictures.append(picture.quantize(128, dither=Image.Dither.NONE))  # small, and no crawling
    return pictures


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("--data", default=tiny_data.HOME, help="the toy set (default: %(default)s)")
    parser.add_argument("--checkpoints", default=HERE / "checkpoints")
    parser.add_argument("--video", type=int, default=3, help="of the test split, from 0")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--size", type=int, default=168, help="pixels of each picture")
    parser.add_argument("--out", default="film.gif", help="the GIF (default: %(default)s)")
    with one_line_errors():
        args = parser.parse_args(argv)
        with torch.no_grad(), finished_file(args.out, suffixes=[".gif"]) as out:
            first, *others = film(args)
            first.save(out, save_all=True, append_images=others, duration=2000 // FPS, loop=0)


if __name__ == "__main__":
    main()
