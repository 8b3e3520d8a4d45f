"""Door: data in memory, as `condense` and `evaluate` take them, of odd types, shapes and values."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from dist_condense.api.collecting import both
from dist_condense.data import DataError
from tests.doors.fuzzing import NUMBERS, ODD_LABELS, TEXTS, door, fuzz

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 3), dtype=np.uint8)
LABELS = np.arange(6) % 3
DTYPES = ("u1", "i1", "u2", "i8", "f2", "f4", ">f4", "f8", "c8", "?", "O", "U3", "S2", "M8[s]")
SHAPES = ((), (0,), (1,), (6,), (0, 5, 5, 3), (6, 5, 5), (6, 3, 5, 5), (6, 5, 3, 5), (6, 0, 5, 3), (6, 5, 5, 4))
TENSORS = (
    torch.empty(6, 3, 5, 5, device="meta"),
    torch.zeros(6, 3, 5, 5).to_sparse(),
    torch.rand(6, 3, 5, 5, requires_grad=True),
    torch.rand(6, 3, 5, 5).bfloat16(),
    torch.rand(6, 3, 5, 5).expand(6, 3, 5, 5).transpose(2, 3),
)


class Items:
    """A map-style data set, whose length may be wrong, and whose items may be errors."""

    def __init__(self, items: list[Any], length: Any) -> None:
        self.items, self.length = items, length

    def __len__(self) -> Any:
        return self.length

    def __getitem__(self, index: int) -> Any:
        if isinstance(item := self.items[index], Exception):
            raise item
        return item


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    """Draw images, or an array of another type, shape or value."""
    what = draw(st.sampled_from(["right", "dtype", "shape", "value", "tensor", "odd"]))
    if what == "dtype":
        return IMAGES.astype(draw(st.sampled_from(DTYPES)))
    if what == "shape":
        return np.zeros(draw(st.sampled_from(SHAPES)), draw(st.sampled_from(["u1", "f4"])))
    if what == "value":
        return np.where(IMAGES > 200, np.float64(min(draw(st.sampled_from(NUMBERS)), 10**300)), IMAGES / 255)
    if what == "tensor":
        return draw(st.sampled_from(TENSORS))
    return draw(odd) if what == "odd" else IMAGES


odd = st.sampled_from([None, 3, {}, {"a": 1}, iter(()), int, object(), *TEXTS[:12]])
labels = st.sampled_from(
    [LABELS, *ODD_LABELS, np.int64(1), LABELS[:4], LABELS[:, None], np.eye(6), *(LABELS.astype(x) for x in DTYPES)]
)
items = st.lists(
    st.one_of(
        st.just((IMAGES[0], 0)),
        st.tuples(st.sampled_from([IMAGES[0], IMAGES[0][0], IMAGES[0] / 255, TENSORS[0][0], "/etc/passwd"]), odd),
        st.sampled_from([ValueError("two\nlines"), KeyError(1), (IMAGES[0],), (IMAGES[0], torch.zeros(2)), None]),
    ),
    max_size=4,
)
data = st.one_of(
    st.tuples(arrays(), labels),
    items,
    st.builds(Items, items, st.sampled_from([0, 1, 2, -1, 2.5, None, 10**30])),
    odd,
)


@fuzz(data, st.one_of(st.none(), data), examples=400)
def test_data_in_memory(train: Any, test: Any) -> None:
    """Whatever is accepted is bytes or floats with a label each; whatever is refused is named."""
    with door(DataError) as answer:
        for split in both(train, test):
            assert split.images.ndim == 4 and split.images.dtype in (np.uint8, np.float32)
            assert split.labels.shape == (len(split.images),) and len(split.images) > 0
            assert split.labels.dtype.kind in "iuU" and split.images.shape[1] in (1, 3)
    for line in answer.lines or []:
        assert line.startswith(("train", "test")), line
