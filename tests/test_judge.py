"""The judge's arithmetic, by networks that read everything from known pixels; and what a table is
made of."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import spy
from torch.testing import assert_close

import student
import teacher
import tiny_data
from evaluation import metrics, models
from evaluation import table as evaluate
from evaluation import truth as true_videos
from evaluation.judge import Judge
from evaluation.measures import frechet_of_samples
from latents import Cond
from portrait import toy_portrait
from tiny_data.phones import PHONES

CPU = torch.device("cpu")
VIDEOS, FRAMES = 3, 21
LEFT, RIGHT, DARK = (255, 128), (128, 255), (0, 128)  # a person: the levels of the two halves


def halves(x):
    """(N, 3, 64, 64) -> (N, 2): the mean of the left half and of the right half."""
    return x.unflatten(3, (2, 32)).mean((1, 2, 4))


class Sync:
    """Remembers what it is shown together; says that all is in time."""

    def __init__(self):
        self.seen = []

    def __call__(self, frames, windows):
        self.seen.append((frames, windows))
        one_hot = torch.eye(frames.shape[1] - 4)[None]
        return one_hot, one_hot


@pytest.fixture
def judge():
    """Of three videos of noise whose first seven pixels are their motion; in truth the width is the
    opposite of what is read."""
    rng = np.random.default_rng(0)
    frames = rng.integers(80, 120, (VIDEOS, FRAMES, 64, 64, 3)).astype(np.uint8)
    frames[:, :, 0, :7, 0] = rng.integers(100, 150, (VIDEOS, FRAMES, 7))
    frames[:, :, 0, 4, 0] = 100 + frames[:, :, 0, 4, 0] // 5  # heads move least up and down
    frames[:, :, 0, 6, 0] = np.where(np.arange(FRAMES) // 4 == 2, 240, 128)  # a blink
    motion = np.concatenate([frames[:, :, 0, :7, 0] / 127.5 - 1, np.zeros((VIDEOS, FRAMES, 4))], 2)
    motion[..., 1] *= -1
    portraits = np.array([LEFT, RIGHT, DARK], np.uint8)[:, None, :, None, None]
    portraits = np.broadcast_to(portraits, (VIDEOS, 64, 2, 32, 3)).reshape(VIDEOS, 64, 64, 3)
    number = torch.arange(VIDEOS)[:, None] * 100.0 + torch.arange(FRAMES + 16)
    windows = number[..., None, None].expand(-1, -1, 20, 64)
    marks = np.arange(FRAMES) % 2 == np.zeros((VIDEOS, 1))
    held = true_videos.Truth(frames, windows, portraits, motion, marks, ~marks, None)
    clips = lambda f: torch.stack([f.mean((1, 2)), f.diff(dim=1).abs().mean((1, 2))], 1)
    who = lambda f: F.normalize(f, dim=-1)
    features = SimpleNamespace(frames=halves, identity=who, clips=clips)
    reader = lambda x: x[:, 0, 0, :7]
    return Judge(held, dict(features=features, reader=reader, sync=Sync()), CPU)


def test_the_truth_is_as_good_as_itself(judge):
    row, read = judge(judge.truth.frames)
    assert [row[key] for key in ("fid", "fvd", "colour_shift", "lag")] == pytest.approx([0] * 4)
    assert [row[key] for key in row if "ratio" in key] == pytest.approx([1] * 9)
    assert [row["jaw_corr"], row["width_corr"]] == pytest.approx([1, -1])
    assert_close(read[..., 0], judge.truth.motion[..., 0], check_dtype=False)


def test_contrast_is_within_a_video_not_between_videos(judge):
    darker = np.array([0, 20, 40], np.uint8)[:, None, None, None, None]
    assert judge(judge.truth.frames - darker)[0]["contrast_ratio"] == pytest.approx(1)


def test_each_frame_is_judged_with_the_sound_of_that_frame(judge):
    judge(judge.truth.frames)
    for k, (frames, windows) in enumerate(judge.nets["sync"].seen):
        assert_close(
            frames[0, :, :, 0, 0] * 127.5 + 127.5,
            torch.from_numpy(judge.truth.frames[k, :, 0, 0].astype(np.float32)),
        )
        assert windows[0, :, 0, 0].tolist() == [100 * k + i for i in range(FRAMES)]


def test_ratios_are_of_the_model_over_the_data_and_each_of_its_own_column(judge):
    made = judge.truth.frames.copy()
    pixels = made[:, :, 0, 3:7, 0].astype(float)
    mean = pixels.mean(1, keepdims=True)
    made[:, :, 0, 3:7, 0] = np.round(mean + np.array([2, 1, 0.5, 0.5]) * (pixels - mean))
    row, _ = judge(made)
    assert row["head_x_ratio"] == pytest.approx(2, rel=0.02)
    assert row["head_y_ratio"] == pytest.approx(1, rel=0.02)
    assert row["roll_ratio"] == pytest.approx(0.5, rel=0.02)
    assert row["head_std_ratio"] == pytest.approx(3.5 / 3, rel=0.02)
    assert row["lid_std_ratio"] == pytest.approx(0.5, rel=0.02) and row["blink_rate_ratio"] == 0
    held = judge.truth.frames[:, np.arange(FRAMES) // 2 * 2]  # every other frame is shown twice
    row, _ = judge(held)
    assert row["moving_share_ratio"] == pytest.approx(0.5, rel=0.05)
    assert row["frame_change_ratio"] == pytest.approx(0.5, rel=0.05)
    still, alike = held[:, :1].repeat(FRAMES, 1), held[:1].repeat(VIDEOS, 0)
    for made, contrast in (judge.truth.frames // 2, 0.5), (still, 1), (alike, 1):
        assert judge(made)[0]["contrast_ratio"] == pytest.approx(contrast, rel=0.05)


def test_lips_that_come_later_than_the_sound_have_a_positive_lag(judge):
    assert judge(np.roll(judge.truth.frames, 2, axis=1))[0]["lag"] == 2


def test_shifts_of_colour_add_up_whatever_their_sign(judge):
    row, _ = judge((judge.truth.frames + [10, -10, 0]).astype(np.uint8))
    assert row["colour_shift"] == pytest.approx(20 / 3)
    # but not from frame to frame: a flicker is none
    flicker = 10 * np.eye(FRAMES)[:2].T @ [1, -1]
    row, _ = judge((judge.truth.frames + flicker[:, None, None, None]).astype(np.uint8))
    assert row["colour_shift"] == pytest.approx(0, abs=1e-9)


def test_identity_is_likeness_to_the_portrait(judge):
    film = judge.truth.portraits[:, None].repeat(FRAMES, 1)
    assert judge(film)[0]["identity"] == pytest.approx(1)
    assert judge(film[[1, 2, 0]])[0]["identity"] == pytest.approx(-1 / 3, abs=0.02)
    assert judge.references()["identity_others"] == pytest.approx(-1 / 3, abs=0.02)


def test_faithfulness_is_of_the_face_in_every_frame(judge):
    film = judge.truth.portraits[:, None].repeat(2, 1)
    around = film.copy()
    around[:, :, :, :16], around[:, :, :, 48:] = 0, 0
    around[:, :, :12], around[:, :, 52:] = 0, 0
    assert judge.faithfulness(around)[1] == 0
    film[:, 1, 30:34, 30:34] = 0
    assert judge.faithfulness(film)[1] > 0


def test_faithfulness_is_the_mean_over_people_and_frames_of_likeness_and_of_every_shift(judge):
    """Two of three people, one of whom turns into others; colours go up, down and not at all."""
    film = judge.truth.portraits[:2, None].repeat(3, 1)
    film[0, 1], film[0, 2] = judge.truth.portraits[1], judge.truth.portraits[2]
    unit = np.array([LEFT, RIGHT, DARK]) / 127.5 - 1
    unit /= np.sqrt((unit**2).sum(1, keepdims=True))
    likeness = [unit[0] @ unit[k] for k in (0, 1, 2)] + 3 * [1]
    assert judge.faithfulness(film)[0] == pytest.approx(np.mean(likeness), abs=1e-3)
    flat = np.zeros((3, 64, 64, 3), np.uint8) + np.uint8([100, 120, 150])[:, None, None, None]
    judge.truth = judge.truth._replace(portraits=flat)
    same = flat[:2, None].repeat(3, 1)
    shift = np.array([[20, -10, 0], [0, 0, -6]])[:, None, None, None]
    assert judge.faithfulness((same + shift).astype(np.uint8))[1] == pytest.approx(36 / 6)
    once = same.copy()
    once[:, 0] += 3  # a third of the frames
    assert judge.faithfulness(once)[1] == pytest.approx(1)


@pytest.mark.parametrize("row, column", [(12, 16), (12, 47), (51, 16), (51, 47)])
def test_a_face_reaches_from_row_12_to_51_and_from_column_16_to_47(judge, row, column):
    film = judge.truth.portraits[:, None].repeat(2, 1)
    film[:, :, row, column] += 50
    assert judge.faithfulness(film)[1] > 0


def test_change_is_the_mean_of_all_steps_and_moving_the_share_of_those_that_can_be_seen(judge):
    film = np.full((3, 3, 64, 64, 3), 100, np.uint8)
    film[0, 1, :32] -= 3  # half of the picture goes down and comes back: too little to be seen
    film[1, 1, :16, :, 0] += 40  # a quarter, in one channel
    film[2, 1, :8] += 4
    seen, _ = judge.look(film)
    assert seen["change"] == pytest.approx(np.mean([3 / 2, 40 / 12, 4 / 8]))
    assert seen["moving"] == pytest.approx(np.mean([0, 1 / 12, 1 / 8]))
    faint = judge.truth.frames // 4 + 75
    row, _ = judge(faint)
    steps = [np.abs(np.diff(f.astype(int), axis=1)) for f in (faint, judge.truth.frames)]
    assert row["frame_change_ratio"] == pytest.approx(steps[0].mean() / steps[1].mean())
    wanted = (steps[0] > 3).mean() / (steps[1] > 3).mean()
    assert row["moving_share_ratio"] == pytest.approx(wanted)


def test_what_is_seen_of_frames_and_clips_is_in_their_order(judge):
    seen, _ = judge.look(judge.truth.frames)
    left = judge.truth.frames[..., :32, :].mean((2, 3, 4)) / 127.5 - 1
    np.testing.assert_allclose(seen["features"][:, 0], left.ravel(), atol=1e-5)
    halves = np.stack([left, judge.truth.frames[..., 32:, :].mean((2, 3, 4)) / 127.5 - 1], 2)
    clips = np.stack([halves.mean((1, 2)), np.abs(np.diff(halves, axis=1)).mean((1, 2))], 1)
    np.testing.assert_allclose(seen["clips"], clips, atol=1e-5)


def test_frames_in_another_order_are_the_same_pictures_and_other_clips(judge):
    order = np.argsort(judge.truth.frames[0, :, :, :32].mean((1, 2, 3)))
    row, _ = judge(judge.truth.frames[:, order])
    assert row["fid"] == pytest.approx(0, abs=1e-9) and row["fvd"] > 1e-8
    made = judge.truth.frames // 2
    (row, _), (seen, _) = judge(made), judge.look(made)
    for name, key in ("fid", "features"), ("fvd", "clips"):
        assert row[name] == pytest.approx(frechet_of_samples(seen[key], judge.own[key]))
    assert row["fid"] > 1.1 * row["fvd"] > 0


def test_colour_is_of_all_pixels_and_shifts_of_one_video_do_not_undo_anothers(judge):
    made = judge.truth.frames.copy()
    made[0] += 10
    made[1] -= 10
    made[2, :, :16] += 40  # a quarter of the picture
    assert judge(made)[0]["colour_shift"] == pytest.approx(10, abs=0.01)


def test_spread_of_heads_and_lids_is_the_mean_over_videos_of_that_within_each(judge):
    made = judge.truth.frames.copy()
    made[0] -= 60  # lids half as open, too
    made[2] = made[2, :1]
    row, _ = judge(made)
    spread = judge.truth.motion[..., 3:7].std(1)
    names = "head_x_ratio", "head_y_ratio", "roll_ratio", "lid_std_ratio"
    wanted = spread[:2].sum(0) / spread.sum(0)
    assert [row[name] for name in names] == pytest.approx(wanted.tolist(), rel=1e-3)
    assert row["blink_rate_ratio"] == pytest.approx(1 / 3)  # nor is the first one's above 0.6


def test_lips_are_compared_with_the_truth_over_all_videos_at_once(judge):
    made = judge.truth.frames.copy()
    made[:, :, 0, :3, 0] += (40 * np.arange(VIDEOS, dtype=np.uint8))[:, None, None]
    row, read = judge(made)
    for i, name in enumerate(("jaw_corr", "width_corr", "round_corr")):
        wanted = np.corrcoef(read[..., i].ravel(), judge.truth.motion[..., i].ravel())[0, 1]
        assert 0.2 < abs(wanted) < 0.9 and row[name] == pytest.approx(wanted, abs=1e-6)
    late = judge.truth._replace(motion=np.roll(judge.truth.motion, 2, axis=1))
    judge.truth = late
    assert judge(late.frames)[0]["lag"] == -2


def test_closed_and_open_lips_are_counted_where_they_should_be(judge):
    """Every other frame is marked closed, and is; a quarter of the others are open."""
    made = judge.truth.frames.copy()
    made[:, :, 0, 0, 0] = np.array([128, 128, 128, 150, 128, 191, 128, 150])[np.arange(FRAMES) % 8]
    assert judge.truth.closed[0].tolist() == [k % 2 == 0 for k in range(FRAMES)]
    row, _ = judge(made)
    wide = [k for k in range(1, FRAMES, 2) if k % 8 == 5]
    assert row["closed_rate"] == 1 and row["open_rate"] == pytest.approx(len(wide) / 10)


def test_sync_is_the_mean_over_videos_its_offset_the_median_and_positive_where_sound_is_late(
    judge, monkeypatch
):
    said = torch.randn(1, FRAMES - 4, 8, generator=torch.Generator().manual_seed(0))
    judge.nets["sync"] = lambda frames, windows: (said, said.roll(2, 1))
    assert judge(judge.truth.frames)[0]["sync_offset"] == 2
    found = np.array([1, 2, 6.0]), np.array([4, 5, 9.0]), np.array([-3, -2, 9])
    monkeypatch.setattr(Judge, "sync", lambda *how: found)
    row, _ = judge(judge.truth.frames)
    assert (row["sync_c"], row["sync_d"], row["sync_offset"]) == (3, 6, -2)


def test_where_nobody_blinks_there_is_no_ratio_of_blinks(judge):
    judge.own["blink_rate"] = 0.0
    assert np.isnan(judge(judge.truth.frames)[0]["blink_rate_ratio"])


def test_references_are_the_truths_own_numbers_and_other_peoples_distances(judge):
    frames, motion = judge.truth.frames, judge.truth.motion
    found = judge.references(255 - frames[:2] // 2)
    change = np.abs(np.diff(frames.astype(int), axis=1)).mean()
    assert found["change_true"] == pytest.approx(change)
    names = "jaw_corr_true", "width_corr_true", "round_corr_true"
    assert [found[name] for name in names] == pytest.approx([1, -1, 1])
    assert found["blink_rate_true"] == pytest.approx(1 / (FRAMES / 25))
    assert found["head_std_true"] == pytest.approx(motion[..., 3:6].std(1).mean(0).tolist())
    seen, _ = judge.look(255 - frames[:2] // 2)
    for name, key in ("fid_other_people", "features"), ("fvd_other_people", "clips"):
        wanted = frechet_of_samples(seen[key], judge.own[key])
        assert wanted > 0.1 and found[name] == pytest.approx(wanted)
    assert found["fid_other_people"] != pytest.approx(found["fvd_other_people"], rel=0.01)


# ---- what is compared with


def own_clips():
    """Three clips of 30 frames, of which each and its sound say their number."""
    number = np.arange(90, dtype=np.uint8)
    frames = np.broadcast_to(number[:, None, None, None], (90, 64, 64, 3))
    mel = np.repeat(number, 4)[:, None].repeat(64, 1).astype(np.float32)
    return tiny_data.Videos(frames, mel, np.arange(4) * 30, None, np.zeros((0, 11)), [])


def test_truth_is_frames_and_their_sound_from_the_video_asked_for_with_its_last_frame():
    held = true_videos.truth_of(own_clips(), 1, 5, 8, CPU)
    wanted = np.array([[30], [60]]) + np.arange(8)
    np.testing.assert_array_equal(held.frames[..., 0, 0, 0], wanted)
    # the middle four rows of a frame's window are its own
    np.testing.assert_array_equal(held.windows[:, :8, 8:12, 0].mean(2).numpy(), wanted)
    assert held.portraits[:, 0, 0, 0].tolist() == [59, 89] and held.windows.shape[1] == 8 + 16


def test_marked_frames_are_those_within_their_phones_that_show_them():
    """Of two videos: phones of lips that are closed, wide or half open, a frame each, and jaws that
    do not do what the phones ask for."""
    seeds, rng = tiny_data.FIRST_SEED["test"] + np.arange(2), np.random.default_rng(0)
    frames, mel, wave, motion, _ = zip(*(tiny_data.make_video(s, 40) for s in seeds))
    frames, mel, wave, motion = map(np.concatenate, (frames, mel, wave, motion))
    symbols = [p for p in PHONES if p in "mbp" or PHONES[p].jaw >= 0.5]
    said = rng.choice(symbols, (2, 40))
    phones = [[(p, k / 25, (k + 1) / 25) for k, p in enumerate(row)] for row in said]
    jaws = rng.choice([0.0, 0.02, 0.04, 0.06, 0.4, 0.48, 0.52, 0.6, 0.8], 80)
    jaws[[0, 40]] = motion[[0, 40], 0]  # of their first frames, which are drawn again
    motion[:, 0] = jaws
    videos = tiny_data.Videos(frames, mel, np.arange(3) * 40, wave, motion, phones)
    held = true_videos.truth_of(videos, 0, 2, 40, CPU)
    assert held.closed.any() and held.opened.any()
    wide = [p for p in PHONES if PHONES[p].jaw >= 0.7]
    jaw = held.motion[..., 0]
    np.testing.assert_array_equal(held.closed, np.isin(said, [*"mbp"]) & (jaw < 0.05))
    np.testing.assert_array_equal(held.opened, np.isin(said, wide) & (jaw > 0.5))
    second = true_videos.truth_of(videos, 1, 1, 30, CPU)  # of the first 30 frames
    assert second.seeds == [seeds[1]]
    for name in "frames", "motion", "closed", "opened":
        np.testing.assert_array_equal(getattr(second, name), getattr(held, name)[1:, :30])
    wanted = [toy_portrait(seed) for seed in seeds]
    np.testing.assert_array_equal(held.portraits, wanted)
    still = dict((name, make) for name, _, make in true_videos.floors(held, None, CPU))["still"](0)
    np.testing.assert_array_equal(still, held.portraits[:, None].repeat(40, 1))


def test_the_phone_of_a_frame_is_the_one_at_its_middle():
    phones = [("m", 0.02, 0.03), ("a", 0.03, 0.1)]
    assert [true_videos.symbol_at(phones, k) for k in range(3)] == ["m", "a", "_"]


def test_truth_is_of_the_split_that_is_named():
    frames, mel, wave, motion, phones = tiny_data.make_video(tiny_data.FIRST_SEED["val"], 20)
    videos = tiny_data.Videos(frames, mel, np.array([0, 20]), wave, motion, [phones])
    held = true_videos.truth_of(videos, 0, 1, 20, CPU, "val")
    assert held.seeds == [tiny_data.FIRST_SEED["val"]]
    with pytest.raises(ValueError, match="build it again"):  # nobody of the test split
        true_videos.truth_of(videos, 0, 1, 20, CPU)


def test_floors_are_what_their_names_say(judge, monkeypatch):
    """A coder that makes everything half as bright."""
    coder = SimpleNamespace(encode=lambda x: x + 3, decode=lambda z: (z - 2) / 2 - 1)
    asked, frames = [], judge.truth.frames
    again = lambda truth, seed: asked.append(seed) or "redrawn"
    monkeypatch.setattr(true_videos, "redrawn", again)
    rows = {name: make for name, _, make in true_videos.floors(judge.truth, coder, CPU)}
    assert rows.keys() == {"real", "autoencoder", "blurred", "frozen", "shuffled", "still"}
    assert rows["real"](0) is frames  # nobody can make your own clips again
    toy = judge.truth._replace(seeds=[1, 2, 3])
    real = {name: make for name, _, make in true_videos.floors(toy, coder, CPU)}["real"]
    assert (real(4), asked) == ("redrawn", [4])
    half = np.abs(rows["autoencoder"](0) - frames / 2)
    assert half.max() <= 0.5 + 1e-3
    soft = rows["blurred"](0)[:, :, 10, 10].astype(int)  # half the way to the box around it
    box = frames[:, :, 8:13, 8:13].mean((2, 3))
    assert np.abs(soft - (frames[:, :, 10, 10] + box) / 2).max() <= 0.5 + 1e-3
    np.testing.assert_array_equal(rows["frozen"](0), frames[:, :1].repeat(FRAMES, 1))
    shuffled = rows["shuffled"](1)
    order = [int(np.where((frames[0] == f).all((1, 2, 3)))[0][0]) for f in shuffled[0]]
    np.testing.assert_array_equal(shuffled, frames[:, order])


def test_ten_seconds_are_own_sentences_then_the_neighbours_of_the_first_people():
    """Numbers of video and frame; 16 more windows than frames, which are no speech."""
    number = 100 * np.arange(3)[:, None] + np.arange(48)
    windows = torch.from_numpy(number.astype(np.float32))[..., None, None]
    windows[:, 32:] = -1
    motion, frames = number[:, :32, None].repeat(11, 2), np.zeros((3, 32, 2, 2, 3), np.uint8)
    held = true_videos.Truth(frames, windows, frames[:, 0], motion, None, None, [7, 8, 9])
    longer = true_videos.ten_seconds(held, 2)
    said = np.stack([np.concatenate([number[(i + k) % 3, :32] for k in range(9)]) for i in (0, 1)])
    np.testing.assert_array_equal(longer.windows[..., 0, 0], said[:, : 250 + 16])
    np.testing.assert_array_equal(longer.motion[..., 3], said[:, :250])
    assert longer.frames.shape[:2] == (2, 250) and longer.seeds == [7, 8]
    own = true_videos.ten_seconds(held._replace(motion=None, seeds=None), 2)
    assert own.motion is None and own.seeds is None


def test_every_seed_shuffles_the_frames_another_way():
    held = SimpleNamespace(frames=np.arange(20)[None])
    shuffled = {name: make for name, _, make in true_videos.floors(held, None, CPU)}["shuffled"]
    one, again, other = (shuffled(seed)[0].tolist() for seed in (0, 0, 1))
    assert one == again != other and sorted(one) == sorted(other) == list(range(20))


def test_the_redrawn_truth_is_of_the_same_people(monkeypatch):
    monkeypatch.setattr(true_videos.faces, "identity", lambda seed: seed)
    monkeypatch.setattr(true_videos.faces, "render", lambda who, motion: np.full(4, who))
    held = SimpleNamespace(seeds=[7, 9], motion=np.zeros((2, 4, 11)))
    assert true_videos.redrawn(held, 3).tolist() == [[7] * 4, [9] * 4]


def test_redrawn_people_say_the_same_with_the_heads_that_were_drawn(monkeypatch):
    monkeypatch.setattr(true_videos.faces, "motion", lambda seed, lips: np.hstack([lips, -lips]))
    monkeypatch.setattr(true_videos.faces, "render", lambda who, motion: motion)
    motion = np.random.default_rng(0).normal(size=(2, 4, 11))
    made = true_videos.redrawn(SimpleNamespace(seeds=[7, 9], motion=motion), 0)
    np.testing.assert_array_equal(made, np.concatenate([motion[..., :3], -motion[..., :3]], 2))


def test_redrawn_heads_are_new_at_every_seed_from_0_on(monkeypatch):
    """A true video's head was drawn from the person's own seed."""
    drawn = []
    monkeypatch.setattr(true_videos.faces, "motion", lambda seed, lips: drawn.append(seed) or lips)
    monkeypatch.setattr(true_videos.faces, "render", lambda who, motion: motion)
    held = SimpleNamespace(seeds=[7, 9], motion=np.zeros((2, 4, 11)))
    for seed in range(2):
        true_videos.redrawn(held, seed)
    assert len({*held.seeds, *drawn}) == 6


# ---- the rows of a table


class Count(torch.nn.Module):
    """Answers zeros, and counts how often it is asked."""

    asked = 0

    def forward(self, xt, t, cond):
        self.asked += len(xt)
        return torch.zeros_like(xt)


def test_every_row_makes_as_many_evaluations_as_it_says(tmp_path, monkeypatch):
    """In toy noise, where the weights do not say which; adversarial phases write kind stage2."""
    files = dict(teacher=None, stage1="stage1", stage2="stage2", direct1="stage1")
    files |= dict(progressive="stage1", consistency="stage1", consistency_adv="stage2")
    files |= dict(keep_dmd="stage2")
    for name in files:
        (tmp_path / f"{name}.pt").touch()
    network, noise, kinds = Count(), torch.zeros(1, 2, 1, 8, 8), {}

    def load(loader, path, *how):
        kinds[path.stem] = getattr(loader, "keywords", {}).get("kind")
        return network, {}

    monkeypatch.setattr(models, "load_to_sample", load)
    recipes = spy(monkeypatch, teacher, "noise_source")
    cond = Cond(noise[:, 0], torch.zeros(1, 2, 20, 64), noise, torch.zeros(1, 2))
    for name, nfe, sampler in models.models_in(tmp_path, CPU):
        network.asked = 0
        sampler(cond, lambda: noise)
        assert network.asked == nfe, name
    assert kinds == files
    assert [recipe for recipe, *_ in recipes] == 9 * ["toy"] + ["plain"]  # the teacher's rows


def test_the_teachers_rows_have_the_steps_and_the_guidance_of_their_names(tmp_path, monkeypatch):
    (tmp_path / "teacher.pt").touch()
    monkeypatch.setattr(models, "load_to_sample", lambda *how: ("network", {"recipe": "plain"}))
    asked, drawn = [], spy(monkeypatch, teacher, "noise_source")
    monkeypatch.setattr(teacher, "ddim_sample", lambda model, cond, eps, *how: asked.append(how))
    rows = models.models_in(tmp_path, CPU)
    for _, _, sampler in rows:
        sampler(None, lambda: torch.zeros(1))
    full, none = (teacher.S_REF, teacher.S_AUDIO), (1, 1)
    assert dict(zip((name for name, *_ in rows), asked)) == dict(
        teacher=(40, *full),
        teacher_noguide=(40, *none),
        ddim4=(4, *none),
        ddim4_guided=(4, *full),
        ddim2=(2, *none),
        ddim2_guided=(2, *full),
        ddim1=(1, *none),
        ddim1_guided=(1, *full),
        wrong_audio=(40, *full),
        plain_teacher=(40, *full),
    )
    assert {recipe for recipe, *_ in drawn} == {"plain"}  # as the teacher's file says


@pytest.mark.parametrize("bf16", [False, True])
def test_networks_are_sampled_in_their_own_noise_and_in_the_precision_asked_for(
    tmp_path, monkeypatch, bf16
):
    for name in "teacher", "stage1", "stage2":
        (tmp_path / f"{name}.pt").touch()
    loaded, noise = [], torch.zeros(1, 2, 1, 8, 8)
    load = lambda loader, path, device, *how: loaded.append(how) or (Count(), {"recipe": "plain"})
    monkeypatch.setattr(models, "load_to_sample", load)
    drawn = spy(monkeypatch, student, "noise_source")
    rows = models.models_in(tmp_path, CPU, bf16)
    assert loaded == 3 * [(bf16,)]
    steps = {name: nfe for name, nfe, _ in rows if name.startswith("stage")}
    assert steps == dict(stage1=4, stage1_2steps=2, stage1_1step=1, stage2=1)
    cond = Cond(noise[:, 0], torch.zeros(1, 2, 20, 64), noise, torch.zeros(1, 2))
    for name, _, sampler in rows:
        if name.startswith("stage"):
            sampler(cond, lambda: noise)
    assert len(drawn) == 4 and {recipe for recipe, *_ in drawn} == {"plain"}
    low, ref, one = [], torch.zeros(1, 3, 8, 8), torch.ones(1, 1)
    look = lambda cond, noise: low.append((one @ one).dtype == torch.bfloat16) or noise()
    held = SimpleNamespace(frames=np.zeros((1, 16)), windows=torch.zeros(1, 32, 20, 64))
    models.generate_videos(look, held, ref, SimpleNamespace(decode=lambda z: z), 0, bf16)
    assert low == [bf16]


def test_every_video_is_of_its_own_portrait(monkeypatch):
    monkeypatch.setattr(models, "AT_ONCE", 2)
    held = SimpleNamespace(frames=np.zeros((5, 20)), windows=torch.zeros(5, 36, 20, 64))
    ref = (torch.arange(5.0) * 30 / 127.5 - 1)[:, None, None, None].expand(-1, 3, 8, 8)
    show = lambda cond, noise: cond.ref[:, None].expand_as(noise())
    coder = SimpleNamespace(decode=lambda z: z)
    made = models.generate_videos(show, held, ref, coder, 0)
    assert (made == 30 * np.arange(5)[:, None, None, None, None]).all()


@pytest.mark.parametrize("bf16", [False, True])
def test_every_row_hears_its_own_sentences_but_one_and_real_is_always_there(monkeypatch, bf16):
    """One hears the neighbour's, whose frames go on as they should; it needs a neighbour."""
    windows = torch.arange(3.0)[:, None].expand(3, 5)
    held, heard = SimpleNamespace(frames=np.zeros((3, 5)), windows=windows), {}
    held._replace = lambda windows: SimpleNamespace(frames=held.frames, windows=windows)

    def film(sampler, truth, ref, autoencoder, seed, bf16=False):
        heard[sampler] = (truth.windows, ref, autoencoder, seed, bf16)

    found = [("one", 4, "A"), ("wrong_audio", 3, "B"), ("two", 2, "C")]
    monkeypatch.setattr(evaluate, "generate_videos", film)
    monkeypatch.setattr(evaluate, "models_in", lambda folder, device, low: found * (low == bf16))
    floors = lambda truth, *how: [("real", 0, "R"), ("still", 0, "S")]
    monkeypatch.setattr(evaluate, "floors", floors)
    args = SimpleNamespace(checkpoints="", bf16=bf16, models="")
    rows = evaluate.table_rows(args, held, "ref", "coder", CPU)
    for _, _, source, sampler in rows[2:]:
        source(9)
        assert heard[sampler][1:] == ("ref", "coder", 9, bf16)
        assert torch.equal(heard[sampler][0], windows[[2, 0, 1] if sampler == "B" else [0, 1, 2]])
    assert rows[0] == ("real", 0, "R", None)
    assert [(row[0], row[1], row[3]) for row in rows[2:]] == found
    names = lambda held: [row[0] for row in evaluate.table_rows(args, held, "ref", "coder", CPU)]
    alone = SimpleNamespace(frames=held.frames[:1], windows=windows[:1])
    assert names(alone) == ["real", "still", "one", "two"]
    args.models = "two, still"
    assert names(held) == ["real", "still", "two"]


def test_the_last_second_of_ten_is_compared_with_the_portrait(monkeypatch):
    """Of models and of the redrawn truth; not of other rows. Of as many people as are asked for
    and there are."""
    numbers, asked = np.arange(250).reshape(1, 250, 1, 1, 1), []
    monkeypatch.setattr(evaluate, "ten_seconds", lambda truth, people: f"longer of {people}")
    make = lambda kind: lambda *args: asked.append((kind, *args)) or numbers
    monkeypatch.setattr(evaluate, "generate_videos", make("model"))
    monkeypatch.setattr(evaluate, "redrawn", make("redrawn"))
    look = lambda frames: frames.ravel()[[0, -1]]
    held = SimpleNamespace(frames=np.zeros(3), seeds=[1, 2, 3])
    judge = SimpleNamespace(truth=held, faithfulness=look)
    args = SimpleNamespace(long=2, seed=5, bf16="low")
    kinds = ("one", "S"), ("real", None), ("still", None), ("wrong_audio", "S")
    rows = lambda: [
        evaluate.after_ten_seconds(name, sampler, judge, [7, 8, 9], "coder", args)
        for name, sampler in kinds
    ]
    found = dict(identity_10s=225, colour_10s=249)
    assert rows() == [found, found, {}, {}]
    assert asked[0] == ("model", "S", "longer of 2", [7, 8], "coder", 5, "low")
    assert asked[1] == ("redrawn", "longer of 2", 5)
    args.long = 8
    assert rows()[0] and asked[2] == ("model", "S", "longer of 3", [7, 8, 9], "coder", 5, "low")
    args.long = 0
    assert rows() == 4 * [{}]


@pytest.fixture
def run(monkeypatch):
    """run(line, rows, videos=5) -> evaluate's result and what its parts were given, in a world of
    18-frame videos and a judge who repeats what he sees."""

    def run(line, rows, videos=5):
        seen = SimpleNamespace(picked=[], others=[], loaded=[], speeds=[], late=[], judged=[])

        def truth_of(videos, first, count, n_frames, device):
            seen.picked.append((first, count, n_frames))
            count = min(count, len(videos.starts) - 1 - first)
            frames = np.full((count, n_frames, 1, 1, 1), first, np.uint8)
            portraits = np.full((count, 64, 64, 3), 255, np.uint8)
            windows = "the windows"
            return SimpleNamespace(frames=frames, portraits=portraits, windows=windows, seeds=[])

        class Repeats:
            def __init__(self, truth, nets, device):
                self.truth = truth
                seen.judged.append(nets)

            def __call__(self, found):
                number, read = found
                return dict(fid=float(number)), read

            def references(self, others):
                seen.others.append(others)
                return dict(known=1)

        def speeds(*how):
            seen.speeds.append((*how, (torch.ones(1, 1) @ torch.ones(1, 1)).dtype))
            return {
                name: dict(denoise_ms_per_frame=ms)
                for name, ms in (("teacher", 30.0), ("ddim1", 15.0))
            }

        def load(data, split):
            seen.loaded.append((data, split))
            starts = np.concatenate([np.arange(videos) * 30, [videos * 30 - 12]])
            return SimpleNamespace(starts=starts)

        coder = SimpleNamespace(encode=lambda x: float(x.mean()))
        late = lambda name, *how: seen.late.append((name, how[2])) or dict(colour_10s=8.0)
        stubs = dict(truth_of=truth_of, Judge=Repeats, speeds=speeds, after_ten_seconds=late)
        stubs |= dict(table_rows=lambda *how: rows, load_autoencoder=lambda *how: coder)
        for name, stub in stubs.items():
            monkeypatch.setattr(evaluate, name, stub)
        monkeypatch.setattr(metrics, "load_metrics", lambda path, device: str(path))
        monkeypatch.setattr(tiny_data, "load", load)
        args = evaluate.arguments(["--checkpoints", "here", "--device", "cpu", *line.split()])
        return evaluate.evaluate(args), seen

    return run


def test_a_row_is_of_all_its_seeds_and_one_without_chance_of_the_first(run):
    """A judge who says the square of the seed. Models are timed; the teacher's is the measure."""
    number = lambda seed: (seed**2, None)
    names = "real", "frozen", "shuffled", "teacher", "ddim1"
    rows = [(name, 3, number, "S" if name in ("teacher", "ddim1") else None) for name in names]
    line = "--data there --clips 2 --frames 28 --seeds 3 --seed 4 --bf16"
    result, seen = run(line, rows)
    found = {row["model"]: row for row in result["rows"]}
    mean, spread = (16 + 25 + 36) / 3, np.std([16, 25, 36], ddof=1)
    for name in names:
        wanted = (16, None, 1) if name == "frozen" else (mean, pytest.approx(spread), 3)
        assert tuple(found[name][key] for key in ("fid", "fid_std", "seeds")) == wanted
        assert found[name]["colour_10s"] == 8 and found[name]["nfe"] == 3
    assert seen.loaded == [("there", "test")] and seen.judged == ["here/metrics.pt"]
    ((samplers, windows, ref, _, _, rounds, low),) = seen.speeds
    assert samplers == dict(teacher="S", ddim1="S") and windows == "the windows"
    assert ref == pytest.approx(1) and rounds == 5 and low == torch.bfloat16
    assert {how for _, how in seen.late} == {ref}  # white portraits'
    assert found["teacher"]["denoise_ms_per_frame"] == 30 and found["teacher"]["speedup"] == 1
    assert found["ddim1"]["speedup"] == 2 and found["real"]["speedup"] is None
    setting = result["setting"]
    wanted = dict(seed=4, seeds=3, clips=2, frames=18, data="own clips", bf16=True, known=1)
    assert wanted.items() <= setting.items()


@pytest.mark.parametrize("videos, others", [(4, False), (5, True), (9, True)])
def test_other_people_are_as_many_that_follow_if_there_are_two(run, videos, others):
    _, seen = run("--clips 3", [], videos)
    assert seen.picked == [(0, 3, 18), (3, 3, 18)][: 1 + others]
    assert (seen.others[0] == 3).all() if others else seen.others == [None]
    assert run("--clips 8", [], 3)[0]["setting"]["clips"] == 3


def test_other_measuring_networks_and_a_quick_look(run):
    rows = [("one", 1, lambda seed: (seed, None), "S")]
    result, seen = run("--quick --metrics mine.pt", rows)
    assert seen.judged == ["mine.pt"] and seen.picked[0] == (0, 4, 16)
    assert seen.speeds[0][-2:] == (1, torch.float32) and result["rows"][0]["seeds"] == 1
    assert evaluate.arguments(["--quick"]).long == 0


def test_diversity_of_a_row_is_the_mean_of_three_ratios_over_the_truths(run):
    """Which differ: x, y and roll are as diverse, twice and half as diverse; heads of the truth
    differ most in x. Each frame's heads differ, though the videos' means do not."""
    sign = np.where(np.arange(20) % 2, 1.0, -1.0)[:, None]

    def reads(size):
        return lambda seed: (1, np.zeros((2, 20, 7)) + seed * sign * np.array(size, float))

    made = (0, 9, 0, 10, 2, 1, 0), (0, 0, 0, 10, 4, 0.5, 0), (0, 0, 0, 30, 6, 3, 0)
    names = "real", "other", "thrice"
    rows = [(name, 1, reads(size), None) for name, size in zip(names, made)]
    result, _ = run("--clips 2 --seeds 2", rows)
    wanted = [1, 3.5 / 3, 3]
    assert [row["diversity"] for row in result["rows"]] == pytest.approx(wanted)


def test_diversity_is_over_that_of_the_truth_and_other_people_are_others(monkeypatch):
    """A model whose heads differ half as much from seed to seed; five videos, of which two are
    measured."""
    picked, given = [], []

    def truth_of(videos, first, count, n_frames, device):
        picked.append((first, count, n_frames))
        frames = np.full((count, n_frames, 1, 1, 1), first, np.uint8)
        return SimpleNamespace(
            frames=frames, portraits=np.zeros((2, 64, 64, 3), np.uint8), seeds=[]
        )

    class Reads:
        truth = SimpleNamespace(seeds=[])

        def __init__(self, *how):
            pass

        def __call__(self, reads):
            return dict(fid=1.0), reads

        def references(self, others):
            return dict(others=given.append(others))

    reads = lambda seed: np.random.default_rng(seed).normal(size=(2, 20, 7))
    rows = [("real", 0, reads, None), ("half", 1, lambda seed: 0.5 * reads(seed), None)]
    coder = SimpleNamespace(encode=lambda x: x)
    for name, stub in dict(truth_of=truth_of, Judge=Reads, table_rows=lambda *args: rows).items():
        monkeypatch.setattr(evaluate, name, stub)
    monkeypatch.setattr(evaluate, "load_autoencoder", lambda *args: coder)
    monkeypatch.setattr(metrics, "load_metrics", lambda *args: {})
    starts = np.array([0, 30, 48, 78, 108, 138])
    monkeypatch.setattr(tiny_data, "load", lambda *args: SimpleNamespace(starts=starts))
    line = "--clips 2 --frames 20 --seeds 3 --long 0 --device cpu"
    result = evaluate.evaluate(evaluate.arguments(line.split()))
    assert [row["diversity"] for row in result["rows"]] == pytest.approx([1, 0.5])
    assert picked == [(0, 2, 18), (2, 2, 18)] and (given[0] == 2).all()  # the shortest has 18
