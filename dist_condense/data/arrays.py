"""Data sets that are read whole into memory as bytes: handwritten digits, and torchvision's files."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from dist_condense.data.errors import DataError
from dist_condense.data.image_set import ClassName, Facts, ImageSet
from dist_condense.data.request import Request, choose
from dist_condense.data.source import LabelledImages

CHUNK = 256
"""Images resized at once: 256 at 3 x 224 x 224 are 154 MB of float32."""


@dataclass(frozen=True)
class ArrayReader:
    """Reads classes out of two arrays; `stored[label]` is the class's label in the arrays."""

    train_images: LabelledImages
    test_images: LabelledImages
    stored: tuple[int, ...]
    size: int

    def train(self, label: int) -> torch.Tensor:
        """Training images of a class, uint8 [n, C, size, size], in the arrays' order."""
        return resize(_of_class(self.train_images, self.stored[label]), self.size)

    def test(self, label: int) -> torch.Tensor:
        """Test images of a class, uint8 [n, C, size, size], in the arrays' order."""
        return resize(_of_class(self.test_images, self.stored[label]), self.size)


def from_arrays(
    request: Request, facts: Facts, train: LabelledImages, test: LabelledImages, names: tuple[str, ...]
) -> ImageSet:
    """The ImageSet over two arrays whose label i is the class names[i]; DataError with all that is wrong."""
    stored, missing = choose(request.wanted(), names, request.name)
    problems = request.problems() + missing
    if problems:
        raise DataError(problems)
    size = request.size or facts.size
    per_class = torch.bincount(train.labels, minlength=len(names)).tolist()
    return ImageSet(
        name=request.name,
        facts=facts,
        size=size,
        classes=tuple(ClassName(names[index]) for index in stored),
        counts=tuple(per_class[index] for index in stored),
        reader=ArrayReader(train, test, stored, size),
    )


def resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """Square images uint8 [n, C, s, s] -> uint8 [n, C, size, size]: bilinear, antialiased, rounded."""
    if images.shape[-1] == size:
        return images
    return torch.cat([_resize_chunk(chunk, size) for chunk in torch.split(images, CHUNK)])


def _resize_chunk(images: torch.Tensor, size: int) -> torch.Tensor:
    pixels = functional.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True)
    return pixels.round_().clamp_(0, 255).to(torch.uint8)


def _of_class(stored: LabelledImages, label: int) -> torch.Tensor:
    return stored.images[stored.labels == label]
