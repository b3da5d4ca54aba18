"""Files of sound and video, in and out: everything that calls ffmpeg.

load_audio(path) -> wave              load_frames(path) -> video frames
WRITERS[suffix](path, chunks, ...)    finished_file(path, ...): no half-written file is left
"""

import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from audio_features import FPS, FRAME, SR

SIZE = 64  # pixels of a portrait and of a video's frame


# ---------------------------------------------------------------- in


def check_file(path, kind):
    """Raises ValueError unless `path` is a file, which can be read more than once."""
    if os.path.isfile(os.path.realpath(path)):  # also /dev/stdin, where that is one
        return
    why = "is a pipe or a device, read only once" if os.path.exists(path) else "does not exist"
    why = "is a directory" if os.path.isdir(path) else why
    raise ValueError(f"{os.fspath(path)!r} {why}: {kind} is needed")


def ffmpeg_call(*options):
    """-nostdin keeps ffmpeg off the terminal."""
    return [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", *options]


def source(path):
    """ffmpeg's options to read `path`. "file:" keeps names such as "-i.wav" or "a:b.mp3" file
    names; the whitelist keeps a playlist from opening the network; a child has another
    /dev/stdin."""
    return ["-protocol_whitelist", "file", "-i", "file:" + os.path.realpath(path)]


def decode(path, channel=None):
    """One channel of a sound file, or the mean of all -> wave (n,) float32 at 16 kHz, energy (C +
    1,): channels, then mean.

    Streams, so an hour of 5.1 sound costs an hour of mono memory. The AU container is a 24-byte
    header (its length at byte 4, channels at byte 20) and then big-endian samples: it tells us how
    many channels ffmpeg found. aresample's first_pts=0 keeps a sound track that starts late late,
    and async=1 fills holes, so that sound stays with its pictures. Energy is that of the first
    difference: a DC offset or a subwoofer must not pass for the loudest channel.
    """
    sound = ["-vn", "-af", f"aresample={SR}:async=1:first_pts=0", "-c:a", "pcm_f32be", "-f", "au"]
    command = ffmpeg_call(*source(path), *sound, "pipe:1")
    parts, energy = [np.zeros(0, np.float32)], np.zeros(1)
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as ffmpeg,
    ):
        try:
            header = ffmpeg.stdout.read(24)
            if len(header) == 24:
                ffmpeg.stdout.read(int.from_bytes(header[4:8], "big") - 24)
                channels = int.from_bytes(header[20:24], "big")
                energy = np.zeros(channels + 1)
                while len(block := ffmpeg.stdout.read(4 * channels * 2**18)) >= 4 * channels:
                    whole = len(block) // (4 * channels) * channels
                    x = np.frombuffer(block, ">f4", whole).reshape(-1, channels)
                    mean = x.mean(1, keepdims=True, dtype=np.float64)
                    x = np.concatenate([x, mean], axis=1)  # (n, C + 1) float64
                    finite = np.isfinite(x).all()
                    energy += np.square(np.diff(x, axis=0)).sum(0) if finite else np.nan
                    parts.append(x[:, -1 if channel is None else channel].astype(np.float32))
            failed = ffmpeg.wait()
        except BaseException:
            ffmpeg.kill()  # leaving the with-block would wait for it, however long it reads
            raise
        log.seek(0)
        lines = log.read().decode("utf-8", "replace").splitlines()
    wave, lines = np.concatenate(parts), [line.split("] ")[-1].strip() for line in lines]
    problem = next(filter(None, lines), "no message from ffmpeg")
    if any("does not contain any stream" in line for line in lines):
        raise ValueError(f"{path!r} has no sound track: give a file with sound in it")
    if failed and not len(wave):
        raise ValueError(
            f"ffmpeg cannot read sound from {path!r} ({problem}): convert it to a wav or mp3 file"
        )
    if failed:
        left = f"{len(wave) / SR:.2f} s could be read"
        print(f"warning: {path!r} is damaged ({problem}): {left}", file=sys.stderr)
    return wave, energy


def load_audio(path):
    """Any audio file, or the sound track of a video -> (n,) float32, 16 kHz mono, full scale = 1, n
    >= 640.

    Channels: their mean, unless it is more than 10 dB below the loudest channel (R = -L cancels to
    silence; speech in the centre of 5.1 drowns); then the loudest channel. Several tracks: ffmpeg's
    choice (the default, else most channels). A truncated file gives what is there. Encoder delay is
    removed where the container records it (mp3, m4a, ogg, opus: to the sample); bare aac, avi+mp3
    and wma come 20-45 ms late. Raises ValueError, one line: missing, a directory, unreadable, no
    sound track, a playlist (a live one never ends), shorter than 0.04 s, NaN or infinite samples,
    floats on a scale of 32768.
    """
    path = os.fspath(path)
    check_file(path, "a sound file")
    with open(path, "rb") as file:
        if file.read(64).lstrip(b"\xef\xbb\xbf").startswith((b"#EXTM3U", b"ffconcat")):
            raise ValueError(
                f"{path!r} is a playlist, not a sound file: give one of the files that it names"
            )
    wave, energy = decode(path)
    if not np.isfinite(energy).all():
        raise ValueError(
            f"{path!r} contains NaN or infinite samples: export it again, such as to a 16-bit wav"
        )
    if energy[-1] < 0.1 * energy.max():
        wave, _ = decode(path, int(energy.argmax()))
    if len(wave) < FRAME:
        raise ValueError(
            f"{path!r} holds {len(wave)} samples at 16 kHz: one video frame needs {FRAME} "
            f"({1 / FPS} s)"
        )
    if (peak := np.abs(wave).max()) > 8:  # clipping at 1 would turn the video's sound into noise
        raise ValueError(
            f"{path!r} has samples up to {peak:.0f}, but full scale is 1: divide them, for "
            "example by 32768"
        )
    return wave


HDR_CURVES = b"arib-std-b67", b"smpte2084"  # HLG and PQ, as phones record it
WIDE = b"/bt2020/", b"/smpte432/", b"/smpte431/"  # primaries: BT.2020, and Display P3


def colours_of(path):
    """What ffmpeg says of a video's colours -> the filters that bring them to BT.709: HDR with its
    reference white (BT.2408: 203 nits) as white."""
    run = subprocess.run([*ffmpeg_call("-v", "info"), *source(path)], capture_output=True)
    lines = [line for line in run.stderr.splitlines() if b"Stream" in line and b"Video:" in line]
    if any(curve in line for line in lines for curve in HDR_CURVES):
        tone = "zscale=t=linear:npl=203,format=gbrpf32le,zscale=p=bt709,tonemap=mobius:desat=0,"
        return tone + "zscale=t=bt709:m=bt709:r=tv,format=yuv420p,"
    if any(primaries in line for line in lines for primaries in WIDE):
        return "zscale=tin=bt709:p=bt709:t=bt709:m=bt709:r=tv,format=yuv420p,"
    return ""


def load_frames(path, size=SIZE):
    """A video file -> (F, size, size, 3) uint8 RGB at 25 fps: the middle square, area-averaged.

    fps=...:start_time=0 puts frame 0 where the file's clock starts, as load_audio does with the
    sound, so a track that starts late stays late. ffmpeg turns a phone's rotated video upright
    before the filters; sar is the shape of a pixel, so the crop is square on the screen even when
    it is not in pixels. Raises ValueError, one line, if nothing can be decoded."""
    path = os.fspath(path)
    video = f"fps={FPS}:start_time=0,crop='min(iw,ih/sar)':'min(ih,iw*sar)',"
    for colours in dict.fromkeys((colours_of(path), "")):
        filters = f"{video}{colours}scale={size}:{size}:flags=area,format=rgb24"
        # V: pictures, not cover art
        out = ["-map", "0:V:0?", "-an", "-vf", filters, "-f", "rawvideo", "pipe:1"]
        result = subprocess.run(ffmpeg_call(*source(path), *out), capture_output=True)
        count = len(result.stdout) // (size * size * 3)
        if count:
            break
        if colours:
            print(f"note: the colours of {path!r} cannot be converted: taken as they are")
    if not count:
        raise ValueError(f"{path!r} has no video that ffmpeg can read")
    pixels = np.frombuffer(result.stdout, np.uint8, count * size * size * 3)
    return pixels.reshape(count, size, size, 3)


# ---------------------------------------------------------------- out


def write_video(path, chunks, n_frames, size, audio, smooth=True, caption=None):
    """Chunks of frames (n, 64, 64 k, 3) uint8, k pictures side by side -> .mp4 with the sound of
    `audio`, or .gif. ffmpeg enlarges each picture to size x size while the next chunk is made:
    smooth, or showing the pixels as they are. caption() -> (h, k size, 3) uint8, a line under them;
    called once the first chunk is there. Raises ValueError with ffmpeg's own reason.

    The sound goes through the same options as in load_audio, so it starts where the features did;
    apad and -t make it as long as the frames. -vn keeps cover art out, -map_chapters an audiobook's
    length.
    """
    first = next(chunks)
    height, width = first.shape[1:3]
    run = ffmpeg_call("-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}")
    run += ["-r", str(FPS), "-i", "pipe:0"]
    scaler = "bicubic" if smooth else "neighbor"
    # in planar RGB: the scaler would halve colour's resolution of packed RGB before it enlarges
    video = f"[0:v]format=gbrp,scale={size * width // height}:{size}:flags={scaler}"
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        if caption:
            line = os.path.join(folder, "caption.png")
            Image.fromarray(caption()).save(line)
            run += ["-loop", "1", "-r", str(FPS), "-i", line]
            video += "[v];[1:v]format=gbrp[c];[v][c]vstack"
        if path.suffix == ".mp4":
            run += ["-vn", "-sn", "-dn", *source(audio), "-max_error_rate", "1", "-af"]
            run += ["aresample=async=1:first_pts=0,aformat=channel_layouts=mono|stereo|5.1,apad"]
            run += "-c:a aac -b:a 160k -c:v libx264 -preset veryfast -crf 16".split()
            run += "-map_metadata -1 -map_chapters -1 -movflags +faststart".split()
            video += ",scale=out_color_matrix=bt709:out_range=tv,format=yuv420p"
        else:  # a palette for every frame: one for all would wait for the end
            run += ["-loop", "0"]
            video += ",split[a][b];[a]palettegen=stats_mode=single[p]"
            video += ";[b][p]paletteuse=new=1:dither=none"
        run += ["-filter_complex", video, "-t", str(n_frames / FPS), "file:" + os.fspath(path)]
        pipe = subprocess.Popen(run, stdin=subprocess.PIPE, stderr=log)
        with contextlib.suppress(BrokenPipeError), pipe as ffmpeg:
            try:
                for frames in itertools.chain([first], chunks):
                    ffmpeg.stdin.write(frames.tobytes())
            except BaseException as error:
                if not isinstance(error, BrokenPipeError):  # ffmpeg ended first: it will say why
                    ffmpeg.kill()
                raise
        log.seek(0)
        lines = log.read().decode("utf-8", "replace").split("\n")
    if ffmpeg.returncode:
        why = next(filter(None, lines), "it was stopped").strip()
        raise ValueError(f"ffmpeg failed to write the video ({why})")


def write_sheet(path, chunks, n_frames, size, audio, smooth=True, caption=None):
    """As write_video, but a .png: up to 48 of the frames, evenly spaced, 12 pictures in a row. Only
    these are kept in memory."""
    first = next(chunks)
    line = caption() if caption else None
    height, width = size, size * first.shape[2] // first.shape[1]
    columns = min(n_frames, max(1, 12 * height // width))
    places = np.linspace(0, n_frames - 1, columns * min(4, n_frames // columns)).round()
    frames = (frame for chunk in itertools.chain([first], chunks) for frame in chunk)
    how = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    picked = [
        np.asarray(Image.fromarray(frame).resize((width, height), how))
        for k, frame in enumerate(frames)
        if k in places
    ]
    if caption:
        picked = [np.concatenate([frame, line]) for frame in picked]
    rows = [np.concatenate(picked[i : i + columns], 1) for i in range(0, len(picked), columns)]
    Image.fromarray(np.concatenate(rows)).save(path)


def caption_line(texts, size, height=28):
    """A line of text under each of several pictures of `size` pixels -> (height, len(texts) size,
    3) uint8."""
    image = Image.new("RGB", (len(texts) * size, height), "white")
    font = ImageFont.load_default(size / 20)
    for i, text in enumerate(texts):
        place = (i + 0.5) * size, height / 2
        ImageDraw.Draw(image).text(place, text, fill="black", font=font, anchor="mm")
    return np.asarray(image)


WRITERS = {".mp4": write_video, ".gif": write_video, ".png": write_sheet}


@contextlib.contextmanager
def finished_file(path, inputs=(), suffixes=tuple(WRITERS)):
    """Yield the name of a temporary file in path's folder, which takes path's place at the end, or
    is removed on errors. One that is finished and cannot take its place is kept: the error says
    where. Raises ValueError."""
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"--out {str(path)!r} must end in {', '.join(suffixes)}")
    if path.is_dir() or not path.parent.is_dir():
        why = "is a directory" if path.is_dir() else "lies in a folder that does not exist"
        raise ValueError(f"--out {str(path)!r} {why}")
    if any(f and path.exists() and os.path.exists(f) and path.samefile(f) for f in inputs):
        raise ValueError(f"--out {str(path)!r} would replace the file that is to be read")
    target = Path(os.path.realpath(path))  # a link stays one
    temporary = target.with_name(f".{os.getpid()}.tmp{path.suffix.lower()}")
    try:
        temporary.touch()  # an unwritable folder shows now, not after the sampling
    except OSError as error:
        raise ValueError(f"--out {str(path)!r} cannot be written: {error.strerror}") from None
    try:
        yield temporary
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    try:
        os.replace(temporary, target)
    except OSError as error:  # open in a player, or not to be changed
        kept = temporary
        with contextlib.suppress(OSError):  # the folder may be closed by now: it stays as it is
            seen = tempfile.mkdtemp(prefix=f"{target.stem}-", dir=target.parent)
            kept = temporary.rename(Path(seen, target.name))
        raise ValueError(f"{path} cannot be replaced ({error.strerror}): it is {kept}") from None
