import numpy as np
import pytest

from tiny_data.phones import CLOSED, PHONES, babble, lips
from tiny_data.voice import SR, Speaker, random_speaker, synthesise, synthesise_speech

FRAMES = (np.arange(125) + 0.5) / 25  # s, the middles of 5 s of video frames
SEEDS = range(4)


@pytest.fixture(scope="module")
def utterances():
    return [synthesise_speech(seed, 5.0) for seed in SEEDS]


def say(*symbols, ms=250, speaker=Speaker()):
    """Clean wave and phones of a given sequence, each phone `ms` long, with a pause on both
    sides."""
    phones = [(x, i * ms / 1000, (i + 1) * ms / 1000) for i, x in enumerate(("_", *symbols, "_"))]
    return synthesise(phones, speaker, np.random.default_rng(0)), phones


def middle(wave, phone):
    """The middle half of a phone's samples."""
    _, start, end = phone
    quarter = (end - start) / 4
    return wave[round((start + quarter) * SR) : round((end - quarter) * SR)]


def spectrum(x):
    x = np.diff(x * np.hanning(len(x)), prepend=0)
    return np.fft.rfftfreq(8192, 1 / SR), np.abs(np.fft.rfft(x, 8192)) ** 2


def test_a_seed_gives_one_utterance_and_another_seed_another(utterances):
    wave, phones = synthesise_speech(0, 5.0)
    assert np.array_equal(wave, utterances[0][0]) and phones == utterances[0][1]
    assert not np.allclose(wave, utterances[1][0]) and phones != utterances[1][1]


@pytest.mark.parametrize("seconds", [0.2, 1.0, 3.3333])
def test_the_wave_has_the_length_asked_for(seconds):
    for seed in SEEDS:
        wave, phones = synthesise_speech(seed, seconds)
        assert wave.shape == (round(seconds * SR),) and phones[-1][2] == seconds


def test_too_short_an_utterance_is_refused():
    with pytest.raises(ValueError, match="0.2"):
        synthesise_speech(0, 0.1)


def test_the_wave_is_float32_finite_and_within_full_scale(utterances):
    for wave, _ in utterances:
        assert wave.dtype == np.float32 and np.isfinite(wave).all()
        assert 0.05 < np.abs(wave).max() <= 1


def test_phones_cover_the_whole_time_without_gap_or_overlap(utterances):
    for _, phones in utterances:
        assert phones[0][1] == 0 and phones[-1][2] == 5.0
        assert all(a[2] == b[1] for a, b in zip(phones, phones[1:]))
        assert all(symbol in PHONES and end > start for symbol, start, end in phones)


def test_a_sixth_of_the_time_is_silence_and_every_phone_occurs():
    phones = [p for seed in range(60) for p in babble(np.random.default_rng(seed), 20.0)]
    silent = sum(end - start for symbol, start, end in phones if symbol == "_") / (60 * 20)
    assert 0.12 < silent < 0.22
    assert {p[0] for p in phones} == set(PHONES)


def test_lips_stay_in_range_and_move(utterances):
    for _, phones in utterances:
        shape = lips(phones, FRAMES)
        assert shape.shape == (125, 3) and shape.dtype == np.float32
        assert shape.min() >= 0 and shape.max() <= 1 and (shape.std(axis=0) > 0.05).all()


def test_lips_close_in_the_middle_of_every_m_b_p(utterances):
    middles = 0
    for _, phones in utterances:
        t = np.array([(start + end) / 2 for symbol, start, end in phones if symbol in CLOSED])
        assert (lips(phones, t)[:, 0] < 0.05).all()
        middles += len(t)
    assert middles > 10


def test_lips_open_on_a_long_a_and_rest_in_a_long_pause():
    phones = [("_", 0, 0.4), ("m", 0.4, 0.45), ("a", 0.45, 0.6), ("m", 0.6, 0.65), ("_", 0.65, 1.0)]
    jaw = lips(phones, [0.525])[0, 0]
    assert jaw > 0.6
    np.testing.assert_allclose(lips(phones, [0.2, 0.85]), [[0, 0.5, 0]] * 2, atol=1e-6)


def test_lips_do_not_depend_on_which_other_times_are_asked_for():
    phones = babble(np.random.default_rng(0), 3.0)
    t = np.arange(0, 3, 0.01)
    np.testing.assert_allclose(lips(phones, t)[::-7], lips(phones, t[::-7]), atol=1e-7)


def test_a_far_away_sound_does_not_move_the_lips():
    before = [("_", 0, 0.3), ("a", 0.3, 0.5), ("i", 0.5, 0.7), ("s", 0.7, 0.9)]
    u, i = (lips(before + [(x, 0.9, 1.1)], np.arange(0, 0.8, 0.01)) for x in "ui")
    np.testing.assert_allclose(u, i, atol=1e-7)


def test_consonants_that_do_not_care_take_their_width_from_the_vowel():
    width = [lips([(v, 0, 0.2), ("k", 0.2, 0.3), (v, 0.3, 0.5)], [0.25])[0, 1] for v in "iu"]
    assert width[0] > 0.9 and width[1] < 0.15


def test_an_unknown_phone_is_refused():
    with pytest.raises(ValueError, match="xyz"):
        lips([("xyz", 0, 1)], FRAMES)


@pytest.mark.parametrize("vowel", ["i", "e", "ae", "a", "u", "er"])
@pytest.mark.parametrize("tract", [0.9, 1.15])
def test_a_vowel_has_the_formants_of_the_table(vowel, tract):
    """A low voice puts a harmonic every 70 Hz: the strongest one must lie near F1, and near F2
    above it."""
    wave, phones = say(
        vowel,
        ms=500,
        speaker=Speaker(f0=70, f0_range=0, tract=tract, tilt=6000, breathiness=0, jitter=0),
    )
    f, power = spectrum(middle(wave, phones[1]))
    F1, F2 = PHONES[vowel].F1 * tract, PHONES[vowel].F2 * tract
    valley, above = np.sqrt(F1 * F2), F2 + 350
    found = [
        f[(f >= lo) & (f < hi)][np.argmax(power[(f >= lo) & (f < hi)])]
        for lo, hi in ((180, valley), (valley, above))
    ]
    assert abs(found[0] - F1) < 75 and abs(found[1] - F2) < 110, (found, F1, F2)


def test_the_voice_has_the_pitch_of_its_speaker():
    for f0 in (90, 220):
        wave, phones = say("a", ms=600, speaker=Speaker(f0=f0, f0_range=0, jitter=0))
        x = middle(wave, phones[1])
        r = np.correlate(x, x, "full")[len(x) - 1 :]
        lag = 40 + np.argmax(r[40:400])
        assert abs(SR / lag / f0 - 1) < 0.15  # declination moves it a little


def test_pauses_are_much_quieter_than_vowels_in_clean_speech():
    wave, phones = say("a", "_", "i", ms=290)  # too short for a breath to be drawn
    rms = [np.sqrt(np.mean(middle(wave, p) ** 2)) for p in phones]
    assert rms[2] < 0.01 * min(rms[1], rms[3])


def test_sibilants_are_ordered_by_their_spectral_centroid():
    def centroid(symbol):
        wave, phones = say("a", symbol, "a")
        f, power = spectrum(middle(wave, phones[2]))
        return np.sum(f * power) / np.sum(power)

    assert centroid("s") > centroid("sh") + 800 > centroid("a") + 1600


def test_a_stop_is_a_silence_and_then_a_burst():
    wave, phones = say("a", "t", "a", ms=200)
    level = lambda a, b: np.sqrt(np.mean(wave[round(a * SR) : round(b * SR)] ** 2))
    assert (
        level(0.45, 0.5) < 0.02 and level(0.516, 0.536) > 0.05
    )  # closure, then release at 0.516 s


def test_the_rounded_vowel_keeps_its_lips_when_the_speaker_changes():
    """Lips depend on the phones alone: speakers differ in the wave only."""
    rng = np.random.default_rng(3)
    a, b = (say("u", "i", speaker=random_speaker(rng)) for _ in range(2))
    assert a[1] == b[1] and not np.allclose(a[0], b[0])
