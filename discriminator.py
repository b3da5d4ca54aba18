"""Stage 2's discriminator: half a few-step student, with a head on each of its levels.

D(x_t, t, c) = mean over the free frames of  Σ over levels and places of  head(features)
"""

from torch import nn


class Discriminator(nn.Module):
    """x_t (B, F, C, H, W), t (B,), Cond -> D's values (B,).

    The last layer is zero, so the adversarial gradient grows from 0, and has no bias, which would
    cancel in D(a) − D(b). network: as unet.UNet, of which only features() is used; widths: the
    channels of its levels.
    """

    def __init__(self, network, widths):
        super().__init__()
        self.network = network
        self.heads = nn.ModuleList()
        for c in widths:
            last = nn.Conv2d(c, 1, 1, bias=False)
            nn.init.zeros_(last.weight)
            head = nn.Sequential(nn.GroupNorm(8, c), nn.Conv2d(c, c, 1), nn.SiLU(), last)
            self.heads.append(head)

    def forward(self, xt, t, cond):
        levels = self.network.features(xt, t, cond)  # (B F, c, h, w) each
        values = sum(head(h).float().sum((1, 2, 3)) for head, h in zip(self.heads, levels))
        free = 1 - cond.mask  # (B, F)
        return (values.view_as(free) * free).sum(1) / free.sum(1)
