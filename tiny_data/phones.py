"""Babbled phones with exactly known lips.

    babble    random syllables    -> phones   [(symbol, start_s, end_s), ...]
    lips      phones              -> jaw, width, rounding at any time

voice.py reads the sound off the same phone table along the same time line, so a model trained on
both learns the lips from the sound.
"""

from typing import NamedTuple

import numpy as np

# s, the time one articulation needs to become the next, the same for lips and formants
GLIDE = 0.080
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
                parts = (rng.choice(ONSETS), 1), (nucleus, stress), (rng.choice(CODAS), 1)
                for part, scale in parts:
                    symbols = [x for x in part.split("-") if x]
                    scale *= 1.0 if len(symbols) == 1 else 0.85  # members of a cluster are shorter
                    for x in symbols:
                        duration = PHONES[x].ms / 1000 * scale * slow * rng.uniform(0.8, 1.25)
                        say(x, max(0.035, duration))
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
    if not cares.any():
        return np.full(len(values), 0.5)
    return np.interp(middle, middle[cares], values[cares])


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
        # smoothing alone would leave a short m half open: shut it from closure to release
        if symbol in CLOSED:
            release = end - PHONES[symbol].release * (end - start)
            outside = np.maximum(np.maximum(start - times, times - release), 0)  # s from it
            jaw = jaw * (0.5 - 0.5 * np.cos(np.pi * np.minimum(outside / (GLIDE / 2), 1)))
    return np.clip(np.stack([jaw, width, rounding], axis=1), 0, 1).astype(np.float32)  # (F, 3)
