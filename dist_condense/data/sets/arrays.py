"""Data sets that are read whole into memory: handwritten digits, and torchvision's files."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import torch
from torch.nn import functional

from dist_condense.data.image_set import ClassName, Facts, ImageSet
from dist_condense.data.reading.source import LabelledImages, MemorySource
from dist_condense.data.reading.split import NO_BETON
from dist_condense.data.reading.tiers import RAW, Reading
from dist_condense.data.sets.request import Request, choose
from dist_condense.system.errors import DataError

CHUNK = 256
"""Images resized at once: 256 at 3 x 224 x 224 are 154 MB of float32."""


@dataclass(frozen=True, eq=False)
class ArraySplit:
    """Classes of one array; `stored[label]` is the class's label in it. Always decoded, whatever the tier."""

    images: LabelledImages
    stored: tuple[int, ...]
    size: int | None
    """Pixels of a side that images are resized to; None: they stay as they are."""

    @property
    def counts(self) -> tuple[int, ...]:
        """Images of each class."""
        per_class = torch.bincount(self.images.labels, minlength=max(self.stored) + 1).tolist()
        return tuple(per_class[index] for index in self.stored)

    raw = False
    files = False
    unread = ()

    def open(self, labels: Sequence[int], reading: Reading) -> MemorySource:
        """Images [n, C, H, W] in the array's order. DataError when a beton is asked for."""
        if reading.tier == RAW:
            raise DataError([NO_BETON])
        chosen = {label: resize(_of_class(self.images, self.stored[label]), self.size) for label in labels}
        on_gpu = reading.tier == "gpu"
        return MemorySource({label: x.to(reading.device) if on_gpu else x for label, x in chosen.items()})

    def on_demand(self, reading: Reading) -> MemorySource:
        """They are in memory anyway."""
        return self.open(range(len(self.stored)), Reading())

    def encoded_bytes(self) -> list[int]:
        """There are no files."""
        return []

    def digest(self) -> str:
        """Over all pixels and labels."""
        found = sha256(repr((self.stored, self.size)).encode())
        for tensor in (self.images.images, self.images.labels):
            found.update(tensor.contiguous().numpy().data)
        return found.hexdigest()


def from_arrays(
    request: Request, facts: Facts, train: LabelledImages, test: LabelledImages, names: tuple[str, ...]
) -> ImageSet:
    """The ImageSet over two arrays whose label i is the class names[i]; DataError with all that is wrong."""
    stored, missing = choose(request.wanted(), names, request.name)
    problems = request.problems() + missing
    if facts.width and request.size is not None:
        problems.append(f"{request.name}: its images are {facts.size} x {facts.width}; leave dataset.size out.")
    if problems:
        raise DataError(problems)
    size = request.size or facts.size
    resized = None if facts.width else size
    return ImageSet(
        name=request.name,
        facts=facts,
        size=size,
        classes=tuple(ClassName(names[index]) for index in stored),
        train_split=ArraySplit(train, stored, resized),
        test_split=ArraySplit(test, stored, resized),
    )


def resize(images: torch.Tensor, size: int | None) -> torch.Tensor:
    """Square images [n, C, s, s] -> [n, C, size, size]: bilinear, antialiased; bytes are rounded."""
    if size in (None, images.shape[-1]):
        return images
    return torch.cat([_resize_chunk(chunk, size or 0) for chunk in torch.split(images, CHUNK)])


def _resize_chunk(images: torch.Tensor, size: int) -> torch.Tensor:
    pixels = functional.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True)
    if images.is_floating_point():
        return pixels
    return pixels.round_().clamp_(0, 255).to(torch.uint8)


def _of_class(stored: LabelledImages, label: int) -> torch.Tensor:
    return stored.images[stored.labels == label]
