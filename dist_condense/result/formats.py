"""Synthetic sets in the formats of other programs: folders of images, files of tensors, WebDataset, Hugging Face."""

from __future__ import annotations

import errno
import io
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dist_condense.data.sets.array_file import CHANNELS
from dist_condense.data.shards.writer import clean, webdataset
from dist_condense.data.space import VALUES
from dist_condense.result.card import SOFT
from dist_condense.result.synthetic_set import SyntheticDataset, load_set
from dist_condense.system.errors import DataError, listed
from dist_condense.system.extras import command
from dist_condense.system.files import flush, flush_names, stays_below

UNIT, NORMALISED = "unit", "normalised"
"""Spaces of the pixels in a file of tensors: image values, and values with the mean and std of networks' inputs."""
LEVELS = 255
CHUNK = 256
"""Number of images that are decoded at once."""
PER_TAR = 10_000
"""Largest number of images in a tar of WebDataset."""
PER_PARQUET = 5_000
"""Largest number of images in a parquet file."""
FOLDER_NAME = 255
"""Largest number of bytes of a folder's name."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    :param images: number of decoded images.
    :param clipped: share of the values that were outside [0, 1], which bytes cannot hold; None: floats were written.
    :param notes: what a reader of the format must know.
    """

    images: int
    clipped: float | None
    notes: tuple[str, ...] = ()


def export(path: str | Path, dest: Path, form: str, space: str | None = None) -> Exported:
    """Write the decoded images of a complete synthetic set in a format of other programs.

    The destination appears when it is complete; on failure, nothing is left.

    :param path: the folder of the set, or of its run.
    :param dest: file or folder to write, which does not exist.
    :param form: key of :data:`FORMATS`.
    :param space: space of the pixels in a file of tensors, :data:`UNIT` (default) or :data:`NORMALISED`.
    :raises SyntheticSetError: there is no intact set.
    :raises DataError: the set is incomplete, or the format cannot hold it; the destination exists.
    :raises ImportError: a package for the format is not installed.
    :raises OSError: the destination cannot be written.
    """
    dataset, made = load_set(path, normalise=space == NORMALISED), FORMATS[form]
    if problems := [*_problems(dataset, made, space), *_misplaced(dest, dataset.file.parent)]:
        raise DataError(problems)
    dest.parent.mkdir(parents=True, exist_ok=True)
    writing = dest.with_name(f".export.{secrets.token_hex(4)}.tmp")
    images = _Images(dataset)
    try:
        made.write(images, writing)
        os.rename(writing, dest)
    except BaseException:
        shutil.rmtree(writing, ignore_errors=True)
        writing.unlink(missing_ok=True)
        raise
    flush_names(dest.parent)
    return Exported(len(dataset), images.clipped if made.is_bytes else None, tuple(made.notes(dataset)))


def _problems(dataset: SyntheticDataset, made: Format, space: str | None) -> Iterator[str]:
    card, folder = dataset.card, dataset.file.parent
    if not card.complete:
        yield f"{folder} is incomplete (step {card.steps}); finish its run first."
    if made.is_bytes and space is not None:
        yield "--space is for tensors; files of images hold image values."
    if made.is_bytes and (card.value_space == VALUES or card.channels not in CHANNELS):
        yield f"{folder} has values or channels that files of images cannot hold; export it as pt."
    yield from made.problems(dataset)


def _misplaced(dest: Path, folder: Path) -> Iterator[str]:
    """Yield a problem for each reason why nothing can be written to ``dest``; ``folder`` is that of the set."""
    try:
        dest.lstat()
        yield f"{dest} exists; give another destination, or remove it."
    except FileNotFoundError:
        pass
    except OSError as error:  # a name that is too long, or a file where a folder should be
        yield f"{dest} cannot be written ({error.strerror}); give another destination."
    if folder.resolve() in Path(os.path.realpath(dest)).parents:
        yield f"{dest} is in the folder of the set; give a destination elsewhere."


class _Images:
    """Decoded images of a set, as bytes or floats, in chunks; counts the values that bytes cannot hold."""

    def __init__(self, dataset: SyntheticDataset) -> None:
        self.dataset, self._outside, self._values = dataset, 0, 0

    @property
    def clipped(self) -> float:
        """Share of the encoded values that were outside [0, 1]."""
        return self._outside / max(1, self._values)

    def floats(self) -> Tensor:
        """Return all images ``[N, C, H, W]``."""
        return self.dataset.batch(torch.arange(len(self.dataset)))

    def encoded(self) -> Iterator[tuple[int, bytes]]:
        """Yield the class and the PNG file of each image, with values clipped to [0, 1] and rounded to bytes."""
        targets = self.dataset.targets
        for chunk in torch.arange(len(self.dataset)).split(CHUNK):
            values = self.dataset.batch(chunk)
            clipped = values.clamp(0, 1)
            self._outside, self._values = self._outside + int((values != clipped).sum()), self._values + values.numel()
            pixels = (clipped * LEVELS).round().to(torch.uint8).permute(0, 2, 3, 1)  # [n, H, W, C]
            for index, image in zip(chunk.tolist(), pixels, strict=True):
                yield targets[index], _png(image)


def _png(image: Tensor) -> bytes:
    stream = io.BytesIO()
    Image.fromarray((image[..., 0] if image.shape[-1] == 1 else image).contiguous().numpy()).save(stream, "PNG")
    return stream.getvalue()


def _nothing(dataset: SyntheticDataset) -> Iterator[str]:
    return iter(())


@dataclass(frozen=True)
class Format:
    """A format: a function that writes images to a path, and what it cannot hold.

    :param is_bytes: whether values are rounded to bytes.
    """

    write: Callable[[_Images, Path], None]
    is_bytes: bool = True
    problems: Callable[[SyntheticDataset], Iterator[str]] = _nothing
    notes: Callable[[SyntheticDataset], Iterator[str]] = _nothing


# --- folders of images --------------------------------------------------------------------------------------------


def _folders(dataset: SyntheticDataset) -> list[str]:
    """Return the name of each class's folder: WordNet ids where all classes have one, else names."""
    ids = [entry.wnid for entry in dataset.card.classes]
    return [name for name in ids if name] if all(ids) and len({*ids}) == len(ids) else dataset.classes


def _folder_problems(dataset: SyntheticDataset) -> Iterator[str]:
    names = _folders(dataset)
    odd = [x for x in names if "/" in x or not stays_below(x) or len(os.fsencode(x)) > FOLDER_NAME or x[0] == "."]
    if odd:
        yield f"{dataset.file.parent}: no folders can have the names of the classes {listed(odd)}; export it as pt."
    if dataset.card.labels == SOFT:
        yield f"{dataset.file.parent}: folders hold no soft labels; export it as pt, webdataset or hf."


def _folder_notes(dataset: SyntheticDataset) -> Iterator[str]:
    if sorted(names := _folders(dataset)) != names:
        yield "torchvision's ImageFolder numbers classes by their sorted names, unlike the labels of the set"


def _write_folders(images: _Images, dest: Path) -> None:
    names, counts = _folders(images.dataset), dict[int, int]()
    for name in names:
        (dest / name).mkdir(parents=True)
    for label, png in images.encoded():
        number = counts[label] = counts.get(label, -1) + 1
        _written(dest / names[label] / f"{number:06d}.png", png)


def _written(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    flush(file)


# --- tensors ------------------------------------------------------------------------------------------------------


def _write_tensors(images: _Images, dest: Path) -> None:
    try:
        torch.save([images.floats(), images.dataset.labels.clone()], dest)
    except RuntimeError as error:  # torch's writer, of a file that cannot be written
        raise OSError(errno.EIO, str(error).splitlines()[0], str(dest)) from error
    flush(dest)


# --- WebDataset ---------------------------------------------------------------------------------------------------


def _write_tars(images: _Images, dest: Path) -> None:
    """Write tars of at most :data:`PER_TAR` images with the members png, cls and, for soft labels, probabilities.json.

    ``classes.txt`` names the classes, one in each line.
    """
    dest.mkdir()
    names, is_soft = images.dataset.classes, images.dataset.card.labels == SOFT
    encoded = enumerate(images.encoded())
    for tar in range(-(-len(images.dataset) // PER_TAR)):
        with (dest / f"train-{tar:06d}.tar").open("wb") as stream:
            with webdataset().TarWriter(stream, encoder=False, mtime=0, compress=False) as writer:
                for _, (index, (label, png)) in zip(range(PER_TAR), encoded, strict=False):
                    members = {"png": png, "cls": str(label).encode()}
                    if is_soft:
                        members["probabilities.json"] = json.dumps(images.dataset.labels[index].tolist()).encode()
                    writer.write({"__key__": f"{index:06d}_{clean(names[label])}", **members})
            stream.flush()
            os.fsync(stream.fileno())
    _written(dest / "classes.txt", "".join(f"{' '.join(name.split())}\n" for name in names).encode())


# --- Hugging Face -------------------------------------------------------------------------------------------------


def _write_parquet(images: _Images, dest: Path) -> None:
    """Write ``data/train-*.parquet``, which ``datasets.load_dataset`` reads, and the Hub as well."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f"the format hf needs the package datasets: {command('hf')}") from error
    dataset, total = images.dataset, -(-len(images.dataset) // PER_PARQUET)
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=dataset.classes)}
    if dataset.card.labels == SOFT:
        features["probabilities"] = datasets.List(datasets.Value("float32"))
    (dest / "data").mkdir(parents=True)
    encoded = enumerate(images.encoded())
    for number in range(total):
        rows = [_row(dataset, *each) for _, each in zip(range(PER_PARQUET), encoded, strict=False)]
        table = datasets.Dataset.from_list(rows, features=datasets.Features(features))
        file = dest / "data" / f"train-{number:05d}-of-{total:05d}.parquet"
        with _no_bar(datasets):
            table.to_parquet(str(file))
        flush(file)


@contextmanager
def _no_bar(datasets: Any) -> Iterator[None]:
    """Hide the progress bars of the library within the context."""
    is_shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if is_shown:
            datasets.enable_progress_bars()


def _row(dataset: SyntheticDataset, index: int, of: tuple[int, bytes]) -> dict[str, object]:
    label, png = of
    row: dict[str, object] = {"image": {"bytes": png, "path": None}, "label": label}
    return row | ({"probabilities": dataset.labels[index].tolist()} if dataset.card.labels == SOFT else {})


FORMATS: dict[str, Format] = {
    "imagefolder": Format(_write_folders, problems=_folder_problems, notes=_folder_notes),
    "pt": Format(_write_tensors, is_bytes=False),
    "webdataset": Format(_write_tars),
    "hf": Format(_write_parquet),
}
"""Formats by name."""
