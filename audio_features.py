"""A waveform in, one feature window per video frame out.

16 kHz mono -> log-mel rows, 100 a second -> 20 rows (0.2 s) around every 25-fps frame:

    row r    is centred on  (r + 0.5) * 10 ms   (25 ms Hann window)
    frame k  is centred on  (k + 0.5) * 40 ms   = the seam of rows 4k+1 and 4k+2
             its window is rows 4k-8 ... 4k+11
    frames   = ceil(samples / 640)              the video is as long as the sound

    python audio_features.py speech.mp3    prints duration and level, writes speech.mel.png
"""

import math
import os

import imageio.v3 as iio
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

SR, FPS = 16000, 25
FRAME = SR // FPS  # 640 samples in a video frame
HOP, WIN, N_FFT = 160, 400, 512  # samples: a row every 10 ms, from 25 ms of sound
N_MELS = 64
FMIN, FMAX = 80, 7600  # Hz; a DC offset ends below 80, resampling filters begin above 7600
WINDOW = 20  # feature rows that one video frame sees
ROWS = FRAME // HOP  # 4 rows a frame
SILENCE = -1.0  # the feature of digital silence, and of all before and after the sound
DB_MIN, DB_MAX = -60.0, 20.0  # range kept around the speech level, mapped onto [-1, 1]
LEVEL_FLOOR = 1e-3  # -60 dBFS: sound softer than this is not amplified up to speech


def mel_filters():
    """Triangles on the Slaney mel scale (linear below 1 kHz, logarithmic above), area 1 in Hz ->
    (N_MELS, 257), 1/Hz. librosa 0.11.0 has the same, to rounding: these by its defaults, mel_power
    by melspectrogram(center=False)."""

    def hz_of(mel):
        high = 1000 * np.exp((mel - 15) * math.log(6.4) / 27)
        return np.where(mel < 15, mel * 200 / 3, high)

    def mel_of(hz):
        return hz * 3 / 200 if hz < 1000 else 15 + math.log(hz / 1000) * 27 / math.log(6.4)

    edges = hz_of(np.linspace(mel_of(FMIN), mel_of(FMAX), N_MELS + 2))[:, None]  # (N_MELS + 2, 1)
    f = np.arange(N_FFT // 2 + 1) * SR / N_FFT  # (257,)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    return (
        np.maximum(0, np.minimum((f - low) / (centre - low), (high - f) / (high - centre)))
        * 2
        / (high - low)
    )


def mel_power(wave):
    """(n,) -> (ceil(n / 160), N_MELS) float64, power density: white noise of variance s2 reads s2
    in every band.

    Row r is centred on sample 160 r + 80; outside the wave there is silence."""
    rows = math.ceil(len(wave) / HOP)
    left = WIN // 2 - HOP // 2
    padded = np.pad(np.asarray(wave, np.float32), (left, (rows - 1) * HOP + WIN - left - len(wave)))
    frames = sliding_window_view(padded, WIN)[::HOP]  # (rows, WIN), a view
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WIN) / WIN)
    filters = mel_filters().T * SR / N_FFT / np.square(hann).sum()
    chunks = [
        np.square(np.abs(np.fft.rfft(frames[i : i + 4096] * hann, N_FFT))) @ filters
        for i in range(0, rows, 4096)
    ]
    return np.concatenate(chunks)


def speech_level(power):
    """The loudness of the speech in a recording, an amplitude: Σ a² / Σ a, a_r = √(mean power of
    row r), >= LEVEL_FLOOR.

    A mean in which every row weighs as much as its own amplitude: digital silence weighs nothing
    and pauses little, so clips and hours of one voice agree. One minute of room noise after 5 s of
    speech moves it by -1.4 dB, the 95th percentile by -17 dB."""
    a = np.sqrt(power.mean(1))
    return max(float(np.square(a).sum() / max(a.sum(), 1e-30)), LEVEL_FLOOR)


def log_mel(wave):
    """(n,) at 16 kHz -> (ceil(n / 160), N_MELS) float32 in [-1, 1]: dB re the speech level, -60 ->
    -1, -20 -> 0, +20 -> 1.

    One number for the whole recording is taken out, its level: the spectrum's shape is what tells
    the vowels apart, so bands are not normalised one by one. Digital silence is SILENCE = -1.
    Raises ValueError unless (n,), n > 0, finite."""
    wave = np.asarray(wave)
    if wave.ndim != 1 or not len(wave) or not np.isfinite(wave).all():
        raise ValueError(
            "log_mel needs a mono wave (n,) with n > 0 finite samples at 16 kHz, got shape "
            f"{wave.shape}"
        )
    power = mel_power(wave)
    db = 10 * np.log10(np.maximum(power / speech_level(power) ** 2, 1e-10))
    return ((np.clip(db, DB_MIN, DB_MAX) - DB_MIN) * 2 / (DB_MAX - DB_MIN) - 1).astype(np.float32)


def audio_windows(mel, n_frames=None):
    """(rows, N_MELS) from log_mel, or a wave (n,) -> (F, WINDOW, N_MELS) float32, one window per
    video frame.

    F = ceil(rows / 4) = ceil(n / 640), or n_frames; beyond both ends lies SILENCE. Window k is rows
    4k-8 ... 4k+11, so the middle of the window is the middle of frame k. The result is a read-only
    view (an hour costs no more than its mel): index with an array, or .copy(), before changing it
    or handing it to torch. Raises ValueError on another shape."""
    mel = log_mel(mel) if np.ndim(mel) == 1 else np.asarray(mel, np.float32)
    if mel.ndim != 2 or mel.shape[1] != N_MELS:
        raise ValueError(
            f"audio_windows needs a wave (n,) or log-mel (rows, {N_MELS}), got shape {mel.shape}"
        )
    frames = max(1, math.ceil(len(mel) / ROWS)) if n_frames is None else n_frames
    side = (WINDOW - ROWS) // 2
    mel = mel[: ROWS * frames + side]
    padded = np.pad(mel, ((side, ROWS * frames + side - len(mel)), (0, 0)), constant_values=SILENCE)
    return sliding_window_view(padded, WINDOW, axis=0)[::ROWS].transpose(0, 2, 1)


def main(argv=None):
    from common import Parser, one_line_errors
    from media import load_audio  # which takes its constants from here

    parser = Parser(__doc__)
    parser.add_argument("file", help="any audio file, or a video with sound")
    parser.add_argument("--out", help="picture of the features (default: FILE with .mel.png)")
    with one_line_errors():
        args = parser.parse_args(argv)
        out = args.out or os.path.splitext(args.file)[0] + ".mel.png"
        if not out.lower().endswith(".png"):  # any other name may be that of a sound
            raise ValueError(f"--out {out!r} must end in .png")
        wave = load_audio(args.file)
        mel = log_mel(wave)
        iio.imwrite(out, ((mel.T[::-1] + 1) * 127.5).astype(np.uint8).repeat(4, axis=0))
    print(
        f"{len(wave) / SR:.2f} s, {len(audio_windows(mel))} video frames, "
        f"speech level {20 * math.log10(speech_level(mel_power(wave))):.1f} dBFS -> {out}"
    )


if __name__ == "__main__":
    main()
