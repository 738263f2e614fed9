"""Relations between images: the angles that three of them form."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .base import Distillation, Maps, embeddings

_MOST = 128
"""Images that are compared; memory grows with their number cubed."""


class Angles(Distillation):
    """The angles of three images, as the student's last stage sees them, are drawn to the teacher's (RKD, Park et al., CVPR'19, 3.2.2).

    An image is the mean of its last map over all points. The cosines of the angles at the second of three different images are compared by
    Huber's loss, whose mean over all such triples this is; batches of fewer than three images give 0. As triples of images are many, only
    the first 128 images of a batch are compared.
    """

    def forward(self, own: Maps, wanted: Maps) -> torch.Tensor:
        """The mean of Huber's loss over all triples of three different images."""
        a, b = (_cosines(each[:_MOST]) for each in embeddings(own, wanted))
        return F.smooth_l1_loss(a, b) if a.numel() else a.sum()


def _cosines(x: torch.Tensor) -> torch.Tensor:
    """The cosine of the angle at every row between any two others, in one dimension."""
    n = len(x)
    unit = F.normalize(x[None] - x[:, None], dim=2)  # [j, i]: from row j to row i
    cosines = unit @ unit.transpose(1, 2)
    row = torch.arange(n, device=x.device)
    at, first, second = row.view(n, 1, 1), row.view(1, n, 1), row.view(1, 1, n)
    return cosines[(first < second) & (at != first) & (at != second)]
