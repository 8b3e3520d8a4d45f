"""The synthetic set on disk: learnt pixels and labels without rounding or clipping, a card and a preview.

``synthetic_set/``: ``synthetic_set.safetensors`` (``images`` float32; ``labels`` int64, or float32 class probabilities
where they were learnt), ``card.json`` (:mod:`dist_condense.result.card`), ``preview.png`` (clipped); and for people
who have the folder alone ``load.py`` (:mod:`dist_condense.result.loader`) and ``README.md``
(:mod:`dist_condense.result.readme`), which are never read.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

from dist_condense.core.parameterisation import pad, tile_size
from dist_condense.engine.procedure import Kind, kind_of
from dist_condense.result.card import CARD, HARD, SOFT, Card, CardClass, SyntheticSetError, checked, read_card
from dist_condense.result.loader import LOADER
from dist_condense.result.loader import TEXT as LOADER_TEXT
from dist_condense.result.preview import sheet
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system import records, safetensors_header
from dist_condense.system.files import flush, flush_names, read_regular, sha256_of
from dist_condense.system.memory import memory_and_swap
from dist_condense.system.records import Unreadable

TENSORS, PREVIEW, README = "synthetic_set.safetensors", "preview.png", "README.md"
READABLE = 0o666
"""Permission bits of a file that are copied from its folder, where the umask has set them."""
Transform = Callable[[Tensor], Any]
LOADS = 100
"""Largest number of attempts to load a set that is replaced during every attempt."""
SUM = 1e-2
"""Largest difference from 1 of the sum of an image's class probabilities, which may have been rounded to 16 bits."""
CHUNK = 2**22
"""Number of pixels that are checked or decoded at a time."""


def write_set(
    folder: str | Path, pixels: Tensor, labels: Tensor, card: Card, readme: Callable[[Card], str] | None = None
) -> Card:
    """Write a set, replacing an earlier one so that a complete set exists at any time; return the card as written.

    :param pixels: ``[N, C, H, W]`` float32, as learnt.
    :param labels: integer labels ``[N]`` of ``card.classes``, as many of each class as the card says; or class
        probabilities, float32 ``[N, classes]``, with the images in the order of the classes.
    :param readme: function from the card as written to the text of README.md; None for a set without this file.
    :raises SyntheticSetError: the card contradicts itself or the tensors, a pixel is not finite, or the disk fails; the
        earlier set is kept.
    """
    folder = Path(folder).absolute()
    pixels = pixels.detach()
    labels = labels.detach().to(torch.float32 if labels.is_floating_point() else torch.int64)
    card = replace(card, labels=SOFT if labels.ndim == 2 else HARD, images_per_class=0)
    kinds, tensors = {"images": kind_of(pixels), "labels": kind_of(labels)}, {"images": pixels, "labels": labels}
    try:
        problems = "; ".join(_problems(kinds, tensors.__getitem__, checked(card.content, CARD)))
    except Unreadable as error:
        problems = str(error)
    if problems:
        raise SyntheticSetError(f"the synthetic set is not written: {problems}")
    new = _beside(folder, "writing")
    try:
        card = _write_files(new, pixels, labels, card, readme)
        _replace(folder, new)
    except (OSError, SafetensorError) as error:
        raise SyntheticSetError(f"{folder}: the set is not written ({error}); an earlier one is kept") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)  # frees the space on a full disk after an error
    return card


def load_set(
    path: str | Path, transform: Transform | None = None, normalise: bool = True, *, verify: bool = True
) -> SyntheticDataset:
    """Open a synthetic set; images are read and decoded on access.

    The folder and its files may be links, to regular files.

    :param path: the folder of the set, or the folder of its run.
    :param transform: function that is applied to each image, ``[C, H, W]``, when an item is taken.
    :param normalise: whether images have the mean and std of networks' inputs. Otherwise they are image values, bytes
        scaled to [0, 1]; learnt pixels may lie outside.
    :param verify: check that all pixels are finite, and compare the file's SHA-256 with the card's, which reads the
        whole file twice. Pass False for a large set that has been verified before, such as one of ImageNet-1K (about
        6 GB at ipc 10); everything else is checked in any case.
    :raises TypeError: ``transform`` is no function.
    :raises SyntheticSetError: there is no set, it was changed or damaged, its card is wrong, or its labels need
        more memory than the machine has.
    """
    if transform is not None and not callable(transform):
        raise TypeError(f"transform is {transform!r:.80}, which is no function; verify is given by name, verify=False")
    path = Path(os.path.expanduser(path)).absolute()
    for _ in range(LOADS):
        folder = _current(path)
        before = _bytes(folder / CARD)
        try:
            dataset = SyntheticDataset(folder / TENSORS, _checked(folder, verify), transform, normalise)
        except (RuntimeError, ValueError, SafetensorError, OSError) as error:  # torch, for example for a removed file
            if _current(path) == folder and _bytes(folder / CARD) == before:
                if isinstance(error, SyntheticSetError):
                    raise
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                raise SyntheticSetError(f"{folder} cannot be read: {reason}") from error
        else:
            if _bytes(folder / CARD) == before:  # so that card and images belong to one set
                return dataset
    raise SyntheticSetError(f"{path} was replaced during each of {LOADS} attempts; load it when the run has finished")


class SyntheticDataset(Dataset[tuple[Any, int | Tensor]]):
    """Data set of decoded images and their labels, ready for training; read from disk tile by tile.

    Item ``i`` is tile ``i // N`` of stored image ``i % N``, with N stored images: all first tiles, then all second
    tiles. The values are bit-identical to decoding the whole set with ``core.parameterisation.uniform`` and normalising
    the result.
    """

    card: Card
    labels: Tensor
    """Labels of the decoded images: int64 ``[len(self)]``, or class probabilities, float32 ``[len(self), classes]``."""
    classes: list[str]
    """Names of the classes, by label; where two classes have one name, their WordNet ids or labels are added."""

    def __init__(self, file: Path, card: Card, transform: Transform | None = None, normalise: bool = True) -> None:
        self.file, self.card, self.transform, self.normalise = file, card, transform, normalise
        self.classes = _names(card.classes)
        self._handle = safe_open(file, framework="pt")
        stored = self._handle.get_tensor("labels")
        self._stored = len(stored)
        _check_memory(f"{file}: the labels of {card.decoded_per_image} tiles", stored.nbytes * card.decoded_per_image)
        self.labels = torch.cat([stored] * card.decoded_per_image)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        card, values = self.card, "normalised" if self.normalise else "image values"
        images = f"{len(self)} images {list(card.shape)} of {len(self.classes)} classes, {values}"
        return f"{type(self).__name__}({images}, by {card.method} from {card.dataset}, in {str(self.file.parent)!r})"

    @property
    def class_to_idx(self) -> dict[str, int]:
        """Label of each class, by name."""
        return {name: label for label, name in enumerate(self.classes)}

    @property
    def targets(self) -> list[int]:
        """Class of each decoded image, also where labels are class probabilities."""
        own = self.card.class_of_each_image if self.card.labels == SOFT else self.labels[: self._stored]
        return own.tolist() * self.card.decoded_per_image

    def __getitem__(self, index: int) -> tuple[Any, int | Tensor]:
        index = range(len(self))[index]  # negative: from the end; IndexError outside
        label, image = self.labels[index], self.batch(torch.tensor([index]))[0]
        if self.transform is not None:
            image = self.transform(image)
        return image, int(label) if label.ndim == 0 else label.clone()

    def batch(self, indices: Tensor) -> Tensor:
        """Return decoded images ``[len(indices), C, H, W]`` for a tensor of integer indices, without the transform.

        Raises SyntheticSetError, before any image is read, if this machine has less memory than these images need.
        """
        shape, size = self.card.shape, max(1, CHUNK // prod(self.card.shape))
        _check_memory(f"{self.file}: {len(indices)} decoded images", len(indices) * prod(shape) * 4)
        images = torch.empty(len(indices), *shape)
        for start in range(0, len(indices), size):  # so that a large set is in memory only once
            images[start : start + size] = self._decoded(indices[start : start + size])
        return images

    def _decoded(self, indices: Tensor) -> Tensor:
        """Return some decoded images; several copies of them exist meanwhile."""
        items = range(len(self))
        images = torch.stack([self._tile(*divmod(items[i], self._stored)) for i in indices.tolist()])
        if self.card.decoded_per_image > 1:
            images = F.interpolate(images, size=self.card.shape[1:], mode="bilinear", align_corners=False)
        return self.card.space.seen(images) if self.normalise else self.card.space.values(images)

    def pixels(self) -> Tensor:
        """Read all pixels ``[N, C, H, W]`` as they were learnt, neither decoded nor normalised.

        Their labels are the first N of :attr:`labels`.
        """
        return self._handle.get_tensor("images").clone()

    def positions(self) -> list[list[int]]:
        """Return the positions of the stored images of each class, by label."""
        found: list[list[int]] = [[] for _ in self.classes]
        for position, label in enumerate(self.targets[: self._stored]):
            found[label].append(position)
        return found

    def shown(self, positions: Sequence[int]) -> Tensor:
        """Read stored images ``[n, C, H, W]`` for display, in [0, 1]; only these images are read."""
        stored = self._handle.get_slice("images")
        return self.card.space.shown(torch.stack([stored[position] for position in positions]))

    def _tile(self, tile: int, source: int) -> Tensor:
        """Read only tile number ``tile`` of stored image ``source``, ``[C, height, width]``."""
        height, width = size = tile_size(self.card.shape[1:], self.card.grid)
        row, column = divmod(tile, self.card.grid[1])
        top, left = row * height, column * width
        # a copy: the file is memory-mapped, and a user may write to the image
        cut = self._handle.get_slice("images")[source, :, top : top + height, left : left + width].clone()
        return pad(cut, size, self.card.padding)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_handle"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)  # a file handle cannot be pickled: each process opens its own
        self._handle = safe_open(self.file, framework="pt")


def _problems(
    kinds: Mapping[str, Kind], stored: Callable[[str], Any], card: Card, pixels: bool = True
) -> Iterator[str]:
    """Yield the differences of a set's tensors from its card; this check precedes every write and every use of a set.

    First types and shapes are compared; only if they agree, tensors are read: first the labels, then the pixels.

    :param kinds: types and shapes of the tensors, by name.
    :param stored: returns a tensor by its name, or an object that reads the slices of it that are taken.
    :param card: card that is consistent by itself.
    :param pixels: whether the pixels are read, which takes time in proportion to the set's size.
    """
    unlike = list(_unlike(kinds, card))
    yield from unlike
    if not unlike:
        yield from _label_problems(stored("labels")[:], card)
    if not unlike and pixels:
        yield from _pixel_problems(stored("images"), card)


def _unlike(kinds: Mapping[str, Kind], card: Card) -> Iterator[str]:
    """Yield a problem for each tensor whose type or shape differs from the card's, including missing tensors."""
    expected = card.tensors
    for name in [*expected, *(kinds.keys() - expected.keys())]:
        if kinds.get(name) != expected.get(name):
            yield f"{name!r:.80}: found {_words(kinds.get(name))}, the card says {_words(expected.get(name))}"


def _words(kind: Kind | None) -> str:
    return "nothing" if kind is None else f"{str(kind[0]).removeprefix('torch.')} {list(kind[1])}"


def _label_problems(labels: Tensor, card: Card) -> Iterator[str]:
    """Yield a problem if labels, of the card's type and shape, are not those of the card's images of each class."""
    classes = len(card.classes)
    if card.labels == SOFT:
        if (image := _first(improbable(labels))) is not None:
            yield f"the class probabilities of image {image} are not from 0 with the sum 1"
    elif (image := _first((labels < 0) | (labels >= classes))) is not None:
        yield f"the label of image {image} is {labels[image]}, the card has {classes} classes"
    elif (label := _first((counts := labels.bincount(minlength=classes)) != torch.tensor(card.counts))) is not None:
        yield f"class {label} has {counts[label]} images, the card's ipc is {card.counts[label]}"


def improbable(labels: Tensor) -> Tensor:
    """Return for each row of ``labels``, ``[N, classes]``, whether it is not of class probabilities, bool ``[N]``."""
    return ~((labels.amin(1) >= 0) & ((labels.sum(1) - 1).abs() <= SUM))  # also true for NaN


def _pixel_problems(images: Any, card: Card) -> Iterator[str]:
    """Yield the first image with a pixel that is not finite, or not finite after normalisation, which is monotone."""
    size = max(1, CHUNK // prod(card.shape))
    for start in range(0, card.tensors["images"][1][0], size):
        chunk = images[start : start + size].flatten(2)
        extremes = torch.cat([chunk.amin(2), chunk.amax(2)])[..., None, None]  # [2n, C, 1, 1]; NaN if one is NaN
        is_wrong = ~card.space.seen(extremes).isfinite().flatten(1).all(1)
        if (image := _first(is_wrong.view(2, -1).any(0))) is not None:
            yield f"image {start + image} has pixels that are not finite numbers after normalisation"
            return


def _first(is_wrong: Tensor) -> int | None:
    """Return the first index at which a boolean tensor ``[N]`` is True; None if there is none."""
    return int(is_wrong.to(torch.uint8).argmax()) if is_wrong.any() else None


def _check_memory(what: str, needed: int) -> None:
    if needed > (memory := memory_and_swap()):
        raise SyntheticSetError(
            f"{what} need {needed / 2**30:.0f} GiB of memory, this machine has {memory / 2**30:.0f}"
        )


def _refuse(problems: Iterator[str]) -> None:
    """Raise SyntheticSetError with the first problem, if there is one."""
    if (problem := next(problems, None)) is not None:
        raise SyntheticSetError(problem)


def _write_files(
    folder: Path, pixels: Tensor, labels: Tensor, card: Card, readme: Callable[[Card], str] | None
) -> Card:
    """Write all files of a set to a new folder and flush them to the disk."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    images, labels = (x.cpu().contiguous() for x in (pixels, labels))
    save_file({"images": images, "labels": labels}, folder / TENSORS)
    (folder / TENSORS).chmod(folder.stat().st_mode & READABLE)  # safetensors makes it readable for the owner alone
    card = card.filled(sha256_of(folder / TENSORS))
    _preview(images, card.class_of_each_image if card.labels == SOFT else labels, card).save(folder / PREVIEW)
    texts = {LOADER: LOADER_TEXT, CARD: f"{json.dumps(card.content, indent=1, ensure_ascii=False)}\n"}
    if readme is not None:
        texts[README] = readme(card)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name in (TENSORS, PREVIEW, *texts):
        flush(folder / name)
    flush_names(folder)
    return card


def _replace(folder: Path, new: Path) -> None:
    """Replace a folder by two renames; if the process dies between them, :func:`load_set` finds the previous set."""
    previous = _beside(folder, "previous")
    if folder.exists():
        shutil.rmtree(previous, ignore_errors=True)
        folder.rename(previous)
    try:
        new.rename(folder)
    except OSError:
        with suppress(OSError):
            previous.rename(folder)
        raise
    flush_names(folder.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _current(path: Path) -> Path:
    """Return the folder that now contains a set: ``path``, ``path/synthetic_set``, or a previous set beside either."""
    inside = RunFolder(path).synthetic_set
    folder = inside if os.path.exists(inside / CARD) or _previous(inside) else path
    return _previous(folder) or folder


def _previous(folder: Path) -> Path | None:
    """Return the folder of the previous set if the new set is not in place yet; None otherwise.

    The new set is not in place while :func:`_replace` runs, and after a crash during its execution.
    """
    previous = _beside(folder, "previous")
    return previous if not os.path.exists(folder / CARD) and os.path.exists(previous / CARD) else None


def _checked(folder: Path, verify: bool) -> Card:
    """Return the card of a set after the same checks as before its writing; with ``verify`` also of its hash."""
    card, file = read_card(folder), folder / TENSORS
    if not file.is_file():
        problem = "not a regular file" if os.path.lexists(file) else "missing"
        raise SyntheticSetError(f"{file} is {problem}; copy the whole folder of the set")
    try:
        kinds = safetensors_header.read(lambda count: read_regular(file, first=count), file.stat().st_size, str(file))
        with safe_open(file, framework="pt") as tensors:
            _refuse(f"{file}: {text}" for text in _problems(kinds, tensors.get_slice, card, pixels=verify))
    except (Unreadable, SyntheticSetError) as error:
        raise SyntheticSetError(f"{error}. It was changed; copy the set again") from error
    if verify and (sha256 := sha256_of(file)) != card.sha256:
        raise SyntheticSetError(
            f"{file} is not the file that its card describes: SHA-256 is {sha256[:12]}..., "
            f"the card says {card.sha256[:12]}... It was changed or cut; copy the set again "
            "(verify=False opens it without this check)"
        )
    return card


def _names(classes: Sequence[CardClass]) -> list[str]:
    """Return a name for each class, with a WordNet id or label where two classes have the same name."""
    times = Counter(entry.name for entry in classes)
    own = (x.wnid or x.label for x in classes)
    return [x.name if times[x.name] == 1 else f"{x.name} ({more})" for x, more in zip(classes, own, strict=True)]


def _bytes(file: Path) -> bytes | None:
    """Return the content of a file; None if it cannot be read."""
    try:
        return records.bytes_of(file)
    except Unreadable:
        return None


def _preview(pixels: Tensor, labels: Tensor, card: Card) -> Image.Image:
    def images_of(index: int) -> Tensor:
        return card.space.shown(pixels[labels == card.classes[index].label])

    return sheet(images_of, card.counts)


def _beside(folder: Path, suffix: str) -> Path:
    return folder.parent / f".{folder.name}.{suffix}"
