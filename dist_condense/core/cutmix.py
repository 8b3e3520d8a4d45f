"""CutMix (Yun et al. 2019): paste a box of another image of the batch into every image, and mix the losses by area."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class CutMix:
    """CutMix draw for a batch of n images (Yun et al. 2019): into each image, a box of its partner image is pasted."""

    partner: Tensor
    """Index of each image's partner, int64 ``[n]``: a permutation."""
    box: tuple[int, int, int, int]
    """Bounds of the box in pixels: (top, bottom, left, right); bottom and right are excluded."""
    weight: float
    """Weight of an image's own label: 1 minus the fraction of the image in the box; 1 for an unchanged batch."""

    def images(self, images: Tensor) -> Tensor:
        """Return images ``[n, C, h, w]`` with the box of each image's partner pasted in."""
        top, bottom, left, right = self.box
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images[self.partner, :, top:bottom, left:right]
        return mixed


def cutmix_box(lam: float, centre: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the box around ``centre`` (row, column) with sides int(size * sqrt(1 - lam)), clipped at the border."""
    cut = [int(s * math.sqrt(1 - lam)) for s in size]
    bounds = [
        min(max(edge, 0), s)
        for c, half, s in zip(centre, (x // 2 for x in cut), size, strict=True)
        for edge in (c - half, c + half)
    ]
    return bounds[0], bounds[1], bounds[2], bounds[3]


def mix(partner: Tensor, box: tuple[int, int, int, int], size: tuple[int, int]) -> CutMix:
    """Return the CutMix draw with the given partners and box for images of ``size``."""
    area = (box[1] - box[0]) * (box[3] - box[2]) / (size[0] * size[1])
    return CutMix(partner, box, 1 - area)


def draw_cutmix(probability: float, n: int, size: tuple[int, int], generator: torch.Generator) -> CutMix:
    """Draw a CutMix for n images with ``probability``, else return a draw that changes nothing.

    The box has the area fraction 1 - lam before it is clipped, with lam ~ Beta(1, 1) = U(0, 1).
    """
    happens, lam = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    centre = [int(torch.randint(s, (), generator=generator)) for s in size]
    partner = torch.randperm(n, generator=generator)
    box = cutmix_box(lam, (centre[0], centre[1]), size) if happens < probability else (0, 0, 0, 0)
    return mix(partner, box, size)


def mixed_loss(logits: Tensor, own: Tensor, partner: Tensor, weight: float) -> Tensor:
    """Return the cross-entropy of each image ``[n]``, weighted between its own label and that of its CutMix partner.

    :param own: own labels, int64 ``[n]`` or class probabilities ``[n, classes]``.
    :param partner: labels of the partners, in the same form.
    :param weight: weight of the own labels, in [0, 1].
    """
    loss = F.cross_entropy(logits, own, reduction="none")
    if weight == 1:
        return loss
    return weight * loss + (1 - weight) * F.cross_entropy(logits, partner, reduction="none")
