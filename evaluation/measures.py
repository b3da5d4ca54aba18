"""The measures: NumPy in, numbers out.

    Fréchet    ‖μ1 − μ2‖² + tr(Σ1 + Σ2 − 2 (Σ1 Σ2)^½)
    Sync-D     min over |o| <= 15 of  mean_k ‖v_k − a_{k+o}‖,     Sync-C = median − min

Shapes: V videos, F frames of a video, D features.
"""

import numpy as np

from audio_features import FPS

MAX_OFFSET = 15  # frames, of Sync-C and Sync-D


def frechet_distance(mu1, cov1, mu2, cov2):
    """‖μ1 − μ2‖² + tr(Σ1 + Σ2 − 2 (Σ1 Σ2)^½), the squared 2-Wasserstein distance of two Gaussians.
    Heusel et al., 1706.08500, eq. 6.  μ (D,), Σ (D, D) -> a number >= 0.

    (Σ1 Σ2)^½ has the trace of (Σ1^½ Σ2 Σ1^½)^½, which is symmetric: so no complex residue and no
    failure when Σ is singular.
    """
    mu1, cov1, mu2, cov2 = (np.asarray(a, np.float64) for a in (mu1, cov1, mu2, cov2))
    if mu1.shape != mu2.shape or cov1.shape != cov2.shape or cov1.shape != 2 * mu1.shape:
        raise ValueError(
            f"two means (D,) and covariances (D, D) are wanted, got {mu1.shape} {cov1.shape} "
            f"{mu2.shape} {cov2.shape}"
        )
    w, u = np.linalg.eigh(cov1)
    root = (u * np.sqrt(np.clip(w, 0, None))) @ u.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ cov2 @ root), 0, None)).sum()
    return float(max(0.0, np.square(mu1 - mu2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * cross))


def frechet_of_samples(a, b):
    """Fréchet distance of the Gaussians fitted to two sets of features, (N, D) and (M, D). Raises
    ValueError for sets of one: they have no covariance."""
    if min(len(a), len(b)) < 2:
        raise ValueError(
            "a Fréchet distance wants two clips or more on either side: give more --clips or "
            "--frames"
        )
    return frechet_distance(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))


def correlation(a, b):
    """Pearson's r over all entries of two arrays of one shape; 0 when one of them is constant up
    to rounding (a still face follows nothing)."""
    a, b = (np.asarray(x, np.float64).ravel() - np.mean(x, dtype=np.float64) for x in (a, b))
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 1e-12 * max(1, len(a)) else 0.0


def best_lag(a, b, max_lag=8):
    """By how many frames a comes after b: the k that maximises the correlation of a[t + k] with
    b[t]. a, b (V, F) or (F,).

    +2 means that the lips are two frames (80 ms) late. Ties, up to rounding, go to the
    smaller |k|.
    """
    a, b = np.atleast_2d(a), np.atleast_2d(b)
    n = a.shape[1]
    lags = sorted(range(-max_lag, max_lag + 1), key=abs)
    return max(
        lags,
        key=lambda k: round(
            correlation(a[:, max(0, k) : n + min(0, k)], b[:, max(0, -k) : n + min(0, -k)]), 9
        ),
    )


def blink_statistics(track, on=0.6, off=0.3):
    """Lid closure 0..1 (V, F) -> (blinks per second, mean duration in s). A blink begins above `on`
    and ends below `off` (hysteresis: noise at one threshold would count twice); one already begun
    at the first frame is not counted, one that does not end counts for the rate but not for the
    duration. No blink: (0, nan)."""
    count, durations = 0, []
    for row in np.atleast_2d(track):
        start, shut = None, row[0] > off
        for k, value in enumerate(row):
            if not shut and value > on:
                start, shut, count = k, True, count + 1
            elif shut and value < off:
                durations += [] if start is None else [(k - start) / FPS]
                start, shut = None, False
    return count / (np.size(track) / FPS), float(np.mean(durations)) if durations else float("nan")


def lip_rates(jaw, closed, opened, closed_below=0.15, open_above=0.35):
    """Share of the frames marked `closed` (m b p) in which jaw < 0.15, and of those marked `opened`
    (open vowels) in which it is > 0.35. All (V, F), the marks bool -> two numbers, nan where
    nothing is marked."""

    def rate(hit, mark):
        return float(hit[mark].mean()) if mark.any() else float("nan")

    return rate(jaw < closed_below, closed), rate(jaw > open_above, opened)


def head_spread(motion):
    """Standard deviation over time of head x, y and roll, mean over videos. (V, F, 7) columns READ
    -> (3,)."""
    return motion[..., 3:6].std(1).mean(0)


def sync_curve(v, a, max_offset=MAX_OFFSET):
    """Mean over videos and k of ‖v_k − a_{k+o}‖ for o = −15 ... 15. v, a (V, K, D) tensors -> (V,
    31) NumPy, nan where fewer than 5 pairs are left."""
    n, curve = v.shape[1], np.full((len(v), 2 * max_offset + 1), np.nan)
    for o in range(-max_offset, max_offset + 1):
        if n - abs(o) >= 5:
            d = v[:, max(0, -o) : n + min(0, -o)] - a[:, max(0, o) : n + min(0, o)]
            curve[:, o + max_offset] = d.norm(dim=-1).mean(1).cpu().numpy()
    return curve


def sync_scores(v, a, max_offset=MAX_OFFSET):
    """Sync-C, Sync-D and offset of each video from its embeddings, three (V,) arrays. Chung &
    Zisserman 2016.

    D = min_o d(o), C = median_o d(o) − D, offset = argmin_o d(o). d is the Euclidean distance of
    embeddings as they come, not normalised. Offset +k: the sound is k frames late. C and D are
    blind to the fact that the offset should be 0: report it.
    """
    curve = sync_curve(v, a, max_offset)
    if np.isnan(curve).all(1).any():
        raise ValueError(f"Sync-C and Sync-D need at least 9 frames, got {v.shape[1] + 4}")
    low = np.nanmin(curve, 1)
    return np.nanmedian(curve, 1) - low, low, np.nanargmin(curve, 1) - max_offset
