"""Data sets of Hugging Face on disk: a folder of ``save_to_disk``, or of parquet files with images."""

from __future__ import annotations

import errno
import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dist_condense.data.image_set import ImageSet
from dist_condense.data.reading.decode import Form
from dist_condense.data.reading.headers import channels_of
from dist_condense.data.reading.split import StoredSplit
from dist_condense.data.reading.tiers import Reading
from dist_condense.data.sets.folders import IMAGE_FOLDER, class_name
from dist_condense.data.sets.labels import of_classes
from dist_condense.data.sets.request import Request, select_classes
from dist_condense.system.errors import DataError, listed
from dist_condense.system.extras import command

if TYPE_CHECKING:
    import datasets
    import pyarrow

HUGGINGFACE = replace(IMAGE_FOLDER, family="images of a Hugging Face data set", upright=False)
TRAIN, TEST = "train", ("validation", "test")
"""Names of the splits; of the test splits, the first that exists is used."""
SAVED = ("dataset_dict.json", "state.json")
"""Files of which one is in every folder of ``save_to_disk``."""
PARQUET = ".parquet"
SPLIT_WORDS = {TRAIN: TRAIN, "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}
"""Name of the split, by words in the names of parquet files and of their folders."""
LABELS = ("label", "labels")
"""Names of columns that are taken for labels if no column has the type ClassLabel."""


def open_huggingface(request: Request) -> ImageSet:
    """Open a data set, of which only the labels are read now; images are decoded like image files.

    Parquet files are converted once, by the library ``datasets``, to memory-mapped files in its cache. Raises DataError
    with all problems.
    """
    problems = request.problems() + request.root_problems()
    if problems or request.root is None:
        raise DataError(problems)
    root, splits = request.root, _splits(str(request.root))
    named = _named(root, splits, request.test)
    images, labels = columns_of(root, splits[TRAIN].features, request.columns)
    known, positions = of_classes(
        {name: _values(root, name, splits[name], labels) for name in named},
        getattr(splits[TRAIN].features[labels], "names", None),
        str(root),
    )
    kept, missing = select_classes(request.class_names(), known, str(root))
    opened = [
        Images(root, name, images, tuple((of == label).nonzero().flatten().numpy() for label in kept))
        for name, of in zip(named, positions, strict=True)
    ]
    for each in opened:
        each.check()
    lost = [problem for each in opened if (problem := each.lacking([known[label] for label in kept]))]
    if missing or lost:
        raise DataError(missing + lost)
    train, *test = opened
    facts = HUGGINGFACE.with_channels(request.channels or channels_of(train.encoded(), BytesIO))
    form = Form(facts.channels, request.size or facts.size, request.upright(facts.upright))
    return ImageSet(
        name=request.name,
        facts=facts,
        size=form.size,
        classes=tuple(class_name(known[label]) for label in kept),
        train_split=train.split(form),
        test_split=test[0].split(form) if test else replace(train, rows=()).split(form),
        notes=_notes(root, splits, named, (images, labels)),
    )


@dataclass(frozen=True, eq=False)
class Images:
    """Encoded images of a split; each process opens the data set when it reads the first image.

    :param name: name of the split.
    :param column: name of the column with the images.
    :param rows: positions in the split of the images of each class, int64 ``[n]``.
    """

    root: Path
    name: str
    column: str
    rows: tuple[np.ndarray, ...]

    def lacking(self, names: Sequence[str]) -> str | None:
        """Return a problem if some of the classes have no image; None if there is none."""
        lost = [name for name, rows in zip(names, self.rows, strict=True) if not len(rows)]
        problem = f"{self.root}: {self.name} has no images of {listed(lost)}; name others in dataset.classes."
        return problem if lost else None

    def split(self, form: Form) -> StoredSplit:
        """Return the split, with its images decoded in the given form."""
        return StoredSplit(
            counts=tuple(map(len, self.rows)),
            form=form,
            open_store=self.store,
            sizes=self.sizes,
            digest=partial(self.digest, form),
        )

    def store(self, labels: Sequence[int], reading: Reading, now: bool = True) -> RowStore:
        """Return the store of some classes."""
        return RowStore(self, tuple(labels))

    def sizes(self) -> list[int]:
        """Return the total size in bytes of the images of each class."""
        return [int(self.lengths[rows].sum()) for rows in self.rows]

    def check(self) -> None:
        """Raise DataError if the column is of a type that cannot hold images."""
        len(self._rows)

    def read(self, row: int) -> bytes:
        """Return the encoded bytes of the image in a row. Raises OSError if there is none, or in another file."""
        image = self._rows[row][self.column]
        if image is None:
            raise OSError("the row has no image")
        if not image["bytes"]:
            raise OSError("the data set only names its file; save the data set with its images")
        return bytes(image["bytes"])

    def encoded(self) -> Iterator[bytes]:
        """Yield the encoded bytes of all images; none where the row has no image, or one in another file."""
        images = (self._rows[row][self.column] for row in np.concatenate(self.rows).tolist())
        return ((image or {}).get("bytes") or b"" for image in images)

    def digest(self, form: Form) -> str:
        """Return a hash of the form, and of the number and the sizes in bytes of the images of each class, in order."""
        digest = sha256(repr(form.key).encode())
        for rows in self.rows:
            digest.update(self.lengths[rows].tobytes() + b";")
        return digest.hexdigest()

    @cached_property
    def lengths(self) -> np.ndarray:
        """Size in bytes of each image of the split, int64 ``[N]``; 0 for an image that is in another file."""
        from pyarrow import compute

        images = compute.struct_field(self._rows.data.column(self.column), "bytes")
        return compute.binary_length(images).fill_null(0).to_numpy().astype(np.int64)

    @cached_property
    def _rows(self) -> datasets.Dataset:
        from datasets import Image

        rows = _splits(str(self.root))[self.name]
        stored = _column(self.root, self.name, rows, self.column)
        try:
            return rows.select_columns(self.column).cast_column(self.column, Image(decode=False))
        except Exception as error:  # of the library and of Arrow
            found = f"{self.root}: column {self.column} of {self.name} is {stored.type}"
            raise DataError([f"{found:.500}, expected images; name another in dataset.columns."]) from error

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("root", "name", "column", "rows")}


@dataclass(frozen=True)
class RowStore:
    """A Store of the images of some classes."""

    images: Images
    labels: tuple[int, ...]

    def count(self, label: int) -> int:
        return len(self.images.rows[label])

    def encoded_bytes(self, label: int) -> int:
        return self.images.sizes()[label]

    def read(self, label: int, index: int) -> bytes:
        return self.images.read(int(self.images.rows[label][index]))

    def where(self, label: int, index: int) -> str:
        return f"{self.images.root}: row {self.images.rows[label][index]} of {self.images.name}"


def _splits(root: str) -> Mapping[str, datasets.Dataset]:
    """Open all splits. Raises DataError if the library is missing, or cannot read the folder."""
    try:
        import datasets
    except ImportError as error:
        raise DataError([f"dataset.name: huggingface needs the package datasets: `{command('hf')}`"]) from error
    files: Mapping[str, Sequence[str]] = {}
    try:
        with _without_bars():
            if any(os.path.isfile(os.path.join(root, name)) for name in SAVED):
                existing = [x for x in Path(root).rglob("*") if os.path.exists(x)]
                if odd := [str(x) for x in existing if not os.path.isfile(x) and not os.path.isdir(x)]:
                    raise DataError([f"{min(odd)} is not a file, and may never end; replace or remove it."])
                loaded = datasets.load_from_disk(root)
            elif files := _parquet_files(Path(root)):
                names = {split: [glob.escape(file) for file in of_split] for split, of_split in files.items()}
                loaded = datasets.Dataset.from_parquet(names)  # asks no server, as load_dataset does
            else:
                problem = f"it is not a folder of save_to_disk, and has no files that end in {PARQUET}"
                raise DataError([f"{root}: {problem}."])
    except DataError:
        raise
    except Exception as error:  # of the library, of Arrow and of the files
        reason = f"{root}: it cannot be read as a data set of Hugging Face: {_last_words(error)}"
        remedy = "make room in HF_DATASETS_CACHE, or set another" if _is_elsewhere(error, root) else "save it again"
        raise DataError([f"{_first_damaged(files) or reason}; {remedy}."]) from error
    return {TRAIN: loaded} if isinstance(loaded, datasets.Dataset) else loaded


@contextmanager
def _without_bars() -> Iterator[None]:
    """Disable the progress bars of the library ``datasets`` within the context."""
    import datasets

    if datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def _parquet_files(root: Path) -> dict[str, list[str]]:
    """Return the parquet files below a folder by split, which their names or folders state; others are for training."""
    files: dict[str, list[str]] = {}
    for file in sorted(root.rglob(f"*{PARQUET}")):
        words = re.split(r"[^a-z]+", file.relative_to(root).as_posix().removesuffix(PARQUET).lower())
        split = next((SPLIT_WORDS[word] for word in reversed(words) if word in SPLIT_WORDS), TRAIN)
        files.setdefault(split, []).append(str(file))
    return files


def _is_elsewhere(error: BaseException, root: str) -> bool:
    """Return whether an error is that of a file outside of a folder, or of a full disk."""
    first = _first_cause(error)
    file = getattr(first, "filename", None)
    is_outside = isinstance(file, str) and not os.path.abspath(file).startswith(os.path.join(os.path.abspath(root), ""))
    return is_outside or getattr(first, "errno", None) == errno.ENOSPC


def _last_words(error: BaseException) -> str:
    first = _first_cause(error)
    return " ".join(str(first).split())[:300].rstrip(".!") or type(first).__name__


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_damaged(files: Mapping[str, Sequence[str]]) -> str | None:
    """Return the first parquet file that has no readable header, with the reason; None if all have one.

    :param files: files by split.
    """
    from pyarrow import parquet

    for file in (file for of_split in files.values() for file in of_split):
        if not os.path.isfile(file):  # a pipe would never end
            return f"{file}: it is not a file"
        try:
            parquet.read_schema(file)
        except Exception as error:  # of Arrow
            return f"{file}: it is no intact parquet file ({_last_words(error)})"
    return None


def _named(root: Path, splits: Mapping[str, Any], test: bool) -> list[str]:
    """Return the names of the splits to use: the training images and, if required, the test images."""
    if TRAIN not in splits:
        raise DataError([f"{root}: there is no split {TRAIN}, only {listed(list(splits))}."])
    found = [name for name in TEST if name in splits]
    if test and not found:
        without = "without evaluation, evaluation.epochs=0, no test images are needed"
        raise DataError([f"{root}: there is no split {' or '.join(TEST)}, only {listed(list(splits))}; {without}."])
    return [TRAIN, *(found[:1] if test else [])]


def columns_of(where: object, features: Mapping[str, Any], asked: Sequence[str] | None) -> tuple[str, str]:
    """Return the names of the columns with images and labels.

    :param asked: these two names; None: the only columns of these types.
    :raises DataError: they are not clear; the message begins with ``where``.
    """
    from datasets import ClassLabel, Image

    if asked is not None:
        if len(asked) != 2 or not all(name in features for name in asked):
            raise DataError(
                [f"dataset.columns is {list(asked)}; name the two with images and labels, of {listed(list(features))}."]
            )
        return asked[0], asked[1]
    images = [name for name, kind in features.items() if isinstance(kind, Image)]
    labels = [name for name, kind in features.items() if isinstance(kind, ClassLabel)]
    labels = labels or [name for name in LABELS if name in features]
    if len(images) != 1 or len(labels) != 1:
        raise DataError(
            [
                f"{where}: of its columns {listed(list(features))}, {listed(images) or 'none'} may be the images and "
                f"{listed(labels) or 'none'} the labels; name the two, dataset.columns=[image,label]."
            ]
        )
    return images[0], labels[0]


def _column(root: Path, name: str, split: datasets.Dataset, column: str) -> pyarrow.ChunkedArray:
    """Return a column of a split as it is stored. Raises DataError if there is none, or it is damaged.

    Arrow does not check the positions in a file that it maps, and may end the process when it follows them.
    """
    if column not in split.column_names:
        raise DataError([f"{root}: {name} has no column {column}, only {listed(split.column_names)}."])
    values = split.data.column(column)
    try:
        values.validate(full=True)
    except Exception as error:  # of Arrow
        raise DataError([f"{root}: column {column} of {name} is damaged: {_last_words(error)}."]) from error
    return values


def _values(root: Path, name: str, split: datasets.Dataset, column: str) -> np.ndarray:
    """Return the labels of a split, integers or texts ``[N]``. Raises DataError for others."""
    from pyarrow import types

    values = _column(root, name, split, column)
    where = f"{root}: column {column} of {name}"
    if values.null_count:
        raise DataError([f"{where} has {values.null_count:,} rows without a label."])
    is_text = types.is_string(values.type) or types.is_large_string(values.type)
    if not is_text and not types.is_integer(values.type):
        raise DataError([f"{where} is {values.type}, expected integers or texts; name another in dataset.columns."])
    return values.to_numpy().astype(np.str_) if is_text else values.to_numpy()


def _notes(root: Path, splits: Mapping[str, Any], named: Sequence[str], columns: Sequence[str]) -> tuple[str, ...]:
    """Return a note on what is read, and one on the splits that are not."""
    read = ", ".join(f"{len(splits[name]):,} rows of {name}" for name in named)
    others = [name for name in splits if name not in named]
    unread = f"; not read: {listed(others)}" if others else ""
    return (f"{root}: {read}, columns {' and '.join(columns)}{unread}",)
