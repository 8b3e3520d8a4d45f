"""What the network sees of a class: learnt tensors and stored bytes, normalised, under one augmentation draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import cast

import torch
from torch import Tensor

from dist_condense.core import augmentation
from dist_condense.core.image_rule import Learnt
from dist_condense.core.objective import Examples
from dist_condense.core.parameterisation import MultiFormation
from dist_condense.data.normalise import ChannelStatistics, to_unit
from dist_condense.engine.coordinator import Placement
from dist_condense.engine.matching.draws import Drawn
from dist_condense.engine.matching.recipe import MatchingRecipe

Back = Callable[[Examples], tuple[Learnt]]


@dataclass(frozen=True)
class View:
    """From learnt tensors and from stored bytes to examples.

    :param sources: the learnt image that each decoded one comes from, int64 ``[m]`` on the device.
    :param unit_space: pixels are in [0, 1]; else normalised.
    :param mean: of the real images in [0, 1], ``[C, 1, 1]`` on the device, in the dtype of the images.
    :param std: likewise.
    """

    parameterisation: MultiFormation
    sources: Tensor
    unit_space: bool
    _: KW_ONLY
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, recipe: MatchingRecipe, ipc: int, statistics: ChannelStatistics, placement: Placement) -> View:
        """The view of a method that learns ``ipc`` images of a class."""
        mean, std = (
            torch.tensor(x, dtype=placement.dtype, device=placement.device)[:, None, None]
            for x in (statistics.mean, statistics.std)
        )
        sources = recipe.parameterisation.sources(ipc).to(placement.device)
        return cls(recipe.parameterisation, sources, recipe.unit_space, mean=mean, std=std)

    def normalised(self, stored: Tensor) -> Tensor:
        """Bytes to normalised images."""
        return (to_unit(stored, self.mean.dtype) - self.mean) / self.std

    def real(self, stored: Tensor, drawn: Drawn) -> Examples:
        """Examples of a minibatch, uint8 ``[n, C, H, W]``."""
        images = _augmented(self.normalised(stored), drawn)
        return {"images": images, "labels": drawn.label.expand(len(images))}

    def synthetic(self, learnt: Learnt, drawn: Drawn) -> tuple[Examples, Callable[[Examples], Learnt]]:
        """Decoded examples, and the map from their gradient to that of the learnt tensors."""
        seen, back = cast(tuple[Examples, Back], torch.func.vjp(lambda learnt: self._seen(learnt, drawn), learnt))
        examples = {name: x.detach() for name, x in seen.items()}
        if "labels" not in examples:
            examples["labels"] = drawn.label.expand(len(examples["images"]))
        return examples, lambda gradient: back(gradient)[0]

    def for_training(self, pixels: Tensor) -> Tensor:
        """Decoded images in normalised space, as training on the set sees them."""
        return self._shown(self.parameterisation.decode_for_training(pixels))

    def labels_for_training(self, scores: Tensor) -> Tensor:
        """Their labels, where these are learnt: class probabilities ``[m, classes]``."""
        return scores.softmax(1).repeat(self.parameterisation.factor**2, 1)

    def _seen(self, learnt: Learnt, drawn: Drawn) -> Examples:
        images, sources = self.parameterisation.decode(learnt["pixels"]), self.sources
        if drawn.subset is not None:
            images, sources = images[drawn.subset], sources[drawn.subset]
        labels = {"labels": learnt["labels"].softmax(1)[sources]} if "labels" in learnt else {}
        return {"images": _augmented(self._shown(images), drawn), **labels}

    def _shown(self, images: Tensor) -> Tensor:
        """Decoded images in normalised space."""
        return (images - self.mean) / self.std if self.unit_space else images


def _augmented(images: Tensor, drawn: Drawn) -> Tensor:
    return images if drawn.augmentation is None else augmentation.apply(images, drawn.augmentation)
