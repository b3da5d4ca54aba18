import math
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
from scipy.io import wavfile
from scipy.signal import butter, sosfiltfilt

import audio_features as af
from audio_features import FRAME, HOP, N_FFT, N_MELS, SILENCE, SR, WINDOW, audio_windows, log_mel
from media import load_audio


def ffmpeg(*args):
    subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", "-y", *map(str, args)],
        check=True,
    )


def noise(seconds, rate=SR, seed=0):
    """Band-limited (200-3000 Hz) noise in syllables: survives every codec here, and its lag is
    unambiguous."""
    x = np.random.default_rng(seed).normal(size=int(seconds * rate))
    x = sosfiltfilt(butter(4, [200, 3000], "bandpass", fs=rate, output="sos"), x)
    x *= 0.1 + np.abs(np.sin(2 * np.pi * 1.7 * np.arange(len(x)) / rate)) ** 3
    return (0.5 * x / np.abs(x).max()).astype(np.float32)


def lag(y, x):
    """Samples by which y is later than x: the peak of their cross-correlation."""
    size = 2 * max(len(x), len(y))
    c = np.fft.irfft(np.fft.rfft(y, size) * np.fft.rfft(x, size).conj(), size)
    k = int(c.argmax())
    return k if k < size // 2 else k - size


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A 48 kHz float wav and what load_audio makes of it."""
    path = tmp_path_factory.mktemp("source") / "source.wav"
    wavfile.write(path, 48000, noise(1.5, 48000))
    return path, load_audio(path)


# ---- the mel front end ----


def test_mel_filters_are_triangles_of_unit_area_that_leave_no_band_empty():
    filters = af.mel_filters()
    assert (
        filters.shape == (N_MELS, N_FFT // 2 + 1)
        and (filters >= 0).all()
        and (filters.max(1) > 0).all()
    )
    np.testing.assert_allclose(
        filters.sum(1) * SR / N_FFT, 1, atol=0.3
    )  # a narrow triangle has only three bins
    np.testing.assert_allclose(filters[40:].sum(1) * SR / N_FFT, 1, atol=0.03)


def test_slaney_mel_scale_is_linear_to_1_khz_then_27_bands_a_factor_of_6_4():
    bins = np.arange(N_FFT // 2 + 1) * SR / N_FFT
    centres = (af.mel_filters() * bins).sum(1) / af.mel_filters().sum(1)
    mel = np.where(
        centres < 1000,
        centres * 3 / 200,
        15 + 27 * np.log(np.maximum(centres, 1) / 1000) / np.log(6.4),
    )
    np.testing.assert_allclose(np.diff(mel).mean(), (mel[-1] - mel[0]) / (N_MELS - 1))
    np.testing.assert_allclose(mel, np.linspace(mel[0], mel[-1], N_MELS), atol=0.2)


def test_white_noise_reads_its_variance_in_every_band():
    wave = np.random.default_rng(0).normal(size=60 * SR) * 0.1
    power = af.mel_power(wave).mean(0)
    bins_in_band = af.mel_filters().sum(1) * SR / N_FFT
    np.testing.assert_allclose(power / bins_in_band, 0.01, rtol=0.06)


@pytest.mark.parametrize("hz", [300, 1000, 3000])
def test_a_tone_peaks_in_the_band_whose_centre_is_nearest(hz):
    mel_of = lambda f: f * 3 / 200 if f < 1000 else 15 + 27 * math.log(f / 1000) / math.log(6.4)
    centres = np.linspace(mel_of(af.FMIN), mel_of(af.FMAX), N_MELS + 2)[1:-1]
    mel = log_mel(0.3 * np.sin(2 * np.pi * hz * np.arange(SR) / SR))
    assert (mel[5:-5].argmax(1) == np.abs(centres - mel_of(hz)).argmin()).all()


def test_chunking_changes_no_row():
    wave = noise(45)  # 4500 rows: more than one chunk of 4096
    np.testing.assert_allclose(
        af.mel_power(wave)[4090:4102], af.mel_power(wave[4080 * HOP :])[10:22], rtol=1e-9
    )


# ---- time ----


@pytest.mark.parametrize("n", [1, 159, 160, 161, 639, 640, 641, 1280, 1281, 51199, 51200, 51201])
def test_there_are_ceil_n_over_640_windows(n):
    wave = np.random.default_rng(n).normal(size=n)
    assert len(log_mel(wave)) == math.ceil(n / HOP)
    assert audio_windows(wave).shape == (math.ceil(n / FRAME), WINDOW, N_MELS)


def test_delaying_the_wave_by_one_frame_shifts_the_windows_by_exactly_one():
    wave = np.concatenate(
        [np.zeros(4 * FRAME, np.float32), noise(1), np.zeros(4 * FRAME, np.float32)]
    )
    early, late = (
        audio_windows(wave),
        audio_windows(np.concatenate([np.zeros(FRAME, np.float32), wave])),
    )
    np.testing.assert_allclose(late[1:], early, atol=1e-6)
    assert np.abs(late[:-1] - early[: len(late) - 1]).max() > 0.1


@pytest.mark.parametrize("k", [0, 1, 7, 24])
def test_an_impulse_at_the_time_of_frame_k_is_centred_in_window_k(k):
    wave = np.zeros(25 * FRAME)
    wave[k * FRAME + FRAME // 2] = 1.0  # t = (k + 0.5) / 25 s
    windows = audio_windows(wave)
    energy = (10 ** (2 * windows.astype(float))).mean(2) - 10 ** (2 * SILENCE)  # (F, WINDOW)
    np.testing.assert_allclose(
        energy[k], energy[k, ::-1], atol=1e-3 * energy[k].max()
    )  # symmetric in time
    assert set(np.flatnonzero(energy[k] > 0.5 * energy[k].max())) == {WINDOW // 2 - 1, WINDOW // 2}
    assert energy.max(1).argmax() == k or np.isclose(energy[k].max(), energy.max())


def test_windows_overlap_as_rows_of_one_sequence_and_are_padded_with_silence():
    mel = np.arange(40)[:, None] * np.ones(N_MELS, np.float32)
    windows = audio_windows(mel)
    np.testing.assert_array_equal(windows[5, :, 0], np.arange(4 * 5 - 8, 4 * 5 + 12))
    np.testing.assert_array_equal(windows[0, :8], SILENCE)
    np.testing.assert_array_equal(windows[-1, 12:], SILENCE)
    assert (
        audio_windows(mel, 3)
        == np.where(
            np.arange(20)[None, :, None] + 4 * np.arange(3)[:, None, None] >= 28,
            SILENCE,
            windows[:3],
        )
    )[:2].all()
    assert (
        audio_windows(mel, 15).shape == (15, WINDOW, N_MELS)
        and (audio_windows(mel, 15)[13:] == SILENCE).all()
    )


def test_ten_minutes_of_windows_are_a_view():
    windows = audio_windows(np.zeros((60000, N_MELS), np.float32))
    assert windows.shape == (15000, WINDOW, N_MELS) and not windows.flags.owndata
    assert windows.strides[0] == 4 * windows.strides[1]


# ---- loudness ----


@pytest.mark.parametrize("gain", [0.01, 0.1, 10, 100])
def test_features_do_not_depend_on_loudness(gain):
    np.testing.assert_allclose(log_mel(noise(2) * np.float32(gain)), log_mel(noise(2)), atol=1e-4)


def test_a_long_pause_does_not_change_the_level():
    wave = noise(2)
    level, with_pause = [
        af.speech_level(af.mel_power(np.pad(wave, (0, pad)))) for pad in (0, 60 * SR)
    ]
    assert with_pause == pytest.approx(level, rel=0.01)


def test_silence_is_constant_and_finite_and_faint_noise_is_not_blown_up():
    np.testing.assert_array_equal(log_mel(np.zeros(SR)), np.float32(SILENCE))
    hiss = np.random.default_rng(0).normal(size=SR)
    assert log_mel(hiss * 10 ** (-96 / 20)).max() < 0 < log_mel(hiss * 10 ** (-30 / 20)).mean()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_features_stay_in_range_for_any_finite_wave(scale):
    mel = log_mel(noise(1).astype(np.float32) * np.float32(scale))
    assert np.isfinite(mel).all() and mel.min() >= -1 and mel.max() <= 1


@pytest.mark.parametrize(
    "wave", [np.zeros(0), np.zeros((2, 800)), np.array([0.0, np.nan]), np.array([np.inf])]
)
def test_log_mel_refuses_what_is_not_a_finite_mono_wave(wave):
    with pytest.raises(ValueError, match="mono wave"):
        log_mel(wave)


# ---- files ----

EXACT = {
    "s16.wav": "-c:a pcm_s16le",
    "s24.wav": "-c:a pcm_s24le",
    "s32.wav": "-c:a pcm_s32le",
    "f64.wav": "-c:a pcm_f64le",
    "u8.wav": "-c:a pcm_u8",
    "mulaw.wav": "-c:a pcm_mulaw",
    "phone.wav": "-ar 8000 -c:a pcm_mulaw",
    "8k.wav": "-ar 8000",
    "44k.wav": "-ar 44100",
    "96k.wav": "-ar 96000",
    "stereo.wav": "-ac 2",
    "extensible51.wav": "-ac 6 -c:a pcm_s24le",
    "a.flac": "",
}
LOSSY = {"a.mp3": "", "a.m4a": "-c:a aac", "a.ogg": "-c:a libvorbis", "a.opus": "-c:a libopus"}


@pytest.mark.parametrize("name", [*EXACT, *LOSSY])
def test_every_format_gives_the_same_sound_at_the_same_time(name, source, tmp_path):
    path, wave = source
    ffmpeg("-i", path, *(EXACT | LOSSY)[name].split(), tmp_path / name)
    again = load_audio(tmp_path / name)
    assert again.dtype == np.float32 and again.ndim == 1
    assert abs(lag(again, wave)) <= (32 if name in EXACT else 480)  # 2 ms, 30 ms; all measure 0
    assert abs(len(again) - len(wave)) <= (32 if name in EXACT else 960)
    rows = slice(0, 140)  # speech band, rows loud enough for 8 bits
    a, b = log_mel(wave)[rows, :40], log_mel(again)[rows, :40]
    assert np.abs(a - b)[a > 0].mean() < 0.03


def test_pcm_survives_exactly(tmp_path):
    wave = noise(1)
    wavfile.write(tmp_path / "f.wav", SR, wave)
    wavfile.write(tmp_path / "i.wav", SR, (wave * 32768).astype(np.int16))
    np.testing.assert_array_equal(load_audio(tmp_path / "f.wav"), wave)
    np.testing.assert_allclose(load_audio(str(tmp_path / "i.wav")), wave, atol=1 / 32768)


@pytest.mark.parametrize("delay", [0.0, 0.52])
def test_the_sound_of_a_video_keeps_its_place_in_time(delay, source, tmp_path):
    path, wave = source
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "color=s=64x64:r=25:d=2",
        "-itsoffset",
        delay,
        "-i",
        path,
        tmp_path / "v.mp4",
    )
    assert abs(lag(load_audio(tmp_path / "v.mp4"), wave) - delay * SR) <= 480


@pytest.mark.parametrize("left,right", [(1, 0), (0, 1), (1, -1), (1, -0.9), (1, 1)])
def test_one_sided_and_phase_inverted_stereo_speak(left, right, tmp_path):
    wave = noise(1)
    wavfile.write(tmp_path / "s.wav", SR, np.stack([left * wave, right * wave], axis=1))
    np.testing.assert_allclose(log_mel(load_audio(tmp_path / "s.wav")), log_mel(wave), atol=1e-3)


def test_a_subwoofer_or_an_offset_is_not_taken_for_speech(tmp_path):
    wave = noise(1)
    rumble = 0.9 * np.sin(2 * np.pi * 30 * np.arange(len(wave)) / SR).astype(np.float32)
    wavfile.write(
        tmp_path / "s.wav",
        SR,
        np.stack([wave * 0.3, -wave * 0.3, rumble, np.full_like(wave, 0.9)], axis=1),
    )
    np.testing.assert_array_equal(load_audio(tmp_path / "s.wav"), wave * np.float32(0.3))


@pytest.mark.parametrize(
    "name", ["a b.wav", 'it\'s "q".wav', "-i.wav", "é中.wav", "http:x.wav", "a%d.wav", "nosuffix"]
)
def test_any_file_name_works(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open(name, "wb") as file:
        wavfile.write(file, SR, noise(0.1))
    assert len(load_audio(name)) == 1600


def test_a_truncated_file_gives_what_is_there(tmp_path):
    wavfile.write(tmp_path / "a.wav", SR, noise(1))
    data = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(data[: len(data) // 2])
    np.testing.assert_array_equal(
        load_audio(tmp_path / "cut.wav"), noise(1)[: len(load_audio(tmp_path / "cut.wav"))]
    )
    assert len(load_audio(tmp_path / "cut.wav")) > 7900


def make_bad(kind, folder):
    """Write the bad file of this kind; -> its path."""
    path, wave = folder / f"{kind}.wav", noise(0.5)
    if kind == "directory":
        path.mkdir()
    elif kind == "no bytes":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is not sound\n" * 200)
    elif kind == "random":
        path = path.with_suffix(".mp3")
        path.write_bytes(np.random.default_rng(0).bytes(20000))
    elif kind == "no sound track":
        path = path.with_suffix(".mp4")
        ffmpeg("-f", "lavfi", "-i", "color=s=64x64:r=25:d=0.2", path)
    elif kind == "playlist":
        path = path.with_suffix(".m3u8")
        path.write_text("#EXTM3U\n#EXTINF:2\nhttp://localhost:1/a.mp3\n")
    elif kind != "missing":
        at = np.arange(len(wave))
        wave = {
            "no samples": wave[:0],
            "too short": wave[:639],
            "nan": np.where(at == 700, np.nan, wave),
            "inf": np.where(at == 7000, np.inf, wave),
            "scale of 16 bits": 32767 * wave,
        }[kind]
        wavfile.write(path, SR, wave.astype(np.float32))
    return path


BAD = {
    "missing": "does not exist",
    "directory": "directory",
    "no bytes": "cannot read",
    "text": "cannot read|no sound",
    "random": "cannot read",
    "no sound track": "no sound track",
    "playlist": "playlist",
    "no samples": "holds 0 samples",
    "too short": "holds 639 samples",
    "nan": "NaN",
    "inf": "NaN or infinite",
    "scale of 16 bits": "full scale is 1",
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_refused_in_one_line_that_names_the_file(kind, tmp_path):
    path = make_bad(kind, tmp_path)
    with pytest.raises(ValueError, match=BAD[kind]) as error:
        load_audio(path)
    assert "\n" not in str(error.value) and path.name in str(error.value)


def test_one_frame_of_sound_is_enough(tmp_path):
    wavfile.write(tmp_path / "a.wav", SR, noise(0.04))
    assert audio_windows(load_audio(tmp_path / "a.wav")).shape == (1, WINDOW, N_MELS)


def test_command_line_writes_a_picture_and_exits_2_on_bad_input(tmp_path, capsys):
    sound = tmp_path / "a.wav"
    wavfile.write(sound, SR, noise(1))
    af.main([str(sound)])
    assert "25 video frames" in capsys.readouterr().out and (tmp_path / "a.mel.png").exists()
    missing, nowhere, itself = (
        [str(tmp_path / "b.wav")],
        [str(sound), "--out", str(tmp_path / "no/a.png")],
        [str(sound), "--out", str(sound)],
    )
    for line in missing, nowhere, itself:
        with pytest.raises(SystemExit) as stop:
            af.main(line)
        assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    assert len(load_audio(sound)) == SR  # still there
