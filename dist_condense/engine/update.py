"""An update of theta as a function of tensors: (theta, momentum, stored images, labels, draws) -> (theta, momentum).

All random choices are drawn before the update (:class:`UpdateDraws`), shapes depend only on the number of images, and
nothing waits for the device. The same functions run eagerly, compiled, or captured in a CUDA graph; theta and its
momentum are changed in place.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dist_condense.core import augmentation, cutmix
from dist_condense.core.augmentation import Draw
from dist_condense.core.cutmix import CutMix, CutMixes
from dist_condense.system.transfer import together


@dataclass(frozen=True)
class UpdateDraws:
    """Random choices of one update, except its images."""

    augmentation: Draw | None = None
    """One augmentation per image; None: none."""
    mix: CutMix | None = None
    """CutMix of the augmented images; None: none."""


@dataclass(frozen=True)
class BlockDraws:
    """Random choices of consecutive updates, one after the other, except their images."""

    augmentation: Draw | None = None
    mixes: CutMixes | None = None

    def split(self, counts: Sequence[int]) -> list[UpdateDraws]:
        """Return the choices of each update, with ``counts[i]`` images; the tensors are views."""
        none = [None] * len(counts)
        augmentations = none if self.augmentation is None else self.augmentation.split(counts)
        mixes = none if self.mixes is None else self.mixes.split(counts)
        return [UpdateDraws(*each) for each in zip(augmentations, mixes, strict=True)]


DrawUpdates = Callable[[int, Sequence[int], tuple[int, int]], BlockDraws]
"""Function from the number of an update, the numbers of images in its batch and those of the next updates, and the
height and width of images, to the draws of these updates, on the CPU.

It is keyed by update, so it may be called in any thread, at any time before the updates, for one or for many of them.
"""


@dataclass(frozen=True)
class Batch:
    """Inputs of one update, equal on all workers, on the device."""

    images: Tensor
    """Images as stored, or in normalised space, ``[B, C, H, W]``."""
    labels: Tensor
    """Labels, int64 ``[B]`` or class probabilities ``[B, classes]``."""
    draws: UpdateDraws = UpdateDraws()
    normalised: Callable[[Tensor], Tensor] | None = None
    """Function of tensors that maps ``images`` to normalised space; None: they are in it."""


@dataclass(frozen=True)
class Block:
    """Inputs of consecutive updates, one batch after the other, which travel to the device together."""

    images: Tensor
    """Images as in :class:`Batch`, ``[n, C, H, W]``."""
    labels: Tensor
    draws: BlockDraws
    normalised: Callable[[Tensor], Tensor] | None

    def batches(self, counts: Sequence[int]) -> Iterator[Batch]:
        """Yield the inputs of each update, with ``counts[i]`` images; the tensors are views."""
        parts = (x.split(list(counts)) for x in (self.images, self.labels))
        for images, labels, draws in zip(*parts, self.draws.split(counts), strict=True):
            yield Batch(images, labels, draws, self.normalised)


def with_draws(batches: Iterable[tuple[Tensor, Tensor]], draw: DrawUpdates, first: int = 0) -> Generator[Batch]:
    """Yield normalised images and their labels with the draws of their updates, numbered from ``first`` on."""
    for u, (images, labels) in enumerate(batches, first):
        drawn = together(draw(u, [len(images)], (images.shape[-2], images.shape[-1])), images.device)
        yield from Block(images, labels, drawn, None).batches([len(images)])


@dataclass(frozen=True)
class Prepared:
    """Images and labels of an update as the network sees them."""

    images: Tensor
    """Normalised, augmented and mixed, ``[B, C, H, W]``."""
    labels: Tensor
    partner_labels: Tensor | None
    """Labels of the CutMix partners; None: without CutMix."""
    weight: Tensor | None
    """Weight of an image's own label, ``[]``; None: without CutMix."""
    count: Tensor
    """Number of images in the whole batch, ``[]``."""

    def rows(self, rows: slice) -> Prepared:
        """Return some of the images."""
        partner_labels = None if self.partner_labels is None else self.partner_labels[rows]
        return Prepared(self.images[rows], self.labels[rows], partner_labels, self.weight, self.count)


for _tree in (UpdateDraws, BlockDraws, Batch, Block, Prepared):
    pytree.register_dataclass(_tree)


def prepare(batch: Batch) -> Prepared:
    """Normalise, augment and mix the images of a batch, in this order."""
    images, labels, draws = batch.images, batch.labels, batch.draws
    if batch.normalised is not None:
        images = batch.normalised(images)
    if draws.augmentation is not None:
        images = augmentation.apply(images, draws.augmentation)
    count = images.new_full((), len(images))
    if draws.mix is None:
        return Prepared(images, labels, None, None, count)
    return Prepared(draws.mix.images(images), labels, labels[draws.mix.partner], draws.mix.weight, count)


def loss(network: nn.Module, part: Prepared, autocast: bool) -> Tensor:
    """Return the share of some images in the mean loss of their batch: the sum of their losses divided by its size.

    :param autocast: run the network in bfloat16.
    """
    images = part.images
    with torch.autocast(images.device.type, torch.bfloat16, enabled=autocast):
        logits = network(images)
    losses = cutmix.mixed_loss(logits.to(images.dtype), part.labels, part.partner_labels, part.weight)
    return losses.sum() / part.count


def step(optimiser: torch.optim.SGD, gradient: Tensor) -> None:
    """Take a step of SGD in place.

    :param gradient: gradients of the optimiser's parameters, flattened one after the other, ``[length]``.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for p, g in zip(parameters, gradient.split([p.numel() for p in parameters]), strict=True):
        p.grad = g.view_as(p)
    optimiser.step()
