import math

import numpy as np
import torch
from torch.testing import assert_close

import tiny_data
from listener import Listener, pretrain_sound


def test_sound_tokens_learn_to_name_the_phone_that_they_lie_on():
    """Two phones that differ in one band, drawn anew for every frame: were labels a frame off, a
    fifth of the tokens could only guess (0.9)."""
    rng, n = np.random.default_rng(0), 400
    kind = rng.integers(0, 2, n)
    mel = np.full((4 * n, 64), -1.0, np.float32)
    mel[np.arange(4 * n), np.where(np.repeat(kind, 4), 40, 10)] = 1.0
    phones = [("i" if k else "a", i / 25, (i + 1) / 25) for i, k in enumerate(kind)]
    videos = tiny_data.Videos(np.zeros((n, 1, 1, 3)), mel, np.array([0, n]), None, None, [phones])
    torch.manual_seed(0)
    assert pretrain_sound(Listener(32), videos, 150, torch.Generator().manual_seed(0), "cpu") > 0.98
    assert math.isnan(pretrain_sound(Listener(128), videos._replace(phones=[]), 5, None, "cpu"))


def test_a_token_is_what_is_heard_and_how_likely_each_phone_is():
    listener, windows = Listener(8), torch.randn(3, 20, 64)
    tokens, (h, logits) = listener(windows), listener.listen(windows)
    assert tokens.shape == (3, 5, listener.size) and logits.shape == (3, 5, listener.size - 8)
    assert_close(tokens[..., :8], h)
    likely = tokens[..., 8:] / logits.shape[-1] ** 0.5
    assert_close(likely.sum(-1), torch.ones(3, 5))
    assert_close(
        likely[..., 0] / likely[..., 1],
        (logits[..., 0] - logits[..., 1]).exp(),
        rtol=1e-4,
        atol=1e-5,
    )
