"""Door: tables of Hugging Face, as parquet files and as folders of save_to_disk, damaged at random."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
import torch
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from dist_condense.data import DataError, open_dataset
from dist_condense.data.reading.headers import check_headers
from tests.doors.fuzzing import ODD_LABELS, door, fuzz, mutated_bytes

datasets = pytest.importorskip("datasets")
SIZE, ROWS = 8, 6


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let the library convert parquet files in a folder of these tests, without bars and lines of its own."""
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield
    datasets.logging.set_verbosity_warning()


def png(level: int) -> bytes:
    stream = BytesIO()
    Image.new("RGB", (SIZE, SIZE), (level, 0, 9)).save(stream, "PNG")
    return stream.getvalue()


IMAGES: list[Any] = [{"bytes": png(row), "path": None} for row in range(ROWS)]
LABELS = [0, 1, 2] * 2


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same data as parquet files and as a folder of save_to_disk, not to be changed."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list("abc"))})
    rows = datasets.Dataset.from_dict({"image": IMAGES, "label": LABELS}, features=features)
    roots = {kind: tmp_path_factory.mktemp(kind) for kind in ("parquet", "saved")}
    for split in ("train", "test"):
        rows.to_parquet(str(roots["parquet"] / f"{split}.parquet"))
    datasets.DatasetDict(train=rows, test=rows).save_to_disk(roots["saved"])
    return roots


def check(root: Path, columns: list[str] | None = None) -> None:
    """Open a table and read its images: it is refused with its folder, or has the images that it states."""
    with door(DataError) as answer:
        opened = open_dataset("huggingface", root, size=SIZE, columns=columns)
        broken = check_headers([*opened.train_split.unread, *opened.test_split.unread])
        if broken is not None:
            raise DataError([broken])
        source = opened.train()
        opened.test()
        for label, count in enumerate(opened.counts):
            images = source.get(label, torch.arange(count))
            assert count and (images.dtype, images.shape) == (torch.uint8, (count, opened.channels, SIZE, SIZE))
    for line in answer.lines or []:
        assert str(root) in line or line.startswith("dataset.columns"), line


@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_damaged_files(kind: str, made: dict[str, Path]) -> None:
    files = sorted(file.relative_to(made[kind]) for file in made[kind].rglob("*") if file.is_file())

    @fuzz(st.sampled_from(files).flatmap(lambda x: st.tuples(st.just(x), mutated_bytes((made[kind] / x).read_bytes()))))
    def each(changed: tuple[Path, bytes]) -> None:
        file, content = changed
        with TemporaryDirectory() as folder:
            root = Path(shutil.copytree(made[kind], Path(folder) / "root"))
            (root / file).write_bytes(content)
            check(root)

    each()


ODD_IMAGES: tuple[list[Any], ...] = (
    *([*IMAGES[1:], None], [None] * ROWS, [{"bytes": b"", "path": "/etc/passwd"}] * ROWS, IMAGES * 2, []),
    *([{"bytes": None, "path": "http://127.0.0.1:9/a.png"}] * ROWS, [{"bytes": b"junk"}] * ROWS, ["x"] * ROWS),
    *([image["bytes"] for image in IMAGES], [[1.5] * 4] * ROWS, [[IMAGES[0]]] * ROWS, LABELS, [True] * ROWS),
)


@fuzz(
    st.one_of(
        st.tuples(st.sampled_from(ODD_IMAGES), st.just(LABELS)),
        st.tuples(st.just(IMAGES), st.sampled_from([LABELS, *ODD_LABELS])),
    ),
    st.sampled_from([["image", "label"]] * 3 + [["label", "image"], ["image", ""], None]),
    examples=150,
)
def test_columns(content: tuple[list[Any], list[Any]], columns: list[str] | None) -> None:
    """The type of a column is what its values have; that of the images is not stated, as in many a file."""
    images, labels = content
    count = min(len(images), len(labels))
    with TemporaryDirectory() as folder:
        root = Path(folder)
        try:
            table = pa.table({"image": images[:count], "label": labels[:count]})
        except (pa.ArrowException, OverflowError, UnicodeEncodeError):  # no table can hold them
            return
        for split in ("train", "test"):
            parquet.write_table(table, root / f"{split}.parquet")
        check(root, columns)


@pytest.mark.parametrize("what", ["pipe", "folder", "device", "link", "empty", "loop"])
def test_what_is_no_file(what: str, made: dict[str, Path], tmp_path: Path) -> None:
    for kind in ("parquet", "saved"):
        root = Path(shutil.copytree(made[kind], tmp_path / kind))
        for file in [file for file in root.rglob("*") if file.is_file()]:
            content = file.read_bytes()
            file.unlink()
            if what == "pipe":
                os.mkfifo(file)
            elif what == "folder":
                file.mkdir()
            elif what == "empty":
                file.touch()
            else:
                file.symlink_to({"device": "/dev/zero", "link": "/nowhere", "loop": file.name}[what])
            check(root)
            file.rmdir() if what == "folder" else file.unlink()
            file.write_bytes(content)
        check(root)


def test_no_server_is_asked(made: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The library counts on a server how often its readers are used, where `load_dataset` calls them."""

    def asked(*given: Any, **more: Any) -> Any:
        raise AssertionError(f"asks {given}")

    monkeypatch.setattr(socket, "getaddrinfo", asked)
    root = Path(shutil.copytree(made["parquet"], tmp_path / "a[1]*{b}"))  # no characters of patterns
    assert open_dataset("huggingface", root, size=SIZE).counts == (2, 2, 2)
