"""The judge's arithmetic, by networks that read everything from known pixels; and what a table is
made of."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import spy
from torch.testing import assert_close

import teacher
import tiny_data
from evaluation import metrics, models
from evaluation import table as evaluate
from evaluation import truth as true_videos
from evaluation.judge import Judge
from evaluation.measures import frechet_of_samples
from latents import Cond
from tiny_data.phones import CLOSED, PHONES

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
    same = judge.truth.portraits[:2, None].repeat(3, 1).astype(int)
    assert judge.faithfulness(np.abs(same - [[[[[30, 0, 0]]]]]).astype(np.uint8))[1] > 0
    dull = judge.truth._replace(portraits=np.full((3, 64, 64, 3), 100, np.uint8))
    judge.truth = dull
    shown = (100 + np.array([[20, -10, 0], [0, 0, -6]]))[:, None, None, None]
    shown = np.broadcast_to(shown, (2, 3, 64, 64, 3)).astype(np.uint8)
    assert judge.faithfulness(shown)[1] == pytest.approx((20 + 10 + 6) / 6)
    once = np.full((2, 3, 64, 64, 3), 100, np.uint8)
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


def test_marked_frames_lie_within_their_phones_and_show_them():
    seeds = tiny_data.FIRST_SEED["test"] + np.arange(2)
    frames, mel, wave, motion, phones = zip(*(tiny_data.make_video(s, 40) for s in seeds))
    joined = map(np.concatenate, (frames, mel, wave, motion))
    frames, mel, wave, motion = joined
    motion[65:, 0] = 0.4  # the second one mumbles from here on: lips neither closed nor wide open
    videos = tiny_data.Videos(frames, mel, np.arange(3) * 40, wave, motion, list(phones))
    held = true_videos.truth_of(videos, 0, 2, 40, CPU)
    assert held.closed.any() and held.opened.any()
    for marks, known, shown in (
        (held.closed, lambda p: p in CLOSED, held.motion[..., 0] < 0.05),
        (held.opened, lambda p: PHONES[p].jaw >= 0.7, held.motion[..., 0] > 0.5),
    ):
        assert shown[marks].all()
        for video, frame in np.argwhere(marks):
            middle = (frame + 0.5) / 25
            (phone,) = [p for p, start, end in phones[video] if start <= middle < end]
            assert known(phone)
    assert true_videos.truth_of(videos, 1, 1, 40, CPU).seeds == [seeds[1]]
    still = dict((name, make) for name, _, make in true_videos.floors(held, None, CPU))["still"](0)
    np.testing.assert_array_equal(still, held.portraits[:, None].repeat(40, 1))


def test_the_phone_of_a_frame_is_the_one_at_its_middle():
    phones = [("m", 0, 0.05), ("a", 0.05, 0.1)]
    assert [true_videos.symbol_at(phones, k) for k in range(3)] == ["m", "a", "_"]


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


def test_every_video_is_of_its_own_portrait(monkeypatch):
    monkeypatch.setattr(models, "AT_ONCE", 2)
    held = SimpleNamespace(frames=np.zeros((5, 20)), windows=torch.zeros(5, 36, 20, 64))
    ref = (torch.arange(5.0) * 30 / 127.5 - 1)[:, None, None, None].expand(-1, 3, 8, 8)
    show = lambda cond, noise: cond.ref[:, None].expand_as(noise())
    coder = SimpleNamespace(decode=lambda z: z)
    made = models.generate_videos(show, held, ref, coder, 0)
    assert (made == 30 * np.arange(5)[:, None, None, None, None]).all()


def test_the_last_second_of_ten_is_compared_with_the_portrait(monkeypatch):
    """Of models and of the redrawn truth; not of other rows."""
    numbers, asked = np.arange(250).reshape(1, 250, 1, 1, 1), []
    monkeypatch.setattr(evaluate, "ten_seconds", lambda truth, people: "longer")
    make = lambda kind: lambda *args: asked.append((kind, *args)) or numbers
    monkeypatch.setattr(evaluate, "generate_videos", make("model"))
    monkeypatch.setattr(evaluate, "redrawn", make("redrawn"))
    look = lambda frames: frames.ravel()[[0, -1]]
    judge = SimpleNamespace(truth=SimpleNamespace(frames=numbers, seeds=[1]), faithfulness=look)
    args = SimpleNamespace(long=1, seed=5, bf16=False)
    rows = [
        evaluate.after_ten_seconds(name, sampler, judge, torch.zeros(1), None, args)
        for name, sampler in (("one", "S"), ("real", None), ("still", None), ("wrong_audio", "S"))
    ]
    found = dict(identity_10s=225, colour_10s=249)
    assert rows == [found, found, {}, {}]
    assert [call[:3] for call in asked] == [("model", "S", "longer"), ("redrawn", "longer", 5)]


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
