"""What the three judges learn from, and what their training keeps and reports."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import tiny_data
from evaluation import metrics, metrics_losses, train_metrics
from tiny_data.faces import MOTION

CPU = torch.device("cpu")


def generator():
    return torch.Generator().manual_seed(0)


def numbered(length, count):
    """Videos whose frames and motion are of one level each, their number."""
    n = length * count
    frames = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 64, 64, 3))
    starts = np.arange(count + 1) * length
    motion = np.arange(n, dtype=np.float32)[:, None].repeat(11, 1)
    return tiny_data.Videos(frames, np.zeros((4 * n, 64)), starts, None, motion, [])


# ---- batches


def test_a_mirrored_face_looks_and_leans_to_the_other_side():
    """A bright spot is the head: in the right half where x and roll are 1; y stays."""
    frames = np.full((2, 64, 64, 3), 60, np.uint8)
    frames[0, 8:24, 8:24], frames[1, 8:24, 40:56] = 255, 255
    motion = torch.tensor([[0.5, 0.5, 0.5, side, 1, side, 0.5] for side in (-1.0, 1.0)])
    x, m = metrics_losses.batch_reader(frames, motion, 64, generator(), CPU)
    right = x[:, :, :32, 32:].mean((1, 2, 3)) > x[:, :, :32, :32].mean((1, 2, 3))
    assert (x[:, :, :32].mean((1, 2, 3)) > x[:, :, 32:].mean((1, 2, 3))).all()
    assert 10 < right.sum() < 54 and torch.equal(m[:, 3], m[:, 5])
    assert torch.equal(m[:, 3], torch.where(right, 1.0, -1.0))
    assert torch.equal(m[:, [0, 1, 2, 4, 6]], motion[:1, [0, 1, 2, 4, 6]].expand(64, -1))


def test_a_camera_without_strength_changes_nothing_and_one_with_it_each_channel():
    x = torch.randn(5, 3, 4, 4)
    assert_close(metrics_losses.tint(x, generator(), 0.0), x, rtol=0, atol=0)
    gain, offset = 0.1 * torch.randn(2, 5, 3, 1, 1, generator=generator())
    assert_close(metrics_losses.tint(x, generator(), 0.1), x + gain * x + offset)


def test_neighbours_in_a_batch_are_of_one_person_and_undamaged_frames_are_those_named():
    data = numbered(30, 6)
    x, rows, damage = metrics_losses.batch_features(data, 64, generator(), CPU)
    video = np.asarray(rows) // 30
    assert (video[::2] == video[1::2]).all() and len(set(video)) == 6
    clean = damage.sum(1) == 0
    shown = (x.mean((1, 2, 3)) + 1) * 127.5
    assert 5 < clean.sum() < 40
    assert_close(shown[clean], torch.from_numpy(rows)[clean].float(), rtol=0, atol=0.01)


def test_lips_are_mirrored_but_never_upside_down():
    top = np.full((60, 64, 64, 3), 50, np.uint8)
    top[:, :32, :16] = 255  # above, at the left
    data = tiny_data.Videos(top, None, np.array([0, 30, 60]), None, None, [])
    sides, windows = set(), [np.zeros((30, 20, 64), np.float32)] * 2
    for seed in range(4):
        x, _ = metrics_losses.sync_batch(data, windows, torch.Generator().manual_seed(seed), CPU)
        assert (x[..., :32, :].mean((1, 2, 3, 4)) > x[..., 32:, :].mean((1, 2, 3, 4))).all()
        sides |= set((x[..., :32].mean((1, 2, 3, 4)) > x[..., 32:].mean((1, 2, 3, 4))).tolist())
    assert sides == {True, False}


def test_the_crop_of_the_lips_moves_up_to_two_pixels_either_way(monkeypatch):
    monkeypatch.setattr(metrics_losses, "tint", lambda x, *how: x)
    dot = np.zeros((60, 9, 9, 3), np.uint8)
    dot[:, 4, 4] = 255  # the middle, which no mirror moves
    data = tiny_data.Videos(dot, None, np.array([0, 30, 60]), None, None, [])
    moved, windows = [], [np.zeros((30, 20, 64), np.float32)] * 2
    for seed in range(12):
        x, _ = metrics_losses.sync_batch(data, windows, torch.Generator().manual_seed(seed), CPU)
        moved += np.argwhere(x[:, 0, 0].numpy() > 0)[:, 1:].tolist()
    for way in zip(*moved):
        assert {*way} == {2, 3, 4, 5, 6}


def test_a_flickering_clip_is_partly_of_the_damaged_frames_and_no_other_is():
    clean, damaged = torch.zeros(100, 3), torch.ones(100, 3)
    clips, kind = metrics_losses.clip_batch(clean, damaged, [0, 50, 100], 100, generator())
    share = clips.mean((1, 2))
    flicker = kind == metrics.DISORDER.index("flicker")
    assert ((0 < share) & (share < 1))[flicker].all() and not share[~flicker].any()


def test_a_frozen_clip_moves_up_to_a_frame_and_stays_there():
    clip = torch.arange(2.0 * metrics.CLIP)[:, None]
    for seed in range(5):
        how = metrics.DISORDER.index("frozen"), torch.Generator().manual_seed(seed), clip
        made = metrics_losses.disordered(clip, *how)[:, 0]
        assert made[0] == 0 and made[-4:].unique().numel() == 1
        assert made.tolist() == [min(k, int(made[-1])) for k in range(metrics.CLIP)]


# ---- losses


def test_info_nce_asks_rows_and_columns():
    scores = torch.tensor([[0.0, math.log(3)], [0.0, math.log(7)]])
    rows, columns = [math.log(4), math.log(8 / 7)], [math.log(2), math.log(10 / 7)]
    wanted = (sum(rows) + sum(columns)) / 4
    assert float(metrics_losses.info_nce(scores)) == pytest.approx(wanted)


def test_who_knows_everything_has_no_loss_and_need_not_know_how_damaged_faces_move():
    """Frames 2i and 2i + 1 show one person, of four; every fourth frame is damaged."""
    person, damage = torch.eye(8)[[0, 0, 1, 1, 2, 2, 3, 3]], torch.zeros(8, 3)
    damage[0, 1] = damage[4, 2] = 0.5  # of any kind
    motion = torch.randn(8, len(MOTION))
    told = torch.where(damage.sum(1, keepdim=True) > 0, 9.0, motion)
    net = SimpleNamespace(
        trunk=lambda x: x, who=lambda h: person, damage=lambda h: damage, motion=lambda h: told
    )
    loss = lambda: float(metrics_losses.frame_loss(net, torch.zeros(8, 8), motion, damage))
    assert loss() == pytest.approx(0, abs=1e-3)  # 3 e^-10 is left of the cosines
    told = told + (damage.sum(1, keepdim=True) == 0)
    assert loss() == pytest.approx(1, abs=1e-3)


def test_a_clip_is_known_by_its_mean_and_its_greatest():
    net = metrics.Features()
    net.over_time = net.clip_out = torch.nn.Identity()
    made = net.clip_raw(torch.tensor([[[0.0, -1.0], [6.0, -5.0], [3.0, -3.0]]]))
    assert made.tolist() == [[3, -3, 6, -1]]


def test_speed_is_the_spread_and_the_mean_size_of_a_step():
    zigzag = torch.tensor([0.0, 2.0]).repeat(8).view(1, 16, 1)
    spread = (16 / 15) ** 0.5  # of n - 1
    assert_close(metrics_losses.speed_of(zigzag), torch.tensor([[spread, 2.0]]))


# ---- the networks' own numbers


def test_features_are_standardised_and_who_it_is_does_not_depend_on_how():
    net, x = metrics.Features().requires_grad_(False), torch.randn(2, 3, 64, 64)
    raw, who = net.frames(x), net.identity(net.frames(x))
    net.frame_mean.copy_(torch.randn(64)), net.frame_std.copy_(torch.rand(64) + 0.5)
    assert_close(net.frames(x), (raw - net.frame_mean) / net.frame_std, rtol=1e-4, atol=1e-5)
    assert_close(net.identity(net.frames(x)), who, rtol=1e-3, atol=1e-4)


def test_a_clip_starts_at_every_fourth_frame_up_to_the_last_that_is_whole():
    net, f = metrics.Features().requires_grad_(False), torch.randn(2, 20, 64)
    wanted = torch.cat([net.clip_raw(f[:, :16]), net.clip_raw(f[:, 4:])])
    assert_close(net.clips(f), wanted, rtol=1e-4, atol=1e-5)
    assert len(net.clips(f[:, :19])) == len(net.clips(f[:, :16])) == 2


def test_blur_goes_from_nothing_to_the_box():
    x = torch.randn(2, 3, 9, 9)
    made = metrics.blurred(x, torch.tensor([0.0, 1.0]))
    assert_close(made[0], x[0], rtol=0, atol=0)
    assert_close(made[1, :, 4, 4], x[1, :, 2:7, 2:7].mean((1, 2)))


def test_r_squared_worked_out_by_hand():
    true = torch.tensor([[0.0, 0.0], [2.0, 4.0]])  # variances 1 and 4
    read = true + torch.tensor([[0.5, 2.0], [-0.5, 0.0]])  # errors ¼ and 2
    assert_close(metrics.r_squared(read, true), torch.tensor([0.75, 0.5]))


# ---- training


def a_run(videos, mean=0.0, std=1.0, **options):
    rows = []
    log = lambda step, **row: rows.append(row)
    cfg = train_metrics.Config(**{**train_metrics.SMOKE, **options})
    return train_metrics.Run(cfg, videos, videos, mean, std, generator(), CPU, log), rows


def test_fit_forgets_former_gradients_warms_up_and_ends_near_zero():
    run, rows = a_run(None, lr=0.1, log_every=1)
    w = torch.nn.Parameter(torch.zeros(1))
    train_metrics.fit(run, "loss", [w], 200, lambda: 0.5 * w.sum())
    assert [row["gradient"] for row in rows] == pytest.approx([0.5] * 200)
    rates = [row["lr"] for row in rows]
    assert rates[0] == pytest.approx(0.1 / 50) and rates[-1] < 1e-4
    assert max(rates) == pytest.approx(0.1 * 0.5 * (1 + math.cos(math.pi / 4)), rel=0.02)
    assert w < 0
    train_metrics.fit(run, "loss", [w], 1, lambda: 100 * w.sum())
    assert rows[-1]["gradient"] == pytest.approx(100) and w.grad.item() == pytest.approx(
        1
    )  # clipped


def test_motion_is_standardised_by_the_training_splits_mean_and_spread():
    mean, std = torch.arange(11.0), torch.arange(1.0, 12.0)
    videos = SimpleNamespace(motion=(mean + 3 * std).numpy()[None])
    assert_close(a_run(videos, mean, std)[0].standard(videos), torch.full((1, 11), 3.0))


def test_the_reader_learns_standardised_motion_about_0_where_mirrors_change_its_sign(monkeypatch):
    mean, std, seen = torch.arange(1.0, 12.0), torch.arange(2.0, 13.0), []
    run, _ = a_run(numbered(2, 1), mean, std)
    monkeypatch.setattr(train_metrics, "load_autoencoder", lambda *args: None)
    monkeypatch.setattr(
        train_metrics, "reader_faces", lambda *args: (None, np.ones((1, 11), np.float32))
    )
    batch = lambda faces, motion, *how: (motion, motion.repeat(2, 1))
    monkeypatch.setattr(train_metrics, "batch_reader", batch)
    fit = lambda run, name, parameters, steps, loss_of: seen.append(loss_of())
    monkeypatch.setattr(train_metrics, "fit", fit)
    look = lambda net, *args: seen.append(net.training) or torch.zeros(2, 7)
    monkeypatch.setattr(train_metrics, "over", look)
    net = metrics.Reader(8).requires_grad_(False)
    net.layers = torch.nn.Identity()
    train_metrics.train_reader(net, run)
    assert net.mean.tolist() == [1, 2, 3, 0, 5, 0, 7] and net.std.tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert seen == [0, False, False]  # what it is to say has no loss; it is judged in eval mode


def test_features_learn_their_own_frames_motion_and_are_standardised_afterwards(monkeypatch):
    seen, rows = [], np.array([5, 3, 160])
    batch = lambda *args: (None, rows, None)
    monkeypatch.setattr(train_metrics, "batch_features", batch)
    monkeypatch.setattr(
        train_metrics, "frame_loss", lambda net, x, motion, damage: seen.append(motion)
    )
    fit = lambda run, name, parameters, steps, loss_of: loss_of() if name == "frames" else None
    monkeypatch.setattr(train_metrics, "fit", fit)
    monkeypatch.setattr(train_metrics, "judge_features", lambda *args: {})
    known = torch.randn(161, 64, generator=generator()) * 3 + 1
    monkeypatch.setattr(train_metrics, "over", lambda *args: known)
    net = metrics.Features().requires_grad_(False)
    train_metrics.train_features(net, a_run(numbered(161, 1))[0])
    assert seen[0][:, 0].tolist() == rows.tolist()
    clean = (known - net.frame_mean) / net.frame_std
    made = net.clips(clean[None, :160], stride=16)
    assert_close(clean.std(0), torch.ones(64)), assert_close(made.std(0), torch.ones(64))
    assert_close(made.mean(0), torch.zeros(64), rtol=0, atol=1e-4)


def test_a_face_is_known_again_by_the_last_frame_of_its_video(monkeypatch):
    """Of three people the last frames are known as those of the next ones; motion is guessed at
    half its size."""
    truth = torch.randn(9, 11, generator=generator())
    truth = truth - truth.mean(0)
    who = torch.eye(3)[[0, 0, 1, 1, 1, 2, 2, 2, 0]]
    monkeypatch.setattr(train_metrics, "over", lambda *args: torch.zeros(9, 1))
    net = SimpleNamespace(
        frames=None, identity=lambda f: who, motion=lambda h: truth / 2, frame_std=1, frame_mean=0
    )
    videos = SimpleNamespace(frames=None, starts=np.array([0, 3, 6, 9]))
    found = train_metrics.judge_features(net, videos, truth, CPU)
    assert found["same_person"] == 0 and found["r2_motion"] == pytest.approx(0.75)


def test_sync_is_judged_on_own_sound_on_anothers_and_on_sound_that_is_three_frames_late():
    said = torch.randn(3, 30, 16, generator=generator())
    found = train_metrics.judge_sync(lambda x, w: (said, said), numbered(30, 3), CPU)
    assert found["in_sync"] == found["late_3"] == 1 and found["sync_d"] == 0
    assert found["wrong_d"] > 3 and found["wrong_c"] < 0.5 * found["sync_c"]


def test_judges_learn_on_one_split_and_are_judged_on_another(monkeypatch):
    asked = []
    still = lambda data, split, *how: (
        asked.append(split) or numbered(40, 1)._replace(frames=np.zeros((40, 64, 64, 3), np.uint8))
    )
    monkeypatch.setattr(tiny_data, "load", still)
    with pytest.raises(ValueError, match="do not move"):
        train_metrics.train(train_metrics.Config(**train_metrics.SMOKE))
    assert asked == ["train", "val"]


def test_clips_that_set_the_scale_lie_in_one_video_each_and_leave_out_none():
    starts = np.array([0, 16, 55, 64])  # one clip, two and a rest, none
    assert train_metrics.whole_clips(starts) == [0, 16, 32]
