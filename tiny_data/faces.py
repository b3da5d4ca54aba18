"""A procedural talking portrait: (identity, motion per frame) -> 64 x 64 RGB frames, in NumPy.

Every shape is a signed distance d in pixels (negative inside), drawn with coverage
clip(1/2 - d, 0, 1), which anti-aliases its edge over one pixel. All shapes are evaluated for all
frames of a video at once. Lip motion comes from the phonemes (phones.py); head, gaze, brows and
blinks are drawn at random: no model can know them from the sound, so it must learn their
distribution. Distances follow Quilez, "2D distance functions", with first-order ones for ellipses.
"""

import numpy as np

from audio_features import FPS
from media import SIZE

#         known from the sound          not known from the sound
MOTION = ("jaw", "width", "rounding", "x", "y", "roll", "blink", "turn", "gaze_x", "gaze_y", "brow")
# units:   0..1    0..1     0..1      px   px   rad     0..1   -1..1    -1..1     -1..1    -1..1


def _smooth_noise(rng, n, seconds, clip=2.5):
    """(n,) unit-variance Gaussian noise, low-passed to a time scale of `seconds` (Gaussian kernel's
    standard deviation)."""
    s = seconds * FPS
    k = np.arange(-int(4 * s) - 1, int(4 * s) + 2)
    w = np.exp(-0.5 * (k / s) ** 2)
    white = rng.standard_normal(n + len(k) - 1)
    return np.clip(np.convolve(white, w / np.sqrt((w * w).sum()), "valid"), -clip, clip)


def motion(seed, lips):
    """Add the motion that the sound does not determine to a lip track.

    lips (F, 3) jaw, width, rounding -> (F, 11) float32, columns MOTION. Head sway, roll and turn
    are smooth with a time scale of 0.4 s, so that a 0.64 s clip moves visibly; gaze jumps and
    rests; blinks last 0.2-0.28 s, about one every 2 s.
    """
    rng, n = np.random.default_rng([seed, 1]), len(lips)
    m = np.zeros((n, len(MOTION)), np.float32)
    m[:, :3] = lips
    m[:, 3] = 2.0 * _smooth_noise(rng, n, 0.4)
    m[:, 4] = 1.2 * _smooth_noise(rng, n, 0.4)
    m[:, 5] = 0.055 * _smooth_noise(rng, n, 0.4)
    m[:, 7] = 0.2 * _smooth_noise(rng, n, 0.4)
    m[:, 10] = np.tanh(0.8 * _smooth_noise(rng, n, 0.4))
    t = -rng.uniform(0, 10)
    while t < n:  # gaze: fixations of 0.25-1 s, jumps between them
        stay = rng.uniform(6, 25)
        m[max(0, int(t)) : max(0, int(t + stay)), 8:10] = rng.uniform(-1, 1, 2)
        t += stay
    t = -rng.uniform(0, 40)
    while t < n:  # blinks: a raised cosine, closed in its middle
        length = rng.uniform(5, 7)
        k = np.arange(max(0, int(np.ceil(t))), max(0, min(n, int(t + length) + 1)))
        shape = np.clip(1.5 * np.sin(np.pi * np.clip((k - t) / length, 0, 1)), 0, 1)
        m[k, 6] = np.maximum(m[k, 6], shape)
        t += length + rng.exponential(30) + 10
    return m


SKIN = np.array([[255, 224, 200], [241, 194, 160], [224, 172, 128], [190, 134, 92], [141, 92, 60]])
SKIN = np.vstack([SKIN, [92, 58, 40]]) / 255
HAIR = np.array([[150, 150, 155], [26, 20, 18], [60, 38, 24], [140, 60, 32], [110, 70, 38]])
HAIR = np.vstack([HAIR, [176, 128, 70], [222, 190, 120]]) / 255
IRIS = np.array([[70, 45, 25], [110, 75, 40], [70, 110, 70], [70, 110, 160], [110, 120, 130]]) / 255


def identity(seed):
    """Draw a portrait's fixed properties: a dict of numbers, RGB triples in [0, 1] and style
    names."""
    rng = np.random.default_rng([seed, 2])
    u = rng.uniform

    def mix(table):  # a random point between two neighbours of a palette
        i, f = rng.integers(len(table) - 1), u()
        return np.clip(table[i] * (1 - f) + table[i + 1] * f + rng.normal(0, 0.02, 3), 0, 1)

    skin, hair = mix(SKIN), mix(HAIR)
    back = u(0.2, 0.9) + u(-0.25, 0.25, 3)  # muted: the face, not the wall, is the subject
    return dict(
        skin=skin,
        hair=hair,
        iris=IRIS[rng.integers(len(IRIS))],
        lip=np.clip(skin * [u(0.75, 0.95), u(0.45, 0.62), u(0.45, 0.65)], 0, 1),
        back=np.clip(back, 0, 1),
        back2=np.clip(back + u(-0.3, 0.3, 3), 0, 1),
        back_angle=u(0, 2 * np.pi),
        cloth=np.clip(u(0.1, 0.9) + u(-0.3, 0.3, 3), 0, 1),
        collar=np.clip(u(0.1, 0.9) + u(-0.3, 0.3, 3), 0, 1),
        head_w=u(14.5, 18),
        head_h=u(19, 22.5),
        chin=u(0.62, 0.92),
        light=u(-0.16, 0.16),
        eye_dx=u(6.4, 8.2),
        eye_y=u(-4.5, -2.0),
        eye_w=u(2.9, 3.9),
        eye_h=u(1.7, 2.6),
        eye_tilt=u(-0.15, 0.2),
        brow_y=u(3.6, 5.0),
        brow_w=u(3.2, 4.6),
        brow_t=u(0.5, 1.1),
        brow_tilt=u(-0.2, 0.2),
        nose_w=u(1.4, 2.6),
        nose_y=u(3.4, 5.2),
        mouth_y=u(10.0, 11.4),
        mouth_w=u(7.3, 7.5),
        lip_up=u(1.0, 1.6),
        lip_low=u(1.4, 2.1),
        style=rng.choice(["short", "long", "bald", "fringe", "big"], p=[0.3, 0.3, 0.1, 0.2, 0.1]),
        hairline=u(-13, -9),
        part=u(-6, 6),
        glasses=u() < 0.15,
        beard=u() < 0.15,
        moustache=u() < 0.1,
        shoulders=u(20, 28),
        neck=u(6.5, 9),
    )


def _ellipse(x, y, a, b):
    """First-order signed distance to the ellipse (x/a)^2 + (y/b)^2 = 1, in pixels."""
    k = np.sqrt((x / a) ** 2 + (y / b) ** 2) + 1e-6
    return k * (k - 1) / (np.sqrt((x / a**2) ** 2 + (y / b**2) ** 2) + 1e-6)


def _capsule(x, y, half, r):
    """Signed distance to a horizontal bar of half-length `half` with round ends of radius r."""
    return np.sqrt((np.maximum(np.abs(x) - half, 0)) ** 2 + y * y) - r


def turned(x, y, a):
    """Rotate coordinates by the angle a (radians)."""
    c, s = np.cos(a), np.sin(a)
    return c * x + s * y, c * y - s * x


def render(who, m):
    """Draw a video. who: an identity() dict; m (F, 11) motion -> uint8 (F, 64, 64, 3)."""
    m = np.asarray(m, np.float32)
    if m.ndim != 2 or m.shape[1] != len(MOTION):
        raise ValueError(
            f"motion must be (frames, {len(MOTION)}), got {m.shape}; columns are "
            f"{', '.join(MOTION)}"
        )
    jaw, width, rnd, hx, hy, roll, blink, turn, gx, gy, brow = (c[:, None, None] for c in m.T)
    who = {
        k: np.float32(v) if not isinstance(v, (str, bool, np.bool_)) else v for k, v in who.items()
    }
    grid = np.arange(SIZE, dtype=np.float32) + 0.5
    px, py = grid[None, None, :], grid[None, :, None]
    image = np.empty((len(m), SIZE, SIZE, 3), np.float32)

    def paint(d, colour, opacity=1.0):
        """Composite a colour (3,) or (F, H, W, 3) over the image where the distance d is
        negative."""
        cover = np.clip(0.5 - d, 0, 1) * opacity
        image[...] += cover[..., None] * (colour - image)

    # background: a gradient between two colours; clothes and neck follow the head a little
    ramp = (px - 32) * np.cos(who["back_angle"]) + (py - 32) * np.sin(who["back_angle"])
    ramp = np.clip(0.5 + ramp / 80, 0, 1)[..., None]
    image[...] = who["back"] * (1 - ramp) + who["back2"] * ramp
    # head coordinates: origin between eyes and nose
    x, y = turned(px - 32 - hx, py - 31 - hy, roll)
    w, h = who["head_w"], who["head_h"]
    if who["style"] == "long":
        paint(_ellipse(x, y - 7, w + 4.5, h + 7), who["hair"] * 0.8)
    if who["style"] == "big":
        paint(_ellipse(x, y + 5, w + 6.5, h + 2.5), who["hair"] * 0.9)
    bx = px - 32 - 0.45 * hx
    paint(_ellipse(bx, py - 70, who["shoulders"], 18.0), who["cloth"])
    neck_x = px - 32 - 0.75 * hx + 0.25 * roll * 16
    paint(_ellipse(bx, py - 55, who["neck"] + 2.5, 7.0), who["collar"])
    paint(
        np.maximum(np.abs(neck_x) - who["neck"], np.abs(py - 48 - 0.5 * hy) - 8), who["skin"] * 0.78
    )

    # ears, head (an egg: narrower towards the chin, which the jaw pulls down), shading
    for side in (-1, 1):
        paint(_ellipse(x - side * (w + 0.3) + 1.5 * turn, y - 0.5, 2.2, 3.6), who["skin"] * 0.85)
    low = np.maximum(y, 0) / h
    narrow = 1 - (1 - who["chin"]) * low**2 - 0.04 * rnd * low
    head = _ellipse(x / narrow, y, w, np.where(y > 0, h + 2.5 * jaw, h))
    shade = 1 + who["light"] * np.clip(x / w, -1, 1)
    shade = shade - 0.10 * np.clip((y - 4) / h, 0, 1) + 0.06 * turn * x / w
    paint(head, who["skin"] * shade[..., None])
    fx = x - 4.2 * turn  # features lie in front: a head turn shifts them
    if who["beard"]:
        # everything of the face below an arc, but for the mouth itself, which is painted later
        paint(np.maximum(head, 8.0 - y - 0.035 * fx * fx), who["hair"] * 0.9)
    # hair on the head: all of the (slightly larger) head shape above the hairline
    if who["style"] != "bald":
        bend = 0.035 if who["style"] == "fringe" else 0.016
        away = fx - who["part"]
        line = who["hairline"] + bend * away**2 * np.where(away > 0, 1, 0.8)
        if who["style"] == "fringe":
            line = np.minimum(line + 2.0, 4.0)
        paint(
            np.maximum(_ellipse(x, y, w + 1.2, h + 1.6), 0.75 * (y - line)),
            who["hair"] * (1 + 0.1 * np.clip(-y / h, 0, 1)[..., None]),
        )

    # nose: a shadow on one side and the nostrils' line
    nx, ny = fx - 1.6 * turn, y - who["nose_y"]
    paint(_ellipse(nx - 0.9, ny + 3.5, 1.1, 4.2), who["skin"] * 0.84, 0.6)
    paint(_capsule(nx, ny, who["nose_w"], 0.75), who["skin"] * 0.68)

    # eyes: white, iris, pupil, glint, all clipped by the lids; a blink closes the opening down to
    # the lash line
    for side in (-1, 1):
        ex, ey = turned(
            fx - side * who["eye_dx"] * (1 - 0.10 * side * turn),
            y - who["eye_y"],
            side * -who["eye_tilt"],
        )
        paint(_ellipse(ex, ey, who["eye_w"] + 0.9, who["eye_h"] + 1.0), who["skin"] * 0.88)
        eye = _ellipse(ex, ey, who["eye_w"], who["eye_h"])
        lid = np.maximum(eye, (2 * blink - 1) * (who["eye_h"] + 0.6) - ey)
        paint(lid, np.float32([0.96, 0.96, 0.95]))
        ix, iy = ex - 1.1 * gx, ey - 0.6 * gy
        paint(np.maximum(np.sqrt(ix * ix + iy * iy) - 1.75, lid), who["iris"])
        paint(np.maximum(np.sqrt(ix * ix + iy * iy) - 0.85, lid), np.float32(0.03))
        edge = (2 * blink - 1) * who["eye_h"]  # the upper lid's lash line: an arc that comes down
        arc = ey - edge * (1 - (ex / (who["eye_w"] + 0.6)) ** 2)
        paint(np.maximum(np.abs(arc) - 0.45, np.abs(ex) - who["eye_w"]), who["skin"] * 0.28)
        rx, ry = turned(
            ex + side * -0.3,
            y - who["eye_y"] + who["brow_y"] + 1.3 * brow,
            side * (who["brow_tilt"] + 0.12 * brow),
        )
        paint(_capsule(rx, ry, who["brow_w"] - 0.6, who["brow_t"]), who["hair"] * 0.75)
        if who["glasses"]:
            paint(
                np.abs(_ellipse(fx - side * who["eye_dx"], y - who["eye_y"], 5.4, 4.6)) - 0.45,
                np.float32(0.08),
            )
    if who["glasses"]:
        paint(_capsule(fx, y - who["eye_y"], who["eye_dx"] - 5.4, 0.45), np.float32(0.08))

    # mouth: lips around an opening that holds the dark, the tongue and the upper teeth
    if who["moustache"]:
        paint(_capsule(fx, y - who["mouth_y"] + 3.6 + 0.04 * fx * fx, 5.5, 1.1), who["hair"])
    half = who["mouth_w"] * (0.62 + 0.76 * width) * (1 - 0.30 * rnd)  # half-width, px
    gap = 9.0 * jaw * (1 - 0.25 * rnd) + 0.5 * rnd  # height of the opening, px
    mx, my = fx + 0.6 * turn, y - who["mouth_y"] + 1.0 - 0.35 * gap  # the jaw opens downwards
    full = (1 + 0.55 * rnd) * (1 - 0.15 * width)
    point = 0.75 + 0.35 * rnd  # corners: pointed .. round

    def lens(grow_x, up, down):
        r = np.clip(np.abs(mx) / (half + grow_x), 0, 1)
        arch = np.maximum(1 - r * r, 0) ** point
        d = np.maximum(-my - up * arch, my - down * arch)
        # the arch's slope at the corners would thin the edge: also keep the true horizontal
        # distance
        return np.maximum(d, np.abs(mx) - half - grow_x)

    outer = lens(
        0.9, 0.5 * gap + who["lip_up"] * full + 0.2, 0.5 * gap + who["lip_low"] * full + 0.2
    )
    inner = lens(0.0, 0.5 * gap, 0.5 * gap)
    paint(outer, who["lip"])
    paint(
        outer + 0.2 + np.clip(who["lip_low"] * full - 1.2 - (my - 0.5 * gap), 0, 9),
        np.minimum(who["lip"] * 1.25, 1),
        0.6,
    )
    paint(inner, np.float32([0.20, 0.05, 0.06]))
    paint(
        np.maximum(_ellipse(mx, my - 0.5 * gap - 0.8, 0.62 * half, 0.42 * gap + 0.3), inner + 0.4),
        np.float32([0.78, 0.36, 0.38]),
    )
    teeth = my + 0.5 * gap - np.minimum(2.6, 0.32 * gap)  # the upper row, from the lip down
    paint(
        np.maximum(np.maximum(teeth, np.abs(mx) - 0.78 * half), inner + 0.3),
        np.float32([0.97, 0.96, 0.92]),
    )
    crease = np.maximum(np.abs(my - 0.06 * mx * mx * (width - 0.4) * 0.3) - 0.45, np.abs(mx) - half)
    # closed lips: a dark line instead of an opening
    paint(crease, who["lip"] * 0.45, np.clip(1 - 0.8 * gap, 0, 1))
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
