"""All measures of a model's videos at once, against the true ones."""

import numpy as np
import torch

from autoencoder import to_pixels
from evaluation.legend import LIPS
from evaluation.measures import (
    best_lag,
    blink_statistics,
    correlation,
    frechet_of_samples,
    head_spread,
    lip_rates,
    sync_scores,
)
from evaluation.metrics import over

FACE = slice(12, 52), slice(16, 48)  # rows and columns of pixels in which the face lies


class Judge:
    """The measuring networks (load_metrics) and the true videos' own values, against which
    everything is compared. truth: an truth.Truth."""

    def __init__(self, truth, nets, device):
        self.truth, self.nets, self.device = truth, nets, device
        features = over(nets["features"].frames, truth.portraits, device)
        self.portraits = nets["features"].identity(features)
        self.own, _ = self.look(truth.frames)

    @torch.no_grad()
    def look(self, frames):
        """Frames (V, F, 64, 64, 3) uint8 -> what the networks say of them, and the motion read from
        them (V, F, 7) or None."""
        v, f = frames.shape[:2]
        flat, nets = frames.reshape(-1, *frames.shape[2:]), self.nets
        features = over(nets["features"].frames, flat, self.device)
        who = nets["features"].identity(features).view(v, f, -1)
        clips = nets["features"].clips(features.view(v, f, -1))
        # from frame to frame, of each video
        steps = [np.abs(np.diff(x.astype(np.int16), axis=0)) for x in frames]
        change = np.mean([s.mean() for s in steps])
        moving = np.mean([(s > 3).mean() for s in steps])
        colour = frames.mean((2, 3))  # (V, F, 3)
        seen = dict(
            features=features.cpu().double().numpy(),
            clips=clips.cpu().double().numpy(),
            who=who,
            change=change,
            moving=moving,
            colour=colour,
            contrast=float(np.mean([x.std() for x in frames])),
        )
        read = None
        if self.truth.motion is not None and "reader" in nets:
            read = over(nets["reader"], flat, self.device).view(v, f, -1).cpu().numpy()
            seen |= dict(
                read=read,
                spread=head_spread(read),
                lids=read[..., 6].std(1).mean(),
                blink_rate=blink_statistics(read[..., 6])[0],
            )
        return seen, read

    def faithfulness(self, frames):
        """How like their portraits the last frames (V, F, 64, 64, 3) of videos of the first V
        people are -> cosine of the identity embeddings, and mean difference of the face's colour in
        levels of 255."""
        n, net = len(frames), self.nets["features"]
        features = over(net.frames, frames.reshape(-1, *frames.shape[2:]), self.device)
        who = net.identity(features).view(n, frames.shape[1], -1)
        colour = frames[:, :, *FACE].mean((1, 2, 3))
        own = self.truth.portraits[:n, *FACE].mean((1, 2))
        return (who * self.portraits[:n, None]).sum(-1).mean().item(), np.abs(colour - own).mean()

    @torch.no_grad()
    def sync(self, frames, windows):
        """-> Sync-C, Sync-D, offset of each video."""
        pairs = [
            self.nets["sync"](to_pixels(x, self.device)[None], w[None])
            for x, w in zip(frames, windows[:, : frames.shape[1]])
        ]
        return sync_scores(*(torch.cat(p) for p in zip(*pairs)))

    def __call__(self, frames):
        """-> (dict of numbers as legend.METRICS, motion read or None)."""
        truth, own = self.truth, self.own
        (seen, read), (c, d, offset) = self.look(frames), self.sync(frames, truth.windows)
        row = dict(
            sync_c=c.mean(),
            sync_d=d.mean(),
            sync_offset=np.median(offset),
            fid=frechet_of_samples(seen["features"], own["features"]),
            fvd=frechet_of_samples(seen["clips"], own["clips"]),
            identity=(seen["who"] * self.portraits[:, None]).sum(-1).mean().item(),
            frame_change_ratio=seen["change"] / own["change"],
            moving_share_ratio=seen["moving"] / own["moving"],
            colour_shift=np.abs(seen["colour"].mean(1) - own["colour"].mean(1)).mean(),
            contrast_ratio=seen["contrast"] / own["contrast"],
        )
        if read is not None:
            for i, name in enumerate(LIPS):
                row[name] = correlation(read[..., i], truth.motion[..., i])
            jaw, spread = read[..., 0], seen["spread"] / own["spread"]
            row["closed_rate"], row["open_rate"] = lip_rates(jaw, truth.closed, truth.opened)
            blinks = own["blink_rate"]
            row |= dict(
                lag=best_lag(jaw, truth.motion[..., 0]),
                head_std_ratio=spread.mean(),
                **dict(zip(("head_x_ratio", "head_y_ratio", "roll_ratio"), spread)),
                lid_std_ratio=seen["lids"] / own["lids"],
                blink_rate_ratio=seen["blink_rate"] / blinks if blinks else np.nan,
            )
        return row, read

    @torch.no_grad()
    def references(self, others=None):
        """What else a reader of the table wants to know: the true videos' own values, the reader's
        error on them, and how far other people's frames (V, F, 64, 64, 3) are from theirs."""
        truth, own = self.truth, self.own
        away = ~torch.eye(len(truth.frames), dtype=torch.bool, device=self.device)
        found = dict(
            identity_others=(self.portraits @ self.portraits.T)[away].mean().item(),
            change_true=own["change"],
        )
        if truth.motion is not None and "reader" in self.nets:
            read = own["read"]
            for i, name in enumerate(LIPS):
                found[f"{name}_true"] = correlation(read[..., i], truth.motion[..., i])
            found |= dict(blink_rate_true=own["blink_rate"], head_std_true=own["spread"].tolist())
        if others is not None:
            seen, _ = self.look(others)
            found |= dict(
                fid_other_people=frechet_of_samples(seen["features"], own["features"]),
                fvd_other_people=frechet_of_samples(seen["clips"], own["clips"]),
            )
        return found
