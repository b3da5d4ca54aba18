"""Lips on real speech: the generated mouth on each kind of phone of a recording.

    python -m evaluation.phone_sheet recording.wav phones.tsv
    phones.tsv: columns start_s, end_s, phone (IPA or ARPAbet, as an aligner writes it)

Prints, for every model in checkpoints/, the mean jaw, width and rounding that the reader sees in
the middle frame of each phone (three toy portraits, a seed each), and writes a sheet: a row for
each model, with that frame for two phones of each kind, in the table's order. Mouths should be open
on open vowels, shut on m b p and in pauses, round on round vowels.
"""

import csv
import math
import re
import unicodedata
from pathlib import Path

import numpy as np
import torch

import tiny_data
from audio_features import FPS, ROWS, log_mel
from autoencoder import load_autoencoder, to_pixels
from common import HERE, Parser, one_line_errors, pick_device
from evaluation import metrics
from evaluation.legend import markdown
from evaluation.models import models_in
from generate import generate_video
from media import finished_file, load_audio
from portrait import toy_portrait

KINDS = {  # IPA letters that a phone may begin with
    "m b p": "mbp",
    "pause": "",
    "open vowel": "aɑæʌ",
    "round vowel": "uʊoɔɒ",
    "spread vowel": "iɪeɛ",
    "fricative": "fvszʃʒθð",
}
# what aligners write where nobody speaks; in <>, [], () or {} as well
SILENCES = " _ # h# #h sil sp spn nsn ssil pau pause silence eps epi silb sile <p:>".split(" ")
VOWELS = "aeiouyæøœɐɑɒɔɘəɚɛɜɝɞɤɨɪɯɵɶʉʊʌʏ"
PLOSIVES = "bcdgkpqtɖɟɡɢʈʔ"
FRICATIVES = "fhsvxzçðħɕɣɦɬɮɸʁʂʃʐʑʒʕʝβθχ"
GLIDES = "jlmnrwŋɥɹɻ"  # and what else may end a vowel's label
OTHERS = "ɓɗɠɧɫɭɰɱɲɳɴɺɽɾʀʄʋʍʎʙʛʜʟʡʢ"
# one phone of IPA: a vowel with what glides into it or after it, a consonant, an affricate
PHONE = re.compile(
    f"[{VOWELS}]{{1,3}}[{GLIDES}]?|[{PLOSIVES}][{PLOSIVES}{FRICATIVES}]?"
    f"|[{FRICATIVES}{GLIDES}{OTHERS}]"
)
ARPABET = dict(  # -> IPA; TIMIT's closures of stops (pcl ...) as the stops
    pair.split("=")
    for pair in (
        "aa=ɑ ae=æ ah=ʌ ao=ɔ aw=aʊ ax=ə ax-h=ə axr=ɚ ay=aɪ b=b bcl=b ch=tʃ d=d dcl=d dh=ð dx=ɾ "
        "eh=ɛ el=l em=m en=n eng=ŋ er=ɝ ey=eɪ f=f g=g gcl=g hh=h hv=ɦ ih=ɪ ix=ɨ iy=i jh=dʒ k=k "
        "kcl=k l=l m=m n=n ng=ŋ nx=ɾ ow=oʊ oy=ɔɪ p=p pcl=p q=ʔ r=ɹ s=s sh=ʃ t=t tcl=t th=θ uh=ʊ "
        "uw=u ux=ʉ v=v w=w wh=ʍ y=j z=z zh=ʒ"
    ).split()
)
PORTRAITS = 2_000_124, 2_000_137, 2_000_140  # toy identities outside every split


def from_arpabet(label):
    """A label of ARPAbet, of any case, with or without its stress -> IPA letters, or None."""
    return ARPABET.get(re.sub("[0-2]$", "", label.lower()))


def from_ipa(label):
    """A label in IPA -> its letters without length, stress, tone and diacritics, or None."""
    letters = unicodedata.normalize("NFD", label)
    letters = "".join(c for c in letters if unicodedata.category(c) in ("Ll", "Lu", "Lo"))
    return letters if PHONE.fullmatch(letters) else None


def spell(labels):
    """Labels of one table, all ARPAbet or all IPA -> their IPA letters, none for a pause. Raises
    ValueError, naming a label that is neither: better no numbers than wrong ones."""
    labels = [re.sub("_[BIES]$", "", label.strip()) for label in labels]  # Kaldi: place in the word
    pauses = {x for x in labels if {x.lower(), x.lower().strip("<>[](){}")} & set(SILENCES)}
    for table in from_arpabet, from_ipa:
        spelt = ["" if label in pauses else table(label) for label in labels]
        if None not in spelt:
            return spelt
    unknown = [label for label, letters in zip(labels, spelt) if letters is None]
    label = min(unknown, key=lambda label: from_arpabet(label) is not None)  # of neither, if any
    raise ValueError(
        f"no phone {label!r} in IPA or ARPAbet, and no pause of an aligner: write it in one of "
        "them, or leave its row out"
    )


def kind_of(letters):
    """IPA letters, as spell gives them -> their key in KINDS, or None. None at all are a pause."""
    if not letters:
        return "pause"
    return next((kind for kind, symbols in KINDS.items() if letters[0] in symbols), None)


def read_phones(path):
    """A table with tabs and the columns start_s, end_s, phone -> [(start, end, IPA letters)],
    seconds. Raises ValueError."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            table = list(csv.DictReader(file, delimiter="\t"))
            spans = [(float(row["start_s"]), float(row["end_s"])) for row in table]
            labels = [row["phone"] or "" for row in table]
    except (KeyError, TypeError, ValueError, csv.Error):
        raise ValueError(
            f"{path} is no table of phones: it needs columns start_s, end_s and phone, with tabs "
            "between"
        ) from None
    if not spans or any(not 0 <= a <= b < math.inf for a, b in spans):
        raise ValueError(f"{path} holds no phones, or some that end before they start")
    try:
        rows = [(*span, letters) for span, letters in zip(spans, spell(labels))]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not any(kind_of(letters) for *_, letters in rows):
        raise ValueError(f"{path} holds no phone of a kind that is shown: {', '.join(KINDS)}")
    return rows


def phone_sheet(args, sheet):
    """Writes the sheet -> the table, as Markdown. Raises ValueError."""
    device, folder = pick_device("auto"), Path(args.checkpoints)
    phones, mel = read_phones(args.phones), log_mel(load_audio(args.audio))
    end, length = max(b for _, b, _ in phones), len(mel) / ROWS / FPS
    if end > length + 1:  # in milliseconds, or another sound's
        raise ValueError(
            f"{args.phones} ends at {end:g} s, the sound at {length:.2f} s: the table of this "
            "sound, in seconds, is needed"
        )
    autoencoder = load_autoencoder(folder / "autoencoder.pt", device)
    reader = metrics.load_reader(folder / "metrics.pt", device)
    wanted = {name.strip() for name in args.models.split(",")}
    samplers = {name: sampler for name, _, sampler in models_in(folder, device) if name in wanted}
    samplers.pop("wrong_audio", None)  # here it would hear the right one
    if missing := wanted - samplers.keys():
        raise ValueError(
            f"no model {', '.join(sorted(missing))}: a model needs its checkpoint in {folder}"
        )
    middles, last = {kind: [] for kind in KINDS}, math.ceil(len(mel) / ROWS) - 1
    for a, b, letters in phones:
        if kind := kind_of(letters):
            middles[kind].append(min(last, int((a + b) / 2 * FPS)))  # the frame in its middle

    lines = [["model", *(f"{kind} ({len(places)})" for kind, places in middles.items())]]
    strips = []
    for name, sampler in samplers.items():
        lips = {kind: [] for kind in KINDS}
        for seed, portrait in enumerate(PORTRAITS):
            generator = torch.Generator().manual_seed(seed)
            start = sampler, autoencoder, toy_portrait(portrait), mel, generator
            frames = np.concatenate(list(generate_video(*start)))
            with torch.no_grad():
                read = reader(to_pixels(frames, device)).cpu().numpy()
            for kind, places in middles.items():
                lips[kind] += list(read[places, :3])
            if seed == 0:
                strips.append(frames[[k for places in middles.values() for k in places[:2]]])
        means = [np.mean(values, 0) if values else [] for values in lips.values()]
        lines.append([name, *(" / ".join(f"{x:.2f}" for x in mean) for mean in means)])
    tiny_data.contact_sheet(sheet, strips)
    return markdown(lines)


def arguments(argv=None):
    """The command line. Raises ValueError."""
    parser = Parser(__doc__)
    parser.add_argument("audio", help="any sound file")
    parser.add_argument("phones", help="its phones")
    parser.add_argument(
        "--models",
        default="teacher,stage1,stage2",
        help="rows of python -m evaluation (default: %(default)s)",
    )
    parser.add_argument("--checkpoints", default=HERE / "checkpoints")
    parser.add_argument("--out", default="phones.png", help="the sheet (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv=None):
    with one_line_errors():
        args = arguments(argv)
        with finished_file(args.out, [args.audio], [".png"]) as sheet:
            table = phone_sheet(args, sheet)
            print(table)
    return table


if __name__ == "__main__":
    main()
