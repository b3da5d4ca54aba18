"""What a Block of the network mixes with what, and how the network begins."""

import torch
import torch.nn.functional as F
from helpers import condition, small_unet
from torch import nn
from torch.testing import assert_close

from diffusion import T
from unet import Block, UNet

C, D, E, FRAMES = 16, 8, 6, 5  # of a small Block; two clips of 4 x 4 places
EMB, TOKENS = torch.randn(2 * FRAMES, D), torch.randn(2 * FRAMES, 5, E)


def block(*branches):
    """A Block in which only these branches say something: zeroed at the start, they are filled."""
    torch.manual_seed(0)
    made = Block(C, C, D, E, spatial=True).requires_grad_(False)
    for name in branches:
        nn.init.normal_(getattr(made, name).weight)
    return made


def what_changes(made, frame, place):
    """Which (frames, places) of the first clip change where one place of one frame does."""
    x = torch.randn(2 * FRAMES, C, 4, 4)
    other = x.clone()
    other.flatten(2)[frame, :, place] += torch.randn(C)
    a, b = (made(y, EMB, TOKENS, FRAMES).flatten(2) for y in (x, other))
    assert_close(a[FRAMES:], b[FRAMES:], rtol=0, atol=0)  # the other clip
    return ((a - b)[:FRAMES].abs() > 1e-6).any(1)


def test_a_block_changes_nothing_until_it_has_learnt():
    x = torch.randn(2 * FRAMES, C, 4, 4)
    assert_close(block()(x, EMB, TOKENS, FRAMES), x, rtol=0, atol=0)


def test_time_mixes_the_frames_of_a_place_and_space_the_places_of_a_frame():
    changed = what_changes(block("out_t"), 2, 4)
    assert changed[:, 4].all() and changed.sum() == FRAMES
    changed = what_changes(block("out_s"), 2, 4)
    assert changed[2].all() and changed.sum() == 16


def test_without_attention_over_time_the_convolution_sees_the_frame_before_and_the_one_after():
    made = block("out_t")
    made.attend = lambda q, k, v: v if v.shape == q.shape else q
    changed = what_changes(made, 2, 4)
    assert changed[1:4, 4].all() and changed.sum() == 3


def test_attention_over_time_sees_the_frames_and_the_convolution_adds_to_them():
    made = block("out_t")
    nn.init.zeros_(made.time_conv.weight)
    changed = what_changes(made, 2, 4)
    assert changed[:, 4].all() and changed.sum() == FRAMES


def test_attention_over_time_knows_one_frame_from_another():
    """Frames that are all alike: only their places in time tell them apart."""
    made = block("out_t")
    nn.init.zeros_(made.time_conv.weight)  # at the ends it would see the padding
    nn.init.normal_(made.place_t)  # as large as what the frames show
    x = torch.randn(1, C, 4, 4)
    x, emb, tokens = (y[:1].repeat(2 * FRAMES, *[1] * (y.ndim - 1)) for y in (x, EMB, TOKENS))
    h = made(x, emb, tokens, FRAMES)[:FRAMES]
    assert (h.diff(dim=0).abs().amax((1, 2, 3)) > 1e-4).all()
    nn.init.zeros_(made.place_t)
    h = made(x, emb, tokens, FRAMES)[:FRAMES]
    assert_close(h, h[:1].expand_as(h), rtol=0, atol=1e-5)


def test_a_block_that_hears_neither_time_nor_sound_still_convolves():
    made, x = block("conv2"), torch.randn(2 * FRAMES, C, 4, 4)
    nn.init.zeros_(made.modulate.weight), nn.init.zeros_(made.modulate.bias)
    h = made.conv1(F.silu(made.norm1(x)))
    wanted = x + made.conv2(F.silu(made.norm2(h)))
    assert_close(made(x, EMB, TOKENS, FRAMES), wanted, rtol=1e-4, atol=1e-5)


def test_each_head_attends_with_its_own_part_of_the_channels():
    """Four heads of six: neighbouring channels belong together."""
    q, k, v = torch.randn(3, 2, 7, 24)
    parts = [slice(i, i + 6) for i in range(0, 24, 6)]
    wanted = [
        (q[..., p] @ k[..., p].transpose(1, 2) / 6**0.5).softmax(-1) @ v[..., p] for p in parts
    ]
    assert_close(block().attend(q, k, v), torch.cat(wanted, -1), rtol=1e-4, atol=1e-5)


def test_the_network_is_told_time_from_turns_of_one_radian_to_a_thousand():
    """The slowest angle falls all the way: no two times are alike; the fastest tells neighbours."""
    seen, model = [], small_unet().eval()
    model.time.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    t = torch.linspace(0, T, 41)
    with torch.no_grad():
        model(torch.randn(41, 1, 16, 8, 8), t, condition(41, frames=1))
    slow, fast = seen[0][:, 0], seen[0][:, 31]
    assert_close(slow, torch.cos(t / T), rtol=0, atol=1e-5)
    assert_close(fast, torch.cos(t), rtol=0, atol=1e-3)


def test_each_level_of_the_second_half_is_joined_by_its_own_of_the_first():
    seen, model = {}, small_unet().eval()
    for name in "down1", "down2", "up1", "up2":
        getattr(model, name).register_forward_hook(
            lambda _, given, made, name=name: seen.update({name: (given[0], made)})
        )
    with torch.no_grad():
        model(torch.randn(1, 16, 16, 8, 8), torch.tensor([500.0]), condition(1))
    assert torch.equal(seen["up1"][0][:, 16:], seen["down2"][1])
    assert torch.equal(seen["up2"][0], torch.cat([seen["up1"][1], seen["down1"][1]], 1))


def test_sound_joins_the_time_embedding_only_when_it_has_learnt_to():
    model = UNet(16)
    assert not model.sound(torch.randn(2, 5 * model.audio.size)).any()


def test_blocks_hear_the_sounds_tokens_each_with_its_place():
    seen, model, c = [], small_unet().eval(), condition(1)
    model.mid2.register_forward_pre_hook(lambda _, given: seen.append(given[2]))
    with torch.no_grad():
        model(torch.randn(1, 16, 16, 8, 8), torch.tensor([500.0]), c)
        heard = model.audio(c.audio.flatten(0, 1))
    assert_close(seen[0], heard + model.place_a, rtol=1e-4, atol=1e-5)
    assert (model.place_a[1:] != model.place_a[:1]).all()
