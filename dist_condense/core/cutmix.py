"""CutMix (Yun et al. 2019): paste a box of another image of the batch into every image, and mix the losses by area."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class CutMix:
    """One draw for a batch of n (Yun et al. 2019): a box that is pasted into every image from its partner."""

    partner: Tensor
    """Partner of each image, int64 ``[n]``: a permutation."""
    box: tuple[int, int, int, int]
    """Rows from and to, columns from and to, the ends excluded."""
    weight: float
    """Weight of an image's own label: 1 - area of the box; 1 where the batch is unchanged."""

    def images(self, images: Tensor) -> Tensor:
        """Mix images ``[n, C, h, w]``."""
        top, bottom, left, right = self.box
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images[self.partner, :, top:bottom, left:right]
        return mixed


def cutmix_box(lam: float, centre: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the box of side int(size * sqrt(1 - lam)) around ``centre`` (row, column), clipped at the border."""
    cut = [int(s * math.sqrt(1 - lam)) for s in size]
    bounds = [
        min(max(edge, 0), s)
        for c, half, s in zip(centre, (x // 2 for x in cut), size, strict=True)
        for edge in (c - half, c + half)
    ]
    return bounds[0], bounds[1], bounds[2], bounds[3]


def mix(partner: Tensor, box: tuple[int, int, int, int], size: tuple[int, int]) -> CutMix:
    """Return the draw whose weight follows from the clipped area of its box."""
    area = (box[1] - box[0]) * (box[3] - box[2]) / (size[0] * size[1])
    return CutMix(partner, box, 1 - area)


def draw_cutmix(probability: float, n: int, size: tuple[int, int], generator: torch.Generator) -> CutMix:
    """Draw a box of area 1 - lam with ``probability``, lam ~ Beta(1, 1) = U(0, 1), else a draw that changes nothing."""
    happens, lam = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    centre = [int(torch.randint(s, (), generator=generator)) for s in size]
    partner = torch.randperm(n, generator=generator)
    box = cutmix_box(lam, (centre[0], centre[1]), size) if happens < probability else (0, 0, 0, 0)
    return mix(partner, box, size)


def mixed_loss(logits: Tensor, own: Tensor, partner: Tensor, weight: float) -> Tensor:
    """Return the cross-entropy of each image ``[n]``, weighted between its own label and that of its CutMix partner.

    :param own: int64 ``[n]``, or class probabilities ``[n, classes]``; ``partner`` likewise.
    """
    loss = F.cross_entropy(logits, own, reduction="none")
    if weight == 1:
        return loss
    return weight * loss + (1 - weight) * F.cross_entropy(logits, partner, reduction="none")
