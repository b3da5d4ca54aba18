import contextlib
import math
import os
import re
import subprocess
import sys
import tempfile
import weakref
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from helpers import condition
from PIL import Image, ImageCms
from scipy.io import wavfile

import generate
import sample
import student
import teacher
from audio_features import FRAME, SR, audio_windows, log_mel
from autoencoder import AutoEncoder, load_autoencoder
from checkpoint import save_checkpoint
from departures import noise_source
from generate import generate_latents, generate_video, load_to_sample
from latents import Cond
from media import WRITERS, finished_file, load_audio, load_frames, write_video
from portrait import load_portrait, toy_portrait
from student import student_sampler
from teacher import ddim_sample, load_teacher
from unet import UNet

REF = torch.zeros(1, 16, 8, 8)


def sound(frames):
    """Noise in syllables that lasts `frames` video frames; the last one is not full."""
    n = max(FRAME, round(frames * FRAME) - 100)
    return (
        (0.3 * np.random.default_rng(0).normal(size=n) * np.sin(np.arange(n) * np.pi / 2400) ** 4)
        .clip(-1, 1)
        .astype(np.float32)
    )


def latents_of(sampler, mel):
    """The chunks for one portrait and one sound, without the axis of videos."""
    n = math.ceil(len(mel) / 4)
    return (
        x[0] for x in generate_latents(sampler, REF, [audio_windows(mel, n + 16)], n, generator())
    )


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def stub(calls):
    """A sampler whose answer is its noise, given frames as given; notes each condition."""

    def sampler(cond, noise):
        calls.append(cond)
        mask = cond.mask[:, :, None, None, None]
        return mask * cond.context + (1 - mask) * noise()

    return sampler


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random networks and sounds; every part of the networks is switched on, none starts at
    zero."""
    folder = tmp_path_factory.mktemp("sample")
    torch.manual_seed(0)
    model, autoencoder = UNet(16), AutoEncoder()
    with torch.no_grad():
        for p in model.parameters():
            if not p.any():
                p.normal_(0, 0.05)
        autoencoder.decoder[-2].weight.mul_(10)
    save_checkpoint(
        folder / "teacher.pt", kind="teacher", config={"channels": 16}, model=model.state_dict()
    )
    save_checkpoint(
        folder / "autoencoder.pt", kind="autoencoder", config={}, model=autoencoder.state_dict()
    )
    save_checkpoint(
        folder / "misfit.pt", kind="teacher", config={"channels": 32}, model=model.state_dict()
    )
    save_checkpoint(
        folder / "nan.pt",
        kind="teacher",
        config={"channels": 16},
        model={k: v * math.nan for k, v in model.state_dict().items()},
    )
    (folder / "damaged.pt").write_bytes((folder / "teacher.pt").read_bytes()[:5000])
    wavfile.write(folder / "sound.wav", SR, sound(20))
    wavfile.write(folder / "short.wav", SR, sound(1)[:600])
    wavfile.write(folder / "nan.wav", SR, np.full(SR, np.nan, np.float32))
    for name in ("empty.wav", "empty.png"):
        (folder / name).touch()
    (folder / "text.mp3").write_text("not a sound")
    (folder / "text.png").write_text("not an image")
    Image.new("RGB", (63, 200)).save(folder / "small.png")
    Image.fromarray(np.full((80, 80), 0.3, np.float32)).save(folder / "float.tiff")
    iio.imwrite(
        folder / "noise.png", np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)
    )
    (folder / "damaged.png").write_bytes((folder / "noise.png").read_bytes()[:3000])
    return folder


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    """Run sample.py in an empty folder, with the random networks and one step."""
    monkeypatch.chdir(tmp_path)

    def call(*options, audio=folder / "sound.wav"):
        sample.main(
            [
                f"--audio={audio}",
                "--model",
                "teacher",
                "--weights",
                str(folder / "teacher.pt"),
                "--autoencoder",
                str(folder / "autoencoder.pt"),
                "--steps",
                "1",
                "--size",
                "64",
                "--device",
                "cpu",
                *map(str, options),
            ]
        )

    return call


def info(path):
    return subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", f"file:{path}"],
        capture_output=True,
        text=True,
    ).stderr


# ---- chunks ----


@pytest.mark.parametrize("frames", [1, 16, 17, 28, 29, 100])
def test_there_is_one_frame_for_every_640_samples_begun(frames):
    chunks = list(latents_of(stub([]), log_mel(sound(frames))))
    assert sum(map(len, chunks)) == math.ceil(len(sound(frames)) / FRAME) == frames
    assert len(chunks) == 1 + max(0, math.ceil((frames - 16) / 12)) and all(
        len(c) == 12 for c in chunks[1:-1]
    )


def test_a_chunk_is_given_the_last_four_latents_of_the_one_before():
    calls = []
    chunks = list(latents_of(stub(calls), log_mel(sound(64))))
    assert not calls[0].mask.any() and not calls[0].context.any() and len(calls) == 5
    for before, cond in zip(chunks, calls[1:]):
        torch.testing.assert_close(cond.context[0, :4], before[-4:], rtol=0, atol=0)
        assert cond.mask.tolist() == [[1.0] * 4 + [0.0] * 12] and not cond.context[:, 4:].any()


def test_every_frame_hears_its_own_window_also_the_given_ones_and_silence_follows_the_end():
    calls, mel = [], log_mel(sound(30))
    list(latents_of(stub(calls), mel))
    windows = audio_windows(mel, 60)
    for start, cond in zip((0, 12, 24), calls, strict=True):
        np.testing.assert_array_equal(cond.audio[0].numpy(), windows[start : start + 16])
    assert (calls[-1].audio[0, 10:] == -1).all()


def test_chunks_come_one_at_a_time_and_are_not_kept():
    calls, alive = [], []
    for k, latents in enumerate(latents_of(stub(calls), log_mel(sound(400)))):
        assert len(calls) == k + 1  # nothing is made before it is wanted
        alive.append(weakref.ref(latents.untyped_storage()))
        del latents
        assert sum(r() is not None for r in alive[:-1]) <= 1
    assert k == 32


def test_an_answer_that_is_not_finite_stops_the_video():
    with pytest.raises(FloatingPointError, match="frame 16"):
        chunks = latents_of(lambda cond, noise: noise() / (1 - cond.mask[0, 0]), log_mel(sound(20)))
        list(chunks)


def test_the_seed_determines_the_frames(folder):
    model, autoencoder = (
        load_teacher(folder / "teacher.pt")[0],
        load_autoencoder(folder / "autoencoder.pt"),
    )

    def frames(seed, portrait=2_000_000, mel=log_mel(sound(20))):
        chunks = list(
            generate_video(
                lambda c, noise: ddim_sample(model, c, noise(), 1),
                autoencoder,
                toy_portrait(portrait),
                mel,
                generator(seed),
            )
        )
        assert [c.shape for c in chunks] == [(16, 64, 64, 3), (4, 64, 64, 3)] and chunks[
            0
        ].dtype == np.uint8
        return np.concatenate(chunks)

    first = frames(0)
    assert (first == frames(0)).all()
    for other in (
        frames(1),
        frames(0, portrait=2_000_001),
        frames(0, mel=-np.ones((80, 64), np.float32)),
    ):
        assert (first != other).mean() > 0.05


def test_guidance_is_as_asked_else_the_teachers_and_noise_is_the_recipes(folder):
    cond = Cond(
        REF, torch.randn(1, 16, 20, 64), torch.zeros(1, 16, *REF.shape[1:]), torch.zeros(1, 16)
    )
    eps, model = torch.randn(1, 16, 16, 8, 8), load_teacher(folder / "teacher.pt")[0]
    for recipe in "plain", "toy":
        shaped = noise_source(recipe, "teacher", lambda: eps)()
        save_checkpoint(
            folder / f"{recipe}.pt",
            kind="teacher",
            config={"channels": 16, "recipe": recipe},
            model=model.state_dict(),
        )
        for flags, scales in (
            ([], {}),
            (["--guidance-audio", "4"], dict(s_audio=4)),
            (["--guidance-ref", "1"], dict(s_ref=1)),
        ):
            args = sample.parse_args(
                ["--steps", "2", "--weights", str(folder / f"{recipe}.pt"), *flags]
            )
            made = sample.make_sampler("teacher", args, torch.device("cpu"), [])(cond, lambda: eps)
            torch.testing.assert_close(
                made, ddim_sample(model, cond, shaped, 2, **scales), rtol=1e-4, atol=1e-4
            )
    save_checkpoint(
        folder / "student.pt",
        kind="stage1",
        config={"channels": 16, "recipe": "plain", "target_steps": 4},
        model=model.state_dict(),
    )
    args = sample.parse_args(["--steps", "1", "--weights", str(folder / "student.pt")])
    made = sample.make_sampler("stage1", args, torch.device("cpu"), [])(cond, lambda: eps)
    torch.testing.assert_close(made, ddim_sample(model, cond, eps, 1, 1, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("flags", [["--guidance-ref", "1"], ["--guidance-audio", "1"]])
def test_guidance_is_refused_where_there_is_none(run, flags, capfd):
    with pytest.raises(ValueError, match="no guidance"):
        sample.make_sampler("stage1", sample.parse_args(flags), torch.device("cpu"), [])
    with pytest.raises(SystemExit):
        sample.main(["--compare", *flags])
    assert "--compare shows every model as it is" in capfd.readouterr().err


# ---- files ----


@pytest.mark.parametrize("name", ["-i", 'it\'s "quoted" 100%d', "naïve: 你好"])
def test_mp4_has_the_frames_and_the_sound_whatever_the_files_are_called(
    run, folder, tmp_path, name, capsys
):
    os.link(folder / "sound.wav", tmp_path / f"{name}.wav")
    run(f"--out={name}.mp4", audio=f"{name}.wav")
    assert sorted(os.listdir()) == sorted([f"{name}.mp4", f"{name}.wav"])
    assert (
        "3 evaluations a chunk, 6 in all" in capsys.readouterr().out
    )  # three branches, two chunks
    text, wave, out = info(f"{name}.mp4"), load_audio(f"{name}.wav"), load_audio(f"{name}.mp4")
    assert (
        re.search(r"Duration: 00:00:00.80,", text)
        and re.search(r"h264.*yuv420p.*64x64.* 25 fps", text)
        and "Audio: aac" in text
    )
    assert len(load_frames(f"{name}.mp4")) == 20 and 0 <= len(out) - len(wave) < FRAME
    lags = [np.dot(out[50 + k :][:12000], wave[50:][:12000]) for k in range(-50, 51)]
    assert np.argmax(lags) == 50 and np.corrcoef(out[: len(wave)], wave)[0, 1] > 0.9
    data = open(f"{name}.mp4", "rb").read()
    assert data.index(b"moov") < data.index(b"mdat")  # plays while it still loads


def test_sound_that_starts_late_or_has_twelve_channels_or_cover_art_fits_its_frames(
    run, tmp_path, folder
):
    make = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error"]
    red = ["-f", "lavfi", "-i", "color=red:s=320x180:r=25:d=2"]
    subprocess.run(
        [*make, *red, "-itsoffset", "0.52", "-i", folder / "sound.wav", "late.mov"], check=True
    )
    subprocess.run(
        [*make, "-i", folder / "sound.wav", "-af", "pan=12c|c0=c0|c1=c0|c2=c0", "many.wav"],
        check=True,
    )
    subprocess.run(
        [
            *make,
            "-i",
            folder / "sound.wav",
            *red,
            "-frames:v",
            "1",
            "-disposition:v",
            "attached_pic",
            "cover.mp3",
        ],
        check=True,
    )
    for name, frames in (("late.mov", 33), ("many.wav", 20), ("cover.mp3", 20)):
        run("--guidance-ref", 1, "--guidance-audio", 1, audio=name)
        wave, out = load_audio(name), load_audio("talk.mp4")
        assert (
            load_frames("talk.mp4").shape == (math.ceil(len(wave) / FRAME), 64, 64, 3)
            and abs(frames * FRAME - len(out)) < 3 * FRAME
        )
        assert (
            0 <= len(out) - len(wave) < FRAME + 32
            and np.corrcoef(out[: len(wave)], wave[: len(out)])[0, 1] > 0.9
        )


@pytest.mark.parametrize("name", ["talk.mp4", "talk.gif"])
def test_video_keeps_the_pixels(folder, tmp_path, name):
    frames = np.stack([toy_portrait(2_000_000 + k) for k in range(3)])
    chunks = iter([frames[:2], frames[2:]])
    write_video(tmp_path / name, chunks, 3, 256, folder / "sound.wav", smooth=False)
    if name.endswith("gif"):
        assert (
            "25 fps" in info(tmp_path / name)
            and b"NETSCAPE2.0\x03\x01\x00\x00" in (tmp_path / name).read_bytes()
        )  # 0: for ever
        assert [round(i.info["duration"]) for i in gif_frames(tmp_path / name)] == [40] * 3
    enlarged = frames.repeat(4, 1).repeat(4, 2)
    error = iio.imread(tmp_path / name)[..., :3].astype(float) - enlarged
    assert error.shape == (3, 256, 256, 3) and 10 * np.log10(255**2 / np.square(error).mean()) > 34


@pytest.mark.parametrize("name", ["talk.mp4", "talk.png"])
def test_pictures_side_by_side_are_enlarged_smoothly_and_keep_their_content(folder, tmp_path, name):
    frames = np.stack([toy_portrait(2_000_000 + k) for k in range(4)])
    both = np.concatenate([frames, frames[::-1]], 2)
    WRITERS[name[4:]](tmp_path / name, iter([both]), 4, 256, folder / "sound.wav")
    made = iio.imread(tmp_path / name)[..., :3]
    if name.endswith("png"):  # a row of the four
        made = np.stack(np.split(made, 4, 1))
    assert made.shape == (4, 256, 512, 3)
    small = made.reshape(4, 64, 4, 128, 4, 3).mean((2, 4))
    assert np.abs(small - both).mean() < 4
    steps = np.abs(np.diff(made[:, :, :256].astype(int), axis=2)).mean((0, 1, 3))
    assert steps[3::4].mean() < 2 * steps[1::4].mean()  # no blocks of four


def gif_frames(path):
    with Image.open(path) as gif:
        for k in range(gif.n_frames):
            gif.seek(k)
            yield gif


@pytest.mark.parametrize(
    "frames, shape", [(1, (64, 64, 3)), (7, (64, 448, 3)), (30, (128, 768, 3))]
)
def test_png_is_a_sheet_of_evenly_spaced_frames(run, tmp_path, frames, shape):
    wavfile.write("some.wav", SR, sound(frames))
    run("--out", "talk.PNG", audio="some.wav")
    assert iio.imread("talk.PNG").shape == shape


def refuse(*args, **more):
    raise PermissionError(13, "Permission denied")


def test_a_sheet_that_cannot_take_its_place_is_kept_and_named(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "talk.png").write_bytes(b"old")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(SystemExit) as stop:
        run("--out", "talk.png")
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "cannot be replaced (Permission denied)" in said
    kept = Path(said.split(": it is ")[1].strip())
    assert iio.imread(kept).ndim == 3 and (tmp_path / "talk.png").read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([kept.parent.name, "talk.png"])


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("name", ["talk.mp4", "talk.GIF", "talk.png"])
def test_what_is_finished_is_kept_even_where_the_folder_was_closed_meanwhile(
    tmp_path, monkeypatch, name, closed
):
    (tmp_path / name).write_bytes(b"old")
    with pytest.raises(ValueError, match="cannot be replaced .Permission denied.: it is") as error:
        with finished_file(tmp_path / name) as temporary:
            temporary.write_bytes(b"new")
            for module, function in [(os, "replace")] + closed * [(tempfile, "mkdtemp")]:
                monkeypatch.setattr(module, function, refuse)
    kept = Path(str(error.value).split(": it is ")[1])
    assert kept.read_bytes() == b"new" and (tmp_path / name).read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2 and kept.suffix.lower() == Path(name).suffix.lower()


@pytest.mark.parametrize("name", ["talk.mp4", "talk.gif", "talk.png"])
def test_the_caption_is_asked_for_once_the_first_chunk_is_there(folder, tmp_path, name):
    made = []

    def chunks():
        for k in range(3):
            made.append(k)
            yield toy_portrait(2_000_000)[None]

    def caption():
        made.append("caption")
        return np.full((28, 64, 3), 255, np.uint8)

    write = WRITERS[name[4:]]
    write(tmp_path / name, chunks(), 3, 64, folder / "sound.wav", caption=caption)
    assert made == [0, "caption", 1, 2]
    shape = iio.imread(tmp_path / name).shape
    assert shape[:2] == (92, 192) if name.endswith("png") else shape[:3] == (3, 92, 64)


# ---- the portrait ----


def test_an_embedded_profile_is_minded_and_a_broken_one_is_not(tmp_path):
    """A profile whose red and green are exchanged: the colours come out exchanged."""
    face = Image.fromarray(toy_portrait(2_000_003))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    red, green = srgb.index(b"rXYZ"), srgb.index(b"gXYZ")
    swapped = bytearray(srgb)
    swapped[red : red + 4], swapped[green : green + 4] = b"gXYZ", b"rXYZ"
    for name, profile in ("srgb", srgb), ("swapped", bytes(swapped)), ("broken", b"not a profile"):
        face.save(tmp_path / f"{name}.png", icc_profile=profile)
    plain = np.asarray(face).astype(int)
    made = {n: load_portrait(str(tmp_path / f"{n}.png")).astype(int) for n in ("srgb", "swapped")}
    assert np.abs(made["srgb"] - plain).max() <= 2
    assert np.abs(made["swapped"][..., [1, 0, 2]] - plain).mean() < 3
    assert (load_portrait(str(tmp_path / "broken.png")) == plain).all()


@pytest.mark.parametrize("mode", ["P", "RGBA", "RGB"])
def test_an_embedded_profile_is_minded_in_every_kind_of_png(tmp_path, mode):
    face = Image.fromarray(toy_portrait(2_000_003)).quantize(64).convert("RGB")
    srgb = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = srgb.index(b"rXYZ"), srgb.index(b"gXYZ")
    srgb[red : red + 4], srgb[green : green + 4] = b"gXYZ", b"rXYZ"
    other = face.quantize(256) if mode == "P" else face.convert(mode)
    other.save(tmp_path / "swapped.png", icc_profile=bytes(srgb))
    made = load_portrait(str(tmp_path / "swapped.png")).astype(int)
    assert np.abs(made[..., [1, 0, 2]] - np.asarray(face)).mean() < 3


def test_an_embedded_profile_leaves_transparency_alone(tmp_path):
    face = Image.fromarray(toy_portrait(2_000_003)).convert("RGBA")
    face.putalpha(Image.linear_gradient("L").resize((64, 64)))
    face.save(tmp_path / "plain.png")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    face.save(tmp_path / "profile.png", icc_profile=profile)
    plain, other = (load_portrait(str(tmp_path / f"{n}.png")) for n in ("plain", "profile"))
    assert np.abs(plain.astype(int) - other).max() <= 2


@pytest.mark.parametrize("name, brand", [("me.HEIC", b"heic"), ("me.jpg", b"mif1")])
def test_a_heic_is_named_with_what_to_do_whatever_it_is_called(tmp_path, name, brand):
    (tmp_path / name).write_bytes(b"....ftyp" + brand)
    with pytest.raises(ValueError, match="it is HEIC.*save it as JPEG or PNG"):
        load_portrait(str(tmp_path / name))


def test_portrait_is_upright_square_and_opaque(tmp_path):
    picture = np.zeros((100, 200, 3), np.uint8)
    picture[:, 50:100], picture[:, 100:150], picture[:, 150:] = (255, 0, 0), (0, 0, 255), 255
    Image.fromarray(picture).save(tmp_path / "rgb.png")
    exif = Image.Exif()
    exif[274] = 6  # "turn by 90 degrees clockwise to view"
    Image.fromarray(np.rot90(picture)).save(tmp_path / "phone.png", exif=exif)
    for name in ("rgb.png", "phone.png"):  # the middle 100 x 100: left half red, right half blue
        face = load_portrait(str(tmp_path / name))
        assert face.shape == (64, 64, 3) and face.dtype == np.uint8
        assert face[32, 8].tolist() == [255, 0, 0] and face[32, 56].tolist() == [0, 0, 255]
    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("L", (64, 64), 77).save(tmp_path / "grey.png")
    Image.fromarray(np.full((64, 64), 77 * 257, np.uint16)).save(tmp_path / "grey16.png")
    for name, value in (("clear.png", 255), ("grey.png", 77), ("grey16.png", 77)):
        assert (load_portrait(str(tmp_path / name)) == value).all(), name


def test_a_toy_portrait_saved_and_loaded_is_the_same(tmp_path):
    iio.imwrite(tmp_path / "face.png", toy_portrait(2_000_124))
    assert (load_portrait(str(tmp_path / "face.png")) == toy_portrait(2_000_124)).all()


# ---- trouble: one line, exit code 2, nothing left behind ----

BAD = [
    "--audio {}/none.wav",
    "--audio {}",
    "--audio {}/empty.wav",
    "--audio {}/text.mp3",
    "--audio {}/short.wav",
    "--audio {}/nan.wav",
    "--audio {}/noise.png",
    "--image {}/none.png",
    "--image {}",
    "--image {}/empty.png",
    "--image {}/text.png",
    "--image {}/small.png",
    "--image {}/damaged.png",
    "--image {}/noise.png --portrait 1",
    "--image {}/float.tiff",
    "--portrait -1",
    "--portrait x",
    "--compare --model stage1",
    "--bogus",
    "bogus",
    "--model bogus",
    "--out none/talk.mp4",
    "--out talk.avi",
    "--out talk",
    "--out .",
    "--out /proc/talk.mp4",
    "--weights {}/none.pt",
    "--weights {}/damaged.pt",
    "--weights {}/misfit.pt",
    "--weights {}/nan.pt",
    "--weights {}/autoencoder.pt",
    "--weights {}/text.mp3",
    "--autoencoder {}/teacher.pt",
    "--steps 0",
    "--steps -1",
    "--steps 1.5",
    "--guidance-ref nan",
    "--guidance-audio inf",
    "--guidance-audio -1",
    "--device bogus",
    "--seed -1",
    "--size 0",
    "--size 65",
    "--size 10000",
    "--upscale bogus",
]


def assert_fails(call, capfd, code=2):
    with pytest.raises(SystemExit) as stop:
        call()
    error = capfd.readouterr().err
    assert stop.value.code == code and error.strip().count("\n") == 0 and len(error) > 8, error
    return error


@pytest.mark.parametrize("options", BAD)
def test_bad_input_gives_one_line_and_no_file(run, folder, options, capfd):
    assert assert_fails(lambda: run(*options.format(folder).split()), capfd).startswith("error: ")
    assert os.listdir() == []


@pytest.fixture(scope="module")
def through_stdin(folder):
    """A command of its own, with its sound at /dev/stdin -> the video, and what it printed last:
    which of some modules it has imported."""
    out, named = folder / "stdin.mp4", ("scipy", "matplotlib")
    code = f"import sys, sample; sample.main(sys.argv[1:]); print({{*{named}}} & {{*sys.modules}})"
    line = [sys.executable, "-c", code, "--audio", "/dev/stdin", "--device", "cpu", "--out", out]
    line += ["--model", "teacher", "--weights", folder / "teacher.pt", "--steps", "1"]
    line += ["--autoencoder", folder / "autoencoder.pt"]
    place = os.path.dirname(sample.__file__)
    with open(folder / "sound.wav", "rb") as file:
        done = subprocess.run(line, stdin=file, cwd=place, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return out, done.stdout.splitlines()[-1]


def test_a_file_is_read_through_stdin(through_stdin):
    """ffmpeg, which reads the sound again for the video, has the frames at its own stdin."""
    video, _ = through_stdin
    assert len(load_frames(video)) == 20 and len(load_audio(video)) >= len(sound(20))


def test_a_pipe_is_refused():
    read, write = os.pipe()
    with open(read), open(write, "wb"), pytest.raises(ValueError, match="is a pipe"):
        load_audio(f"/dev/fd/{read}")


def test_sampling_does_not_import_what_it_does_not_need(through_stdin):
    """SciPy's signal package alone took a quarter of the start-up."""
    assert through_stdin[1] == "set()"


def test_a_link_keeps_pointing_at_what_is_written(run, tmp_path):
    (tmp_path / "there").mkdir()
    os.symlink(tmp_path / "there" / "sheet.png", tmp_path / "link.png")
    run("--out", "link.png")
    assert os.path.islink("link.png") and os.listdir("there") == ["sheet.png"]


def test_a_video_that_is_to_be_read_is_not_replaced(run, folder, tmp_path, capfd):
    (tmp_path / "talk.mp4").write_bytes((folder / "sound.wav").read_bytes())
    assert_fails(lambda: run(audio="talk.mp4"), capfd)
    assert load_audio("talk.mp4").size and os.listdir() == ["talk.mp4"]


@pytest.mark.parametrize(
    "trouble, code", [(KeyboardInterrupt, 130), (FloatingPointError("broken"), 2)]
)
def test_a_stopped_run_keeps_the_old_file_and_leaves_no_new_one(
    run, tmp_path, monkeypatch, capfd, trouble, code
):
    (tmp_path / "talk.mp4").write_text("old")
    chunks = generate.generate_latents

    def breaks(*args):
        yield next(chunks(*args))
        raise trouble

    monkeypatch.setattr(generate, "generate_latents", breaks)
    assert_fails(run, capfd, code)
    assert os.listdir() == ["talk.mp4"] and (tmp_path / "talk.mp4").read_text() == "old"


def test_ffmpegs_death_is_reported_in_its_own_words(run, monkeypatch, capfd):
    monkeypatch.setattr(
        sample, "load_audio", lambda path: sound(60)
    )  # the file itself is not there
    assert "No such file" in assert_fails(lambda: run("--size", 512, audio="gone.wav"), capfd)
    assert os.listdir() == []


# ---- side by side ----


def test_every_chunk_starts_from_the_same_noise_however_many_draws_a_model_makes():
    firsts = []
    for draws in (1, 4):
        seen = []

        def sampler(cond, noise):
            seen.append([noise() for _ in range(draws)][0])
            return torch.zeros_like(seen[-1])

        list(
            generate_latents(sampler, REF, [audio_windows(log_mel(sound(30)), 46)], 30, generator())
        )
        firsts.append(torch.stack(seen))
    torch.testing.assert_close(*firsts, rtol=0, atol=0)
    assert (firsts[0][0] != firsts[0][1]).any()  # and another one for every chunk


def test_compare_shows_every_model_whose_weights_are_there(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "checkpoints").mkdir()
    saved = torch.load(folder / "teacher.pt", weights_only=True)
    save_checkpoint(tmp_path / "checkpoints/teacher.pt", **saved)
    made = {**saved["config"], "recipe": "plain", "target_steps": 4}
    save_checkpoint(
        tmp_path / "checkpoints/stage1.pt", **{**saved, "kind": "stage1", "config": made}
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sample, "HERE", tmp_path)
    wavfile.write("some.wav", SR, sound(3))
    line = [
        "--audio",
        "some.wav",
        "--autoencoder",
        str(folder / "autoencoder.pt"),
        "--size",
        "128",
        "--out",
        "both.mp4",
        "--compare",
    ]
    sample.main(line)
    frames = iio.imread("both.mp4")
    assert (
        frames.shape == (3, 128 + 28, 2 * 128, 3)
        and frames[:, 128:].max() > 200
        and frames[:, 128:, :128].min() < 150
    )  # a caption under each
    said = capsys.readouterr().out
    assert (
        "teacher: 120 evaluations" in said
        and "stage1: 4 evaluations" in said
        and "stage2" not in said
    )
    with pytest.raises(SystemExit):
        sample.main([*line, "--steps", "3"])


def test_weights_cast_once_for_bf16_give_what_autocast_gives(folder):
    """A tenth of the one-step student's time on a CPU was casting its weights at every call."""
    both = [
        load_to_sample(load_teacher, folder / "teacher.pt", "cpu", bf16)[0]
        for bf16 in (False, True)
    ]
    cond, xt = condition(given=4), torch.randn(2, 16, 16, 8, 8, generator=generator())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        answers = [model(xt, torch.tensor([300.0, 1000.0]), cond) for model in both]
    assert torch.equal(*answers)
    assert (
        both[1].down1.conv1.weight.dtype == torch.bfloat16
        and both[1].down1.norm1.weight.dtype == torch.float32
    )


# ---- what generate.py itself decides


def test_a_video_with_one_number_that_is_not_finite_stops():
    spoilt = torch.zeros(2, 16, 16, 8, 8)
    spoilt[1, 15, 0, 0, 0] = math.nan
    chunks = generate_latents(
        lambda cond, noise: spoilt,
        REF.expand(2, -1, -1, -1),
        [np.zeros((32, 20, 64))] * 2,
        16,
        generator(),
    )
    with pytest.raises(FloatingPointError, match="frame 0"):
        next(chunks)


def test_the_clock_adds_up(monkeypatch):
    now, seconds = iter([1.0, 3.0, 10.0, 15.0]), Counter()
    monkeypatch.setattr(generate.time, "perf_counter", lambda: next(now))
    for _ in range(2):
        with generate.clock(seconds, "denoising"):
            pass
    assert seconds == {"denoising": 7}


def test_weights_that_do_not_say_their_recipe_are_toy(monkeypatch):
    for module in teacher, student:
        asked = []
        monkeypatch.setattr(module, "noise_source", lambda *args: asked.append(args))
        make = generate.sampler_of_teacher if module is teacher else student_sampler
        with contextlib.suppress(TypeError):  # no noise comes
            make(None, {})(condition(1), None)
        assert [recipe for recipe, *_ in asked] == ["toy"]


def test_every_model_loads_its_own_kind_of_weights_and_no_other(folder, tmp_path):
    saved = torch.load(folder / "teacher.pt", weights_only=True)
    for kind in generate.MODELS:
        save_checkpoint(tmp_path / f"{kind}.pt", **{**saved, "kind": kind})
    for name, (loader, _) in generate.MODELS.items():
        for kind in generate.MODELS:
            with contextlib.nullcontext() if kind == name else pytest.raises(ValueError):
                loader(tmp_path / f"{kind}.pt")


@pytest.mark.parametrize("rows, frames", [(64, 16), (65, 17), (67, 17), (68, 17)])
def test_a_frame_that_is_only_begun_is_shown(rows, frames):
    coder = SimpleNamespace(
        mean=REF, encode=lambda x: REF, decode=lambda z: torch.zeros(len(z), 3, 64, 64)
    )
    mel, portrait = np.zeros((rows, 64), np.float32), np.zeros((64, 64, 3), np.uint8)
    chunks = generate_video(stub([]), coder, portrait, mel, generator())
    assert sum(map(len, chunks)) == frames
