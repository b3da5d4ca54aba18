from types import SimpleNamespace

import numpy as np
import pytest
import torch
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


def test_irises_are_looked_for_where_the_head_is():
    """In a picture whose red is three times the column and whose green is three times the row."""
    who = faces.identity(SEED)
    dx, dy = who["eye_dx"], who["eye_y"]
    y, x = np.mgrid[:64, :64]
    ramp = np.stack([3 * x, 3 * y, 0 * x], -1).astype(np.uint8)
    motion = np.zeros((2, 7))
    motion[1, 3:5] = 5, -3
    found = eyes.irises(ramp[None].repeat(2, 0), who, motion)[..., :2] / 3 + 0.5
    straight = np.array([[32 - dx, 31 + dy], [32 + dx, 31 + dy]])
    np.testing.assert_allclose(found, np.stack([straight, straight + [5, -3]]), atol=0.3)


def test_irises_are_the_same_whichever_way_the_head_leans():
    who, ways = faces.identity(SEED), (video(roll=roll) for roll in (0, -0.3, 0.3))
    straight, left, right = (eyes.irises(frames, who, motion) for frames, motion in ways)
    assert np.abs(left - straight).max() < 15 > np.abs(right - straight).max()


def test_an_iris_is_all_of_a_small_disc_and_nothing_else():
    who, (y, x) = faces.identity(SEED), np.mgrid[:64, :64] + 0.5
    sides = [np.hypot(x - 32 - k * who["eye_dx"], y - 31 - who["eye_y"]) for k in (-1, 1)]
    disc, middle = (100 * (np.minimum(*sides) < r)[..., None].repeat(3, -1) for r in (2, 1.2))
    found = eyes.irises(np.stack([disc, middle]).astype(np.uint8), who, np.zeros((2, 7)))
    assert (found[0] == 100).all() and (found[1] < 60).all()


def test_irises_are_those_of_the_frames_with_open_lids():
    motion = np.zeros((6, 7))
    motion[:, 6] = [1, 0.5, 0.31, 0.29, 0.1, 0]
    frames = np.arange(6, dtype=np.uint8)[:, None, None, None].repeat(64, 1).repeat(64, 2)
    found = eyes.irises(frames.repeat(3, 3), faces.identity(SEED), motion)
    assert found[:, 0, 0].tolist() == [3, 4, 5]


def test_errors_of_eyes_worked_out_by_hand():
    """Red of the left iris 100, but once 130; of the right one 60, 30 levels more in blue, and
    once much more; differences in red count in full though blue's go the other way."""
    left = [[100, 0, 0], [100, 0, 0], [130, 0, 0], [100, 0, 0], [100, 0, 0]]
    right = [[60, 0, 30], [60, 0, 30], [60, 0, 30], [60, 0, 30], [60, 0, 180]]
    share, sides, times = eyes.eye_errors(np.array([left, right], float).swapaxes(0, 1))
    # by 70 / 3 levels, once 100 / 3, once 220 / 3; over time by 0, 0, 30 / 6, 0, 150 / 6
    assert (share, sides, times) == pytest.approx((2 / 5, 70 / 3, 0))
    moved = np.array([[0, 1, 3, 6, 20], [5] * 5], float).T[..., None].repeat(3, 2)
    _, sides, times = eyes.eye_errors(moved)  # 5, 4, 2, 1, 15; from their 3: 3, 2, 0, 3, 17, halved
    assert (sides, times) == pytest.approx((4, 1.5))


def test_every_portrait_is_judged_in_its_own_video_from_the_same_noise(monkeypatch):
    """Networks that do nothing; frames whose level says the portrait, and whether they are true."""
    nothing, noises = (lambda *how: None), []
    monkeypatch.setattr(eyes, "MODELS", dict(one=(nothing, lambda *how: "sampler")))
    for name in "load_autoencoder", "load_audio", "log_mel":
        monkeypatch.setattr(eyes, name, nothing)
    monkeypatch.setattr(eyes, "load_to_sample", lambda *how: ())
    reader = lambda x: torch.zeros(len(x), 7)
    monkeypatch.setattr(eyes.metrics, "load_reader", lambda *how: reader)
    monkeypatch.setattr(eyes, "toy_portrait", lambda portrait: portrait)
    monkeypatch.setattr(eyes.faces, "identity", lambda portrait: portrait)
    film = lambda level, n: np.full((n, 4, 4, 3), level, np.uint8)

    def generate(sampler, autoencoder, portrait, mel, generator):
        noises.append(torch.rand(3, generator=generator).tolist())
        yield film(portrait, 2)
        yield film(portrait, 3)

    monkeypatch.setattr(eyes, "generate_video", generate)
    monkeypatch.setattr(eyes.tiny_data, "make_video", lambda portrait: [film(100 + portrait, 7)])
    monkeypatch.setattr(eyes, "irises", lambda frames, who, motion: (frames, who, motion))
    table = {5: (0.5, 0, 0), 6: (0, 2, 9), 7: (0, 2, 8), 105: (0.3, 1, 2)}
    table |= {106: (0, 1, 2), 107: (0, 4, 2)}

    def errors(found):
        frames, who, motion = found
        level = frames[0, 0, 0, 0]
        assert who == level % 100 and motion.shape == (7 if level > 100 else 5, 7)
        return table[level]

    monkeypatch.setattr(eyes, "eye_errors", errors)
    args = SimpleNamespace(checkpoints="", model="one", audio=None, portraits=(5, 7), seed=3)
    rows, true = eyes.rank(args)
    assert rows == [(7, 0, 2, 8), (6, 0, 2, 9), (5, 0.5, 0, 0)]
    assert true.tolist() == pytest.approx([0.1, 2, 2])
    wanted = torch.rand(3, generator=torch.Generator().manual_seed(3)).tolist()
    assert noises == [wanted] * 3


def test_a_range_may_be_one_portrait():
    assert eyes.span("7") == (7, 7) and eyes.span("7-9") == (7, 9)


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
