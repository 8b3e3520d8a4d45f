"""ClassSource for FFCV's beton files, each of which contains the raw pixels of all classes, class after class."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dist_condense.data.ffcv.extra import load_ffcv
from dist_condense.data.ffcv.file import LABEL, check_beton


class BetonSource:
    """A ClassSource that reads a beton file through FFCV; images are cached only by the operating system.

    The constructor checks the file; unpickling checks it again. The first `get` creates the Loader, which takes up to
    15 seconds because numba compiles. Concurrent calls of `get` are served one after the other.
    """

    def __init__(self, path: Path, counts: Sequence[int], channels: int, size: int) -> None:
        """Check that the file contains exactly `counts[label]` images of each label; raise DataError otherwise."""
        self.path, self.counts = path, tuple(counts)
        self._shape = (channels, size, size)
        check_beton(path, counts, channels, size)
        self._starts = np.cumsum([0, *counts])
        self._lock = threading.Lock()
        self._loader: Any = None

    def __reduce__(self) -> tuple[type["BetonSource"], tuple[Path, tuple[int, ...], int, int]]:
        return BetonSource, (self.path, self.counts, *self._shape[:2])

    def get(self, label: int, indices: torch.Tensor) -> torch.Tensor:
        """Read the images of a class at these positions (int64 [n], repeats allowed) as uint8 [n, C, H, W].

        Raises KeyError for a class that the file does not contain, IndexError for a position outside the class.
        """
        if not 0 <= label < len(self.counts):
            raise KeyError(f"{self.path}: there is no class {label}, only 0..{len(self.counts) - 1}.")
        count = self.counts[label]
        outside = indices[(indices < 0) | (indices >= count)]
        if len(outside):
            raise IndexError(f"{self.path}: class {label} has positions 0..{count - 1}, not {outside[:10].tolist()}.")
        if len(indices) == 0:
            return torch.empty(0, *self._shape, dtype=torch.uint8)
        return self._read(indices.numpy() + self._starts[label])

    def _read(self, records: np.ndarray) -> torch.Tensor:
        """Read the images at these positions in the file (int64 [n]) as one batch, into newly allocated memory."""
        with self._lock:
            if self._loader is None:
                self._loader = _open_loader(self.path)
            self._loader.batch_size = len(records)
            self._loader.traversal_order.indices = records
            [(images,)] = self._loader
        pixels: torch.Tensor = images
        return pixels


def _open_loader(path: Path) -> Any:
    ffcv = load_ffcv()
    return ffcv.loader.Loader(
        str(path),
        batch_size=1,
        num_workers=1,
        order=ffcv.loader.OrderOption.SEQUENTIAL,
        seed=0,  # the default draws from numpy's global generator
        indices=np.zeros(1, dtype=np.int64),
        pipelines={LABEL: None},
        drop_last=False,
        batches_ahead=0,  # buffers of two batches are allocated; one is touched
    )
