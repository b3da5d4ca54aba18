"""Your own clips: a folder of videos with sound -> frames and waves like the toy data's.

    folder/*.mp4, mov, mkv, webm ...  ->  25 fps, middle square, 64 x 64  +  16 kHz mono

Five minutes of one steady, frontal face are enough to see the method work; nothing looks for
the face: it must be in the middle.
"""

import os

from audio_features import FPS, FRAME
from media import load_audio, load_frames

VIDEO_EXTENSIONS = tuple(
    ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .wmv .flv .ts .3gp .ogv".split()
)


def is_video(name):
    return name.lower().endswith(VIDEO_EXTENSIONS) and not name.startswith(".")


def load_folder(folder, min_frames=20, size=64):
    """A folder of videos -> list of (name, frames (F, size, size, 3) uint8, wave (640 F,) float32
    at 16 kHz), sorted by name.

    Frames and sound are cut to the shorter of the two, in whole frames, so audio_windows(wave) has
    F windows. A clip that has no sound, cannot be read or is shorter than min_frames is left out,
    with a printed line that says why; files that are not videos are ignored. Raises ValueError."""
    if not os.path.isdir(folder):
        raise ValueError(
            f"{os.fspath(folder)!r} is not a folder: give the folder that holds your videos"
        )
    clips = []
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if not is_video(name):
            continue
        try:
            frames, wave = load_frames(path, size), load_audio(path)
            count = min(len(frames), len(wave) // FRAME)
            if count < min_frames:
                raise ValueError(
                    f"{count} frames of picture with sound, needs {min_frames} "
                    f"({min_frames / FPS:.2f} s)"
                )
            clips.append((name, frames[:count].copy(), wave[: count * FRAME]))
        except ValueError as error:
            print(f"skipped {name}: {error}")
    if not clips:
        for name in sorted(os.listdir(folder)):
            inner = os.path.join(folder, name)
            if os.path.isdir(inner) and any(map(is_video, os.listdir(inner))):
                raise ValueError(f"the videos are in {inner!r}: name that folder, or move them up")
        raise ValueError(
            f"{os.fspath(folder)!r} holds no usable clip: put videos with sound "
            f"({' '.join(VIDEO_EXTENSIONS[:6])} ...) of at least {min_frames} frames in it"
        )
    return clips
