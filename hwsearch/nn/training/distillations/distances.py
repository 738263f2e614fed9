"""Relations between images: how far they are apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .base import Distillation, Maps, embeddings


class Distances(Distillation):
    """The distances between images, as the student's last stage sees them, are drawn to the teacher's (RKD, Park et al., CVPR'19, 3.2.1).

    An image is the mean of its last map over all points. Distances are relative to their mean over all pairs of a batch, so they need no
    equal widths; they are compared by Huber's loss, whose mean over all pairs this is; a batch of one image gives 0.
    """

    def forward(self, own: Maps, wanted: Maps) -> torch.Tensor:
        """The mean of Huber's loss over all pairs of two different images."""
        a, b = (_relative(each) for each in embeddings(own, wanted))
        return F.smooth_l1_loss(a, b) if a.numel() else a.sum()


def _relative(x: torch.Tensor) -> torch.Tensor:
    """The distances of all pairs of rows, divided by their mean."""
    first, second = torch.triu_indices(len(x), len(x), 1, device=x.device)
    found = ((x[first] - x[second]).square().sum(dim=1) + 1e-12).sqrt()
    return found / found.mean()
