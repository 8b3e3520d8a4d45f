"""IDX files, and FashionMNIST with few images."""

import struct
from pathlib import Path

import numpy as np


def idx_file(shape: tuple[int, ...], values: bytes, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + values


def write_fashion(root: Path, train: int = 20, test: int = 10) -> Path:
    """Write FashionMNIST with random images, whose labels are 0 to 9 in turn; return the folder of its files."""
    raw, drawn = root / "FashionMNIST" / "raw", np.random.default_rng(0)
    raw.mkdir(parents=True)
    for part, number in (("train", train), ("t10k", test)):
        pixels = drawn.integers(0, 256, number * 28 * 28, dtype=np.uint8).tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx_file((number, 28, 28), pixels))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            idx_file((number,), bytes(index % 10 for index in range(number)))
        )
    return raw
