"""The table of planted bugs: its lines are in the source, and its tests exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from course import bugs


def test_there_are_at_least_thirty_and_ten_of_them_have_a_run_that_shows_them():
    assert len(bugs.BUGS) >= 30 and sum(bool(bug.see) for bug in bugs.BUGS) >= 10
    assert len({(bug.file, bug.after) for bug in bugs.BUGS}) == len(bugs.BUGS)


@pytest.mark.parametrize("bug", bugs.BUGS, ids=range(1, len(bugs.BUGS) + 1))
def test_a_bug_is_one_change_that_compiles_and_is_documented(bug):
    text = (bugs.ROOT / bug.file).read_text(encoding="utf-8")
    assert text.count(bug.before) == 1 and bug.after != bug.before
    assert bug.before.count("\n") == bug.after.count("\n")  # the same lines
    compile(bugs.planted(bug), bug.file, "exec")
    assert bug.symptom and bug.shows and re.fullmatch(r"(https://github\.com/\S+)?", bug.reported)
    file, name = bug.test.split("::")
    assert f"def {name.split('[')[0]}(" in (bugs.ROOT / file).read_text(encoding="utf-8")


def test_a_line_that_is_gone_is_named():
    with pytest.raises(ValueError, match="0 times 'x = 1', not once"):
        bugs.planted(bugs.BUGS[0]._replace(before="x = 1"))


def test_a_planted_tree_has_the_bug_and_neither_tests_nor_answers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bugs, "FOLDERS", ["tiny_data"])  # the weights take their time
    for number in 0, 2:
        bugs.main(["--plant", str(number), "--out", str(tmp_path / str(number))])
    for path in (tmp_path / "0").rglob("*.py"):
        name = path.relative_to(tmp_path / "0")
        assert path.read_bytes() == (bugs.ROOT / name).read_bytes()
        same = (tmp_path / "2" / name).read_text(encoding="utf-8")
        differs = same != path.read_text(encoding="utf-8")
        assert differs == (str(name) == bugs.BUGS[1].file)
    names = {path.name for path in tmp_path.glob("*/*")}
    assert not names & {"tests", "course", ".git", "data", "out"} and "student.py" in names
    assert capsys.readouterr().out == f"{tmp_path}/0: no bug planted\n{tmp_path}/2: bug planted\n"


def test_the_list_hides_the_answers_until_they_are_asked_for(capsys):
    bugs.main([])
    hidden = capsys.readouterr().out
    bugs.main(["--answers"])
    shown = capsys.readouterr().out
    for number, bug in enumerate(bugs.BUGS, 1):
        assert f"{number:>3}  {bug.file}\n" in hidden and f"{number:>3}  {bug.file}\n" in shown
        assert bug.symptom in shown and bug.test in shown
        assert bug.symptom not in hidden and bug.after not in hidden and bug.test not in hidden


@pytest.mark.parametrize(
    "line, says",
    [
        (["--plant", "99", "--out", "x"], "--plant takes 0 to"),
        (["--plant", "1"], "--plant and --out go together"),
        (["--out", "x"], "--plant and --out go together"),
        (["--plant", "1", "--out", str(bugs.ROOT / "x")], "lies in this repository"),
        (["--plant", "1", "--out", str(bugs.ROOT)], "is not empty"),
        (["--score", str(bugs.ROOT / "assets")], "holds no test_*.py"),
        (["--nothing"], "unrecognized"),
    ],
)
def test_bad_input_ends_with_one_line(line, says, capsys):
    with pytest.raises(SystemExit) as stop:
        bugs.main(line)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and says in said and said.count("\n") == 1


def test_a_students_tests_are_scored_by_the_bugs_they_catch(tmp_path, monkeypatch, capsys):
    """A test that knows the noise's variance catches bug 14 and not bug 17."""
    monkeypatch.setattr(bugs, "FOLDERS", ["tiny_data"])
    monkeypatch.setattr(bugs, "BUGS", [bugs.BUGS[13], bugs.BUGS[16]])
    (tmp_path / "test_mine.py").write_text(
        "import torch\nfrom diffusion import add_noise\n\n"
        "def test_variance():\n"
        "    x = add_noise(torch.zeros(1), torch.ones(1), torch.tensor([500.0]))\n"
        "    assert abs(x.item() ** 2 - 0.5) < 1e-4\n"
    )
    bugs.main(["--score", str(tmp_path)])
    assert capsys.readouterr().out == "  1  caught\n  2  -\n1 of 2 caught\n"


@pytest.mark.parametrize(
    "text, says",
    [
        ("assert 0", "on the right code: no points"),
        ("import time; time.sleep(60)", "more than 3 s"),
    ],
)
def test_tests_that_fail_or_hang_on_the_right_code_score_nothing(
    text, says, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(bugs, "FOLDERS", ["tiny_data"])
    monkeypatch.setattr(bugs, "LIMIT", 3)
    (tmp_path / "test_mine.py").write_text(f"def test_it():\n    {text}\n")
    with pytest.raises(SystemExit) as stop:
        bugs.main(["--score", str(tmp_path)])
    said = capsys.readouterr()
    assert stop.value.code == 2 and says in said.err and said.err.count("\n") == 1 and not said.out


@pytest.mark.slow
def test_every_bug_is_caught_by_its_test_which_passes_without():
    line = [sys.executable, str(Path(bugs.__file__)), "--check"]
    run = subprocess.run(line, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("  caught  ") == len(bugs.BUGS)
