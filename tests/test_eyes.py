import numpy as np
import pytest
from helpers import SHIPPED

from evaluation import eyes
from tiny_data import faces

SEED = 2_000_124
PLACE = faces.MOTION.index


def video(**columns):
    """A toy face of 20 frames that looks ahead but for the given columns of motion."""
    motion = np.zeros((20, len(faces.MOTION)), np.float32)
    for name, values in columns.items():
        motion[:, PLACE(name)] = values
    return faces.render(faces.identity(SEED), motion), motion[:, :7]


def errors(frames, motion):
    return eyes.eye_errors(eyes.irises(frames, faces.identity(SEED), motion))


def test_true_eyes_are_alike_wherever_the_head_goes():
    swing = np.sin(np.arange(20))
    share, sides, times = errors(*video(x=4 * swing, y=2 * swing, roll=0.1 * swing))
    assert share == 0 and sides < 15 and times < 8


def test_an_eye_of_another_colour_and_eyes_that_change_are_seen():
    frames, motion = video()
    who = faces.identity(SEED)
    row, dx = round(31 + who["eye_y"]), who["eye_dx"]
    one, changing = frames.copy(), frames.copy()
    one[10:, row - 2 : row + 2, round(32 + dx) - 2 : round(32 + dx) + 2] = [0, 0, 255]
    for x in round(32 - dx), round(32 + dx):
        changing[10:, row - 2 : row + 2, x - 2 : x + 2] = [0, 0, 255]
    share, _, _ = errors(one, motion)
    assert share == pytest.approx(0.5)
    still, moved = (errors(f, motion) for f in (frames, changing))
    assert moved[0] == 0 and moved[2] > 5 + still[2]


def test_shut_lids_are_no_failure():
    blink = np.where(np.arange(20) < 5, 1.0, 0.0)
    frames, motion = video(blink=blink)
    assert len(eyes.irises(frames, faces.identity(SEED), motion)) == 15
    assert np.isnan(errors(*video(blink=1.0))).all()


def test_the_command_lists_every_portrait_best_first_after_the_true_ones(capsys, monkeypatch):
    monkeypatch.setattr(eyes, "log_mel", lambda wave: np.zeros((16 * 4, 64), np.float32))
    eyes.main(["--portraits", "2000100-2000102", "--checkpoints", str(SHIPPED)])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert lines[0][0] == "true" and {line[0] for line in lines[1:]} == {
        "2000100",
        "2000101",
        "2000102",
    }
    shares = [int(line[1].rstrip("%")) for line in lines[1:]]
    assert shares == sorted(shares)


@pytest.mark.parametrize("portraits", ["5-3", "x", "-1"])
def test_a_bad_range_of_portraits_is_one_line(portraits, capsys):
    with pytest.raises(SystemExit) as stop:
        eyes.main([f"--portraits={portraits}"])
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1
