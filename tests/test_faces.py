import numpy as np
import pytest

from tiny_data import faces
from tiny_data.faces import MOTION, identity, motion, render


def still(n=1, **values):
    """A motion track of a face at rest, with some columns set."""
    m = np.zeros((n, len(MOTION)), np.float32)
    m[:, MOTION.index("width")] = 0.5
    for name, value in values.items():
        m[:, MOTION.index(name)] = value
    return m


def changed(seed=7, **values):
    """Rows and columns where drawing with `values` differs visibly from the face at rest."""
    a, b = (render(identity(seed), still(**v))[0].astype(float) for v in ({}, values))
    return np.argwhere(np.abs(a - b).max(-1) > 20)


def test_frames_are_64_by_64_uint8_and_deterministic_in_the_seed():
    track = motion(3, np.full((10, 3), 0.3))
    frames = render(identity(3), track)
    assert frames.shape == (10, 64, 64, 3) and frames.dtype == np.uint8
    np.testing.assert_array_equal(frames, render(identity(3), motion(3, np.full((10, 3), 0.3))))
    assert np.abs(frames.astype(int) - render(identity(4), track)).mean() > 5


def test_rendering_a_frame_does_not_depend_on_the_others():
    track = motion(5, np.full((6, 3), 0.4))
    np.testing.assert_array_equal(render(identity(5), track)[3:4], render(identity(5), track[3:4]))


def test_opening_the_jaw_changes_the_lower_face_only():
    where = changed(jaw=1.0)
    assert len(where) > 30 and where[:, 0].min() > 34


@pytest.mark.parametrize("name, low, high", [("width", 0.0, 1.0), ("rounding", 0.0, 1.0)])
def test_lip_shape_is_visible_on_closed_and_open_lips(name, low, high):
    for jaw in (0.0, 0.5):
        a, b = (
            render(identity(11), still(jaw=jaw, **{name: v}))[0].astype(float) for v in (low, high)
        )
        assert (np.abs(a - b).max(-1) > 25).sum() > 10


def test_head_motion_is_in_pixels():
    a, b = (
        render(identity(2), still())[0, 5:30].astype(float),
        render(identity(2), still(x=3.0))[0, 5:30].astype(float),
    )
    errors = [np.abs(a[:, 10:50] - b[:, 10 + k : 50 + k]).mean() for k in range(6)]
    assert int(np.argmin(errors)) == 3


def test_a_blink_hides_the_eyes_and_nothing_else():
    where = changed(blink=1.0)
    assert len(where) > 10 and 20 < where[:, 0].min() and where[:, 0].max() < 38


@pytest.mark.parametrize("name", MOTION)
def test_every_motion_parameter_is_visible(name):
    value = {"x": 5, "y": 4, "roll": 0.2, "width": 1.0}.get(name, 0.9)
    assert len(changed(**{name: value})) > 5


def test_the_lips_pass_through_motion_unchanged_and_the_rest_varies():
    lips = np.random.default_rng(0).random((2000, 3))
    m = motion(9, lips)
    np.testing.assert_allclose(m[:, :3], lips, rtol=1e-6)
    assert (m[:, 3:].std(0) > [1.3, 0.75, 0.035, 0.1, 0.13, 0.3, 0.3, 0.3]).all()
    for column in m[:, 3:6].T:  # head motion is independent of the sound
        assert abs(np.corrcoef(column, lips[:, 0])[0, 1]) < 0.3


def test_head_motion_is_smooth_and_moves_within_one_clip():
    m = np.stack([motion(s, np.zeros((16, 3))) for s in range(200)])
    x = m[:, :, MOTION.index("x")]
    assert np.abs(np.diff(x, axis=1)).mean() < 1.2  # pixels a frame: no jumps
    assert np.ptp(x, axis=1).mean() > 1.5 and x.std() > 2  # pixels: one answer cannot fit all


def test_blinks_close_fully_last_a_fifth_of_a_second_and_come_every_other_second():
    blink = np.concatenate(
        [motion(s, np.zeros((250, 3)))[:, MOTION.index("blink")] for s in range(20)]
    )
    shut = (blink > 0.5).astype(int)
    starts = (np.diff(shut) == 1).sum()
    assert 0.35 < starts / (len(blink) / faces.FPS) < 0.75
    assert 0.08 < shut.sum() / starts / faces.FPS < 0.25
    assert blink.max() == 1 and blink.min() == 0


def test_identities_differ_more_than_frames_of_one_identity():
    portraits = np.stack([render(identity(s), still())[0] for s in range(30)]).astype(float)
    distance = np.abs(portraits[:, None] - portraits[None]).mean((2, 3, 4))
    assert distance[~np.eye(30, dtype=bool)].min() > 8


def test_wrong_motion_shape_says_what_is_wanted():
    with pytest.raises(ValueError, match="motion must be"):
        render(identity(0), np.zeros((4, 3)))
