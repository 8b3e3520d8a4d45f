"""Data sets that are arrays in memory: handwritten digits, and data sets of torchvision."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import torch
from torch.nn import functional

from dist_condense.data.image_set import ClassName, Facts, ImageSet
from dist_condense.data.reading.source import LabelledImages, MemorySource
from dist_condense.data.reading.split import NO_BETON
from dist_condense.data.reading.tiers import RAW, Reading
from dist_condense.data.sets.request import Request, select_classes
from dist_condense.system.errors import DataError, listed

CHUNK = 256
"""Number of images resized at once: 256 at 3 x 224 x 224 are 154 MB of float32."""


@dataclass(frozen=True, eq=False)
class ArrayRows:
    """A ClassSource of the images of an array, which may be memory-mapped.

    :param rows: positions in the array of the images of each class, int64 ``[n]``.
    :param size: height and width in pixels after resizing; None if images are not resized.
    """

    images: torch.Tensor
    rows: Sequence[torch.Tensor]
    size: int | None

    def get(self, label: int, indices: torch.Tensor) -> torch.Tensor:
        return resize(self.images[self.rows[label][indices]], self.size)


@dataclass(frozen=True, eq=False)
class ArraySplit:
    """A split whose images are one array, decoded in every tier.

    `stored[label]` is the array's own label of the class that has the label `label` in the split.
    """

    images: LabelledImages
    stored: tuple[int, ...]
    size: int | None
    """Height and width in pixels after resizing; None if images are not resized."""
    identity: object = None
    """Plain values that change with the array, by which :meth:`digest` need not read it; None if there are none."""

    @property
    def counts(self) -> tuple[int, ...]:
        per_class = torch.bincount(self.images.labels, minlength=max(self.stored, default=0) + 1).tolist()
        return tuple(per_class[index] for index in self.stored)

    raw = False
    files = False
    unread = ()

    def open(self, labels: Sequence[int], reading: Reading) -> MemorySource:
        """Return a source of the resized images of these classes, in the array's order.

        Raises DataError for tier `ffcv`.
        """
        if reading.tier == RAW:
            raise DataError([NO_BETON])
        stored, labels_of = self.images.images, self.images.labels
        images = {label: resize(stored[labels_of == self.stored[label]], self.size) for label in labels}
        on_gpu = reading.tier == "gpu"
        return MemorySource({label: x.to(reading.device) if on_gpu else x for label, x in images.items()})

    def on_demand(self, reading: Reading) -> ArrayRows:
        """Return a source of all classes that reads and resizes images when they are requested."""
        labels = self.images.labels
        rows = [(labels == stored).nonzero().flatten() for stored in self.stored]
        return ArrayRows(self.images.images, rows, self.size)

    def encoded_bytes(self) -> list[int]:
        return []

    def digest(self) -> str:
        """Return a hash of all pixels and labels (or of `identity`), the selected classes, and the image size."""
        digest = sha256(repr((self.stored, self.size)).encode())
        if self.identity is not None:
            digest.update(repr(self.identity).encode())
            return digest.hexdigest()
        for tensor in (self.images.images, self.images.labels):
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


def from_arrays(
    request: Request,
    facts: Facts,
    *,
    train: LabelledImages,
    test: LabelledImages | None,
    names: tuple[str, ...],
    identities: Sequence[object] = (None, None),
    notes: tuple[str, ...] = (),
) -> ImageSet:
    """Make an ImageSet from arrays of training and test images, in both of which class names[i] has label i.

    Raises DataError with all problems.

    :param test: None if test images are not requested.
    :param identities: for each split, plain values that change with its arrays; None: the digest reads all pixels.
    """
    stored, missing = select_classes(request.class_names(), names, request.name)
    problems = request.problems() + missing
    if facts.width and request.size is not None:
        problems.append(f"{request.name}: its images are {facts.size} x {facts.width}; leave dataset.size out.")
    for split, images in (("training", train), *((("test", test),) if test else ())):
        present = set(images.labels.unique().tolist())
        if lost := [names[label] for label in stored if label not in present]:
            problems.append(f"{request.name}: there are no {split} images of {listed(lost)}; complete the files.")
    if problems:
        raise DataError(problems)
    size = request.size or facts.size
    resized = None if facts.width else size
    return ImageSet(
        name=request.name,
        facts=facts,
        size=size,
        classes=tuple(ClassName(names[index]) for index in stored),
        train_split=ArraySplit(train, stored, resized, identities[0]),
        test_split=ArraySplit(test or train, stored if test else (), resized, identities[1]),
        notes=notes,
    )


def resize(images: torch.Tensor, size: int | None) -> torch.Tensor:
    """Resize square images [n, C, s, s] to [n, C, size, size], bilinear and antialiased; uint8 values are rounded.

    With size None, the images are returned unchanged, and need not be square.
    """
    if size is None or size == images.shape[-1]:
        return images
    return torch.cat([_resize_chunk(chunk, size) for chunk in torch.split(images, CHUNK)])


def _resize_chunk(images: torch.Tensor, size: int) -> torch.Tensor:
    pixels = functional.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True)
    if images.is_floating_point():
        return pixels
    return pixels.round_().clamp_(0, 255).to(torch.uint8)
