"""The synthetic set on disk: learnt pixels and labels without rounding or clipping, a card and a preview.

``synthetic_set/``: ``synthetic_set.safetensors`` (``images`` float32; ``labels`` int64, or float32 class probabilities
where they were learnt), ``card.json`` (:mod:`dist_condense.result.card`), ``preview.png`` (clipped).
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

from dist_condense.core.parameterisation import AXES, pad, tile_size
from dist_condense.result.card import CARD, HARD, SOFT, VALUE_SPACES, Card, CardClass, SyntheticSetError, read_card
from dist_condense.result.preview import sheet
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system import records
from dist_condense.system.files import flush, flush_names, sha256_of
from dist_condense.system.records import Unreadable

TENSORS, PREVIEW = "synthetic_set.safetensors", "preview.png"
READABLE = 0o666
"""Permission bits of a file that are copied from its folder, where the umask has set them."""
LOADS = 100
"""Largest number of attempts to load a set that is replaced during every attempt."""


def write_set(folder: str | Path, pixels: Tensor, labels: Tensor, card: Card) -> Card:
    """Write a set, replacing an earlier one so that a complete set exists at any time; return the card as written.

    :param pixels: ``[N, C, H, W]`` float32, as learnt.
    :param labels: integer labels ``[N]`` of ``card.classes``, ``card.ipc`` of each class; or class probabilities,
        float32 ``[N, classes]``, with the images in the order of the classes.
    :raises SyntheticSetError: the tensors differ from the card, or the disk fails; the earlier set is kept.
    """
    folder = Path(folder).absolute()
    _check(pixels, labels, card)
    new = _beside(folder, "writing")
    try:
        card = _write_files(new, pixels, labels, card)
        _replace(folder, new)
    except (OSError, SafetensorError) as error:
        raise SyntheticSetError(f"{folder}: the set is not written ({error}); an earlier one is kept") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)  # frees the space on a full disk after an error
    return card


def load_set(path: str | Path, verify: bool = True) -> SyntheticDataset:
    """Open a synthetic set; images are read and decoded on access.

    :param path: the folder of the set, or the folder of its run.
    :param verify: compare the file's SHA-256 with the card's, which reads the whole file once. Pass False for a large
        set that has been verified before, such as one of ImageNet-1K (about 6 GB at ipc 10).
    :raises SyntheticSetError: there is no set, or it is damaged or was changed.
    """
    path = Path(path).expanduser().absolute()
    for _ in range(LOADS):
        folder = _current(path)
        before = _bytes(folder / CARD)
        try:
            dataset = _open(folder, verify)
        except (RuntimeError, SafetensorError, OSError):  # torch raises RuntimeError for a file that was removed
            if _current(path) == folder and _bytes(folder / CARD) == before:
                raise
        else:
            if _bytes(folder / CARD) == before:  # so that card and images belong to one set
                return dataset
    raise SyntheticSetError(f"{path} was replaced during each of {LOADS} attempts; load it when the run has finished")


class SyntheticDataset(Dataset[tuple[Tensor, int | Tensor]]):
    """Data set of decoded, normalised images and their labels, ready for training; read from disk tile by tile.

    Item ``i`` is tile ``i // N`` of stored image ``i % N``, with N stored images: all first tiles, then all second
    tiles. The values are bit-identical to decoding the whole set with ``core.parameterisation.uniform`` and normalising
    the result.
    """

    card: Card
    classes: tuple[CardClass, ...]
    labels: Tensor
    """Labels of the decoded images: int64 ``[len(self)]``, or class probabilities, float32 ``[len(self), classes]``."""

    def __init__(self, file: Path, card: Card) -> None:
        self.file, self.card, self.classes = file, card, tuple(card.classes)
        self._handle = safe_open(file, framework="pt")
        stored = self._handle.get_tensor("labels")
        self._stored = len(stored)
        self.labels = torch.cat([stored] * card.decoded_per_image)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        shape, classes = list(self.card.shape), len(self.classes)
        return f"{type(self).__name__}({len(self)} images {shape} of {classes} classes, {str(self.file)!r})"

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]:
        index = range(len(self))[index]  # negative: from the end; IndexError outside
        label = self.labels[index]
        return self.batch(torch.tensor([index]))[0], int(label) if label.ndim == 0 else label.clone()

    def batch(self, indices: Tensor) -> Tensor:
        """Return decoded, normalised images ``[len(indices), C, H, W]`` for a tensor of integer indices."""
        items = range(len(self))
        images = torch.stack([self._tile(*divmod(items[i], self._stored)) for i in indices.tolist()])
        if self.card.decoded_per_image > 1:
            images = F.interpolate(images, size=self.card.shape[1:], mode="bilinear", align_corners=False)
        return self.card.space.seen(images)

    def parameters(self) -> tuple[Tensor, Tensor]:
        """Read all learnt pixels ``[N, C, H, W]``, neither decoded nor normalised, and their labels."""
        return self._handle.get_tensor("images").clone(), self.labels[: self._stored].clone()

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


def _check(pixels: Tensor, labels: Tensor, card: Card) -> None:
    shape = (len(card.classes) * card.ipc, *card.shape)
    owners = labels if labels.ndim == 1 else card.class_of_each_image
    counts = {entry.label: int((owners == entry.label).sum()) for entry in card.classes}
    of_labels = (shape[0],) if labels.ndim == 1 else (shape[0], len(card.classes))
    uneven = {label: count for label, count in counts.items() if count != card.ipc}
    problems = [
        (pixels.dtype != torch.float32, f"pixels are {pixels.dtype}, a set stores float32"),
        (tuple(pixels.shape) != shape, f"pixels are {list(pixels.shape)}, the card says {list(shape)}"),
        (tuple(labels.shape) != of_labels, f"labels are {list(labels.shape)}, the card says {list(of_labels)}"),
        (bool(uneven), f"images per class are {uneven} where the card's ipc is {card.ipc}"),
        (card.value_space not in VALUE_SPACES, f"value_space is '{card.value_space}', choose one of {VALUE_SPACES}"),
        (card.axes not in AXES, f"axes is '{card.axes}', choose one of {', '.join(AXES)}"),
        (bool(card.factor_problem), card.factor_problem),
        (len(card.mean) != card.channels or len(card.std) != card.channels, "mean and std need one value per channel"),
    ]
    if texts := [text for is_wrong, text in problems if is_wrong]:
        raise SyntheticSetError("the synthetic set is not written: " + "; ".join(texts))


def _write_files(folder: Path, pixels: Tensor, labels: Tensor, card: Card) -> Card:
    """Write all files of a set to a new folder and flush them to the disk."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    images = pixels.detach().cpu().contiguous()
    soft = labels.ndim == 2
    labels = labels.detach().to("cpu", torch.float32 if soft else torch.int64).contiguous()
    save_file({"images": images, "labels": labels}, folder / TENSORS)
    (folder / TENSORS).chmod(folder.stat().st_mode & READABLE)  # safetensors makes it readable for the owner alone
    card = replace(card, labels=SOFT if soft else HARD).filled(sha256_of(folder / TENSORS))
    _preview(images, card.class_of_each_image if soft else labels, card).save(folder / PREVIEW)
    text = json.dumps(card.content, indent=1, ensure_ascii=False)
    (folder / CARD).write_text(f"{text}\n", encoding="utf-8")
    for file in (TENSORS, PREVIEW, CARD):
        flush(folder / file)
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
    folder = inside if (inside / CARD).exists() or _previous(inside) else path
    return _previous(folder) or folder


def _previous(folder: Path) -> Path | None:
    """Return the folder of the previous set if the new set is not in place yet; None otherwise.

    The new set is not in place while :func:`_replace` runs, and after a crash during its execution.
    """
    previous = _beside(folder, "previous")
    return previous if not (folder / CARD).exists() and (previous / CARD).exists() else None


def _open(folder: Path, verify: bool) -> SyntheticDataset:
    card, file = read_card(folder), folder / TENSORS
    if not file.is_file():
        raise SyntheticSetError(f"{file} is missing; copy the whole folder of the set")
    if verify and (sha256 := sha256_of(file)) != card.sha256:
        raise SyntheticSetError(
            f"{file} is not the file that its card describes: SHA-256 is {sha256[:12]}..., "
            f"the card says {card.sha256[:12]}... It was changed or cut; copy the set again "
            "(verify=False opens it without this check)"
        )
    _check_stored(file, card)
    return SyntheticDataset(file, card)


def _check_stored(file: Path, card: Card) -> None:
    """Check that the shapes in the file's header agree with the card, which determines the memory used.

    No tensor is read.
    """
    try:
        with safe_open(file, framework="pt") as tensors:
            images, labels = (tuple(tensors.get_slice(name).get_shape()) for name in ("images", "labels"))
    except SafetensorError as error:
        raise SyntheticSetError(f"{file}: it cannot be read ({error}). It was changed; copy the set again") from error
    of_labels = (*images[:1], len(card.classes)) if card.labels == SOFT else images[:1]
    if images != (len(card.classes) * card.ipc, *card.shape) or labels != of_labels:
        problem = f"images are {list(images)} and labels {list(labels)}, not as many or as large as its card says"
    elif card.factor_problem:
        problem = f"{card.factor_problem}: a tile has at least one pixel"
    else:
        return
    raise SyntheticSetError(f"{file}: {problem}. It was changed; copy the set again")


def _bytes(file: Path) -> bytes | None:
    """Return the content of a file; None if it cannot be read."""
    try:
        return records.bytes_of(file)
    except Unreadable:
        return None


def _preview(pixels: Tensor, labels: Tensor, card: Card) -> Image.Image:
    def images_of(index: int) -> Tensor:
        return card.space.shown(pixels[labels == card.classes[index].label])

    return sheet(images_of, len(card.classes), card.ipc)


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(f".{folder.name}.{suffix}")
