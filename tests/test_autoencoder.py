import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import spy
from torch.testing import assert_close

import autoencoder
import tiny_data
from autoencoder import (
    AutoEncoder,
    change_loss,
    load_autoencoder,
    mouth_box,
    psnr,
    reconstruction_loss,
    to_pixels,
    to_uint8,
    validate,
)
from tiny_data import Videos, make_video
from tiny_data.faces import MOTION, identity, render


def test_pixels_round_trip():
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    x = to_pixels(frames)
    assert x.shape == (3, 3, 64, 64) and -1 <= x.min() and x.max() <= 1
    np.testing.assert_array_equal(to_uint8(x), frames)


def test_to_uint8_clips():
    assert to_uint8(torch.full((1, 3, 8, 8), 7.0)).min() == 255


def test_loss_is_zero_for_equal_frames_and_a_flat_error_has_no_gradient_term():
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    assert reconstruction_loss(x, x, 1.0) == 0
    assert_close(
        reconstruction_loss(x + 0.5, x, 1.0),
        torch.tensor(0.25, dtype=torch.float64),
        rtol=0,
        atol=1e-12,
    )


def test_change_loss_counts_errors_that_come_and_go_within_a_pair_and_no_others():
    x = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    steady = x + torch.tensor([0.5, 0.5, -0.25, -0.25], dtype=torch.float64)[:, None, None, None]
    assert_close(change_loss(steady, x), torch.tensor(0.0, dtype=torch.float64), rtol=0, atol=1e-12)
    flicker = x + torch.tensor([0.0, 0.5, 0.1, 0.0], dtype=torch.float64)[:, None, None, None]
    assert_close(
        change_loss(flicker, x), torch.tensor(0.3, dtype=torch.float64), rtol=0, atol=1e-12
    )  # (0.5 + 0.1) / 2


def test_psnr_closed_form():
    x = torch.zeros(2, 3, 8, 8)
    assert_close(psnr(x + 0.2, x), torch.full((2,), -20 * math.log10(0.1)))


def test_shapes_and_bad_shapes():
    model = AutoEncoder()
    z = model.encode(torch.randn(2, 3, 64, 64))
    assert z.shape == (2, 16, 8, 8) and model.decode(z).shape == (2, 3, 64, 64)
    with pytest.raises(ValueError, match="multiples of 8"):
        model.encode(torch.randn(2, 3, 60, 64))
    with pytest.raises(ValueError, match="latents"):
        model.decode(torch.randn(2, 4, 8, 8))


def test_latents_are_standardised_and_decoding_undoes_it():
    model, x = AutoEncoder(), torch.randn(2, 3, 16, 16)
    model.mean.fill_(3), model.std.fill_(0.5)
    with torch.no_grad():
        raw = model.encoder(x)
        assert_close(model.encode(x), (raw - 3) / 0.5)
        assert_close(model.decode((raw - 3) / 0.5), model.decoder(raw), rtol=1e-4, atol=1e-5)


def test_mouth_box_holds_all_that_the_jaw_moves():
    m = np.zeros((1, len(MOTION)), np.float32)
    m[:, 1] = 0.5
    m[:, 3:6] = 4, -3, 0.1
    shut, wide = (
        to_pixels(render(identity(5), m + np.eye(len(MOTION))[0] * jaw)) for jaw in (0, 0.9)
    )
    change = (shut - wide).abs()
    assert mouth_box(change, m).sum() > 0.75 * change.sum()


def test_resume_equals_no_interruption_in_both_phases_and_the_second_keeps_the_latents(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    small = dict(
        data="data", videos=1, steps=2, decoder_steps=2, batch=4, log_every=1, save_every=1
    )
    whole = autoencoder.train(autoencoder.Config(**small, out="a", weights="a.pt"))
    monkeypatch.setattr(autoencoder, "validate", lambda *args: {})  # whether one looks or not
    monkeypatch.setattr(tiny_data, "contact_sheet", lambda *args, **more: None)
    real, at = autoencoder.update_ema, {"step": -1}

    def stop(*args):
        real(*args)
        at["step"] += 1
        if at["step"] in (1, 4):  # power fails in steps 1 and 3, after the saves before
            raise KeyboardInterrupt

    monkeypatch.setattr(autoencoder, "update_ema", stop)
    for attempt in range(3):
        try:
            resumed = autoencoder.train(
                autoencoder.Config(**small, out="b", weights="b.pt"), resume=attempt > 0
            )
        except KeyboardInterrupt:
            pass
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values()):
        assert_close(a, b, rtol=0, atol=0, msg=name)
    small["save_every"] = 9
    half_way = autoencoder.train(
        autoencoder.Config(**{**small, "decoder_steps": 0}, out="c", weights="c.pt")
    )
    x = torch.randn(1, 3, 64, 64)
    assert_close(half_way.encode(x), whole.encode(x), rtol=0, atol=0)
    assert (half_way.decode(half_way.encode(x)) - whole.decode(whole.encode(x))).abs().max() > 0
    later, given = (
        autoencoder.train(autoencoder.Config(**small, init="c.pt", out="d", weights="d.pt")),
        load_autoencoder("c.pt"),
    )
    z = given.encode(x)
    assert_close(later.encode(x), z, rtol=0, atol=0)
    assert (later.decode(z) - given.decode(z)).abs().max() > 0


def test_each_phase_minimises_what_it_says_the_second_on_pairs_of_neighbours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = autoencoder.Config(
        data="data",
        videos=2,
        steps=2,
        decoder_steps=2,
        batch=4,
        gradient=0.5,
        change=0.2,
        log_every=1,
        save_every=9,
        out="a",
        weights="a.pt",
    )
    sharp, steady = [], []
    given, pairs = (
        spy(monkeypatch, autoencoder, "reconstruction_loss", sharp),
        spy(monkeypatch, autoencoder, "change_loss", steady),
    )
    losses = lambda: [row["loss"] for row in map(json.loads, open("a/log.jsonl")) if "loss" in row]
    model = autoencoder.train(cfg)
    assert (model.mean != 0).all() and (
        model.std != 1
    ).all()  # the latents' statistics were followed
    assert {gradient for *_, gradient in given} == {0.5} and len(steady) == 2
    assert_close(
        noisy := losses(),
        [
            x.item() + 0.2 * y.item()
            for x, y in zip(sharp, [torch.zeros(()), torch.zeros(()), *steady])
        ],
    )
    frames = tiny_data.load("data", "train", 2).frames
    for _, x in pairs:
        for a, b in to_uint8(x).reshape(2, 2, 64, 64, 3):
            assert any(
                (frames[i] == a).all() and (frames[i + 1] == b).all()
                for i in range(len(frames) - 1)
            )
    autoencoder.train(replace(cfg, noise=0.0, steps=1, decoder_steps=0))
    assert losses()[0] != noisy[0]  # the decoder sees latents in noise


@pytest.mark.parametrize(
    "options, message",
    [(dict(batch=3), "even"), (dict(init="c.pt", decoder_steps=0), "nothing to do")],
)
def test_a_run_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        autoencoder.train(autoencoder.Config(**options))


@pytest.fixture(scope="module")
def shipped():
    """The shipped network on held-out people: it must do what README says."""
    frames, mel, wave, motion, phones = make_video(2_000_000)
    return load_autoencoder(), Videos(
        frames, mel, np.array([0, len(frames)]), wave, motion, [phones]
    )


def test_shipped_network_reconstructs_a_held_out_person(shipped):
    scores = validate(*shipped)
    assert (
        scores["psnr"] > 31 and scores["psnr_mouth"] > 27
    )  # one person; README has the mean over all


def test_shipped_latents_have_about_unit_variance(shipped):
    model, _ = shipped
    z = torch.cat([model.encode(to_pixels(make_video(2_000_100 + i, 8)[0])) for i in range(24)])
    assert 0.6 < z.std() < 1.6 and (z.std((0, 2, 3)) > 0.3).all()
