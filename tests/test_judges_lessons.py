"""What the three judges learn from, and what their training keeps and reports."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import tiny_data
from autoencoder import to_pixels
from evaluation import metrics, metrics_losses, train_metrics
from tiny_data.faces import MOTION

CPU = torch.device("cpu")


def generator():
    return torch.Generator().manual_seed(0)


def numbered(length, count):
    """Videos whose frames, sound and motion are of one level each, their number."""
    n = length * count
    frames = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 64, 64, 3))
    starts = np.arange(count + 1) * length
    motion = np.arange(n, dtype=np.float32)[:, None].repeat(11, 1)
    mel = np.arange(n, dtype=np.float32).repeat(4)[:, None].repeat(64, 1)
    return tiny_data.Videos(frames, mel, starts, None, motion, [])


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


def test_the_readers_people_have_lips_of_sentences_or_free_ones_and_heads_of_their_own(monkeypatch):
    """Renderer and coder only note what they are given; one in three latents is a little noisy."""
    seeds, drawn, who, latents = [], [], [], []
    monkeypatch.setattr(metrics_losses.faces, "identity", lambda seed: who.append(seed))
    monkeypatch.setattr(
        metrics_losses.faces, "render", lambda who, move: np.zeros((4, 2, 2, 3), np.uint8)
    )
    move = lambda seed, lips: seeds.append(seed) or drawn.append(lips) or np.zeros((4, 11))
    monkeypatch.setattr(metrics_losses.faces, "motion", move)
    coder = SimpleNamespace(
        encode=lambda x: torch.zeros(len(x), 4, 8, 8),
        decode=lambda z: latents.append(z) or torch.zeros(len(z), 3, 2, 2),
    )
    said = 2 + np.arange(300)[:, None] + np.zeros(3)
    made = metrics_losses.reader_faces(160, said, coder, CPU)
    assert len(made[0]) == len(made[1]) == 640
    assert who == [tiny_data.FIRST_SEED["train"] + i for i in range(160)]
    assert len({*seeds}) == 160 and max(seeds) > 1e8
    free, spoken = np.concatenate(drawn[::8]), np.concatenate([*drawn[1::8], *drawn[2::8]])
    assert free.min() < 0.05 and 0.95 < free.max() < 1 and len(np.unique(free)) == free.size
    assert np.abs(np.corrcoef(free.T)[np.triu_indices(3, 1)]).max() < 0.3
    assert len(np.unique(spoken[:, 0])) > 100 and {*spoken[:, 0]} <= {*said[:, 0]}
    assert spoken.min() < 20 and spoken.max() > 280
    assert all(len(np.unique(lips[:, 0])) > 1 for lips in drawn)  # from frame to frame
    noise = np.array([float(z.std()) for z in latents])
    assert len(noise) == 54 and noise.min() < 0.1 and 0.3 < noise.max() < 0.45
    again = [len(drawn), len(latents)]
    metrics_losses.reader_faces(160, said, coder, CPU)  # the same set at every training
    assert np.array_equal(drawn[: again[0]], drawn[again[0] :])
    assert torch.equal(torch.stack(latents[: again[1]]), torch.stack(latents[again[1] :]))


def checkered(level, contrast=40):
    """Levels (N,) -> frames (N, 64, 64, 3), flat above, checkered below."""
    checks = (np.indices((64, 64)).sum(0) % 2 * 2 - 1) * (np.arange(64) >= 32)[:, None]
    return (level[:, None, None, None] + contrast * checks[..., None] * np.ones(3, int)).astype(
        np.uint8
    )


def seen_in(x, contrast=40):
    """Of such frames (N, 3, 64, 64): level, standard deviation of what is flat, share of the
    contrast that is left."""
    checks = torch.from_numpy(np.indices((24, 64)).sum(0) % 2 * 2.0 - 1)
    flat, checkered = x[:, :, 4:28], x[:, :, 36:60].double() * checks
    left = checkered.mean((1, 2, 3)).abs() * 127.5 / contrast
    return (flat.mean((1, 2, 3)) + 1) * 127.5, flat.std((2, 3)).mean(1), left.float()


def test_the_readers_faces_are_a_little_noisy_half_of_them_blurred_and_all_their_own(monkeypatch):
    monkeypatch.setattr(metrics_losses, "tint", lambda x, *how: x)
    number = np.arange(60, 160)
    motion = torch.from_numpy(number)[:, None].repeat(1, 7).float()
    x, m = metrics_losses.batch_reader(checkered(number), motion, 200, generator(), CPU)
    level, noise, left = seen_in(x)
    assert_close(level, m[:, 0], rtol=0, atol=0.2)
    assert len(level.round().unique()) > 70
    assert noise.min() < 0.003 and 0.017 < noise.max() < 0.021 and 0.008 < noise.mean() < 0.012
    _, few = metrics_losses.batch_reader(checkered(number), motion, 20, generator(), CPU)
    assert few.abs().max() > 120  # of all frames, though there are more than a batch takes
    sharp, mirrored = left > 0.998, m[:, 3] < 0
    assert 0.4 < sharp.float().mean() < 0.6 and 0.68 < left.min() < 0.75
    assert 0.4 < sharp[mirrored].float().mean() < 0.6 and 0.4 < mirrored.float().mean() < 0.6


def test_the_readers_faces_are_tinted_a_little():
    x, _ = metrics_losses.batch_reader(
        np.full((1, 8, 8, 3), 191, np.uint8), torch.zeros(1, 7), 200, generator(), CPU
    )
    colour = x.mean((2, 3))
    assert 0.03 < colour.std(0).min() < colour.std(0).max() < 0.09
    assert (colour - colour.mean(1, keepdim=True)).std() > 0.03


def test_lips_are_tinted_a_little():
    data = numbered(30, 12)._replace(frames=np.full((360, 8, 8, 3), 191, np.uint8))
    windows = [np.zeros((30, 20, 64), np.float32)] * 12
    x, _ = metrics_losses.sync_batch(data, windows, generator(), CPU)
    colour = x.mean((3, 4)).flatten(0, 1)
    assert 0.03 < colour.std(0).min() < colour.std(0).max() < 0.09


def test_the_amounts_of_blur_noise_and_ghost_are_those_of_the_frame():
    """Three people of unequally many frames, levels 30 to 169; a ghost is of another frame of the
    same person, half of it at most."""
    starts, number = np.array([0, 20, 40, 140]), np.arange(140)
    data = tiny_data.Videos(checkered(number + 60), None, starts, None, None, [])
    x, rows, damage = metrics_losses.batch_features(data, 300, generator(), CPU)
    level, noise, left = seen_in(x)
    blur, white, ghost = damage.T
    assert_close(noise / 0.15, white, rtol=0, atol=0.04)
    assert_close((1 - left) / 0.96, blur, rtol=0, atol=0.03)
    own = torch.from_numpy(rows) + 60.0
    assert_close(level[ghost == 0], own[ghost == 0], rtol=0, atol=1)
    clear = (ghost > 0.3) & (white == 0)
    other = own + (level - own) / (0.5 * ghost)
    other = other[clear].round().int().numpy() - 60
    video = np.searchsorted(starts, rows, side="right")
    assert (np.searchsorted(starts, other, side="right") == video[clear]).all()
    assert (other != rows[clear]).mean() > 0.8 and len({*rows}) > 80
    given = damage > 0
    assert 0.25 < given.float().mean(0).min() < given.float().mean(0).max() < 0.45
    assert damage.max() > 0.95 and 0 < (given.sum(1) == 3).float().mean() < 0.1


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


def test_a_flickering_clip_keeps_the_time_and_a_shuffled_one_is_never_the_same():
    clip, flicker = torch.arange(2.0 * metrics.CLIP)[:, None], metrics.DISORDER.index("flicker")
    made = metrics_losses.disordered(clip, flicker, generator(), -1 - clip)[:, 0]
    assert torch.where(made < 0, -1 - made, made).tolist() == list(range(metrics.CLIP))
    assert 2 < (made < 0).sum() < 14 and (made < 0).int().diff().any()
    how, g = metrics.DISORDER.index("shuffled"), generator()
    made = [metrics_losses.disordered(clip, how, g, clip)[:, 0].tolist() for _ in range(3)]
    assert made[0] != made[1] != made[2] != made[0]
    assert np.abs(np.diff(made, axis=1)).max() > 5  # nor merely backwards


def test_clips_of_every_kind_are_pieces_of_one_video_from_its_first_frame_to_its_last(monkeypatch):
    show = lambda clip, kind, generator, damaged: torch.stack([clip[:, 0], damaged[:, 0]])
    monkeypatch.setattr(metrics_losses, "disordered", show)
    number, starts = torch.arange(120.0)[:, None], np.array([0, 32, 66, 120])
    made, kind = metrics_losses.clip_batch(number, -1 - number, starts, 500, generator())
    assert torch.equal(made[:, 0], -1 - made[:, 1]) and (made[:, 0].diff(dim=1) == 1).all()
    firsts = [*range(1), *range(32, 35), *range(66, 89)]
    assert made.shape[2] == 32 and {*made[:, 0, 0].tolist()} == {*firsts}
    assert torch.bincount(kind, minlength=6).min() > 50


def test_a_frozen_clip_moves_up_to_a_frame_and_stays_there():
    clip = torch.arange(2.0 * metrics.CLIP)[:, None]
    stops = set()
    for seed in range(40):
        how = metrics.DISORDER.index("frozen"), torch.Generator().manual_seed(seed), clip
        made = metrics_losses.disordered(clip, *how)[:, 0]
        stop = int(made[-1])
        stops.add(stop)
        assert made.tolist() == [min(k, stop) for k in range(metrics.CLIP)]
    # the last four steps stand still at least
    assert min(stops) == 0 and max(stops) == 11 and len(stops) > 8


def test_lips_and_sound_are_pieces_of_all_videos_as_long_as_asked_for(monkeypatch):
    """Up to each video's last frame; a dozen of 28 frames each if nothing is said."""
    monkeypatch.setattr(metrics_losses, "tint", lambda x, *how: x)
    data, firsts = numbered(30, 14)._replace(frames=np.zeros((420, 8, 8, 3), np.uint8)), []
    windows = [np.full((30, 20, 64), i, np.float32) for i in range(14)]
    windows = [w + np.arange(30, dtype=np.float32)[:, None, None] / 100 for w in windows]
    level = lambda heard: heard[:, 0].mean((1, 2))
    monkeypatch.setattr(torch, "randn", lambda *size, **how: torch.zeros(size[0]))
    for seed in range(12):
        g = torch.Generator().manual_seed(seed)
        x, heard = metrics_losses.sync_batch(data, windows, g, CPU)
        assert x.shape[:2] == heard.shape[:2] == (12, 28)
        firsts += level(heard).tolist()
    videos, offsets = {int(f) for f in firsts}, {round(f % 1 * 100) for f in firsts}
    assert videos == {*range(14)} and offsets == {0, 1, 2}


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


def nce(scores):
    """Row i belongs to column i: the mean of -log softmax, over rows and over columns."""
    rows = np.log(np.exp(scores).sum(1)) - np.diag(scores)
    columns = np.log(np.exp(scores).sum(0)) - np.diag(scores)
    return (rows.mean() + columns.mean()) / 2


def test_the_loss_of_frames_worked_out_by_hand():
    raw, motion, who = torch.randn(3, 8, 11, generator=generator()).double()
    damage = torch.rand(8, 3, generator=generator()) * (torch.arange(8) % 4 > 1)[:, None]
    heads = dict(who=lambda h: h * who, damage=lambda h: h[:, :3] ** 2, motion=lambda h: 2 * h)
    net = SimpleNamespace(trunk=lambda x: x, **heads)
    found = float(metrics_losses.frame_loss(net, raw, motion, damage))
    h = raw.numpy() / (1 + np.exp(-raw.numpy()))
    person = h * who.numpy()
    person /= np.sqrt((person**2).sum(1, keepdims=True))
    wanted = nce(person[::2] @ person[1::2].T / 0.1)
    wanted += 10 * ((h[:, :3] ** 2 - damage.numpy()) ** 2).mean()
    clean = [0, 1, 4, 5]
    wanted += ((2 * h - motion.numpy())[clean] ** 2).mean()
    assert found == pytest.approx(wanted, rel=1e-4)


def test_the_loss_of_clips_worked_out_by_hand():
    """Features of 3 numbers, motion of 11; six kinds of disorder."""
    clips, kind = torch.randn(4, metrics.CLIP, 3 + 11, generator=generator()), [0, 5, 2, 2]
    net = SimpleNamespace(
        clip_raw=lambda f: f.sum(1),
        disorder=lambda h: torch.cat([h, 2 * h], 1),
        speed=lambda h: h.repeat(1, 8)[:, :22],
    )
    loss = lambda *how: float(metrics_losses.clip_loss(net, clips, torch.tensor(kind), *how))
    raw = clips[..., :3].sum(1).double().numpy()
    h = raw / (1 + np.exp(-raw))
    scores = np.concatenate([h, 2 * h], 1)
    entropy = np.log(np.exp(scores).sum(1)) - scores[range(4), kind]
    assert loss(False) == pytest.approx(entropy.mean(), rel=1e-4)
    motion = clips[..., 3:].double().numpy()
    speed = np.concatenate([motion.std(1, ddof=1), np.abs(np.diff(motion, axis=1)).mean(1)], 1)
    error = np.tile(h, 8)[:, :22] - speed
    assert loss(True) == pytest.approx(entropy.mean() + (error**2).mean(), rel=1e-4)


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
    wanted = net.who(F.silu(net.trunk(x)))  # as it learns who it is, and of length 1
    wanted = wanted / wanted.norm(dim=1, keepdim=True)
    assert_close(who, wanted, rtol=1e-3, atol=1e-4)


def test_a_clip_starts_at_every_fourth_frame_up_to_the_last_that_is_whole():
    net, f = metrics.Features().requires_grad_(False), torch.randn(2, 20, 64)
    wanted = torch.cat([net.clip_raw(f[:, :16]), net.clip_raw(f[:, 4:])])
    assert_close(net.clips(f), wanted, rtol=1e-4, atol=1e-5)
    assert len(net.clips(f[:, :19])) == len(net.clips(f[:, :16])) == 2


def test_blur_goes_from_nothing_to_the_box_and_goes_on_as_at_the_edge():
    x = torch.randn(2, 3, 9, 9)
    made = metrics.blurred(x, torch.tensor([0.0, 1.0]))
    assert_close(made[0], x[0], rtol=0, atol=0)
    assert_close(made[1, :, 4, 4], x[1, :, 2:7, 2:7].mean((1, 2)))
    ramp = torch.arange(9.0).expand(1, 3, 9, 9)
    assert_close(metrics.blurred(ramp, torch.ones(1))[0, 0, 0, :2], torch.tensor([0.6, 1.2]))


def test_a_network_is_applied_to_every_frame_in_order_and_an_edit_to_its_pixels():
    frames = np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(2, 1).repeat(3, 3)
    square = lambda x: x.mean((1, 2, 3))[:, None] ** 2
    found = metrics.over(square, frames, CPU, lambda x: x + 3, size=2)
    assert_close(found[:, 0], (torch.arange(5) / 127.5 + 2) ** 2)
    assert_close(metrics.over(square, frames, CPU)[:, 0], (torch.arange(5) / 127.5 - 1) ** 2)


def test_the_reader_speaks_in_the_motions_own_units():
    net, x = metrics.Reader(8).eval().requires_grad_(False), torch.randn(2, 3, 64, 64)
    net.mean.copy_(torch.arange(7.0)), net.std.copy_(torch.arange(1.0, 8.0))
    assert_close(net(x), torch.arange(7.0) + torch.arange(1.0, 8.0) * net.standard(x))
    assert metrics.READ == ("jaw", "width", "rounding", "x", "y", "roll", "blink")


def test_a_residual_block_adds_to_what_it_is_given():
    block, x = metrics.Residual(4), torch.randn(2, 4, 8, 8)
    last = block.body[-1]
    torch.nn.init.zeros_(last.weight), torch.nn.init.constant_(last.bias, 2.0)
    assert_close(block(x), x + 2)


def test_lips_and_sound_are_those_of_five_frames_and_of_the_middle_one():
    """What moves the embedding k: frames k to k + 4, rows 28 to 59, columns 12 to 51; and the
    window of frame k + 2."""
    net = metrics.Sync()
    x, w = torch.randn(1, 9, 3, 64, 64), torch.randn(1, 9, 20, 64)
    v, a = net(x.requires_grad_(), w.requires_grad_())
    assert v.shape == a.shape == (1, 5, 64)
    (seen,), (heard,) = (
        torch.autograd.grad(said[0, 1].sum(), given) for said, given in ((v, x), (a, w))
    )
    where = seen[0].abs().sum(1) > 0
    wanted = torch.zeros(9, 64, 64, dtype=torch.bool)
    wanted[1:6, 28:60, 12:52] = True
    assert not where[~wanted].any() and where[wanted].float().mean() > 0.99
    assert (heard[0].abs().sum((1, 2)) > 0).tolist() == [k == 3 for k in range(9)]
    with pytest.raises(ValueError, match="five frames or more"):
        net(x[:, :4], w[:, :4])


def test_the_judges_that_are_loaded_are_those_of_the_file_and_do_not_learn(tmp_path):
    torch.manual_seed(0)
    nets = {name: net() for name, net in metrics.NETWORKS.items()}
    saved = {name: net.state_dict() for name, net in nets.items()}
    torch.save(dict(kind="metrics", **saved), tmp_path / "m.pt")
    loaded = metrics.load_metrics(tmp_path / "m.pt")
    for name, net in nets.items():
        for one, other in zip(net.parameters(), loaded[name].parameters()):
            assert torch.equal(one, other) and not other.requires_grad
        assert not loaded[name].training
    reader = metrics.load_reader(tmp_path / "m.pt")
    assert torch.equal(reader.layers[1].weight, nets["reader"].layers[1].weight)


def test_r_squared_worked_out_by_hand():
    true = torch.tensor([[0.0, 0.0], [2.0, 4.0]])  # variances 1 and 4
    read = true + torch.tensor([[0.5, 2.0], [-0.5, 0.0]])  # errors ¼ and 2
    assert_close(metrics.r_squared(read, true), torch.tensor([0.75, 0.5]))


# ---- training


def a_run(videos, mean=0.0, std=1.0, held_out=None, **options):
    rows = []
    log = lambda step, **row: rows.append(row)
    cfg = train_metrics.Config(**{**train_metrics.SMOKE, **options})
    held_out = videos if held_out is None else held_out
    return train_metrics.Run(cfg, videos, held_out, mean, std, generator(), CPU, log), rows


def watch_fit(monkeypatch):
    """-> what fit() is called with from now on: name, parameters, steps, and the loss at the start
    (it does not train)."""
    fits = []

    def fit(run, name, parameters, steps, loss_of):
        fits.append((name, list(parameters), steps, loss_of()))

    monkeypatch.setattr(train_metrics, "fit", fit)
    return fits


def same(some, others):
    """Whether these are the same parameters."""
    return {id(p) for p in some} == {id(p) for p in others}


def test_fit_forgets_former_gradients_warms_up_and_ends_near_zero():
    run, rows = a_run(None, lr=0.1, log_every=1)
    w = torch.nn.Parameter(torch.zeros(1))
    train_metrics.fit(run, "loss", [w], 200, lambda: 0.5 * w.sum())
    assert [row["gradient"] for row in rows] == pytest.approx([0.5] * 200)
    rates = [row["lr"] for row in rows]
    assert rates[0] == pytest.approx(0.1 / 50) and rates[-1] < 1e-4
    assert max(rates) == pytest.approx(0.1 * 0.5 * (1 + math.cos(math.pi / 4)), rel=0.02)
    # where the gradient is always the same, Adam steps by the rate
    assert w.item() == pytest.approx(-sum(rates), rel=0.1)
    train_metrics.fit(run, "loss", [w], 1, lambda: 100 * w.sum())
    assert rows[-1]["gradient"] == pytest.approx(100) and w.grad.item() == pytest.approx(
        1
    )  # clipped


@pytest.mark.parametrize("bf16", [False, True])
def test_fit_logs_the_mean_loss_since_the_last_line_and_computes_in_the_precision_asked_for(bf16):
    run, rows = a_run(None, log_every=3, bf16=bf16)
    w, losses, low = torch.nn.Parameter(torch.zeros(1)), iter([1, 2, 6, 4, 4, 10, 9]), []

    def loss_of():
        low.append((torch.ones(1, 1) @ torch.ones(1, 1)).dtype == torch.bfloat16)
        return 0 * w.sum() + next(losses)

    train_metrics.fit(run, "loss", [w], 7, loss_of)
    assert [row["loss"] for row in rows] == [3, 6] and low == 7 * [bf16]


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


def test_the_reader_learns_its_people_and_is_judged_on_held_out_ones_seen_plain_and_decoded(
    monkeypatch,
):
    """It says 2 too much of the first parameter and twice the second, and of decoded faces 0."""
    rng, many, few = np.random.default_rng(1), numbered(20, 2), numbered(20, 1)
    many = many._replace(frames=many.frames[::-1], motion=rng.normal(size=(40, 11)))
    few = few._replace(motion=np.random.default_rng(0).normal(1, 3, (20, 11)).astype(np.float32))
    mean, std = torch.arange(11.0), torch.arange(1.0, 12.0)
    run, rows = a_run(many, mean, std, few, people=7, steps_reader=5)
    coder = SimpleNamespace(encode=lambda x: 0 * x, decode=lambda z: z - 1)  # black
    monkeypatch.setattr(train_metrics, "load_autoencoder", lambda *args: coder)
    asked, motion = [], torch.from_numpy(few.motion)
    moves = np.array([[3, 4, 2, 9, 8, 11, 0, 0, 0, 0, 0]], np.float32)
    make = lambda *args: asked.append(args) or (None, moves)
    monkeypatch.setattr(train_metrics, "reader_faces", make)
    batch = lambda faces, motion, *how: (torch.zeros(4, 7), motion.repeat(4, 1))
    monkeypatch.setattr(train_metrics, "batch_reader", batch)
    fits = watch_fit(monkeypatch)

    class Says(torch.nn.Module):
        mean, std = torch.zeros(7), torch.zeros(7)
        standard = staticmethod(lambda x: x)

        def forward(self, x):
            level = ((x.mean((1, 2, 3)) + 1) * 127.5).round().long()
            read = motion[level, :7].clone()
            read[:, 0] += 2
            read[:, 1] *= 2
            return torch.where(level[:, None] == 0, 0.0, read) if (level == 0).all() else read

    net = Says()
    net.weight = torch.nn.Parameter(torch.zeros(1))
    train_metrics.train_reader(net, run)
    people, lips, *_ = asked[0]
    assert people == 7 and np.array_equal(lips, many.motion[:, :3])
    ((name, parameters, steps, loss),) = fits
    assert steps == 5 and same(parameters, [net.weight])
    standard = [3, (4 - 1) / 2, 0, 9 / 4, (8 - 4) / 5, 11 / 6, -6 / 7]  # x and roll about 0
    assert float(loss) == pytest.approx(np.mean(np.square(standard)))
    plain, decoded = rows
    true = few.motion[:, :7].astype(float)
    square, variance = (true**2).mean(0), true.var(0)
    wanted = np.ones(7)
    wanted[0], wanted[1] = 1 - 4 / variance[0], 1 - square[1] / variance[1]
    found = [plain[f"r2_{name}"] for name in metrics.READ]
    assert found == pytest.approx(wanted.tolist(), rel=1e-3)
    found = [decoded[f"r2_decoded_{name}"] for name in metrics.READ]
    assert found == pytest.approx((1 - square / variance).tolist(), rel=1e-3)


class Look(torch.nn.Module):
    """In the trunk's place: the level and the contrast of a frame."""

    def forward(self, x):
        seen = torch.stack([x.mean((1, 2, 3)), x[:, :, 8:56, 8:56].std((1, 2, 3))], 1)
        return seen.repeat(1, 32) * torch.arange(1.0, 65) + 3


def test_clips_are_of_standardised_features_clean_and_harmed_and_train_their_own_layers(
    monkeypatch,
):
    """Of frames that are checkered more and more; an eighth of a level is all that noise adds."""
    level, checks = np.arange(60)[:, None, None, None], np.indices((64, 64)).sum(0) // 4 % 2
    frames = 60 + level + (40 + level) * checks[..., None] * np.ones(3, int)
    rng = np.random.default_rng(0)
    motion = rng.normal(2, 3, (60, 11)).astype(np.float32)
    starts = np.array([0, 35, 60])
    data = tiny_data.Videos(frames.astype(np.uint8), None, starts, None, motion, [])
    held_out = numbered(20, 2)
    mean, std = torch.arange(11.0), torch.arange(1.0, 12.0)
    run, rows = a_run(data, mean, std, held_out, steps_features=6, batch=10)
    seen, net = {}, metrics.Features()
    net.trunk = Look()
    own = [
        p
        for part in (net.over_time, net.clip_out, net.speed, net.disorder)
        for p in part.parameters()
    ]

    def batch(*args):
        seen["batch"] = args
        return torch.zeros(10, metrics.CLIP, 75), torch.arange(10)

    def loss(net, clips, kind, has_motion):
        seen["loss"] = clips, kind, bool(has_motion)

    monkeypatch.setattr(train_metrics, "clip_batch", batch)
    monkeypatch.setattr(train_metrics, "clip_loss", loss)
    monkeypatch.setattr(train_metrics, "batch_features", lambda *args: (None, [0], None))
    monkeypatch.setattr(train_metrics, "frame_loss", lambda *args: None)
    judged = lambda *args: seen.update(judged=args) or dict(found=1)
    monkeypatch.setattr(train_metrics, "judge_features", judged)
    fits = watch_fit(monkeypatch)
    train_metrics.train_features(net, run)
    assert [(name, steps) for name, _, steps, _ in fits] == [("frames", 6), ("clips", 6)]
    assert same(fits[0][1], net.parameters()) and same(fits[1][1], own)
    clean, harmed, found_starts, size, _ = seen["batch"]
    assert found_starts is starts and size == 10
    raw = Look()(to_pixels(data.frames))
    assert_close(clean[:, :64], (raw - raw.mean(0)) / raw.std(0), rtol=1e-3, atol=1e-3)
    for part in clean, harmed:
        assert_close(part[:, 64:], (torch.from_numpy(motion) - mean) / std)
    level, contrast = ((harmed[:, :64] * raw.std(0) + raw.mean(0)) - 3).T[:2] / torch.tensor(
        [[1.0], [2.0]]
    )
    assert (level - (raw[:, 0] - 3)).abs().max() < 0.02
    left = contrast / ((raw[:, 1] - 3) / 2)  # by blur, of these checks a quarter and more
    assert left.max() > 0.9 and left.min() < 0.7 and left.max() < 1.1 and left.std() > 0.05
    clips, kind, has_motion = seen["loss"]
    assert kind.tolist() == list(range(10)) and has_motion
    _, judged_on, truth, _ = seen["judged"]
    assert judged_on is held_out and rows == [dict(found=1)]
    assert_close(truth, (torch.from_numpy(held_out.motion) - mean) / std)


def test_the_sync_judge_trains_on_every_video_with_its_own_sound(monkeypatch):
    seen = []
    videos, held_out = numbered(20, 3), numbered(20, 2)
    run, rows = a_run(videos, held_out=held_out, steps_sync=9)
    batch = lambda data, windows, *how: seen.append((data, windows)) or (None, None)
    monkeypatch.setattr(train_metrics, "sync_batch", batch)
    monkeypatch.setattr(train_metrics, "sync_loss", lambda v, a: None)
    monkeypatch.setattr(train_metrics, "judge_sync", lambda net, data, device: dict(on=data))
    fits = watch_fit(monkeypatch)
    net = metrics.Sync()
    net.forward = lambda *batch: batch
    train_metrics.train_sync(net, run)
    ((_, parameters, steps, _),) = fits
    assert steps == 9 and same(parameters, net.parameters())
    data, windows = seen[0]
    assert data is videos and len(windows) == 3 and rows == [dict(on=held_out)]
    for k, heard in enumerate(windows):
        assert np.array_equal(heard, videos.windows(k)) and len(heard) == 20


def test_what_three_trainings_share_is_of_the_training_split_and_of_the_seed(monkeypatch, tmp_path):
    seen, learns, looked_at = {}, numbered(40, 2), numbered(40, 1)
    motion = np.random.default_rng(0).normal(2, 3, (80, 11)) * np.arange(1, 12)
    learns = learns._replace(motion=motion.astype(np.float32))
    splits = dict(train=learns, val=looked_at)
    monkeypatch.setattr(tiny_data, "load", lambda data, split, *how: splits[split])
    monkeypatch.setattr(tiny_data, "fingerprint", lambda *args: "")

    def note(name):
        def training(net, run):
            seen[name] = net, run
            torch.nn.init.constant_(next(net.parameters()), len(name))

        return training

    names = "reader", "features", "sync"
    monkeypatch.setattr(train_metrics, "TRAININGS", {name: note(name) for name in names})
    places = dict(out=str(tmp_path), weights=str(tmp_path / "m.pt"), device="cpu")
    train_metrics.train(train_metrics.Config(**{**train_metrics.SMOKE, **places, "seed": 5}))
    assert torch.initial_seed() == 5
    for name in names:
        net, run = seen[name]
        assert isinstance(net, metrics.NETWORKS[name]) and run.data is learns
        assert run.held_out is looked_at and run.generator.initial_seed() == 5
        assert_close(run.mean.numpy(), motion.mean(0), rtol=1e-4, atol=1e-4, check_dtype=False)
        spread = motion.std(0, ddof=1)
        assert_close(run.std.numpy(), spread, rtol=1e-4, atol=1e-4, check_dtype=False)
    for name, net in metrics.load_metrics(tmp_path / "m.pt").items():
        assert (next(net.parameters()) == len(name)).all()


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


def test_features_know_motion_by_what_their_heads_were_trained_on(monkeypatch):
    """By SiLU of the features before they are standardised; of one parameter they know nothing."""
    f = torch.randn(200, 64, generator=generator())
    truth = F.silu(2 * f + 1)[:, :11]
    monkeypatch.setattr(train_metrics, "over", lambda *args: f)
    guess = lambda h: torch.cat([truth[:, :1].mean(0).expand(200, 1), h[:, 1:11]], 1)
    net = SimpleNamespace(
        frames=None, identity=lambda f: f, motion=guess, frame_std=2, frame_mean=1
    )
    videos = SimpleNamespace(frames=None, starts=np.array([0, 100, 200]))
    found = train_metrics.judge_features(net, videos, truth, CPU)
    assert found["r2_motion"] == pytest.approx(10 / 11)


def test_sync_is_judged_on_own_sound_on_anothers_and_on_sound_that_is_three_frames_late():
    said, seen = torch.randn(3, 30, 16, generator=generator()), []
    videos = numbered(30, 3)._replace(starts=np.array([0, 32, 60, 90]))
    judged = lambda x, w: seen.append((x, w)) or (said, said)
    found = train_metrics.judge_sync(judged, videos, CPU)
    assert found["in_sync"] == found["late_3"] == 1 and found["sync_d"] == 0
    assert found["wrong_d"] > 3 and found["wrong_c"] < 0.5 * found["sync_c"]
    ((x, w),) = seen  # of all as much as the shortest has: 28 frames
    numbers = torch.tensor([[0], [32], [60]]) + torch.arange(28.0)
    assert_close((x[:, :, 0, 0, 0] + 1) * 127.5, numbers, rtol=0, atol=1e-3)
    assert_close(w, torch.from_numpy(np.stack([videos.windows(i)[:28] for i in range(3)])))


def test_in_sync_is_exactly_in_sync():
    """Four videos, of which the sound of one comes a frame late and that of one a frame early."""
    said = torch.randn(4, 40, 16, generator=generator())
    heard = torch.stack([x.roll(k, 0) for x, k in zip(said, (0, 1, -1, 0))])
    found = train_metrics.judge_sync(lambda x, w: (said, heard), numbered(40, 4), CPU)
    assert found["in_sync"] == found["late_3"] == 0.5


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
