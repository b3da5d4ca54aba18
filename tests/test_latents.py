"""Batches of clips from cached latents: the right frames, the right sound, a portrait from
elsewhere in the video."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import condition
from torch.testing import assert_close

import autoencoder
import latents
import tiny_data


class FakeCoder:
    """Every pixel of a frame is its number: the latent says which frame it was."""

    def encode(self, x):
        return x[:, :1, ::8, ::8].repeat(1, 16, 1, 1)


def number(latent):
    """Which frame the latents (..., C, H, W) are, as FakeCoder wrote it."""
    return torch.round((latent[..., 0, 0, 0] + 1) * 127.5)


@pytest.fixture(scope="module")
def clips():
    n = 200
    frames = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 64, 64, 3))
    mel = (
        np.repeat(np.arange(n), 4)[:, None].repeat(64, 1) / 127.5 - 1
    )  # row r says which frame it belongs to,
    mel[:, 32:] = 0  # in its lower half: the upper one tells the level jitter
    return latents.Clips(
        tiny_data.Videos(frames, mel, np.array([0, 80, 120, 200]), None, None, []),
        FakeCoder(),
        16,
        "cpu",
    )


def test_a_clip_is_16_consecutive_frames_of_one_video_with_its_own_sound(clips):
    x0, c = clips.batch(64, torch.Generator().manual_seed(0), 4, 0.5)
    shown = number(x0)  # (B, F)
    assert (shown.diff(dim=1) == 1).all()
    video = torch.bucketize(shown, torch.tensor([80.0, 120.0]), right=True)
    assert (video == video[:, :1]).all()
    assert (
        torch.bucketize(number(c.ref), torch.tensor([80.0, 120.0]), right=True) == video[:, 0]
    ).all()
    middle = c.audio[:, :, 9:11, :32].mean((2, 3)) - c.audio[:, :, 9:11, 32:].mean((2, 3))
    assert_close((middle + 1) * 127.5, shown, rtol=0, atol=0.2)


def test_a_clips_level_is_off_by_three_decibels_or_so_the_same_in_all_its_frames(clips):
    level = (
        clips.batch(200, torch.Generator().manual_seed(0), 4, 0.5)[1]
        .audio[:, :, 8:12, 32:]
        .flatten(1)
    )  # the half that is 0, in the rows that are within every video
    assert_close(level, level[:, :1].expand_as(level), rtol=0, atol=1e-6)
    assert (
        abs(level[:, 0].std() - 0.075) < 0.01 and abs(level[:, 0].mean()) < 0.02
    )  # 3 dB; a unit is 40


def test_a_clip_hears_its_own_frames_without_lag(clips):
    x0, ref, audio = clips.clip(1, 5, 20, 16)  # video 1 starts at frame 80
    own = torch.arange(85.0, 101.0) / 127.5 - 1
    assert_close(
        audio[:, 8:12, :32].mean((1, 2)), own, rtol=0, atol=1e-5
    )  # the window's middle four rows
    assert_close(x0[:, 0, 0, 0].float(), own, rtol=0, atol=1e-3)
    assert_close(ref[0, 0, 0].float(), own[15], rtol=0, atol=1e-3)  # 80 + 20 = 100


def test_context_is_the_truth_in_the_first_frames_of_about_half_the_clips(clips):
    x0, c = clips.batch(200, torch.Generator().manual_seed(0), 4, 0.5)
    given = c.mask[:, 0] == 1
    assert 70 < given.sum() < 130
    assert (c.mask[given] == (torch.arange(16) < 4)).all() and not c.mask[~given].any()
    assert_close(c.context[given, :4], x0[given, :4], rtol=0, atol=0)
    assert not c.context[:, 4:].any() and not c.context[~given].any()


def test_latents_are_kept_under_the_name_of_their_encoder(tmp_path):
    torch.manual_seed(0)
    frames = torch.randint(256, (20, 64, 64, 3), dtype=torch.uint8).numpy()
    videos = tiny_data.Videos(frames, np.zeros((80, 64)), np.array([0, 20]), None, None, [])
    with torch.no_grad():
        one, other = autoencoder.AutoEncoder(), autoencoder.AutoEncoder()
        fresh = latents.cached_latents(videos, one, "cpu", tmp_path)
        assert_close(fresh.float(), one.encode(autoencoder.to_pixels(frames)), rtol=1e-2, atol=1e-3)
        one.encode = None  # from now on they are read, not made
        assert torch.equal(latents.cached_latents(videos, one, "cpu", tmp_path), fresh)
        assert not torch.equal(latents.cached_latents(videos, other, "cpu", tmp_path), fresh)
    assert len(list(tmp_path.iterdir())) == 2


def distance(x0, c):
    """Frames from each clip to its portrait, negative inside; the clip's first frame."""
    shown, ref = number(x0), number(c.ref)
    return torch.maximum(shown[:, 0] - ref, ref - shown[:, -1]), shown[:, 0]


def test_the_portrait_is_a_second_away_or_as_far_as_the_video_allows(clips):
    away, first = distance(*clips.batch(400, torch.Generator().manual_seed(0), 4, 0.5))
    short = (first >= 80) & (
        first < 120
    )  # the video of 40 frames has no frame so far from any clip
    assert (away[~short] >= 25).all() and (away > 40).any()
    assert_close(away[short], torch.maximum(first[short] - 80, 104 - first[short]), rtol=0, atol=0)


def test_without_a_gap_the_portrait_may_be_any_frame_of_the_video(clips):
    away, _ = distance(*clips.batch(400, torch.Generator().manual_seed(0), 4, 0.5, ref_gap=0))
    assert (away < 0).any() and (away > 40).any()


def test_drop_zeroes_what_is_not_kept():
    c = latents.drop(condition(2), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]))
    assert not c.ref[0].any() and c.ref[1].any() and c.audio[0].any() and not c.audio[1].any()


# ---- range ends


def short_videos(length, count=2):
    n = length * count
    frames = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 64, 64, 3))
    starts = np.arange(count + 1) * length
    return tiny_data.Videos(frames, np.zeros((4 * n, 64)), starts, None, None, [])


def test_every_clip_and_every_portrait_that_is_far_enough_can_be_drawn():
    few = latents.Clips(short_videos(18), FakeCoder(), 16, "cpu")  # three clips of each of two
    x0, c = few.batch(200, torch.Generator().manual_seed(0), 4, 0.5, ref_gap=1)
    drawn = {(int(a), int(b)) for a, b in zip(number(x0[:, 0]), number(c.ref))}
    far = {0: (16, 17), 1: (0, 17), 2: (0, 1)}  # of the clip that starts there
    assert drawn == {(18 * v + a, 18 * v + b) for v in (0, 1) for a in far for b in far[a]}


def test_a_video_needs_one_frame_more_than_a_clip_has():
    latents.Clips(short_videos(17), FakeCoder(), 16, "cpu")
    with pytest.raises(ValueError, match="at least 17 frames"):
        latents.Clips(short_videos(16), FakeCoder(), 16, "cpu")


def test_a_preview_is_each_videos_first_clip_with_its_last_frame_for_a_portrait(clips):
    x0, c = latents.preview(clips)
    assert number(x0)[:, [0, 15]].tolist() == [[0, 15], [80, 95], [120, 135]]
    assert number(c.ref).tolist() == [79, 119, 199]
    assert not c.mask.any() and not c.context.any()


def test_kept_latents_are_anothers_where_encoder_or_frames_differ_but_not_the_decoder(tmp_path):
    def kept(coder, frames):
        videos = short_videos(frames, 1)
        latents.cached_latents(videos, coder, "cpu", tmp_path)
        return len(list(tmp_path.iterdir())), len(latents.cached_latents(videos, coder, "cpu"))

    coder = autoencoder.AutoEncoder().requires_grad_(False)
    assert kept(coder, 20) == (1, 20)
    coder.decoder[0].weight += 1
    assert kept(coder, 20) == (1, 20)
    videos = short_videos(12, 1)
    assert len(latents.cached_latents(videos, coder, "cpu", tmp_path)) == 12
    coder.encoder[1].weight += 1
    assert kept(coder, 20)[0] == 2


def test_a_contact_sheet_names_each_row_and_ends_with_the_truth(clips, tmp_path, monkeypatch):
    sheets = []
    monkeypatch.setattr(
        tiny_data, "contact_sheet", lambda path, *how, **named: sheets.append((how, named))
    )
    coder = SimpleNamespace(decode=lambda z: z[:, :3].clamp(-1, 1))
    samplers = {
        "black": lambda cond, noise: -torch.ones_like(noise()),
        "white": lambda cond, noise: 1 + 0 * noise(),
    }
    latents.contact_sheet(tmp_path / "x.png", samplers, clips, coder)
    (((rows,), named),) = sheets
    first = [int(row[0, 0, 0, 0]) for row in rows]
    assert first == [0, 255, 0, 0, 255, 80, 0, 255, 120]  # the truth: each video's first frame
    assert named["labels"] == ["black", "white", "truth"] * 3


def test_a_clip_is_loaded_from_videos_that_leave_a_frame_for_the_portrait(monkeypatch):
    asked = []
    load = lambda *how: asked.append(how) or short_videos(17)
    monkeypatch.setattr(tiny_data, "load", load)
    cfg = SimpleNamespace(data="own", videos=0, frames=16)
    latents.load_clips(cfg, "val", FakeCoder(), "cpu")
    assert asked == [("own", "val", 0, 17)]


def test_as_many_clips_carry_context_as_asked_for(clips):
    carried = [
        clips.batch(200, torch.Generator().manual_seed(0), 4, rate)[1].mask[:, 0].mean().item()
        for rate in (0, 0.1, 1)
    ]
    assert carried == [0, pytest.approx(0.1, abs=0.07), 1]
