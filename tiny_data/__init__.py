"""The toy data set: synthetic speech and procedural faces, so that lip-sync is measured exactly.

    phones.py   babbled syllables whose phones, and so lip shapes, are known at every instant
    voice.py    their sound: a formant synthesiser, a room, a recorder
    faces.py    a portrait drawn from an identity and eleven motion parameters per frame
    clips.py    your own video clips instead (no ground truth, everything else the same)

`python -m tiny_data` builds all splits; load() builds the one it needs. Splits share neither
identities nor utterances.
"""

import functools
import json
import multiprocessing
import os
import shutil
import signal
import zlib
from pathlib import Path
from typing import NamedTuple

import imageio.v3 as iio
import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from audio_features import FPS, FRAME, ROWS, audio_windows, log_mel
from tiny_data import faces
from tiny_data.clips import is_video, load_folder
from tiny_data.phones import lips

SPLITS = {"train": 1080, "val": 48, "test": 96}  # videos, each one identity and one utterance
# disjoint for identities, motions and utterances
FIRST_SEED = {"train": 0, "val": 1_000_000, "test": 2_000_000}
VIDEO_FRAMES = 80  # 3.2 s
HOME = Path(__file__).resolve().parents[1] / "data/tiny"  # where the scripts look for it


class Videos(NamedTuple):
    """Videos end to end: video i owns frames[starts[i]:starts[i + 1]] and four mel rows for each of
    them."""

    frames: np.ndarray  # (N, 64, 64, 3) uint8, 25 fps, N the frames of all videos
    mel: np.ndarray  # (4 N, 64) log-mel rows, normalised per video
    starts: np.ndarray  # (videos + 1,)
    wave: np.ndarray  # (640 N,) float32, 16 kHz
    motion: np.ndarray  # (N, 11) columns faces.MOTION, or (0, 11) for your own clips
    phones: list  # per video [(symbol, start s, end s), ...], or [] for your own clips

    def agree(self):
        """Whether the arrays of a toy set are as long as starts says, with phones of each video."""
        n = len(self.frames)
        known = len(self.mel) == ROWS * n and len(self.wave) == FRAME * n and len(self.motion) == n
        return known and self.starts[-1] == n and len(self.phones) == len(self.starts) - 1

    def windows(self, video, more=0):
        """What each frame of one video hears: (F + more, W, A) float32, a view; silence follows the
        video's end."""
        a, b = self.starts[video], self.starts[video + 1]
        return audio_windows(self.mel[4 * a : 4 * b].astype(np.float32), b - a + more)


def make_video(seed, n_frames=VIDEO_FRAMES):
    """One toy video, all of it determined by the seed -> frames, mel, wave, motion, phones as in
    Videos."""
    from tiny_data.voice import synthesise_speech  # SciPy's signal package: a second to import

    wave, phones = synthesise_speech(seed, n_frames / FPS)
    move = faces.motion(seed, lips(phones, (np.arange(n_frames) + 0.5) / FPS))
    return faces.render(faces.identity(seed), move), log_mel(wave), wave, move, phones


def build(folder, split, n_videos=None, seed=0):
    """Make one split in folder/split, in parallel, and a contact sheet beside it. Atomic: a stopped
    build leaves nothing."""
    folder, n = Path(folder), n_videos or SPLITS[split]
    toy = (folder / split / "phones.json").exists()
    if (folder / split).exists() and not toy and os.listdir(folder / split):
        raise ValueError(
            f"{folder / split} exists but is not a toy set; it was left unchanged: choose another "
            "folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    seeds = [seed * 10_000_000 + FIRST_SEED[split] + i for i in range(n)]
    # a worker that turns the pool's SIGTERM into the script's exception may never end
    ignore = dict(initializer=signal.signal, initargs=(signal.SIGTERM, signal.SIG_DFL))
    with multiprocessing.Pool(**ignore) as pool:
        videos = pool.imap(make_video, seeds, chunksize=4)
        made = list(tqdm(videos, total=n, desc=f"toy data, {split}", unit="video"))
    *arrays, phones = zip(*made)
    frames, mel, wave, motion = map(np.concatenate, arrays)
    starts = np.arange(n + 1) * VIDEO_FRAMES
    save(folder / split, Videos(frames, mel, starts, wave, motion, phones))
    contact_sheet(folder / f"{split}.png", [f[::5][:12] for f in arrays[0][:8]])


def save(folder, videos):
    """Write a Videos as .npy files and phones.json, first to a temporary folder."""
    temporary, old = (folder.with_name(f"{folder.name}.{os.getpid()}.{x}") for x in ("tmp", "old"))
    temporary.mkdir(parents=True)
    try:
        for name, value in videos._asdict().items():
            if name == "phones":
                (temporary / "phones.json").write_text(json.dumps(value), encoding="utf-8")
            else:
                value = value.astype(np.float16) if name == "mel" else value
                np.save(temporary / f"{name}.npy", value)
        if folder.exists():  # moved at once: another script may have just built it, and read it now
            os.replace(folder, old)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def left_over(path):
    """Whether a file or folder in --data is what a killed build or an operating system left."""
    name = path.name.lower()
    if name in SPLITS:  # empty or half of it: build() may say so
        return path.is_dir() and not any(is_video(inner.name) for inner in path.iterdir())
    known = [f"{split}.png" for split in SPLITS]
    known += ["thumbs.db", "desktop.ini", "__macosx", "lost+found"]
    return name in known or path.suffix in (".tmp", ".old") or name.startswith(".")


@functools.lru_cache(maxsize=1)
def own_clips(folder):
    """All clips of a folder that can be read, decoded once for all splits: [(name, frames, wave),
    ...]."""
    return load_folder(folder, 1)


def fingerprint(data):
    """{name: checksum} of what a training on `data` sees, as it was read: of each of your own
    clips, or of the toy set's utterances; {} where there is no such folder."""
    if (toy := Path(data, "train", "phones.json")).exists():
        return {"the toy set": zlib.crc32(toy.read_bytes())}
    clips = own_clips(str(Path(data))) if os.path.isdir(data) else []
    return {name: zlib.crc32(wave, zlib.crc32(frames)) for name, frames, wave in clips}


def load(data, split, n_videos=0, min_frames=20):
    """The split "train", "val" or "test" of `data`: the toy set's folder, or a folder of your own
    video clips.

    A toy set that is missing is built: HOME, an empty folder, or one of n_videos videos a split (0:
    the usual number). Your own clips are split by clip, in the order of their names: the last tenth
    is "test", the tenth before it "val"; with fewer than three clips, splits overlap. Clips shorter
    than min_frames are skipped, with a printed line, after the split: every script holds out the
    same clips, however long it wants them. Raises ValueError, one line.
    """
    if data == "":  # Path("") is the folder that one happens to be in
        raise ValueError("--data is empty: name a folder")
    data = Path(data)
    if not data.exists() and data.absolute() != HOME and not n_videos:  # a mistyped name
        raise ValueError(
            f"no folder {str(data)!r}: name one of video clips, or make the toy set there (python "
            f"-m tiny_data --out {data})"
        )
    toy = any((data / s / "phones.json").exists() for s in SPLITS)
    if toy or not data.exists() or (data.is_dir() and all(map(left_over, data.iterdir()))):
        if not (data / split / "phones.json").exists():
            print(f"no data in {data / split}: building the toy set there")
            build(data, split, n_videos)
        fields = [f for f in Videos._fields if f != "phones"]
        try:
            arrays = {f: np.load(data / split / f"{f}.npy") for f in fields}
            phones = json.loads((data / split / "phones.json").read_text("utf-8"))
            videos = Videos(**arrays, phones=phones)
            if not videos.agree():
                raise ValueError
        except (OSError, ValueError, EOFError):  # half a copy, or two
            raise ValueError(f"{data / split} is damaged: delete it, it is built again") from None
        return videos
    clips = own_clips(str(data))
    k = max(1, len(clips) // 10)
    part = {"train": clips[: -2 * k], "val": clips[-2 * k : -k], "test": clips[-k:]}[split] or clips
    for name, frames, _ in part:
        if len(frames) < min_frames:
            print(
                f"skipped {name}: {len(frames)} frames of picture with sound, needs {min_frames} "
                f"({min_frames / FPS:.2f} s)"
            )
    part = [clip for clip in part if len(clip[1]) >= min_frames]
    if not part:
        raise ValueError(
            f"no clip of {str(data)!r} for {split} has {min_frames} frames "
            f"({min_frames / FPS:.2f} s): add longer ones"
        )
    _, frames, waves = zip(*part)
    starts = np.cumsum([0] + [len(f) for f in frames])
    mels, unknown = [log_mel(w) for w in waves], np.zeros((0, len(faces.MOTION)), np.float32)
    frames, mel, wave = map(np.concatenate, (frames, mels, waves))
    return Videos(frames, mel, starts, wave, unknown, [])


def contact_sheet(path, rows, scale=2, labels=()):
    """Write a PNG of rows of frames, each with its label in a margin at the left; rows: list of
    (F, H, W, 3) uint8, all of one size; labels: one a row, or none."""
    picture = np.concatenate([np.concatenate(list(r), axis=1) for r in rows], axis=0)
    picture = picture.repeat(scale, 0).repeat(scale, 1)
    if labels:
        height = len(picture) / len(rows)
        margin = Image.new("RGB", (12 + 7 * max(map(len, labels)), len(picture)), "white")
        for i, label in enumerate(labels):
            ImageDraw.Draw(margin).text((6, (i + 0.5) * height), label, fill="black", anchor="lm")
        picture = np.concatenate([np.asarray(margin), picture], axis=1)
    iio.imwrite(path, picture)
