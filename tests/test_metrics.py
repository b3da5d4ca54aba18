import dataclasses
import math

import numpy as np
import pytest
import torch
from helpers import SHIPPED
from scipy import linalg

import tiny_data
from audio_features import FPS, audio_windows
from autoencoder import load_autoencoder, to_pixels
from evaluation import measures, metrics, metrics_losses, train_metrics
from tiny_data import faces

NEW = 5_000_000  # seeds of people and sentences in no split


@pytest.fixture(scope="module")
def nets():
    return metrics.load_metrics(SHIPPED / "metrics.pt")


@pytest.fixture(scope="module")
def new_videos():
    """Six videos of people that no split knows -> frames (6, 60, 64, 64, 3), windows (6, 60, 20,
    64), motion (6, 60, 11)."""
    made = [tiny_data.make_video(NEW + i, 60) for i in range(6)]
    return (
        np.stack([m[0] for m in made]),
        torch.from_numpy(np.stack([audio_windows(m[1]) for m in made])),
        np.stack([m[3] for m in made]),
    )


def embeddings(nets, frames, windows):
    with torch.no_grad():
        return nets["sync"](torch.stack([to_pixels(f) for f in frames]), windows)


# ---------------------------------------------------------------- Fréchet distance


def test_frechet_distance_of_diagonal_gaussians_is_the_closed_form():
    rng = np.random.default_rng(0)
    mu1, mu2, s1, s2 = (
        rng.normal(size=5),
        rng.normal(size=5),
        rng.uniform(0.1, 3, 5),
        rng.uniform(0.1, 3, 5),
    )
    want = ((mu1 - mu2) ** 2).sum() + ((s1 - s2) ** 2).sum()
    assert measures.frechet_distance(mu1, np.diag(s1**2), mu2, np.diag(s2**2)) == pytest.approx(
        want, rel=1e-12
    )


def test_frechet_distance_agrees_with_scipys_matrix_square_root():
    rng = np.random.default_rng(1)
    (mu1, c1), (mu2, c2) = [
        (rng.normal(size=12), (lambda a: a @ a.T)(rng.normal(size=(12, 20)))) for _ in range(2)
    ]
    want = ((mu1 - mu2) ** 2).sum() + np.trace(c1 + c2 - 2 * linalg.sqrtm(c1 @ c2).real)
    assert measures.frechet_distance(mu1, c1, mu2, c2) == pytest.approx(want, rel=1e-9)


def test_frechet_distance_is_zero_for_equal_sets_and_a_shift_adds_its_square():
    a = np.random.default_rng(2).normal(size=(300, 16))
    assert measures.frechet_of_samples(a, a) == pytest.approx(0, abs=1e-9)
    assert measures.frechet_of_samples(a, a + 0.5) == pytest.approx(16 * 0.25, rel=1e-9)
    with pytest.raises(ValueError, match="two clips or more"):
        measures.frechet_of_samples(a, a[:1])


def test_frechet_distance_bears_singular_covariances():
    a = np.random.default_rng(3).normal(size=(6, 32))  # rank 5 in 32 dimensions
    assert measures.frechet_of_samples(a, a) == pytest.approx(0, abs=1e-6)
    assert measures.frechet_of_samples(a, a + 0.5) == pytest.approx(32 * 0.25)
    assert measures.frechet_of_samples(a, 2 * a) == pytest.approx(
        np.square(a.mean(0)).sum() + np.trace(np.cov(a.T))
    )
    assert measures.frechet_distance(
        np.zeros(3), np.zeros((3, 3)), np.ones(3), np.zeros((3, 3))
    ) == pytest.approx(3)


def test_frechet_distance_is_symmetric_and_says_what_does_not_fit():
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(50, 4)), rng.normal(size=(60, 4)) @ rng.normal(size=(4, 4))
    assert measures.frechet_of_samples(a, b) == pytest.approx(
        measures.frechet_of_samples(b, a), rel=1e-9
    )
    with pytest.raises(ValueError, match="covariances"):
        measures.frechet_distance(np.zeros(3), np.eye(4), np.zeros(3), np.eye(4))


# ---------------------------------------------------------------- numbers from tracks


def test_correlation_closed_forms():
    t = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    assert measures.correlation(np.sin(t), 3 * np.sin(t) - 7) == pytest.approx(1)
    assert measures.correlation(np.sin(t), -np.sin(t)) == pytest.approx(-1)
    assert measures.correlation(np.sin(t), np.cos(t)) == pytest.approx(0, abs=1e-12)
    assert measures.correlation(np.sin(t), np.sin(t + 1)) == pytest.approx(math.cos(1))


def test_a_still_face_correlates_with_nothing():
    track = np.random.default_rng(0).random((3, 40))
    assert measures.correlation(np.full_like(track, 0.3, dtype=np.float32), track) == 0
    assert measures.best_lag(np.zeros((3, 40)), track) == 0
    rounding = 0.3 + 1e-12 * np.random.default_rng(1).random((3, 40))
    assert measures.correlation(rounding, track) == 0
    # but little movement is movement
    assert measures.correlation(1e-4 * track + 7, 1e-4 * track) == pytest.approx(1)


@pytest.mark.parametrize("k", [-8, -2, 0, 1, 5])
def test_best_lag_finds_the_shift_and_positive_is_late(k):
    true = np.random.default_rng(1).normal(size=(4, 60)).cumsum(1)
    late = np.roll(true, k, axis=1)
    assert measures.best_lag(late, true) == k
    assert measures.best_lag(late[0], true[0]) == k


def test_best_lag_is_of_alike_tracks_however_smooth_and_the_smallest_of_many():
    slow = np.sin(np.arange(100) * 2 * np.pi / 50)
    assert measures.best_lag(np.roll(slow, 2), slow) == 2
    assert measures.best_lag(-np.roll(slow, 2), slow) < 0  # half a period early, not alike
    for seed in range(20):
        again = np.tile(np.random.default_rng(seed).normal(size=(3, 4)), 10)
        assert measures.best_lag(0.3 * again + 5, again) == 0  # as well as 4 and 8, up to rounding


def test_blinks_are_counted_and_timed():
    track = np.zeros((1, 100))
    track[0, 20:25], track[0, 60:67] = 1, 1  # 5 and 7 frames in 4 s
    rate, length = measures.blink_statistics(track)
    assert rate == pytest.approx(2 / 4) and length == pytest.approx(6 / FPS)
    rate, length = measures.blink_statistics(np.concatenate([track, 0 * track]))  # two videos
    assert rate == pytest.approx(2 / 8) and length == pytest.approx(6 / FPS)


def test_blinks_need_the_eye_to_open_again_between_them():
    wobble, noise = np.zeros((1, 50)), np.zeros((1, 50))
    wobble[0, 10:20] = [1, 0.5, 1, 0.4, 1, 0.5, 1, 0.35, 1, 0.5]  # never below 0.3: one blink
    noise[0, ::2] = 0.55  # never above 0.6: none
    assert measures.blink_statistics(wobble)[0] * 2 == pytest.approx(1)
    rate, length = measures.blink_statistics(noise)
    assert rate == 0 and math.isnan(length)


def test_a_blink_begins_above_60_percent_and_ends_below_30_and_its_time_is_the_mean():
    blink = lambda *values: measures.blink_statistics(np.array([[0, *values, 0]]))
    count = lambda *values: round(blink(*values)[0] * (len(values) + 2) / FPS)
    assert [count(k) for k in (0.59, 0.6, 0.61)] == [0, 0, 1]
    assert [count(1, k, 1) for k in (0.29, 0.3, 0.31)] == [2, 1, 1]
    _, length = blink(1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 1)
    assert length == pytest.approx(3 / FPS)  # of 1, 2 and 6 frames


def test_a_blink_under_way_at_the_first_frame_does_not_count():
    track = np.zeros((1, 25))
    track[0, :4], track[0, 22:] = 1, 1  # the second one begins, and never ends
    rate, length = measures.blink_statistics(track)
    assert rate == pytest.approx(1) and math.isnan(length)
    track[0, :4] = [0.5, 1, 1, 0]  # half closed at first
    assert measures.blink_statistics(track)[0] == pytest.approx(1)


def test_lip_rates_count_only_the_marked_frames():
    jaw = np.array([[0.0, 0.1, 0.2, 0.5, 0.9, 0.3]])
    closed, opened = np.array([[1, 1, 1, 0, 0, 0]], bool), np.array([[0, 0, 0, 1, 1, 1]], bool)
    assert measures.lip_rates(jaw, closed, opened) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert math.isnan(measures.lip_rates(jaw, np.zeros_like(closed), opened)[0])
    jaw, every = np.array([[0.14, 0.15, 0.16, 0.34, 0.35, 0.36]]), np.ones((1, 6), bool)
    assert measures.lip_rates(jaw, every, every) == pytest.approx((1 / 6, 1 / 6))


def test_head_spread_is_within_a_video_not_between_videos():
    motion = np.zeros((2, 100, 7))
    motion[0, :, 3], motion[1, :, 3] = 10, -10
    motion[:, ::2, 4] = 2
    np.testing.assert_allclose(measures.head_spread(motion), [0, 1, 0])
    motion = np.zeros((3, 100, 7))  # of three videos, one of which moves much: the mean
    motion[1, ::2, 5], motion[2, ::2, 5] = 2, 10
    np.testing.assert_allclose(measures.head_spread(motion), [0, 0, 2])


# ---------------------------------------------------------------- Sync-C and Sync-D


@pytest.mark.parametrize("k", [-15, -4, 0, 3, 15])
def test_sync_reports_the_frames_by_which_the_sound_is_late(k):
    v = torch.randn(3, 80, 8, generator=torch.Generator().manual_seed(0))
    c, d, offset = measures.sync_scores(v, v.roll(k, 1))  # what is seen at i is heard at i + k
    assert (offset == k).all()
    np.testing.assert_allclose(d, 0, atol=1e-6)
    assert (c > 1).all()


def test_sync_curve_is_the_mean_distance_at_each_offset():
    v, a = torch.zeros(1, 40, 4), torch.full((1, 40, 4), 1.5)
    np.testing.assert_allclose(
        measures.sync_curve(v, a), 3.0
    )  # the norm of (1.5, 1.5, 1.5, 1.5): not normalised
    c, d, _ = measures.sync_scores(v, a)
    assert d[0] == pytest.approx(3) and c[0] == pytest.approx(0)


def test_sync_scores_agree_with_a_loop_over_offsets_and_frames():
    v, a = torch.randn(2, 2, 30, 3, generator=torch.Generator().manual_seed(5)).double()
    for found, x, y in zip(zip(*measures.sync_scores(v, a)), v.numpy(), a.numpy()):
        mean = {}
        for o in range(-15, 16):
            pairs = [(x[k], y[k + o]) for k in range(30) if 0 <= k + o < 30]
            mean[o] = np.mean([math.dist(p, q) for p, q in pairs])
        best = min(mean, key=mean.get)
        wanted = np.median(list(mean.values())) - mean[best], mean[best], best
        assert found == pytest.approx(wanted)


def test_sync_leaves_out_offsets_with_too_few_pairs():
    v = torch.randn(1, 12, 4, generator=torch.Generator().manual_seed(1))
    assert (
        np.isfinite(measures.sync_curve(v, v)).sum() == 15
    )  # |offset| <= 7 leaves 5 pairs or more
    with pytest.raises(ValueError, match="at least 9 frames"):
        measures.sync_scores(v[:, :4], v[:, :4])


def test_info_nce_of_a_blind_network_is_the_log_of_the_batch():
    assert float(metrics_losses.info_nce(torch.zeros(7, 7))) == pytest.approx(math.log(7))
    assert float(metrics_losses.info_nce(100 * torch.eye(7))) == pytest.approx(0, abs=1e-6)


def test_the_sync_judge_learns_from_pieces_whose_sound_is_their_own_frames(monkeypatch):
    """Frames and windows that say which frame they are; half of each window is 0, and tells the
    level."""
    monkeypatch.setattr(metrics_losses, "tint", lambda x, *how: x)
    starts, number = np.array([0, 40, 90, 150]), np.arange(150.0, dtype=np.float32)
    frames = np.broadcast_to(number.astype(np.uint8)[:, None, None, None], (150, 8, 8, 3))
    half = (np.arange(64) < 32).astype(np.float32)
    windows = np.broadcast_to(number[:, None, None] * half, (150, 20, 64))
    windows = [windows[a:b] for a, b in zip(starts, starts[1:])]
    data = tiny_data.Videos(frames, None, starts, None, None, [])
    firsts = []
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        x, heard = metrics_losses.sync_batch(data, windows, generator, "cpu", videos=3)
        shown = (x[:, :, 0, 0, 0] + 1) * 127.5
        level = heard[..., 40:].mean((2, 3))
        assert (level == level[:, :1]).all() and (level != 0).all() and level.abs().max() < 0.5
        torch.testing.assert_close(heard[..., :32].mean((2, 3)) - level, shown, rtol=0, atol=1e-3)
        assert (shown.diff(dim=1) - 1).abs().max() < 1e-3
        video = np.searchsorted(starts, shown.round()[:, [0, -1]].numpy(), side="right")
        assert (video[:, 0] == video[:, 1]).all() and sorted(video[:, 0]) == [1, 2, 3]
        firsts += (shown.round()[:, 0].int().numpy() - starts[video[:, 0] - 1]).tolist()
    assert len(set(firsts)) > 8


def test_sync_loss_scores_are_negative_squared_distances():
    v, a = (
        torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(2)),
        torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(3)),
    )
    want = metrics_losses.info_nce(-torch.cdist(v.flatten(0, 1), a.flatten(0, 1)).pow(2))
    torch.testing.assert_close(metrics_losses.sync_loss(v, a), want, rtol=1e-4, atol=1e-5)


# ---------------------------------------- the shipped networks, on people they never saw


@pytest.fixture(scope="module")
def others():
    """480 frames of twelve others -> (480, 64, 64, 3), motion (480, 11)."""
    made = [tiny_data.make_video(NEW + 100 + i, 40) for i in range(12)]
    return tuple(np.concatenate([video[k] for video in made]) for k in (0, 3))


def test_the_reader_reads_rendered_faces(nets, others):
    """R² over all held-out people is in README; twelve people leave some luck."""
    frames, m = others
    r2 = metrics.r_squared(
        metrics.over(nets["reader"], frames, torch.device("cpu")), torch.from_numpy(m[:, :7])
    )
    assert (r2 > 0.95).all(), dict(zip(metrics.READ, r2.tolist()))


def test_the_reader_reads_what_the_autoencoder_makes_of_a_face_almost_as_well(nets, others):
    autoencoder = load_autoencoder(SHIPPED / "autoencoder.pt", torch.device("cpu"))
    frames, m = (x[::2] for x in others)
    read = metrics.over(
        nets["reader"],
        frames,
        torch.device("cpu"),
        lambda x: autoencoder.decode(autoencoder.encode(x)),
    ).numpy()
    for i, name in enumerate(metrics.READ):
        assert measures.correlation(read[:, i], m[:, i]) > 0.9, name


def test_the_reader_follows_one_parameter_and_leaves_the_others(nets):
    m = np.zeros((9, 11), np.float32)
    m[:, 1], m[:, 0] = 0.5, np.linspace(0, 0.9, 9)
    read = metrics.over(
        nets["reader"], faces.render(faces.identity(NEW), m), torch.device("cpu")
    ).numpy()
    assert np.abs(read[:, 0] - m[:, 0]).max() < 0.1
    assert (
        np.abs(read[:, 3:5]).max() < 1
        and np.abs(read[:, 5]).max() < 0.06
        and np.abs(read[:, 6]).max() < 0.25
    )


def test_sync_knows_true_sound_from_wrong_and_late_sound(nets, new_videos):
    frames, windows, _ = new_videos
    v, a = embeddings(nets, frames, windows)
    c, d, offset = measures.sync_scores(v, a)
    wrong_c, wrong_d, _ = measures.sync_scores(v, a.roll(1, 0))
    assert (np.abs(offset) <= 1).mean() > 0.8 and np.median(offset) == 0
    assert c.mean() > 2 * wrong_c.mean() and d.mean() < wrong_d.mean()
    assert (
        np.median(measures.sync_scores(v[:, 3:], a[:, :-3])[2]) == 3
    )  # the sound three frames late
    assert np.median(measures.sync_scores(v[:, :-3], a[:, 3:])[2]) == -3


def test_a_still_face_has_no_sync(nets, new_videos):
    frames, windows, _ = new_videos
    still = np.broadcast_to(frames[:, :1], frames.shape)
    c = measures.sync_scores(*embeddings(nets, frames, windows))[0].mean()
    assert measures.sync_scores(*embeddings(nets, still, windows))[0].mean() < 0.5 * c


def test_features_see_blur_and_ghosts(nets, new_videos):
    frames, _, _ = new_videos
    flat, cpu = frames.reshape(-1, 64, 64, 3), torch.device("cpu")
    true = metrics.over(nets["features"].frames, flat, cpu).numpy()
    blur = metrics.over(
        nets["features"].frames, flat, cpu, lambda x: metrics.blurred(x, torch.full((len(x),), 0.7))
    ).numpy()
    ghost = metrics.over(
        nets["features"].frames, (frames // 2 + frames[:, ::-1] // 2).reshape(-1, 64, 64, 3), cpu
    ).numpy()
    halves = measures.frechet_of_samples(true[::2], true[1::2])
    assert measures.frechet_of_samples(true, blur) > 5 * halves
    assert measures.frechet_of_samples(true, ghost) > 5 * halves


def test_clip_features_see_the_order_of_frames(nets, new_videos):
    frames, _, _ = new_videos
    net = nets["features"]
    f = metrics.over(net.frames, frames.reshape(-1, 64, 64, 3), torch.device("cpu")).view(6, 60, -1)
    clips = lambda f: net.clips(f).detach().numpy()
    halves = measures.frechet_of_samples(
        clips(f[:, :-1]), clips(f[:, 1:])
    )  # the same clips, one frame later
    shuffled = f[:, torch.randperm(60, generator=torch.Generator().manual_seed(0))]
    assert measures.frechet_of_samples(clips(f), clips(shuffled)) > 5 * halves
    assert measures.frechet_of_samples(clips(f), clips(f[:, :1].expand_as(f))) > 5 * halves


def test_identity_is_the_same_within_a_video_and_different_between_people(nets, new_videos):
    frames, _, _ = new_videos
    who = nets["features"].identity(
        metrics.over(
            nets["features"].frames, frames[:, ::6].reshape(-1, 64, 64, 3), torch.device("cpu")
        )
    )
    table = (who @ who.T).view(6, 10, 6, 10).mean((1, 3))
    same, others = table.diagonal().mean(), table[~torch.eye(6, dtype=torch.bool)].mean()
    assert same > 0.7 and others < 0.4


# ---------------------------------------------------------------- training


def test_disorder_is_what_its_name_says():
    clip = torch.arange(2 * metrics.CLIP).float()[:, None]
    make = lambda name: metrics_losses.disordered(
        clip, metrics.DISORDER.index(name), torch.Generator().manual_seed(0), -1 - clip
    )[:, 0]
    assert make("none").tolist() == list(range(16)) and make("fast").tolist() == list(
        range(0, 32, 2)
    )
    assert sorted(make("shuffled").tolist()) == list(range(16)) != make("shuffled").tolist()
    assert make("stutter").tolist() == [k // 2 * 2 for k in range(16)]
    assert (
        make("frozen").diff().min() == 0
        and (make("flicker") < 0).any()
        and (make("flicker") >= 0).any()
    )


def test_an_eighth_of_the_readers_faces_have_free_lips_and_a_third_are_decoded():
    autoencoder, lips = (
        load_autoencoder(SHIPPED / "autoencoder.pt", torch.device("cpu")),
        np.tile(np.linspace(0, 1, 7, dtype=np.float32)[:, None], 3),
    )
    seen, m = metrics_losses.reader_faces(24, lips, autoencoder, torch.device("cpu"))
    assert seen.shape == (96, 64, 64, 3) and seen.dtype == np.uint8 and m.shape == (96, 11)
    for i in range(24):
        frames, move = seen[4 * i : 4 * i + 4], m[4 * i : 4 * i + 4]
        assert (np.ptp(move[:, :3], axis=1) > 0.01).any() == (
            i % 8 == 0
        )  # these lips have all three equal
        error = np.abs(frames - faces.render(faces.identity(i), move).astype(int)).mean()
        assert 0 < error < 15 if i % 3 == 0 else error == 0


def test_metrics_train_at_toy_size_and_keep_what_they_do_not_train(tmp_path):
    small = {
        **train_metrics.SMOKE,
        "videos": 2,
        "data": str(tmp_path / "data"),
        "out": str(tmp_path),
        "weights": str(tmp_path / "m.pt"),
        "device": "cpu",
        "autoencoder": str(SHIPPED / "autoencoder.pt"),
    }
    train_metrics.train(train_metrics.Config(**small))
    before = metrics.load_metrics(tmp_path / "m.pt")
    assert set(before) == {"reader", "features", "sync"}
    train_metrics.train(train_metrics.Config(**small, only="sync", seed=1))
    after = metrics.load_metrics(tmp_path / "m.pt")
    assert torch.equal(before["reader"].layers[1].weight, after["reader"].layers[1].weight)
    assert not torch.equal(before["sync"].join[0].weight, after["sync"].join[0].weight)


def test_metrics_of_own_clips_train_without_the_reader_and_go_on_where_they_stopped(
    tmp_path, monkeypatch
):
    toy = tiny_data.make_video(0, 80)

    def clips(*_):  # two clips of unequal length, no ground truth
        return tiny_data.Videos(
            toy[0], toy[1], np.array([0, 33, 80]), toy[2], np.zeros((0, 11), np.float32), []
        )

    monkeypatch.setattr(tiny_data, "load", clips)
    cfg = train_metrics.Config(
        **{
            **train_metrics.SMOKE,
            "out": str(tmp_path),
            "weights": str(tmp_path / "m.pt"),
            "device": "cpu",
        }
    )
    with monkeypatch.context() as stopped:
        stopped.setattr(
            train_metrics, "sync_loss", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            train_metrics.train(cfg)
    assert not (tmp_path / "m.pt").exists()
    with pytest.raises(ValueError, match="--batch 8: use the same"):
        train_metrics.train(dataclasses.replace(cfg, batch=4), resume=True)
    train_metrics.train(cfg, resume=True)
    assert set(metrics.load_metrics(tmp_path / "m.pt")) == {"features", "sync"}
    saved = torch.load(tmp_path / "m.pt", weights_only=True)
    torch.save({**saved, "sync": saved["features"]}, tmp_path / "m.pt")
    with pytest.raises(ValueError, match="does not fit"):
        metrics.load_metrics(tmp_path / "m.pt")


@pytest.mark.parametrize("starts", [[0, 80], [0, 40, 80], [0, 30, 50, 80]])
def test_clips_that_do_not_move_are_refused_and_one_that_does_is_enough(monkeypatch, starts):
    """Stills of other people are as still as one; a cut from one to the next is no motion."""
    starts = np.array(starts)
    stills = np.repeat(np.arange(len(starts) - 1), np.diff(starts)).astype(np.uint8)
    frames = np.zeros((80, 64, 64, 3), np.uint8) + stills[:, None, None, None]
    rest = np.zeros((320, 64), np.float32), starts, np.zeros(51200, np.float32)
    videos = tiny_data.Videos(frames, *rest, np.zeros((0, 11), np.float32), [])
    monkeypatch.setattr(tiny_data, "load", lambda *_: videos)
    cfg = train_metrics.Config(**train_metrics.SMOKE, device="cpu", only="reader")
    with pytest.raises(ValueError, match="do not move: give videos of faces"):
        train_metrics.train(cfg)
    frames[5, 0, 0, 0] += 1
    with pytest.raises(ValueError, match="--only reader"):  # the next check
        train_metrics.train(cfg)


def test_a_batch_of_one_is_refused_before_anything_is_trained():
    with pytest.raises(ValueError, match="--batch must be at least 2"):
        train_metrics.train(
            train_metrics.Config(**{**train_metrics.SMOKE, "batch": 1, "device": "cpu"})
        )


def test_the_shipped_file_is_small_and_a_foreign_one_is_refused(tmp_path):
    assert (SHIPPED / "metrics.pt").stat().st_size < 4e6
    torch.save({"kind": "teacher"}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="metrics"):
        metrics.load_metrics(tmp_path / "x.pt")


def test_loading_the_reader_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    wanted = torch.rand(4)
    torch.manual_seed(0)
    metrics.load_reader(SHIPPED / "metrics.pt")
    assert torch.equal(torch.rand(4), wanted)


# ---------------------------------------------------------------- exact numbers


def test_covariances_are_of_n_minus_1():
    cross = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])  # covariance 2/3 I; twice as wide: 8/3 I
    assert measures.frechet_of_samples(cross, 2 * cross) == pytest.approx(4 / 3)


def test_lags_are_looked_for_up_to_both_ends():
    true = np.random.default_rng(1).normal(size=(4, 60)).cumsum(1)
    assert [measures.best_lag(np.roll(true, k, axis=1), true) for k in (-8, 8)] == [-8, 8]
    assert abs(measures.best_lag(np.roll(true, 3, axis=1), true, max_lag=2)) <= 2
    assert all(abs(measures.best_lag(np.roll(true, k, axis=1), true)) <= 8 for k in (9, 10, 12))


def test_heads_that_move_in_opposite_ways_are_spread_none_the_less():
    motion = np.zeros((2, 100, 7))
    motion[0, ::2, 3] = motion[1, 1::2, 3] = 2
    np.testing.assert_allclose(measures.head_spread(motion), [1, 0, 0])


def test_what_a_judge_says_of_a_frame_does_not_depend_on_the_others(nets):
    """In eval mode: a BatchNorm that takes the batch's statistics reads well, too."""
    x = to_pixels(faces.render(faces.identity(NEW), np.zeros((2, 11), np.float32)))
    x[1] = -x[1]
    for net in nets["reader"], nets["features"].frames:
        torch.testing.assert_close(net(x)[:1], net(x[:1]), rtol=1e-3, atol=1e-3)
