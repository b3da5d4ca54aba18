"""Lab 8: the form of project.md. What it says is marked by a person."""

import re
from pathlib import Path

import numpy as np

HEADINGS = ("Prediction", "Setting", "Results", "The sentence")


def sections():
    """project.md -> {heading: text}."""
    parts = re.split(r"^## (.*)$", Path("project.md").read_text(encoding="utf-8"), flags=re.M)
    return {heading.strip(): text.strip() for heading, text in zip(parts[1::2], parts[2::2])}


def results():
    """The table -> {variant: {seed: [numbers]}}."""
    lines = [line for line in sections()["Results"].splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    found = {}
    for variant, seed, *numbers in rows[2:]:  # after the names and the rule
        found.setdefault(variant, {})[int(seed)] = [float(number) for number in numbers]
    return found


def test_1_nothing_of_the_template_is_left():
    found = sections()
    assert all(found.get(heading) for heading in HEADINGS)
    assert not any(
        re.match(r"\([a-z]", line) for text in found.values() for line in text.split("\n")
    )


def test_1_the_prediction_has_a_date():
    assert re.search(r"\b20\d\d-\d\d-\d\d\b", sections()["Prediction"])


def test_1_two_variants_or_more_in_three_seeds_or_more():
    found = results()
    assert len(found) >= 2 and all(len(seeds) >= 3 for seeds in found.values())
    assert len({len(row) for seeds in found.values() for row in seeds.values()} | {0}) == 2


def test_1_one_sentence_of_at_most_sixty_words():
    text = " ".join(sections()["The sentence"].split())
    assert text.endswith(".") and len(text.split()) <= 60
    assert not re.search(r"[.!?] [A-Z]", text)


def test_1_its_numbers_are_the_tables():
    """Two of its "mean ± standard deviation" or more are those of a variant and a column, to a
    unit of their last digit."""
    said = re.findall(r"(-?\d+(?:\.\d+)?) ± (\d+(?:\.\d+)?)", sections()["The sentence"])
    assert len(said) >= 2
    table = [np.array(list(seeds.values())) for seeds in results().values()]
    pairs = [pair for x in table for pair in zip(x.mean(0), x.std(0, ddof=1))]
    for numbers in said:
        units = [10.0 ** -len(n.partition(".")[2]) for n in numbers]
        assert any(
            all(abs(float(n) - x) < 1.01 * unit for n, unit, x in zip(numbers, units, pair))
            for pair in pairs
        ), f"{numbers[0]} ± {numbers[1]} is not in the table"
