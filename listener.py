"""The listener: the sound's tokens first learn to name phones (toy set), and then stay as they are.

    token = (h, √P p),   p = softmax(A h + b)
    L = cross-entropy of p and the phone at the token's place

h: what convolutions make of four rows of sound and their neighbours; p: the probabilities of the P
phones. This is what speech recognition, wav2vec 2.0 (2006.11477), is to the models that the paper
distils: they do not have to learn phonetics from pictures of lips. Your own clips come without
phones: there teacher.py trains the listener with everything else, and p is P more features.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from audio_features import FPS, N_MELS, WINDOW
from common import cosine_decay
from tiny_data.phones import PHONES


class Listener(nn.Module):
    """Windows (N, R, A) -> tokens (N, 5, size + P): what is heard, and how likely each of the P
    phones is, a phonetic posteriorgram (Hazen et al., 2009).

    Lips are nearly a weighted mean of the phones' lips, and the weights are these probabilities:
    cross-attention, whose keys and values are linear in the tokens, finds width and rounding in
    them far better than in h. √P gives a sure token's √P p a mean square of 1.
    """

    def __init__(self, size):
        super().__init__()
        self.size = size + len(PHONES)
        self.hear = nn.Sequential(  # 20 rows -> 10 -> 5 tokens
            nn.Conv1d(N_MELS, size, 3, padding=1),
            nn.SiLU(),
            nn.Conv1d(size, size, 4, 2, 1),
            nn.SiLU(),
            nn.Conv1d(size, size, 4, 2, 1),
        )
        self.name = nn.Linear(size, len(PHONES))

    def listen(self, windows):
        """-> h (N, 5, size), and the phones' logits (N, 5, P)."""
        h = self.hear(windows.transpose(1, 2)).transpose(1, 2).contiguous()
        return h, self.name(h)

    def forward(self, windows):
        h, logits = self.listen(windows)
        return torch.cat([h, len(PHONES) ** 0.5 * logits.softmax(-1)], -1)


def pretrain_sound(listener, videos, steps, generator, device, batch=128):
    """Teach a Listener to name the phone that each token lies on; -> share of right names on the
    last batches, nan without phones.

    Token j of frame k lies on frame k − 2 + j.
    """
    if not videos.phones:
        return math.nan
    names, labels = list(PHONES), []
    for phones, a, b in zip(videos.phones, videos.starts, videos.starts[1:]):
        k = (np.arange(-2, b - a + 2) + 0.5) / FPS
        label = np.zeros(len(k), int)  # before and after the video: the pause, number 0
        for symbol, start, end in phones:
            label[(k >= start) & (k < end)] = names.index(symbol)
        labels.append(np.lib.stride_tricks.sliding_window_view(label, WINDOW // 4))
    labels, right = torch.from_numpy(np.concatenate(labels)), []
    windows = [videos.windows(i) for i in range(len(videos.phones))]
    optimiser = torch.optim.AdamW(listener.parameters(), lr=1e-3)
    for step in range(steps):
        picked = torch.randint(len(labels), (batch,), generator=generator)
        video = np.searchsorted(videos.starts, picked.numpy(), side="right") - 1
        heard = [windows[v][i - videos.starts[v]] for v, i in zip(video, picked.tolist())]
        x = torch.from_numpy(np.stack(heard))
        x = x + 0.075 * torch.randn(batch, 1, 1, generator=generator)  # as in latents.Clips.batch
        y = labels[picked].flatten().to(device)
        named = listener.listen(x.to(device))[1].flatten(0, 1)
        loss = F.cross_entropy(named, y)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.param_groups[0]["lr"] = 1e-3 * cosine_decay(step / steps)
        optimiser.step()
        right = right[-49:] + [(named.argmax(1) == y).float().mean().item()]
    return float(np.mean(right)) if right else math.nan
