"""A formant synthesiser after Klatt (1980): phones -> the wave of somebody's voice somewhere.

    synthesise         phones + a speaker   -> a clean wave (source-filter)
    record             clean wave           -> what a microphone in some room would have kept
    synthesise_speech  all of it, from one seed

Everything that does not move the lips (pitch, tract length, tempo, room, noise, telephone) is drawn
anew for every utterance: that is what lets a model transfer to recordings of people it has never
heard.
"""

from typing import NamedTuple

import numpy as np
from scipy.signal import butter, fftconvolve, lfilter, sosfilt

from tiny_data.phones import GLIDE, PHONES, babble, fill, glide

SR = 16000  # samples per second
BLOCK = 80  # samples per filter update: 5 ms, the update interval of Klatt (1980)


class Speaker(NamedTuple):
    f0: float = 120.0  # Hz, mean pitch
    f0_range: float = 2.0  # semitones, spread of the accents
    tract: float = 1.0  # formant scale: > 1 is a shorter vocal tract
    formants: tuple = (1.0,) * 6  # this speaker's own factor on each formant
    bandwidth: float = 1.0  # factor on all formant bandwidths
    open_quotient: float = 0.6  # fraction of the period in which the glottis is open
    tilt: float = 2000.0  # Hz, corner of the low-pass that makes a voice soft
    breathiness: float = 0.03  # noise in the voice
    creak: float = 0.0  # how far pitch breaks down at the end of a phrase
    hiss: float = 0.0  # dB, louder or weaker fricatives
    hiss_top: float = 1.0  # factor on the upper edge of their band
    # Hz, added to F2 of u and U: many accents say them with rounded lips, tongue forward
    fronting: float = 0.0
    jitter: float = 0.01  # relative roughness of pitch


def random_speaker(rng):
    """Children to bass voices; tract and pitch are correlated as they are in people, but
    loosely."""
    tract = rng.uniform(0.82, 1.22)
    return Speaker(
        f0=float(np.clip(140 * tract**2.5 * np.exp(rng.normal(0, 0.22)), 80, 300)),
        f0_range=rng.uniform(0.8, 4),
        tract=tract,
        formants=tuple(rng.uniform(0.92, 1.08, 6)),
        bandwidth=rng.uniform(0.8, 1.6),
        open_quotient=rng.uniform(0.4, 0.8),
        tilt=np.exp(rng.uniform(np.log(700), np.log(6000))),
        breathiness=0.3 * rng.random() ** 3 + 0.01,
        creak=rng.uniform(0, 0.5) * (rng.random() < 0.3),
        hiss=rng.normal(-2, 4),
        hiss_top=rng.uniform(0.8, 1.4),
        fronting=rng.uniform(0, 500) * (rng.random() < 0.5),
        jitter=rng.uniform(0.003, 0.025),
    )


def resonator(f, bw):
    """Klatt (1980) eq. 2: y[n] = a x[n] + b y[n-1] + c y[n-2], gain 1 at 0 Hz. Arrays in Hz ->
    sections (..., 6)."""
    c = -np.exp(-2 * np.pi * bw / SR)
    b = 2 * np.exp(-np.pi * bw / SR) * np.cos(2 * np.pi * f / SR)
    zero, one = np.zeros_like(b), np.ones_like(b)
    return np.stack([1 - b - c, zero, zero, one, -b, -c], axis=-1)


def antiresonator(f, bw):
    """A resonator upside down (Klatt 1980, eq. 4): the zero that the closed mouth of a nasal puts
    in the spectrum."""
    r = resonator(f, bw)
    return np.concatenate(
        [r[..., 3:] / r[..., :1], np.ones_like(r[..., :1]), np.zeros_like(r[..., :2])], axis=-1
    )


def glottis(f0, open_quotient):
    """KLGLOTT88 (Klatt & Klatt 1990): flow t² - t³ while the glottis is open. f0 (n,) Hz -> its
    derivative (n,), open (n,).

    Differencing the sampled flow, rather than sampling the derivative with its jump, keeps aliasing
    low."""
    t = np.cumsum(f0 / SR) % 1.0 / open_quotient
    flow = np.where(t < 1, t**2 - t**3, 0.0)
    return np.diff(flow, prepend=0.0) * SR / f0, (t < 1).astype(float)


def control_times(n):
    """Middles of the filter blocks that cover n samples, in seconds."""
    return (np.arange(-(-n // BLOCK)) + 0.5) * BLOCK / SR


def upsample(targets, phones, n, width):
    """glide at the control times, then interpolated to samples: (N,) -> (n,)."""
    times = control_times(n)
    return np.interp(np.arange(n) / SR, times, glide(np.asarray(targets), phones, times, width))


def larynx(phones, speaker, rng, n):
    """The sound before the mouth shapes it, (n,): glottal pulses where there is voice, noise where
    there is breath."""
    rows = [PHONES[p[0]] for p in phones]
    vowel = np.array([r.kind == "vowel" for r in rows])
    segments, voice, breath = [], [], []  # a stop makes two: closure, then release
    loud = np.exp(rng.normal(0, 0.15, len(phones)))
    lengths = np.array([end - start for _, start, end in phones])
    loud[vowel] *= np.clip(lengths[vowel] / 0.12, 0.4, 1.6) ** 0.4  # stress
    for (symbol, start, end), r, gain in zip(phones, rows, loud):
        release = end - r.release * (end - start)
        stop = r.kind == "stop"
        segments += [(symbol, start, release), (symbol, release, end)][: 1 + stop]
        voice += [r.voice * gain, 0.6 * (r.voice > 0)][: 1 + stop]
        breath += [0.0, r.breath] if stop else [r.breath]
    voice, breath = upsample(voice, segments, n, 0.025), upsample(breath, segments, n, 0.025)

    # pitch = accents on the vowels + declination over each phrase, its last phones creaky in some
    # speakers
    accents = rng.normal(0, speaker.f0_range, len(phones))  # semitones
    if vowel.any():
        accents[~vowel] = np.interp(np.flatnonzero(~vowel), np.flatnonzero(vowel), accents[vowel])
    fall, creak = rng.uniform(2, 5), np.zeros(len(phones))
    pauses = [i for i, r in enumerate(rows) if r.kind == "pause"]
    for i, j in zip([-1] + pauses, pauses + [len(phones)]):
        accents[i + 1 : j] += np.linspace(fall / 2, -fall / 2, max(j - i - 1, 0))
        creak[max(i + 1, j - 2) : j] = speaker.creak
    creak = upsample(creak, phones, n, 0.1)
    f0 = speaker.f0 * 2 ** (upsample(accents, phones, n, 0.2) / 12) * (1 - creak)

    def rough():
        control = control_times(n)
        return np.interp(np.arange(n) / SR, control, rng.normal(0, 1, len(control)))

    f0 *= 1 + speaker.jitter * (1 + 8 * creak) * rough()
    pulses, is_open = glottis(np.clip(f0, 40, 500), speaker.open_quotient)
    pulses *= 1 + 3 * speaker.jitter * rough()  # shimmer
    pole = np.exp(-2 * np.pi * speaker.tilt / SR)
    pulses = lfilter([1 - pole], [1, -pole], pulses)
    noise = np.diff(rng.normal(0, 1, n), prepend=0.0)  # differenced: radiation at the lips
    return voice * (pulses + speaker.breathiness * noise * (0.3 + is_open)) + 0.25 * breath * noise


def borrowed_rounding(phones):
    """Rounding of the consonants that take it from their vowels, (N,), 0 for all others. It is
    heard: protruded lips lengthen the tube, so formants and bursts sink. Without this no model
    could see the lips of a k or t."""
    return fill("rounding", phones) * np.isnan([PHONES[p[0]].rounding for p in phones])


def vocal_tract(source, phones, speaker):
    """Klatt's cascade: six moving formants, and a nasal pole that a zero cancels unless the velum
    is down. (n,) -> (n,)"""
    times = control_times(len(source))
    loci = [fill(c, phones) for c in ("F1", "F2", "F3")]
    loci[1] += speaker.fronting * np.array([p[0] in ("u", "U") for p in phones])
    loci[1:] = [x * (1 - 0.15 * borrowed_rounding(phones)) for x in loci[1:]]
    F = [glide(x, phones, times, GLIDE) for x in loci] + [
        np.full(len(times), f) for f in (3500.0, 4500.0, 5600.0)
    ]
    F = np.clip(
        np.stack(F, axis=1) * speaker.tract * np.array(speaker.formants), 150, 7600
    )  # (T, 6) Hz
    nasal = np.array([float(PHONES[p[0]].kind == "nasal") for p in phones])
    nasal = glide(nasal, phones, times, 0.06)[:, None]  # (T, 1)
    bandwidth = speaker.bandwidth * np.array([60.0, 90, 130, 200, 280, 400]) * (1 + 0.5 * nasal)
    sections = np.concatenate(
        [
            # the zero comes first: behind the poles it clicks as it moves. At 450 Hz it hides F1,
            # and a murmur is left
            antiresonator(270 + 180 * speaker.tract * nasal, 100 + 0 * nasal),
            resonator(270 + 0 * nasal, 100 + 0 * nasal),
            resonator(F, bandwidth),
        ],
        axis=1,
    )  # (T, 8, 6)
    wave, state = np.zeros(len(source)), np.zeros((8, 2))
    for t in range(len(times)):
        block = slice(t * BLOCK, (t + 1) * BLOCK)
        wave[block], state = sosfilt(sections[t], source[block], zi=state)
    return wave


def mouth_noise(phones, speaker, rng, n):
    """Noise of a narrow place in the mouth, (n,): all through a fricative, at the release of a
    stop."""
    wave, rounding = np.zeros(n), borrowed_rounding(phones)
    for i, (symbol, start, end) in enumerate(phones):
        r, following = PHONES[symbol], PHONES[phones[min(i + 1, len(phones) - 1)][0]]
        unreleased = r.kind == "stop" and following.kind != "vowel" and rng.random() < 0.3
        if r.hiss < -90 or unreleased:
            continue
        if r.kind == "stop":  # a sharp attack; plosives are over in 40 ms, affricates go on
            start, affricate = end - r.release * (end - start), symbol in ("ch", "jh")
            end = end if affricate else min(end, start + 0.04)
            attack, fade = 0.002, 0.03 if affricate else 0.02
        else:
            start, end, attack, fade = start - 0.01, end + 0.01, 0.03, 0.03
        a, b = max(round(start * SR), 0), min(round(end * SR), n)
        if b - a < 16:
            continue
        front = speaker.tract**0.5 * (1 - 0.3 * rounding[i]) * rng.uniform(0.95, 1.05)
        lo = r.hiss_lo * front  # Hz, set by the cavity before the constriction
        hi = np.clip(r.hiss_hi * front * speaker.hiss_top, lo + 500, 7900)
        hiss = sosfilt(butter(3, [lo, hi], "band", fs=SR, output="sos"), rng.normal(0, 1, b - a))
        if hi < 2.2 * lo:  # s, sh and their like: that cavity's resonance just above the edge
            hiss += sosfilt(resonator(lo * 1.12, 500.0)[None], hiss)
        t = np.arange(b - a) / SR
        hiss *= np.minimum(np.minimum(t / attack, (t[-1] - t) / fade), 1)
        gain = 10 ** ((r.hiss + speaker.hiss + rng.normal(0, 1.5)) / 20)
        wave[a:b] += gain / np.sqrt(np.mean(hiss**2) + 1e-12) * hiss
    return wave


def inhalation(phones, rng, n):
    """Now and then a breath is taken in a long pause, (n,): audible, yet the lips rest."""
    wave = np.zeros(n)
    for symbol, start, end in phones:
        if symbol == "_" and end - start > 0.3 and rng.random() < 0.25:
            a, b = round((start + 0.06) * SR), round((end - 0.06) * SR)
            shape = np.hanning(b - a) * 10 ** (rng.uniform(-42, -26) / 20)
            band = butter(1, [500, 3000], "band", fs=SR, output="sos")
            wave[a:b] = shape * sosfilt(band, rng.normal(0, 2, b - a))
    return wave


def synthesise(phones, speaker, rng):
    """Clean speech: float64 (round(end * SR),), vowels at RMS 1. phones as babble makes them."""
    n = round(phones[-1][2] * SR)
    wave = vocal_tract(larynx(phones, speaker, rng, n), phones, speaker)
    vowel = upsample([float(PHONES[p[0]].kind == "vowel") for p in phones], phones, n, 0.025) > 0.9
    if vowel.any():
        wave /= np.sqrt(np.mean(wave[vowel] ** 2))
    return wave + mouth_noise(phones, speaker, rng, n) + inhalation(phones, rng, n)


# ---------------------------------------------------------------- the recording


def record(wave, rng):
    """What a room and a recorder do to a clean wave (n,): reverberation, equaliser, noise,
    telephone, few bits."""
    n = len(wave)
    if rng.random() < 0.6:  # room: exponentially decaying noise, -60 dB at RT
        rt = rng.uniform(0.05, 0.4)
        t = np.arange(int(rt * SR)) / SR
        tail = rng.normal(0, 1, len(t)) * 10 ** (-3 * t / rt)
        tail *= 10 ** (rng.uniform(-20, -3) / 20) / np.sqrt(np.sum(tail**2))  # echo to direct sound
        tail[0] += 1
        wave = fftconvolve(wave, tail)[:n]
    spectrum, f = np.fft.rfft(wave), np.fft.rfftfreq(n, 1 / SR)
    # equaliser: a smooth random curve, a few dB
    knots = np.log([60, 150, 400, 1000, 2500, 5000, 8000])
    gain = rng.normal(0, 2.5, len(knots)) + rng.uniform(-4, 2) * (knots - knots[3])
    spectrum *= 10 ** (np.interp(np.log(np.maximum(f, 20)), knots, gain) / 20)
    wave = np.fft.irfft(spectrum, n)

    power = np.sqrt(np.mean(wave**2)) + 1e-9
    colour = rng.uniform(0, 1)  # amplitude ~ f^-colour: white to brown
    noise = np.fft.irfft(np.fft.rfft(rng.normal(0, 1, n)) * np.maximum(f, 50) ** -colour, n)
    noise /= np.sqrt(np.mean(noise**2)) + 1e-9
    if rng.random() < 0.2:  # mains hum and its harmonics
        mains = rng.choice([50, 60])
        noise += sum(
            rng.uniform(0, 1) * np.sin(2 * np.pi * k * mains * np.arange(n) / SR)
            for k in (1, 2, 3, 4)
        )
    snr = rng.uniform(10, 25) if rng.random() < 0.15 else rng.uniform(25, 60)
    wave = wave + noise * power * 10 ** (-snr / 20)

    if rng.random() < 0.15:  # telephone band
        wave = sosfilt(butter(4, [300, 3400], "band", fs=SR, output="sos"), wave)
    peak = np.abs(wave).max() + 1e-9
    wave = wave / peak * 10 ** (rng.uniform(-18, -0.5) / 20)
    if rng.random() < 0.05:  # mu-law, 8 bits
        mu = np.sign(wave) * np.log1p(255 * np.abs(wave)) / np.log(256)
        mu = np.round(mu * 127) / 127
        wave = np.sign(mu) * (256 ** np.abs(mu) - 1) / 255
    return wave


def synthesise_speech(seed, seconds):
    """One utterance -> (wave float32 (round(seconds * SR),) in [-1, 1], phones covering [0,
    seconds]).

    The same seed and length give the same utterance. Raises ValueError when seconds is below
    0.2."""
    if seconds < 0.2:
        raise ValueError(f"want at least 0.2 s of speech, got {seconds}")
    rng = np.random.default_rng(seed)
    phones = babble(rng, seconds, tempo=np.exp(rng.uniform(np.log(0.7), np.log(1.5))))
    wave = record(synthesise(phones, random_speaker(rng), rng), rng)
    return wave.astype(np.float32), phones
