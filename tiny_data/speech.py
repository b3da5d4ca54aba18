"""
Babbled speech with exactly known lips: a formant synthesiser after Klatt (1980).

    babble      random syllables            -> phones   [(symbol, start_s, end_s), ...]
    lips        phones                      -> jaw, width, rounding at any time
    synthesise  phones + a speaker          -> a clean wave (source-filter)
    record      clean wave                  -> the wave a microphone in some room would have kept
    synthesise_speech  all of them, from one seed

Sound and lips are read off the same phone table along the same time line, so a model trained on
them learns the lips from the sound. Everything that does not move the lips (pitch, tract length,
tempo, room, noise, telephone) is drawn anew for every utterance: that is what lets the model
transfer to recordings of people it has never heard.
"""

from typing import NamedTuple

import numpy as np
from scipy.signal import butter, fftconvolve, lfilter, sosfilt

SR = 16000  # samples per second
BLOCK = 80  # samples per filter update: 5 ms, the update interval of Klatt (1980)
GLIDE = (
    0.080  # s, the time one articulation needs to become the next, the same for lips and formants
)
NAN = np.nan  # in the table: "does not care", the neighbours decide (coarticulation)


class Phone(NamedTuple):
    kind: str  # vowel, glide, nasal, stop, fric, pause
    ms: float  # typical duration
    # Hz, formants of an adult man (Peterson & Barney 1952); for consonants the loci of Klatt (1980)
    F1: float
    F2: float
    F3: float
    voice: float  # amplitude of the glottal source, 1 = vowel
    # amplitude of noise made at the glottis (h, aspiration); it passes through the formants
    breath: float
    # dB relative to a vowel, noise made at a constriction (fricative, or the burst of a stop)
    hiss: float
    hiss_lo: float  # Hz, band of that noise
    hiss_hi: float
    release: float  # stops: fraction of the phone that comes after the closure opens
    jaw: float  # lips: 0 closed .. 1 wide open
    width: float  # lips: 0 narrow .. 0.5 neutral .. 1 spread
    rounding: float  # lips: 0 flat .. 1 protruded


# kind     ms   F1   F2    F3    voice breath hiss hiss_lo hiss_hi rel  jaw   width  rounding
PHONES = {
    "_": Phone("pause", 300, NAN, NAN, NAN, 0.0, 0.0, -99, 0, 0, 0, 0.00, 0.50, 0.0),
    "i": Phone("vowel", 120, 280, 2250, 2900, 1.0, 0.0, -99, 0, 0, 0, 0.28, 0.95, 0.0),  # beat
    "I": Phone("vowel", 90, 400, 1950, 2550, 1.0, 0.0, -99, 0, 0, 0, 0.35, 0.80, 0.0),  # bit
    "e": Phone("vowel", 110, 550, 1800, 2500, 1.0, 0.0, -99, 0, 0, 0, 0.55, 0.80, 0.0),  # bet
    "ae": Phone("vowel", 140, 690, 1680, 2430, 1.0, 0.0, -99, 0, 0, 0, 0.80, 0.80, 0.0),  # bat
    "a": Phone("vowel", 140, 740, 1120, 2440, 1.0, 0.0, -99, 0, 0, 0, 0.95, 0.55, 0.0),  # father
    "A": Phone("vowel", 100, 640, 1220, 2400, 1.0, 0.0, -99, 0, 0, 0, 0.70, 0.50, 0.0),  # but
    "@": Phone("vowel", 60, 500, 1450, 2450, 0.9, 0.0, -99, 0, 0, 0, 0.45, 0.50, 0.0),  # about
    "er": Phone("vowel", 120, 480, 1330, 1720, 1.0, 0.0, -99, 0, 0, 0, 0.40, 0.35, 0.4),  # bird
    "o": Phone("vowel", 130, 560, 860, 2410, 1.0, 0.0, -99, 0, 0, 0, 0.60, 0.20, 0.8),  # bought
    "U": Phone("vowel", 90, 430, 1020, 2240, 1.0, 0.0, -99, 0, 0, 0, 0.35, 0.20, 0.75),  # book
    "u": Phone("vowel", 120, 310, 900, 2240, 1.0, 0.0, -99, 0, 0, 0, 0.25, 0.10, 1.0),  # boot
    "w": Phone("glide", 65, 290, 640, 2150, 0.7, 0.0, -99, 0, 0, 0, 0.15, 0.10, 1.0),
    "j": Phone("glide", 65, 270, 2200, 2950, 0.7, 0.0, -99, 0, 0, 0, 0.22, 0.90, 0.0),
    "r": Phone("glide", 65, 330, 1150, 1550, 0.7, 0.0, -99, 0, 0, 0, 0.25, 0.30, 0.55),
    "l": Phone("glide", 65, 340, 1150, 2650, 0.7, 0.0, -99, 0, 0, 0, 0.28, 0.50, 0.1),
    "m": Phone("nasal", 75, 450, 1000, 2200, 0.6, 0.0, -99, 0, 0, 0, 0.00, NAN, 0.0),
    "n": Phone("nasal", 65, 450, 1600, 2600, 0.6, 0.0, -99, 0, 0, 0, 0.17, NAN, NAN),
    "ng": Phone("nasal", 75, 450, 2000, 2700, 0.6, 0.0, -99, 0, 0, 0, 0.25, NAN, NAN),
    "p": Phone("stop", 105, 300, 800, 2100, 0.0, 0.5, -17, 300, 2500, 0.40, 0.00, NAN, 0.0),
    "b": Phone("stop", 80, 200, 850, 2150, 0.2, 0.0, -19, 300, 2500, 0.15, 0.00, NAN, 0.0),
    "t": Phone("stop", 100, 300, 1700, 2650, 0.0, 0.5, -12, 3000, 7000, 0.42, 0.15, NAN, NAN),
    "d": Phone("stop", 75, 200, 1650, 2600, 0.2, 0.0, -15, 3000, 7000, 0.22, 0.15, NAN, NAN),
    "k": Phone("stop", 105, 300, NAN, 2400, 0.0, 0.5, -13, 1200, 3500, 0.45, 0.25, NAN, NAN),
    "g": Phone("stop", 80, 200, NAN, 2350, 0.2, 0.0, -16, 1200, 3500, 0.25, 0.25, NAN, NAN),
    "ch": Phone("stop", 130, 300, 1850, 2650, 0.0, 0.0, -9, 2150, 4300, 0.60, 0.18, 0.30, 0.7),
    "jh": Phone("stop", 100, 200, 1850, 2650, 0.2, 0.0, -13, 2150, 4300, 0.55, 0.18, 0.30, 0.7),
    "f": Phone("fric", 100, 340, 1100, 2150, 0.0, 0.0, -24, 1200, 7800, 0, 0.08, 0.55, 0.0),
    "v": Phone("fric", 65, 260, 1100, 2150, 0.5, 0.0, -31, 1200, 7800, 0, 0.08, 0.55, 0.0),
    "th": Phone("fric", 90, 330, 1350, 2550, 0.0, 0.0, -26, 1400, 7800, 0, 0.20, 0.60, 0.0),
    "dh": Phone("fric", 50, 270, 1350, 2550, 0.6, 0.0, -33, 1400, 7800, 0, 0.20, 0.60, 0.0),
    "s": Phone("fric", 110, 330, 1550, 2550, 0.0, 0.0, -8, 3800, 6800, 0, 0.14, 0.85, 0.0),
    "z": Phone("fric", 80, 260, 1550, 2550, 0.4, 0.0, -14, 3800, 6800, 0, 0.14, 0.85, 0.0),
    "sh": Phone("fric", 115, 330, 1800, 2600, 0.0, 0.0, -8, 2150, 4300, 0, 0.18, 0.25, 0.85),
    "zh": Phone("fric", 80, 260, 1800, 2600, 0.4, 0.0, -15, 2150, 4300, 0, 0.18, 0.25, 0.85),
    "h": Phone("fric", 60, NAN, NAN, NAN, 0.0, 0.6, -99, 0, 0, 0, NAN, NAN, NAN),
}
CLOSED = ("m", "b", "p")  # both lips touch, whatever the neighbours do

# How often each is drawn: roughly English, with the rare ones lifted so that every lip shape is
# seen often.
VOWELS = "@ @ @ I I I i i e e ae ae a a A A er o o u u U a-I e-I o-U a-U".split()
ONSETS = (
    "t d n s r l m m k p b b f v w w h dh g j sh ch jh z zh th p t k s - - - - "
    "s-t s-p s-k p-r p-l b-r b-l t-r k-r f-r f-l g-r s-l s-w s-m k-w s-t-r"
).split()
CODAS = "- - - - - - - - n n t s z d r l m m k v p b f ng sh th ch n-d n-t s-t m-p k-s l-d".split()


# ---------------------------------------------------------------- time line


def babble(rng, seconds, tempo=1.0):
    """Random phrases of words of syllables, [(symbol, start_s, end_s), ...] without gap or overlap
    over [0, seconds].

    About a sixth of the time is pause "_". tempo > 1 is faster; it does not shorten the pauses."""
    phones, now = [], 0.0

    def say(symbol, duration):
        nonlocal now
        phones.append((symbol, now, now + duration))
        now += duration

    if rng.random() < 0.8:  # the rest begin in mid-speech, as a cut clip does
        say("_", rng.uniform(0.1, 0.6))
    while now < seconds:
        words = rng.integers(2, 7)  # one phrase
        for word in range(words):
            syllables = rng.choice([1, 2, 3, 4], p=[0.45, 0.35, 0.15, 0.05])
            stressed = rng.integers(syllables)
            for s in range(syllables):
                last = word == words - 1 and s == syllables - 1
                full = s == stressed or rng.random() < 0.4  # other syllables are reduced
                nucleus = rng.choice(VOWELS if full else ["@", "I", "i"])
                stress = rng.uniform(1.0, 1.6) if s == stressed else rng.uniform(0.7, 1.05)
                slow = (1.5 if last else 1.0) / tempo  # phrase-final lengthening
                for part, scale in (
                    (rng.choice(ONSETS), 1),
                    (nucleus, stress),
                    (rng.choice(CODAS), 1),
                ):
                    symbols = [x for x in part.split("-") if x]
                    scale *= 1.0 if len(symbols) == 1 else 0.85  # members of a cluster are shorter
                    for x in symbols:
                        say(
                            x,
                            max(0.035, PHONES[x].ms / 1000 * scale * slow * rng.uniform(0.8, 1.25)),
                        )
        say("_", rng.uniform(0.12, 0.2) if rng.random() < 0.4 else rng.uniform(0.3, 0.75))
    phones = [p for p in phones if p[1] < seconds - 1e-3]
    phones[-1] = (*phones[-1][:2], float(seconds))
    return phones


def fill(column, phones):
    """A table column for each phone, (N,), its "does not care" entries interpolated between the
    neighbours that do."""
    values = np.array([getattr(PHONES[p[0]], column) for p in phones], dtype=float)
    middle = np.array([(p[1] + p[2]) / 2 for p in phones])
    cares = ~np.isnan(values)
    return (
        np.interp(middle, middle[cares], values[cares])
        if cares.any()
        else np.full(len(values), 0.5)
    )


def glide(targets, phones, times, width):
    """Each phone's target held for its duration, smoothed by a Hann window of `width` s: (N,) ->
    (len(times),).

    Convolving steps with a window has a closed form, a sum of its integral C at the boundaries, so
    any time can be asked for, in any order:  x(t) = x_0 + Σ_n (x_n - x_{n-1}) C(t - start_n)."""
    starts = np.array([p[1] for p in phones[1:]])
    u = np.clip((times[:, None] - starts) / width, -0.5, 0.5)
    return targets[0] + (0.5 + u + np.sin(2 * np.pi * u) / (2 * np.pi)) @ np.diff(targets)


def lips(phones, times):
    """Lip shape at `times` (F,) in seconds -> float32 (F, 3): jaw, width, rounding, each in [0, 1].

    Raises ValueError when a symbol is not in PHONES or times is not 1-D."""
    times = np.asarray(times, dtype=float)
    unknown = {p[0] for p in phones} - set(PHONES)
    if times.ndim != 1 or unknown or not phones:
        raise ValueError(
            f"want phones from PHONES and times (F,); got unknown {sorted(unknown)}, shape "
            f"{times.shape}"
        )
    jaw, width, rounding = (
        glide(fill(c, phones), phones, times, GLIDE) for c in ("jaw", "width", "rounding")
    )
    for symbol, start, end in phones:
        if (
            symbol in CLOSED
        ):  # smoothing alone would leave a short m half open: shut it from closure to release
            release = end - PHONES[symbol].release * (end - start)
            outside = np.maximum(
                np.maximum(start - times, times - release), 0
            )  # s from the closure
            jaw = jaw * (0.5 - 0.5 * np.cos(np.pi * np.minimum(outside / (GLIDE / 2), 1)))
    return np.clip(np.stack([jaw, width, rounding], axis=1), 0, 1).astype(np.float32)  # (F, 3)


# ---------------------------------------------------------------- the voice


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
    fronting: float = (
        0.0  # Hz, added to F2 of u and U: many accents say them with rounded lips, tongue forward
    )
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
    loud[vowel] *= [
        np.clip((p[2] - p[1]) / 0.12, 0.4, 1.6) ** 0.4 for p, v in zip(phones, vowel) if v
    ]  # stress
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
            antiresonator(
                270 + 180 * speaker.tract * nasal, 100 + 0 * nasal
            ),  # first: behind the poles it clicks as it moves
            resonator(
                270 + 0 * nasal, 100 + 0 * nasal
            ),  # at 450 Hz the zero hides F1: a murmur is left
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
            end, attack, fade = (
                end if affricate else min(end, start + 0.04),
                0.002,
                0.03 if affricate else 0.02,
            )
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
        gain = 10 ** ((r.hiss + speaker.hiss + rng.normal(0, 1.5)) / 20) / np.sqrt(
            np.mean(hiss**2) + 1e-12
        )
        wave[a:b] += gain * hiss
    return wave


def inhalation(phones, rng, n):
    """Now and then a breath is taken in a long pause, (n,): audible, yet the lips rest."""
    wave = np.zeros(n)
    for symbol, start, end in phones:
        if symbol == "_" and end - start > 0.3 and rng.random() < 0.25:
            a, b = round((start + 0.06) * SR), round((end - 0.06) * SR)
            shape = np.hanning(b - a) * 10 ** (rng.uniform(-42, -26) / 20)
            wave[a:b] = shape * sosfilt(
                butter(1, [500, 3000], "band", fs=SR, output="sos"), rng.normal(0, 2, b - a)
            )
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
    knots = np.log(
        [60, 150, 400, 1000, 2500, 5000, 8000]
    )  # equaliser: a smooth random curve, a few dB
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
