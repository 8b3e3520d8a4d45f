"""evaluation.csv written by other programs: it is read, or refused with file and line."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dist_condense.evaluation.rows import COLUMNS, Row, RowsError, append_csv, read_csv

ROWS = [
    Row(
        set="random", protocol="dc", architecture="mlp", seed=0, epochs=6, top1_last=12.5, top1_best=90.25, balanced=1.5
    ),
    Row(set="condensed", protocol="dc", architecture="caf\u00e9", seed=1, epochs=6, top1_last=0.0, top1_best=None),
]


def sparse(file: Path) -> None:
    with file.open("wb") as stream:
        stream.truncate(20 * 2**30)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    append_csv(tmp_path / "evaluation.csv", ROWS)
    return tmp_path / "evaluation.csv"


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_another_editors_file_is_read_and_kept(end: str, bom: bytes, written: Path) -> None:
    plain = written.read_bytes()
    written.write_bytes(bom + plain.decode().replace("\n", end).encode())
    assert read_csv(written) == ROWS
    append_csv(written, [])
    assert written.read_bytes() == plain


def test_columns_in_another_order_are_read(written: Path) -> None:
    lines = [line.split(",")[::-1] for line in written.read_text().splitlines()]
    written.write_text("".join(",".join(line) + "\n" for line in lines))
    assert read_csv(written) == ROWS


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "line 1: has the columns (none)"),
        (b"HEAD,mine\na,dc,mlp,0,6,1,2,3,4\n", "line 1: has the columns set, "),
        (b"HEAD\na,dc,mlp,0,6,1,2,3\na,dc,mlp,1\n", "line 3: not 8 values"),
        (b"HEAD\na,dc,mlp,0,6,1,2,3,4\n", "line 2: not 8 values"),
        (b"HEAD\na,dc,mlp,0,6,nan,2,3\n", "line 2: 'nan' is not a percentage"),
        (b"HEAD\na,dc,mlp,0,6,1,2,101\n", "line 2: '101' is not a percentage"),
        (b"HEAD\na,dc,mlp,zero,6,1,2,3\n", "line 2: 'zero' is not an integer"),
        (b"HEAD\na,dc,mlp,0,1_0,1,2,3\n", "line 2: '1_0' is not an integer"),
        (b"HEAD\na,dc,mlp," + b"9" * 5000 + b",6,1,2,3\n", "line 2: '9999"),
        (b"HEAD\na,dc,mlp,0,6,,2,3\n", "line 2: '' is not a percentage"),
        (b"HEAD\na,dc,mlp,0,6,1,2,3\n=cmd|x,dc,mlp,0,6,1,2,3\n", "line 3: '=cmd|x' is a formula to a spreadsheet"),
        (b"HEAD\na,dc,@mlp,0,6,1,2,3\n", "line 2: '@mlp' is a formula"),
        (b"HEAD\na,dc,mlp,0,6,1,2,3\na,dc,caf\xe9,0,6,1,2,3\n", "line 3: this is not UTF-8"),
        ("HEAD\n".encode("utf-16"), "line 1: this is not UTF-8"),
        (b'HEAD\n"a"b,dc,mlp,0,6,1,2,3\n', "',' expected after '\"'"),
    ],
)
def test_what_cannot_be_kept_is_named(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "evaluation.csv"
    content = content.replace(b"HEAD", ",".join(COLUMNS).encode())
    path.write_bytes(content)
    with pytest.raises(RowsError) as error:
        append_csv(path, ROWS)
    assert str(error.value).startswith(f"{path}, {told}") and str(error.value).endswith("move it away")
    assert path.read_bytes() == content


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda file: file.symlink_to("/dev/zero"), sparse])
def test_only_a_regular_file_of_limited_size_is_read(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path / "evaluation.csv")
    with pytest.raises(RowsError, match=r"evaluation\.csv cannot be read: .*; repair the file, or move it away$"):
        read_csv(tmp_path / "evaluation.csv")


def test_a_file_of_before_the_balanced_accuracy_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.csv"
    path.write_text("set,protocol,architecture,seed,epochs,top1_last,top1_best\nrandom,dc,mlp,0,6,12.5,90.25\n")
    append_csv(path, ROWS)
    assert read_csv(path) == [replace(ROWS[0], balanced=None), *ROWS]


def test_no_file_has_no_rows(tmp_path: Path) -> None:
    assert read_csv(tmp_path / "evaluation.csv") == []
