"""Headers of safetensors files: read as safetensors does, or refused before any size in them is believed."""

from __future__ import annotations

import json
import time

import pytest
import torch
from safetensors.torch import save

from dist_condense.system import safetensors_header
from dist_condense.system.records import Unreadable

TENSORS = {"images": torch.zeros(2, 3, 4, 4), "labels": torch.zeros(2, dtype=torch.int64), "none": torch.zeros(0, 3)}


def read(data: bytes) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    return safetensors_header.read(lambda count: data[:count], len(data), "a file")


def file_of(header: object, tensors: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(tensors)


def entry(shape: object, start: object = 0, end: object = 4, dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_types_and_shapes_are_those_that_were_saved(metadata: dict[str, str] | None) -> None:
    assert read(save(TENSORS, metadata)) == {name: (x.dtype, tuple(x.shape)) for name, x in TENSORS.items()}


def test_a_header_longer_than_the_first_request_is_read() -> None:
    many = {f"tensor {i}": torch.zeros(1) for i in range(2000)}
    data = save(many)
    assert int.from_bytes(data[:8], "little") > safetensors_header.FIRST and set(read(data)) == set(many)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "header of at most 0 bytes"),
        (bytes(8), "not JSON"),
        (b"\xff" * 16, "header of at most 8 bytes"),
        (file_of(b"[]"), "found a list of 0, expected an object"),
        (file_of(b"\xff\xfe"), "not UTF-8"),
        (file_of(b"[" * 99), "nested more than 16 deep"),
        (file_of(b'{"a": {}, "a": {}}'), "the key 'a' occurs twice"),
        (file_of({"__metadata__": {"a": 1}}), "__metadata__: a: found 1, expected text"),
        (file_of({"a": 1}), "a: found 1, expected an object"),
        (file_of({"a": {"dtype": "F32", "shape": [1]}}, 4), "data_offsets: missing"),
        (file_of({"a": entry([1], dtype="F33")}, 4), "found 'F33', expected one of F64, "),
        (file_of({"a": entry([1.0])}, 4), r"shape\[0\]: found 1.0, expected an integer"),
        (file_of({"a": entry([-1, -1])}, 4), "found -1, expected an integer from 0"),
        (file_of({"a": entry([2**63] * 16)}, 4), r"'a' is at \[0, 4\], expected \[0, "),
        (file_of({"a": entry([1] * 17)}, 4), "expected at most 16 sizes"),
        (file_of({"a": {**entry([1]), "data_offsets": [0, 4, 4]}}, 4), "expected two offsets"),
        (file_of({"a": entry([1], 4, 0)}, 4), "is at"),
        (file_of({"a": entry([1]), "b": entry([1])}, 4), "'b' is at"),
        (file_of({"a": entry([1]), "b": entry([1], 8, 12)}, 12), "'b' is at"),
        (file_of({"a": entry([1])}, 3), "4 bytes, 3 follow"),
        (file_of({"a": entry([1])}, 5), "4 bytes, 5 follow"),
    ],
)
def test_a_header_that_lies_is_refused_with_its_file(data: bytes, reason: str) -> None:
    with pytest.raises(Unreadable, match=rf"^a file.*{reason}"):
        read(data)


def test_a_long_header_is_refused_before_it_is_requested() -> None:
    first = (2**40).to_bytes(8, "little")
    requests = list[int]()

    def head(count: int) -> bytes:
        requests.append(count)
        return first

    with pytest.raises(Unreadable, match="header of at most 67108864 bytes"):
        safetensors_header.read(head, 2**41, "a file")
    assert requests == [safetensors_header.FIRST]


def test_many_tensors_and_sizes_take_linear_time() -> None:
    started = time.process_time()
    for header in ({"a": entry([2**63] * 200_000)}, {f"{i}": entry([1], 4 * i, 4 * i + 4) for i in range(50_000)}):
        with pytest.raises(Unreadable):
            read(file_of(header))
    assert time.process_time() - started < 5
