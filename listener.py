"""The listener: the sound's tokens learn to name phones before any picture is drawn, and then stay as they are.

    L = cross-entropy of the phone at the place of each token

This is what speech recognition, wav2vec 2.0 (2006.11477), is to the models that the paper distils: they do not have to learn phonetics
from pictures of lips. teacher.py calls it; only the toy set knows its phones.
"""
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from audio_features import FPS, WINDOW
from common import cosine_decay
from tiny_data.speech import PHONES


def pretrain_sound(tokens, videos, steps, generator, device, batch=128):
    """Teach the sound's tokens to name the phone they lie on; -> share of right names on the last batches, nan without phones.

    tokens: UNet.audio, (B, A, W) -> (B, D / 2, 5); token j of frame k lies on frame k − 2 + j.
    """
    if not videos.phones:
        return math.nan
    names, labels = list(PHONES), []
    for phones, a, b in zip(videos.phones, videos.starts, videos.starts[1:]):
        k = (np.arange(-2, b - a + 2) + 0.5) / FPS
        label = np.zeros(len(k), int)                                         # before and after the video: the pause, number 0
        for symbol, start, end in phones:
            label[(k >= start) & (k < end)] = names.index(symbol)
        labels.append(np.lib.stride_tricks.sliding_window_view(label, WINDOW // 4))
    labels, windows, right = torch.from_numpy(np.concatenate(labels)), [videos.windows(i) for i in range(len(videos.phones))], []
    head = nn.Linear(tokens[-1].out_channels, len(names)).to(device)
    optimiser = torch.optim.AdamW([*tokens.parameters(), *head.parameters()], lr=1e-3)
    for step in range(steps):
        picked = torch.randint(len(labels), (batch,), generator=generator)
        video = np.searchsorted(videos.starts, picked.numpy(), side="right") - 1
        x = torch.from_numpy(np.stack([windows[v][i - videos.starts[v]] for v, i in zip(video, picked.tolist())]))
        x = x + 0.075 * torch.randn(batch, 1, 1, generator=generator)                            # as in latents.Clips.batch
        y, named = labels[picked].flatten().to(device), head(tokens(x.to(device).transpose(1, 2)).transpose(1, 2)).flatten(0, 1)
        loss = F.cross_entropy(named, y)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.param_groups[0]["lr"] = 1e-3 * cosine_decay(step / steps)
        optimiser.step()
        right = right[-49:] + [(named.argmax(1) == y).float().mean().item()]
    return float(np.mean(right)) if right else math.nan
