"""Inputs of the network for a class: learnt and stored images, normalised, under one augmentation draw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import cast

import torch
from torch import Tensor

from dist_condense.core import augmentation, sampling
from dist_condense.core.image_rule import Learnt
from dist_condense.core.objective import Examples
from dist_condense.core.parameterisation import MultiFormation, Origins
from dist_condense.data.normalise import to_values
from dist_condense.data.space import Space
from dist_condense.engine.coordinator import Placement
from dist_condense.engine.matching.draws import Drawn
from dist_condense.engine.matching.recipe import MatchingRecipe

Back = Callable[[Examples], tuple[Learnt]]


@dataclass(frozen=True)
class View:
    """Maps from learnt tensors and from stored images to examples, the inputs of the network.

    :param origins: origins of the m decoded images of a class, on the device, by its number of learnt images.
    :param normalised_pixels: whether the learnt pixels are in normalised space.
    :param mean: mean of the values of real images, ``[C, 1, 1]`` on the device, in the dtype of the images.
    :param std: standard deviation of these values, in the same form.
    """

    parameterisation: MultiFormation
    origins: Mapping[int, Origins]
    normalised_pixels: bool
    _: KW_ONLY
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, recipe: MatchingRecipe, numbers: Iterable[int], space: Space, placement: Placement) -> View:
        """Return the view for classes with these numbers of learnt images."""
        mean, std = (
            torch.tensor(x, dtype=placement.dtype, device=placement.device)[:, None, None]
            for x in (space.statistics.mean, space.statistics.std)
        )
        origins = {ipc: recipe.parameterisation.origins(ipc).to(placement.device) for ipc in {*numbers}}
        return cls(recipe.parameterisation, origins, space.normalised, mean=mean, std=std)

    def normalised(self, stored: Tensor) -> Tensor:
        """Convert stored images to floating-point values and normalise them."""
        return (to_values(stored, self.mean.dtype) - self.mean) / self.std

    def real(self, stored: Tensor, drawn: Drawn) -> Examples:
        """Return the examples for a real minibatch as stored, ``[n, C, H, W]``: normalised and augmented."""
        images = _augmented(self.normalised(stored), drawn)
        return {"images": images, "labels": drawn.label.expand(len(images))}

    def synthetic(self, learnt: Learnt, drawn: Drawn) -> tuple[Examples, Callable[[Examples], Learnt]]:
        """Return all synthetic examples of a class and their pull-back.

        The pull-back maps a gradient with respect to the examples to the gradient with respect to the learnt tensors.
        """
        return self._with_pull_back(lambda learnt: self._seen(learnt, drawn), learnt, drawn)

    def taking_part(self, learnt: Learnt, drawn: Drawn) -> Origins:
        """Return the origins of the decoded images of a class that take part in a step."""
        every = self.origins[len(learnt["pixels"])]
        return every if drawn.subset is None else every[drawn.subset]

    def count(self, learnt: Learnt, drawn: Drawn) -> int:
        """Return the number of decoded images of a class that take part in a step."""
        return len(self.origins[len(learnt["pixels"])] if drawn.subset is None else drawn.subset)

    def some(self, learnt: Learnt, drawn: Drawn, at: Origins) -> Examples:
        """Return the synthetic examples of some decoded images, without memory for the others."""
        return {"labels": drawn.label.expand(len(at)), **self._seen_some(_sources(learnt, at), drawn, at)}

    def pull_back_some(
        self, learnt: Learnt, drawn: Drawn, at: Origins
    ) -> tuple[Examples, Callable[[Examples], Learnt]]:
        """Return :meth:`some` and its pull-back to the source of each image: its pixels and label probabilities."""
        return self._with_pull_back(lambda own: self._seen_some(own, drawn, at), _sources(learnt, at), drawn)

    def for_training(self, pixels: Tensor) -> Tensor:
        """Decode pixels to images in normalised space, for training on the synthetic set."""
        return self._shown(self.parameterisation.decode_for_training(pixels))

    def labels_for_training(self, scores: Tensor) -> Tensor:
        """Return the labels of the images of :meth:`for_training`: class probabilities ``[m, classes]``.

        :param scores: learnt scores ``[ipc, classes]``.
        """
        return scores.softmax(1).repeat(self.parameterisation.tiles, 1)

    def _seen(self, learnt: Learnt, drawn: Drawn) -> Examples:
        images = self.parameterisation.decode(learnt["pixels"])
        if drawn.subset is not None:
            images = sampling.taken(images, drawn.subset)
        labels = {}
        if "labels" in learnt:
            labels["labels"] = sampling.taken(learnt["labels"].softmax(1), self.taking_part(learnt, drawn).source)
        return {"images": _augmented(self._shown(images), drawn), **labels}

    def _seen_some(self, sources: Learnt, drawn: Drawn, at: Origins) -> Examples:
        images = self.parameterisation.decode_some(sources["pixels"], at)
        labels = {"labels": sources["labels"]} if "labels" in sources else {}
        return {"images": _augmented(self._shown(images), drawn), **labels}

    def _with_pull_back(
        self, see: Callable[[Learnt], Examples], learnt: Learnt, drawn: Drawn
    ) -> tuple[Examples, Callable[[Examples], Learnt]]:
        seen, back = cast("tuple[Examples, Back]", torch.func.vjp(see, learnt))
        examples = {name: x.detach() for name, x in seen.items()}
        if "labels" not in examples:
            examples["labels"] = drawn.label.expand(len(examples["images"]))
        return examples, lambda gradient: back(gradient)[0]

    def _shown(self, images: Tensor) -> Tensor:
        """Map decoded images to normalised space."""
        return images if self.normalised_pixels else (images - self.mean) / self.std


def _augmented(images: Tensor, drawn: Drawn) -> Tensor:
    return images if drawn.augmentation is None else augmentation.apply(images, drawn.augmentation)


def _sources(learnt: Learnt, at: Origins) -> Learnt:
    """Return the learnt pixels, and label probabilities, of the source of each decoded image."""
    own = {name: x[at.source] for name, x in learnt.items()}
    return own | {"labels": own["labels"].softmax(1)} if "labels" in own else own
