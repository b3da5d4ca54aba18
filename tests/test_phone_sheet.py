import csv
import re

import numpy as np
import pytest
from helpers import SHIPPED
from scipy.io import wavfile

from evaluation import phone_sheet
from tiny_data.phones import PHONES
from tiny_data.voice import synthesise_speech


def write_phones(path, phones):
    with open(path, "w", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerows([("start_s", "end_s", "phone"), *((a, b, p) for p, a, b in phones)])
    return str(path)


def kinds(*labels):
    return [phone_sheet.kind_of(letters) for letters in phone_sheet.spell(labels)]


def test_a_phone_s_kind_is_that_of_its_first_letter():
    found = kinds("ˈɑː", "m", "ˌuː", "iː", "ʃ", "", "_", "t", "əʊ", "pʰ", "ɐ")
    assert found[:5] == ["open vowel", "m b p", "round vowel", "spread vowel", "fricative"]
    assert found[5:] == ["pause", "pause", None, None, "m b p", None]


@pytest.mark.parametrize("silence", [*phone_sheet.SILENCES, "[sil]", "(sp)", "{pau}", "<eps>"])
def test_the_silences_of_aligners_are_pauses_and_no_fricatives_or_plosives(silence):
    assert kinds(silence, silence.upper(), "ɑ") == ["pause", "pause", "open vowel"]


def test_arpabet_is_read_in_either_case_with_and_without_stress():
    want = ["m b p", "round vowel", "open vowel", "spread vowel", "fricative", None, None, "pause"]
    for line in ("m uw aa iy sh ax t pau", "M UW1 AA0 IY2 SH AX T SIL"):
        assert kinds(*line.split()) == want


def test_a_precomposed_letter_is_its_base_and_its_accent():
    assert kinds("\u00e3", "a\u0303", "\u1ebd") == ["open vowel", "open vowel", "spread vowel"]


@pytest.mark.parametrize(
    "labels, want",
    [
        ("pcl p eng epi ax-h hv h#", ["m b p", "m b p", None, "pause", None, None, "pause"]),
        ("SIL_S M_B AX_I AA1_E", ["pause", "m b p", None, "open vowel"]),  # Kaldi
        ("M B P SIL", ["m b p"] * 3 + ["pause"]),
        ("silB m a u silE", ["pause", "m b p", "open vowel", "round vowel", "pause"]),  # Julius
        ("<sil> (sp) {SIL} [SIL] ɑ", ["pause"] * 4 + ["open vowel"]),
        ("sil ɑː aj ow bʲ tʃ n̩ spn", ["pause", *["open vowel"] * 2, "round vowel", "m b p"]),
        ("ɔːɹ aɪə əl t͡ʃ ɑ̃˥ ɛ˞", ["round vowel", "open vowel", None, None, "open vowel"]),
    ],
)
def test_the_labels_of_usual_aligners_have_the_kinds_that_they_mean(labels, want):
    assert kinds(*labels.split())[: len(want)] == want


@pytest.mark.parametrize(
    "label", "? @ щ 4 E ａ unk oov br brth noise laughter <usb> ang4 m-ɑ+b".split()
)
def test_a_label_that_nobody_knows_is_named(label):
    for others in ["m"], ["ɑ", "sil"], ["AA1", "M"]:
        with pytest.raises(ValueError, match=re.escape(repr(label))):
            phone_sheet.spell([*others, label])


@pytest.mark.parametrize("labels", [["AA1", "ɑ"], ["V", "E"], ["ow", "ER0", "ʃ"]])
def test_a_table_that_mixes_alphabets_or_is_in_another_one_is_refused(labels):
    with pytest.raises(ValueError, match="in IPA or ARPAbet"):
        phone_sheet.spell(labels)


def test_the_shipped_student_opens_on_open_vowels_and_shuts_on_m_b_p(tmp_path):
    wave, phones = synthesise_speech(1234, 4.0)
    wavfile.write(tmp_path / "a.wav", 16000, wave.astype(np.float32))
    wide = [symbol for symbol, phone in PHONES.items() if phone.jaw >= 0.7]
    letter = {symbol: "t" for symbol in PHONES} | dict.fromkeys(wide, "ɑ") | {"_": "_"}
    phones = [(p if p in "mbp" else letter[p], start, end) for p, start, end in phones]
    table = phone_sheet.main(
        [
            str(tmp_path / "a.wav"),
            write_phones(tmp_path / "a.tsv", phones),
            "--models",
            "stage2",
            "--checkpoints",
            str(SHIPPED),
            "--out",
            str(tmp_path / "sheet.png"),
        ]
    )
    head, _, row = (
        [cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines()
    )
    jaw = {
        name.split(" (")[0]: float(cell.split(" / ")[0])
        for name, cell in zip(head[1:], row[1:])
        if cell
    }
    assert (
        jaw["open vowel"] > 2 * jaw["m b p"]
        and jaw["pause"] < 0.15
        and (tmp_path / "sheet.png").exists()
    )


def test_the_table_is_printed_even_where_the_sheet_cannot_take_its_place(
    tmp_path, monkeypatch, capsys
):
    def make(args, sheet):
        sheet.write_bytes(b"new")
        (tmp_path / "sheet.png").mkdir()  # meanwhile
        return "the table"

    monkeypatch.setattr(phone_sheet, "phone_sheet", make)
    with pytest.raises(SystemExit):
        phone_sheet.main(["a.wav", "a.tsv", "--out", str(tmp_path / "sheet.png")])
    said = capsys.readouterr()
    assert "the table" in said.out and "cannot be replaced" in said.err


@pytest.mark.parametrize(
    "text, says",
    [
        ("start_s\tend_s\tphone\n", "no phones"),
        ("a\tb\n1\t2\n", "no table"),
        ("start_s\tend_s\tphone\n2\t1\tm\n", "end before"),
        ("start_s\tend_s\tphone\n1\tinf\tm\n", "end before"),
        ("start_s\tend_s\tphone\n1\t2\tt\n", "of a kind"),
    ],
)
def test_a_bad_table_is_named(tmp_path, text, says):
    (tmp_path / "p.tsv").write_text(text)
    with pytest.raises(ValueError, match=says):
        phone_sheet.read_phones(tmp_path / "p.tsv")


@pytest.mark.parametrize(
    "end, model, says",
    [
        (1, "nobody", "no model nobody"),
        (1, "wrong_audio", "no model wrong_audio"),
        (900, "stage2", "ends at 900 s, the sound at 5.30 s"),
    ],
)
def test_an_unknown_model_and_another_sounds_phones_end_with_one_line(
    tmp_path, capsys, end, model, says
):
    with pytest.raises(SystemExit) as stop:
        phone_sheet.main(
            [
                str(SHIPPED.parent / "assets/sentence.wav"),
                write_phones(tmp_path / "p.tsv", [("m", 0, end)]),
                "--models",
                model,
                "--checkpoints",
                str(SHIPPED),
            ]
        )
    assert stop.value.code == 2 and says in capsys.readouterr().err
