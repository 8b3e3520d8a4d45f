"""A condensed set of somebody else: its card, its header and its tensors, changed at random, from valid ones."""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from dist_condense import load_set
from dist_condense.result import card as cards
from dist_condense.result.card import CARD, Card, CardClass, SyntheticSetError
from dist_condense.result.synthetic_set import TENSORS, SyntheticDataset, write_set
from tests.doors.fuzzing import door, fuzz, mutated_bytes, mutated_json, mutated_values, unchanged

CARD_OF_ALL = Card(
    method="idc",
    dataset="digits",
    classes=[CardClass(0, "zero", "n00000000"), CardClass(1, "one"), CardClass(2, "two")],
    ipc=2,
    channels=1,
    size=5,
    value_space="unit",
    mean=(0.3,),
    std=(0.2,),
    factor=2,
    seed=0,
    steps=3,
    complete=True,
    facts={"networks_done": 3},
)
PIXELS = torch.rand(6, 1, 5, 5, generator=torch.Generator().manual_seed(0))
HARD = torch.arange(3).repeat(2)
SOFT = torch.rand(6, 3, generator=torch.Generator().manual_seed(1)).softmax(1)
SETS: dict[str, tuple[Tensor, Tensor, Card]] = {
    "of bytes": (PIXELS, HARD, CARD_OF_ALL),
    "soft": (PIXELS, SOFT, CARD_OF_ALL),
    "normalised": (PIXELS.repeat(1, 3, 1, 1), HARD, replace(
        CARD_OF_ALL, channels=3, value_space="normalised", mean=(0.3,) * 3, std=(0.2,) * 3, padding=(1.0,) * 3
    )),
    "of floats": (PIXELS * 100, HARD, replace(
        CARD_OF_ALL, value_space="values", bounds=(0.0, None), axes="width", padding=(0.0,)
    )),
}  # fmt: skip


@dataclass(frozen=True)
class Valid:
    """Content of the files of a valid set."""

    card: dict[str, Any]
    tensors: bytes


@functools.cache
def valid(name: str) -> Valid:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(cards, "code_commit", lambda: "0" * 40)
        write_set(Path(folder) / "s", *SETS[name])
        files = Path(folder) / "s"
        return Valid(json.loads((files / CARD).read_text()), (files / TENSORS).read_bytes())


names = st.sampled_from(sorted(SETS))


def opened(folder: Path, card: bytes, tensors: bytes, verify: bool = True) -> None:
    """Open a set that consists of these two files: it is refused, or it is one set in itself."""
    (folder / CARD).write_bytes(card)
    (folder / TENSORS).write_bytes(tensors)
    with unchanged(folder), door(SyntheticSetError) as answer:
        check(load_set(folder, verify=verify), verify)
    if answer.lines is not None:
        assert len(answer.lines) == 1 and str(folder) in answer.lines[0]


def check(dataset: SyntheticDataset, verify: bool) -> None:
    """Check that a set that was opened agrees with its card, and can be trained on."""
    card, classes = dataset.card, len(dataset.card.classes)
    count = classes * card.ipc
    pixels, stored = dataset.pixels(), dataset.labels[:count]
    assert pixels.shape == (count, *card.shape) and pixels.dtype == torch.float32 and len(stored) == count
    assert [entry.label for entry in card.classes] == list(range(classes))
    assert len(card.mean) == len(card.std) == card.channels and min(card.std) > 0
    assert len(card.padding) in (1, card.channels) and card.space.name == card.value_space
    assert card.images_per_class in (0, len(dataset) // classes)
    assert len(dataset) == count * card.decoded_per_image and dataset.labels.shape[1:] == stored.shape[1:]
    if card.labels == "soft":
        assert stored.shape == (count, classes) and stored.min() >= 0
        torch.testing.assert_close(stored.sum(1), torch.ones(count), atol=1e-3, rtol=0)
    else:
        assert stored.bincount().tolist() == [card.ipc] * classes
    assert dataset.class_to_idx.keys() == set(dataset.classes) and len(dataset.targets) == len(dataset)
    images = dataset.batch(torch.arange(len(dataset)))
    assert images.shape == (len(dataset), *card.shape)
    assert images.isfinite().all() or not verify
    dataset[-1]


@pytest.mark.parametrize("name", sorted(SETS))
def test_the_valid_ones_are_read(name: str, tmp_path: Path) -> None:
    made = valid(name)
    opened(tmp_path, json.dumps(made.card).encode(), made.tensors)
    pixels, labels, _ = SETS[name]
    loaded = load_set(tmp_path)
    assert torch.equal(loaded.pixels(), pixels) and torch.equal(loaded.labels[: len(pixels)], labels)


@fuzz(names.flatmap(lambda name: st.tuples(st.just(name), mutated_json(valid(name).card))), examples=200, seconds=3)
def test_a_card(tmp_path: Path, changed: tuple[str, bytes]) -> None:
    name, card = changed
    opened(tmp_path, card, valid(name).tensors)


@fuzz(
    names.flatmap(lambda name: st.tuples(st.just(name), mutated_bytes(valid(name).tensors))),
    st.booleans(),
    examples=150,
    seconds=2,
)
def test_the_bytes_of_the_tensors(tmp_path: Path, changed: tuple[str, bytes], is_hashed: bool) -> None:
    name, tensors = changed
    card = valid(name).card
    digest = hashlib.sha256(tensors).hexdigest() if is_hashed else card["sha256"]
    opened(tmp_path, json.dumps({**card, "sha256": digest}).encode(), tensors, verify=is_hashed)


@fuzz(names.flatmap(lambda name: st.tuples(st.just(name), mutated_values(header_of(name)))), examples=150, seconds=2)
def test_the_header(tmp_path: Path, changed: tuple[str, Any]) -> None:
    name, header = changed
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    length = int.from_bytes(valid(name).tensors[:8], "little")
    tensors = len(text).to_bytes(8, "little") + text + valid(name).tensors[8 + length :]
    card = {**valid(name).card, "sha256": hashlib.sha256(tensors).hexdigest()}
    opened(tmp_path, json.dumps(card).encode(), tensors)


def header_of(name: str) -> Any:
    data = valid(name).tensors
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


DTYPES = (
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
    torch.float32,
)
ODD = (float("nan"), float("inf"), -float("inf"), 3e38, -1.0, 0.0, 0.5, 2.0, 1e-45)


@st.composite
def tensors_changed(draw: st.DrawFn) -> tuple[str, dict[str, Tensor]]:
    """Draw the name of a valid set, and its tensors with one to three changes of types, shapes, values and names."""
    name = draw(names)
    tensors = load(valid(name).tensors)
    for _ in range(draw(st.integers(1, 3))):
        if not tensors:
            break
        key = draw(st.sampled_from(sorted(tensors)))
        x = tensors.pop(key)
        match draw(st.sampled_from(["dtype", "value", "value", "value", "cut", "more", "flat", "unsqueeze", "name"])):
            case "dtype":
                x = x.to(draw(st.sampled_from(DTYPES)))
            case "value" if x.numel():
                value, at = draw(st.sampled_from(ODD)), draw(st.integers(0, x.numel() - 1))
                filled = torch.tensor(value if x.is_floating_point() else max(-9, min(9, value or 9))).to(x.dtype)
                x = x.flatten().index_fill(0, torch.tensor([at]), filled.item()).view(x.shape)
            case "cut":
                x = x[: draw(st.integers(0, 3))] if x.ndim else x
            case "more":
                x = torch.cat([x, x]) if x.ndim else x
            case "flat":
                x = x.flatten()
            case "unsqueeze":
                x = x.unsqueeze(draw(st.integers(0, x.ndim)))
            case "name":
                key = draw(st.sampled_from(["", "other", "images", "labels"]))
        if draw(st.integers(0, 9)):
            tensors[key] = x.contiguous().clone()
    return name, tensors


@fuzz(tensors_changed(), st.sampled_from([True, True, False]), examples=200, seconds=3)
def test_the_tensors(tmp_path: Path, changed: tuple[str, dict[str, Tensor]], verify: bool) -> None:
    name, tensors = changed
    data = save(tensors)
    card = {**valid(name).card, "sha256": hashlib.sha256(data).hexdigest()}
    opened(tmp_path, json.dumps(card).encode(), data, verify)
