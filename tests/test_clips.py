import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

import media
from audio_features import FRAME, audio_windows
from media import colours_of, load_frames
from tiny_data.clips import load_folder

# Black, then white from t = 1 s; a 1 kHz tone from t = 1 s.
FLASH = [
    "-f",
    "lavfi",
    "-i",
    "color=black:r=30:d=2:s=320x180,drawbox=color=white:t=fill:enable='gte(t,1)'",
]
BEEP = ["-f", "lavfi", "-i", "aevalsrc='sin(2*PI*1000*t)*gte(t,1)':s=48000:d=2"]


def ffmpeg(*args):
    subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", "-y", *map(str, args)],
        check=True,
    )


def flash_frame(frames):
    return int(np.argmax(frames.mean((1, 2, 3)) > 128))


def beep_frame(wave):
    return np.argmax(np.abs(wave) > 0.3) / FRAME


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    ffmpeg(*FLASH, *BEEP, folder / "b talk.mp4")
    at_24_fps = [option.replace("r=30", "r=24") for option in FLASH]
    ffmpeg(*at_24_fps, *BEEP, "-vf", "scale=180:321", "-pix_fmt", "yuv444p", folder / "a.MKV")
    ffmpeg(*FLASH, "-itsoffset", "0.52", *BEEP, folder / "late sound.mov")
    ffmpeg("-itsoffset", "0.52", *FLASH, *BEEP, folder / "late picture.mkv")
    ffmpeg(*FLASH, folder / "silent.mp4")
    ffmpeg(*FLASH, *BEEP, "-t", "0.5", folder / "short.mp4")
    ffmpeg(*BEEP, folder / "sound only.mp4")
    (folder / "junk.mp4").write_text("not a video")
    (folder / "notes.txt").write_text("not a video either")
    (folder / "folder.mp4").mkdir()
    return folder


@pytest.fixture(scope="module")
def clips(folder):
    return load_folder(folder)


def test_usable_clips_come_sorted_and_the_others_are_skipped_each_with_its_reason(
    folder, clips, capsys
):
    assert [name for name, _, _ in clips] == [
        "a.MKV",
        "b talk.mp4",
        "late picture.mkv",
        "late sound.mov",
    ]
    load_folder(folder)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and all(line.startswith("skipped ") for line in lines)
    for name, reason in {
        "silent.mp4": "no sound",
        "short.mp4": "needs 20",
        "junk.mp4": "no video",
        "sound only.mp4": "no video",
    }.items():
        assert any(name in line and reason in line for line in lines)
    assert not any("notes.txt" in line for line in lines)


def test_frames_and_sound_have_the_same_length_at_25_fps(clips):
    for _, frames, wave in clips:
        assert (
            frames.dtype == np.uint8 and frames.shape[1:] == (64, 64, 3) and frames.flags.writeable
        )
        assert (
            wave.dtype == np.float32
            and len(wave) == FRAME * len(frames)
            and len(audio_windows(wave)) == len(frames)
        )
        assert 49 <= len(frames) <= 51  # 2 s


def test_picture_and_sound_stay_aligned(clips):
    times = {name: (flash_frame(frames), beep_frame(wave)) for name, frames, wave in clips}
    for name in ("a.MKV", "b talk.mp4"):
        assert abs(times[name][0] - 25) <= 1 and abs(times[name][1] - 25) < 0.75
    assert abs(times["late sound.mov"][0] - 25) <= 1 and abs(times["late sound.mov"][1] - 38) < 0.75
    assert (
        abs(times["late picture.mkv"][0] - 38) <= 1
        and abs(times["late picture.mkv"][1] - 25) < 0.75
    )


@pytest.mark.parametrize(
    "size,sar,box",
    [
        ("320x180", "1/1", "70:0:180:180"),
        ("180x320", "1/1", "0:70:180:180"),
        ("320x180", "2/1", "115:0:90:180"),
        ("321x181", "1/1", "70:0:181:181"),
    ],
)
def test_the_crop_is_the_middle_square_as_seen_on_the_screen(size, sar, box, tmp_path):
    x, y, w, h = box.split(":")
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        f"color=black:r=25:d=0.2:s={size}",
        "-vf",
        f"format=yuv444p,drawbox=x={x}:y={y}:w={w}:h={h}:color=white:t=fill,setsar={sar}",
        tmp_path / "v.mkv",
    )
    frame = load_frames(tmp_path / "v.mkv")[0].astype(float)
    assert frame[1:-1, 1:-1].min() > 240  # all of the white square, up to rounding
    assert load_frames(tmp_path / "v.mkv", size=32).shape[1:] == (32, 32, 3)


@pytest.mark.parametrize(
    "kind,message",
    [("missing", "not a folder"), ("file", "not a folder"), ("empty", "no usable clip")],
)
def test_a_folder_without_clips_is_refused_in_one_line(kind, message, tmp_path):
    path = tmp_path / kind
    if kind == "file":
        path.write_text("")
    if kind == "empty":
        path.mkdir()
    with pytest.raises(ValueError, match=message) as error:
        load_folder(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("curve, name", [("arib-std-b67", "HLG"), ("smpte2084", "PQ")])
def test_hdr_clips_keep_the_colours_of_their_sdr_original(tmp_path, monkeypatch, curve, name):
    """Colour bars below white, as an SDR clip and as a phone records them (10 bit, BT.2020)."""
    bars = ["-f", "lavfi", "-i", "smptebars=s=128x128:d=0.4:r=25", "-pix_fmt", "yuv420p"]
    tags = ["-color_primaries", "bt709", "-color_trc", "bt709", "-colorspace", "bt709"]
    ffmpeg(*bars, *tags, "-vf", "scale=out_color_matrix=bt709", "-crf", "2", tmp_path / "sdr.mp4")
    up = (
        "setparams=color_primaries=bt709:color_trc=bt709:colorspace=bt709:range=tv,"
        "zscale=t=linear:npl=203,format=gbrpf32le,"
        f"zscale=p=bt2020:t={curve}:m=bt2020nc:r=tv:npl=203,format=yuv420p10le"
    )
    flags = ["-c:v", "libx265", "-crf", "2", "-x265-params", "log-level=none"]
    flags += ["-color_primaries", "bt2020", "-color_trc", curve, "-colorspace", "bt2020nc"]
    ffmpeg("-i", tmp_path / "sdr.mp4", "-vf", up, *flags, tmp_path / "hdr.mp4")
    assert colours_of(tmp_path / "hdr.mp4") and not colours_of(tmp_path / "sdr.mp4")
    sdr, hdr = (load_frames(tmp_path / f"{n}.mp4").astype(float) for n in ("sdr", "hdr"))
    monkeypatch.setattr(media, "colours_of", lambda path: "")
    ignored = load_frames(tmp_path / "hdr.mp4").astype(float)
    strength = [(x.max(-1) - x.min(-1)).mean() for x in (sdr, hdr, ignored)]
    assert sdr.shape == hdr.shape and np.abs(sdr - hdr).mean() < 13  # blurred by 4:2:0, twice
    assert abs(strength[1] / strength[0] - 1) < 0.12 and strength[2] / strength[0] < 0.85  # grey


@pytest.mark.parametrize("primaries, matrix", [("bt2020", "bt2020nc"), ("smpte432", "bt709")])
def test_wide_gamut_clips_keep_their_colours_too(tmp_path, monkeypatch, primaries, matrix):
    """What phones record with HDR switched off: BT.2020 or Display P3, the usual curve."""
    bars = ["-f", "lavfi", "-i", "smptebars=s=128x128:d=0.2:r=25", "-pix_fmt", "yuv444p"]
    tags = ["-color_trc", "bt709", "-crf", "2", "-color_primaries"]
    usual = ["-vf", "scale=out_color_matrix=bt709", *tags, "bt709", "-colorspace", "bt709"]
    ffmpeg(*bars, *usual, tmp_path / "usual.mp4")
    up = "setparams=color_primaries=bt709:color_trc=bt709:colorspace=bt709:range=tv,"
    up += f"zscale=p={primaries}:t=bt709:m={matrix}:r=tv,format=yuv444p"
    wide = ["-vf", up, *tags, primaries, "-colorspace", matrix]
    ffmpeg("-i", tmp_path / "usual.mp4", *wide, tmp_path / "wide.mp4")
    usual, wide = (load_frames(tmp_path / f"{n}.mp4").astype(float) for n in ("usual", "wide"))
    monkeypatch.setattr(media, "colours_of", lambda path: "")
    ignored = load_frames(tmp_path / "wide.mp4").astype(float)
    assert np.abs(usual - wide).mean() < min(6, 0.7 * np.abs(usual - ignored).mean())


def test_a_clip_whose_colours_cannot_be_converted_is_read_as_it_is_with_a_note(
    folder, monkeypatch, capsys
):
    plain = load_frames(folder / "b talk.mp4")
    monkeypatch.setattr(media, "colours_of", lambda path: "zscale=p=bt709:pin=ycgco,")
    assert (load_frames(folder / "b talk.mp4") == plain).all()
    assert capsys.readouterr().out.count("note: ") == 1


def test_videos_in_a_folder_below_are_found_but_not_taken(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below/a.MP4").touch()
    with pytest.raises(ValueError, match="the videos are in .*below"):
        load_folder(tmp_path)
