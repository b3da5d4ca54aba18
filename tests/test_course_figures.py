import json

import numpy as np
import pytest
from helpers import spy
from PIL import Image

import tiny_data
from course import figures


@pytest.fixture
def videos(monkeypatch):
    """Videos by name, in the place of files."""
    found = {}
    monkeypatch.setattr(figures, "load_frames", found.__getitem__)
    return found


@pytest.fixture(scope="module")
def face():
    return tiny_data.make_video(3, 40)[0]


def numbers(capsys, *line):
    figures.main(["numbers", *line])
    lines = capsys.readouterr().out.strip().split("\n")[2:]
    rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    return {label: list(map(float, values)) for label, *values in rows}


def test_numbers_of_a_video_against_itself_and_against_known_changes(videos, face, capsys):
    jump = face.copy()
    jump[16:] = np.roll(jump[16:], 8, axis=2)  # the second chunk starts elsewhere
    videos |= dict(right=face, brighter=np.minimum(face, 245) + np.uint8(10), jump=jump)
    videos |= dict(late=np.concatenate([face[:1], face[:1], face[:-2]]))
    names = "right", "brighter", "jump", "late"
    rows = numbers(capsys, *(f"{name}={name}" for name in names))
    change, joins, colour, jaw, lag, spread = rows["right"]
    assert (change, colour, jaw, lag, spread) == (1, 0, 1, 0, 1)
    assert 9 < rows["brighter"][2] <= 10
    assert rows["jump"][1] > 1.5 * joins
    assert rows["late"][4] == 2


def test_rows_takes_frames_of_videos_and_of_sheets(videos, face, tmp_path, monkeypatch):
    videos["talk.mp4"] = face
    tiny_data.contact_sheet(tmp_path / "sheet.png", [face[:4], face[4:8]], labels=["a", "b"])
    second = figures.frames_of(f"{tmp_path}/sheet.png:1")
    assert second.shape == (4, 64, 64, 3) and (second == face[4:8]).all()
    drawn = spy(monkeypatch, figures.tiny_data, "contact_sheet")
    line = ["rows", str(tmp_path / "o.png"), "one=talk.mp4", f"two={tmp_path}/sheet.png:1"]
    figures.main([*line, "--first", "1", "--every", "2"])
    one, two = drawn[0][1]
    assert (one == face[[1, 3]]).all() and (two == face[[5, 7]]).all()
    assert len(Image.open(tmp_path / "o.png").getcolors()) <= 64


def test_bars_are_the_tables_numbers(tmp_path, monkeypatch):
    for name, fid in ("a", 3.0), ("b", 5.0):
        row = dict(model="real", fid=fid, fvd=2.0, jaw_corr=0.5, sync_c=1.0)
        (tmp_path / name).write_text(json.dumps({"rows": [row, dict(row, model=name)]}))
    saved = spy(monkeypatch, figures, "save")
    line = ["bars", str(tmp_path / "o.png"), f"16={tmp_path / 'a'}", f"64={tmp_path / 'b'}"]
    figures.main(line)
    axis = saved[0][0].axes[0]
    widths = [[bar.get_width() for bar in group] for group in axis.containers]
    assert widths == [[3, 3], [5, 0]]  # the second table has no row a
    assert [label.get_text() for label in axis.get_yticklabels()] == ["real", "a"]


@pytest.mark.parametrize(
    "line, word",
    [
        (["rows", "o.png", "talk.mp4"], "LABEL=FILE"),
        (["rows", "o.png", "a=none.png:0"], "contact sheet"),
        (["bars", "o.png", "a=none.json"], "table"),
        (["curves", "o.png", "a=none.jsonl"], "log"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(line, word, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        figures.main(line)
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and word in error and "\n" not in error
    assert not list(tmp_path.iterdir())
