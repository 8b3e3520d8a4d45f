"""CutMix (Yun et al. 2019): paste a box of another image of the batch into every image, and mix the losses by area."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class CutMix:
    """CutMix draw for a batch of n images (Yun et al. 2019): into each image, a box of its partner image is pasted.

    Everything is a tensor, so applying a draw needs no branch and no host synchronisation.
    """

    partner: Tensor
    """Index of each image's partner, int64 ``[n]``: a permutation."""
    box: Tensor
    """Bounds of the box in pixels, int64 ``[2, 2]``: (rows, columns) x (from, to); empty for an unchanged batch."""
    weight: Tensor
    """Weight of an image's own label, float64 ``[]``: 1 minus the fraction of the image in the box."""

    def images(self, images: Tensor) -> Tensor:
        """Return images ``[n, C, h, w]`` with the box of each image's partner pasted in."""
        rows, columns = (
            (position >= bounds[0]) & (position < bounds[1])
            for position, bounds in zip(
                (torch.arange(s, device=images.device) for s in images.shape[-2:]), self.box, strict=True
            )
        )
        return torch.where(rows[:, None] & columns, images[self.partner], images)


pytree.register_dataclass(CutMix)


@dataclass(frozen=True)
class CutMixes:
    """CutMix draws of several batches, one after the other."""

    partner: Tensor
    """Index of each image's partner within its batch, int64 ``[n]``."""
    boxes: Tensor
    """Box of each batch, int64 ``[batches, 2, 2]``."""
    weights: Tensor
    """Weight of an image's own label in each batch, float64 ``[batches]``."""

    @classmethod
    def of(cls, draws: Sequence[CutMix]) -> CutMixes:
        """Return the draws of batches."""
        return cls(
            torch.cat([x.partner for x in draws]),
            torch.stack([x.box for x in draws]),
            torch.stack([x.weight for x in draws]),
        )

    def split(self, counts: Sequence[int]) -> list[CutMix]:
        """Return the draw of each batch, of ``counts[i]`` images; the tensors are views."""
        parts = zip(self.partner.split(list(counts)), self.boxes, self.weights, strict=True)
        return [CutMix(*part) for part in parts]


pytree.register_dataclass(CutMixes)


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
    """Return the CutMix draw with the given partners and box (top, bottom, left, right) for images of ``size``."""
    area = (box[1] - box[0]) * (box[3] - box[2]) / (size[0] * size[1])
    return CutMix(partner, torch.tensor(box).view(2, 2), torch.tensor(1 - area, dtype=torch.float64))


def draw_cutmix(probability: float, n: int, size: tuple[int, int], generator: torch.Generator) -> CutMix:
    """Draw a CutMix for n images with ``probability``, else return a draw that changes nothing.

    The box has the area fraction 1 - lam before it is clipped, with lam ~ Beta(1, 1) = U(0, 1).
    """
    happens, lam = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    centre = [int(torch.randint(s, (), generator=generator)) for s in size]
    partner = torch.randperm(n, generator=generator)
    box = cutmix_box(lam, (centre[0], centre[1]), size) if happens < probability else (0, 0, 0, 0)
    return mix(partner, box, size)


def mixed_loss(logits: Tensor, own: Tensor, partner: Tensor | None, weight: Tensor | None) -> Tensor:
    """Return the cross-entropy of each image ``[n]``, weighted between its own label and that of its CutMix partner.

    :param own: own labels, int64 ``[n]`` or class probabilities ``[n, classes]``.
    :param partner: labels of the partners, in the same form; None: without CutMix.
    :param weight: weight of the own labels, in [0, 1], ``[]``; None: without CutMix.
    """
    loss = F.cross_entropy(logits, own, reduction="none")
    if partner is None or weight is None:
        return loss
    return weight * loss + (1 - weight) * F.cross_entropy(logits, partner, reduction="none")
