"""Lab 7: what the judges measure. test_K_... marks task K."""

import math

import numpy as np
import pytest

from evaluation import measures

approx = pytest.approx


def embeddings(v, a):
    """Two (V, K, D) lists as tensors."""
    import torch  # only where it is needed: it takes seconds

    return torch.tensor(v, dtype=torch.float32), torch.tensor(a, dtype=torch.float32)


def walk(seed, videos=1, n=40, size=8):
    """Embeddings that differ from frame to frame."""
    return np.random.default_rng(seed).normal(size=(videos, n, size))


# ---- 1 Fréchet distance


def test_1_in_one_dimension_by_hand():
    """N(1, 2²) and N(4, 6²): (4 − 1)² + (6 − 2)² = 25."""
    found = measures.frechet_distance([1.0], [[4.0]], [4.0], [[36.0]])
    assert found == approx(25)


def test_1_of_two_that_share_no_axes_by_hand():
    """Variances (9, 1), and the same turned by 90°: Σ1 Σ2 = 9, so 20 − 2 (3 + 3) = 8."""
    zero = np.zeros(2)
    assert measures.frechet_distance(zero, np.diag([9.0, 1]), zero, np.diag([1.0, 9])) == approx(8)


def test_1_correlated_features():
    """Σ1 = [[2, 1], [1, 2]] against the unit matrix: its eigenvalues are 3 and 1."""
    zero = np.zeros(2)
    found = measures.frechet_distance(zero, [[2.0, 1], [1, 2]], zero, np.eye(2))
    assert found == approx((math.sqrt(3) - 1) ** 2)


def test_1_zero_for_equal_ones_and_never_below():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 32))  # rank 5 in 32 dimensions: singular
    mu, cov = x.mean(0), np.cov(x, rowvar=False)
    found = measures.frechet_distance(mu, cov, mu, cov)
    assert 0 <= found == approx(0, abs=1e-3)


def test_1_points_have_no_covariance_and_a_distance_still():
    zero = np.zeros((3, 3))
    assert measures.frechet_distance(np.zeros(3), zero, np.full(3, 2.0), zero) == approx(12)


def test_1_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError):
        measures.frechet_distance(np.zeros(3), np.eye(4), np.zeros(3), np.eye(4))


# ---- 2 correlation


def test_2_by_hand():
    """(−1, 0, 1) and (−1, −2, 3): 4 / √(2 · 14)."""
    assert measures.correlation([1.0, 2, 3], [0.0, -1, 4]) == approx(4 / math.sqrt(28))


def test_2_scale_and_offset_do_not_matter_and_the_sign_does():
    a = np.array([[1.0, 5, 2], [7, 0, 3]])
    assert measures.correlation(a, 3 * a - 7) == approx(1)
    assert measures.correlation(a, -a) == approx(-1)


def test_2_a_still_face_follows_nothing():
    assert measures.correlation(np.full(40, 0.3, np.float32), np.arange(40.0)) == 0
    assert measures.correlation(np.arange(40.0), np.zeros(40)) == 0


def test_2_over_all_entries_not_video_by_video():
    a, b = np.array([[0.0, 1], [10, 11]]), np.array([[1.0, 0], [11, 10]])
    assert measures.correlation(a, b) == approx(99 / 101)  # −1 within each video


# ---- 3 lag


def test_3_positive_is_late():
    true = np.random.default_rng(1).normal(size=(4, 60)).cumsum(1)
    for k in (-8, -2, 0, 1, 5):
        assert measures.best_lag(np.roll(true, k, axis=1), true) == k


def test_3_one_track_will_do():
    true = np.random.default_rng(2).normal(size=60)
    assert measures.best_lag(np.roll(true, 3), true) == 3


def test_3_no_further_than_max_lag():
    true = np.random.default_rng(3).normal(size=200)
    late = np.roll(true, 6)
    assert measures.best_lag(late, true) == 6
    assert abs(measures.best_lag(late, true, max_lag=2)) <= 2


def test_3_ties_go_to_the_smaller_lag():
    assert measures.best_lag(np.zeros((3, 40)), np.random.default_rng(4).random((3, 40))) == 0
    wave = np.tile([0.0, 1, 0, -1], 15)  # of period 4
    assert measures.best_lag(wave, wave) == 0


# ---- 4 blinks, at 25 frames a second


def lids(n, *blinks):
    track = np.zeros(n)
    for first, last in blinks:
        track[first:last] = 1
    return track


def test_4_counted_and_timed():
    """Two in four seconds, of 5 and 7 frames: 0.24 s on average."""
    rate, length = measures.blink_statistics(lids(100, (20, 25), (60, 67))[None])
    assert rate == approx(0.5) and length == approx(0.24)


def test_4_several_videos_are_one_count():
    tracks = np.stack([lids(50, (10, 15)), lids(50), lids(50, (5, 8), (30, 34))])
    rate, length = measures.blink_statistics(tracks)
    assert rate == approx(3 / 6) and length == approx(4 / 25)


def test_4_a_wobble_is_one_blink_and_half_shut_is_none():
    wobble = lids(50)
    wobble[10:20] = [1, 0.5, 1, 0.4, 1, 0.5, 1, 0.35, 1, 0.5]  # never below 0.3
    rate, length = measures.blink_statistics(wobble)
    assert rate == approx(0.5) and length == approx(10 / 25)
    rate, length = measures.blink_statistics(np.tile([0.0, 0.55], 25))  # never above 0.6
    assert rate == 0 and math.isnan(length)


def test_4_one_under_way_at_the_start_does_not_count():
    rate, length = measures.blink_statistics(lids(50, (0, 4), (20, 26)))
    assert rate == approx(0.5) and length == approx(6 / 25)


def test_4_one_without_an_end_counts_for_the_rate_alone():
    rate, length = measures.blink_statistics(lids(25, (22, 25)))
    assert rate == approx(1) and math.isnan(length)


def test_4_the_thresholds_are_arguments():
    rate, _ = measures.blink_statistics(np.tile([0.0, 0.55], 25), on=0.5, off=0.1)
    assert rate == approx(25 / 2)


# ---- 5 the sync curve


def test_5_the_norm_is_that_of_the_embeddings_as_they_come():
    v, a = embeddings(np.zeros((1, 40, 4)), np.full((1, 40, 4), 1.5))
    np.testing.assert_allclose(measures.sync_curve(v, a), np.full((1, 31), 3.0), rtol=1e-5)


def test_5_zero_where_the_sound_comes_k_frames_after_the_lips():
    x = walk(0, 2, 60)
    for k in (-4, 0, 3):
        curve = measures.sync_curve(*embeddings(x, np.roll(x, k, axis=1)))
        assert curve.shape == (2, 31)
        if k == 0:
            np.testing.assert_allclose(curve[:, 15], 0, atol=1e-5)
        assert (curve.argmin(1) == 15 + k).all()


def test_5_every_video_has_its_own():
    x = walk(1, 2, 60)
    late = np.stack([np.roll(x[0], 2, axis=0), np.roll(x[1], -5, axis=0)])
    assert measures.sync_curve(*embeddings(x, late)).argmin(1).tolist() == [17, 10]


def test_5_offsets_that_leave_fewer_than_five_pairs_are_nan():
    curve = measures.sync_curve(*embeddings(walk(2, 1, 12), walk(2, 1, 12)))[0]
    assert np.isfinite(curve).tolist() == [abs(o) <= 7 for o in range(-15, 16)]


def test_5_by_hand():
    """v_k = k, a_k = 3 k at five places: offset 0 alone, the mean of 0, 2, 4, 6, 8."""
    k = np.arange(5.0).reshape(1, 5, 1)
    curve = measures.sync_curve(*embeddings(k, 3 * k))[0]
    assert curve[15] == approx(4) and np.isnan(curve).sum() == 30


# ---- 6 Sync-C, Sync-D, offset


def test_6_an_equal_distance_everywhere():
    found = measures.sync_scores(*embeddings(np.zeros((2, 40, 4)), np.full((2, 40, 4), 1.5)))
    confidence, distance, _ = found
    np.testing.assert_allclose(confidence, [0, 0], atol=1e-5)
    np.testing.assert_allclose(distance, [3, 3], rtol=1e-5)


def test_6_the_offset_of_each_video():
    x = walk(3, 3, 80)
    late = np.stack([np.roll(x[i], k, axis=0) for i, k in enumerate((-15, 0, 4))])
    confidence, distance, offset = measures.sync_scores(*embeddings(x, late))
    assert list(offset) == [-15, 0, 4]
    assert (confidence > 1).all() and distance[1] == approx(0, abs=1e-5)


def test_6_the_median_not_the_mean():
    """Distances |o|: of −15 ... 15 the median is 8 and the least 0."""
    o = np.arange(40.0).reshape(1, 40, 1)
    confidence, distance, offset = measures.sync_scores(*embeddings(o, o))
    assert confidence[0] == approx(8, abs=1e-4) and distance[0] == approx(0, abs=1e-5)
    assert offset[0] == 0


def test_6_short_videos_use_the_offsets_they_have():
    """12 places: offsets up to 7, distances |o|, whose median is 4."""
    o = np.arange(12.0).reshape(1, 12, 1)
    assert measures.sync_scores(*embeddings(o, o))[0][0] == approx(4, abs=1e-4)


def test_6_too_short_ones_are_refused():
    with pytest.raises(ValueError):
        measures.sync_scores(*embeddings(np.zeros((1, 4, 3)), np.zeros((1, 4, 3))))
