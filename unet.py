"""The network v̂(x_t, t, c): a UNet of two levels, 8 x 8 and 4 x 4, over the frames of a clip.

Samplers, losses and discriminator use these two only (tests/test_unet.py trains a DiT instead):
    forward(xt, t, cond) -> v̂       (B, F, C, H, W), (B,), Cond -> (B, F, C, H, W)
    features(xt, t, cond) -> list   (B F, c, h, w) each, for a discriminator

Shapes: B batch, F frames (16), C latent channels (16), H W latent size (8 8), R rows of an audio
window (20), A audio feature size (64), D embedding size, E size of a sound's token, K context
frames (4 or 0), T diffusion steps (1000).
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from audio_features import N_MELS, WINDOW
from diffusion import T
from listener import Listener


class Block(nn.Module):
    """One level's unit: x (B F, c_in, H, W), emb (B F, D), tokens (B F, 5, E) -> (B F, c, H, W).

    Spatial residual convolutions, modulated by emb (time and sound); cross-attention from each
    frame to its own audio tokens; self-attention over space where `spatial`; then, at each place,
    over time. A convolution over time before that last one compares neighbouring frames: motion is
    local, and attention alone has to find that out.
    """

    def __init__(self, c_in, c, d, e, spatial=False, heads=4):
        super().__init__()
        self.heads, self.spatial = heads, spatial
        self.norm1, self.conv1 = nn.GroupNorm(8, c_in), nn.Conv2d(c_in, c, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, c), nn.Conv2d(c, c, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c, 1) if c_in != c else nn.Identity()
        self.modulate = nn.Linear(d, 2 * c)
        self.norm_a, self.q_a = nn.LayerNorm(c), nn.Linear(c, c)
        self.kv_a, self.out_a = nn.Linear(e, 2 * c), nn.Linear(c, c)
        self.norm_t = nn.LayerNorm(c)
        self.time_conv = nn.Conv2d(c, c, (3, 1), padding=(1, 0))  # over (F, H W)
        self.qkv_t, self.out_t = nn.Linear(c, 3 * c), nn.Linear(c, c)
        self.place_t = nn.Parameter(0.02 * torch.randn(64, c))  # of up to 64 frames
        if spatial:
            self.norm_s, self.qkv_s = nn.LayerNorm(c), nn.Linear(c, 3 * c)
            self.out_s = nn.Linear(c, c)
            self.place_s = nn.Parameter(0.02 * torch.randn(16, c))
        for layer in [self.conv2, self.out_a, self.out_t] + ([self.out_s] if spatial else []):
            nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)  # every branch starts at zero

    def attend(self, q, k, v):
        """softmax(q kᵀ / √d) v for each head. q (N, L, c), k, v (N, M, c) -> (N, L, c)."""
        q, k, v = (x.float().unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        with torch.autocast(q.device.type, enabled=False):  # in bfloat16 three times slower on CPUs
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def forward(self, x, emb, tokens, frames):
        scale, shift = self.modulate(emb)[:, :, None, None].chunk(2, 1)  # (B F, c, 1, 1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        x = self.skip(x) + h
        n, c, height, width = x.shape
        x = x.permute(0, 2, 3, 1).reshape(n, height * width, c)  # places (B F, H W, c)
        x = x + self.out_a(self.attend(self.q_a(self.norm_a(x)), *self.kv_a(tokens).chunk(2, -1)))
        if self.spatial:
            qkv = self.qkv_s(self.norm_s(x) + self.place_s)
            x = x + self.out_s(self.attend(*qkv.chunk(3, -1)))
        x = x.view(-1, frames, height * width, c)  # (B, F, H W, c)
        h = self.norm_t(x)
        h = h + self.time_conv(h.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        h = h + self.place_t[:frames, None]
        # (B H W, F, c), contiguous: one clip would give a view, which nn.Linear is slower with
        h = h.transpose(1, 2).contiguous().view(-1, frames, c)
        h = self.out_t(self.attend(*self.qkv_t(h).chunk(3, -1)))
        x = x + h.view(-1, height * width, frames, c).transpose(1, 2)
        return x.reshape(n, height, width, c).permute(0, 3, 1, 2)  # channels-last in memory


class UNet(nn.Module):
    """v̂(x_t, t, c). The portrait and the context frames join x_t as channels (with the context's
    mask), as is usual for image-to-video. Sound: each frame's window of 20 feature rows -> 5 tokens
    for cross-attention, and one vector that joins the time embedding."""

    def __init__(self, channels=64, latent=16):
        super().__init__()
        c, d = channels, 256
        self.time = nn.Sequential(nn.Linear(64, d), nn.SiLU(), nn.Linear(d, d))
        self.audio = Listener(d // 2)  # 20 rows -> 5 tokens
        e, count = self.audio.size, WINDOW // 4
        self.place_a = nn.Parameter(0.02 * torch.randn(count, e))
        self.sound = nn.Sequential(nn.SiLU(), nn.Linear(count * e, d), nn.SiLU(), nn.Linear(d, d))
        self.inlet = nn.Conv2d(3 * latent + 1, c, 3, padding=1)
        self.down1, self.down2 = Block(c, c, d, e), Block(c, c, d, e)  # 8 x 8
        self.shrink = nn.Conv2d(c, c, 3, 2, 1)
        self.mid1, self.mid2 = Block(c, c, d, e, True), Block(c, c, d, e, True)  # 4 x 4
        self.grow = nn.Sequential(nn.Conv2d(c, 4 * c, 1), nn.PixelShuffle(2))
        self.up1, self.up2 = Block(2 * c, c, d, e), Block(2 * c, c, d, e)  # 8 x 8, with skips
        self.norm, self.outlet = nn.GroupNorm(8, c), nn.Conv2d(c, latent, 3, padding=1)
        for layer in (self.outlet, self.sound[-1]):
            nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)

    def encode(self, xt, t, cond):
        """The first half -> what the second half joins, emb (B F, D), tokens (B F, 5, E)."""
        b, f, c, h, w = xt.shape
        wanted = dict(audio=(b, f, WINDOW, N_MELS), ref=(b, c, h, w), context=xt.shape, mask=(b, f))
        if any(getattr(cond, name).shape != shape for name, shape in wanted.items()):
            found = ", ".join(f"{name} {tuple(x.shape)}" for name, x in cond._asdict().items())
            raise ValueError(f"x_t {tuple(xt.shape)} does not fit the condition: {found}")
        mask = cond.mask[:, :, None, None, None].expand(b, f, 1, h, w)
        x = torch.cat([xt, cond.ref[:, None].expand_as(xt), cond.context, mask], 2).flatten(0, 1)
        frequencies = torch.exp(torch.linspace(0, math.log(1000), 32, device=t.device))
        angle = t.float()[:, None] / T * frequencies
        emb = self.time(torch.cat([angle.cos(), angle.sin()], 1))
        emb = emb.repeat_interleave(f, 0)  # (B F, D)
        tokens = self.audio(cond.audio.flatten(0, 1))  # (B F, 5, E)
        emb = F.silu(emb + self.sound(tokens.flatten(1)))
        tokens = tokens + self.place_a
        x = self.inlet(x.contiguous(memory_format=torch.channels_last))  # (B F, 49, 8, 8) before
        x1 = self.down1(x, emb, tokens, f)  # (B F, c, 8, 8)
        x2 = self.down2(x1, emb, tokens, f)
        y = self.mid1(self.shrink(x2), emb, tokens, f)  # (B F, c, 4, 4)
        return [x1, x2, self.mid2(y, emb, tokens, f)], emb, tokens

    def features(self, xt, t, cond):
        """The levels of the first half, after the last block of each: (B F, c, 8, 8), (B F, c, 4,
        4)."""
        return self.encode(xt, t, cond)[0][1:]

    def forward(self, xt, t, cond):
        (x1, x2, y), emb, tokens = self.encode(xt, t, cond)
        y = self.up1(torch.cat([self.grow(y), x2], 1), emb, tokens, xt.shape[1])
        y = self.up2(torch.cat([y, x1], 1), emb, tokens, xt.shape[1])
        return self.outlet(F.silu(self.norm(y))).float().view(xt.shape)
