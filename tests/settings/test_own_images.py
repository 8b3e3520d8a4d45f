"""What a run cannot know about images of one's own: whether they may be flipped, and the bounds of float values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dist_condense.data import ImageSet
from dist_condense.job import preflight
from dist_condense.settings import assembly, resolve
from dist_condense.settings.config import RunConfig, load
from dist_condense.settings.identity import differences, identity
from tests.data.sets.test_array_file import X, saved

NEW = ("dataset.flip", "dataset.bounds", "dataset.columns")


def config(file: Path, *given: str) -> RunConfig:
    keys = ["recipe=dsa", "cluster.workers=0", "network.width=4", "network.depth=1", f"output={file.parent}/run"]
    return load("configs/digits.yaml", [*keys, "dataset.name=arrays", f"dataset.root={file}", *given])


def opened(file: Path, *given: str, earlier: dict[str, Any] | None = None) -> tuple[RunConfig, ImageSet]:
    """Return the config and the data set as a run gets them at its start."""
    made = config(file, *given)
    dataset, _ = preflight.check(made)
    made, _ = resolve.resolved(made, dataset, earlier or {})
    return made, assembly.settled(made, dataset)


@pytest.mark.parametrize(("name", "given", "flips"), [
    ("arrays", [], True), ("arrays", ["dataset.flip=false"], False),
    ("digits", [], False), ("digits", ["dataset.flip=true"], True),
])  # fmt: skip
def test_who_knows_the_images_decides_whether_they_are_flipped(
    tmp_path: Path, name: str, given: list[str], flips: bool
) -> None:
    file = saved(tmp_path / "made.npz")
    own = [] if name == "arrays" else ["dataset.name=digits", "dataset.root=null"]
    made, dataset = opened(file, *own, *given)
    assert dataset.flip == flips
    assert ("flip" in assembly.strategy_of(made.method.augmentation, dataset).one_of) == flips


@pytest.mark.parametrize(("x", "bounds", "space"), [
    (X, None, (0.0, 1.0)),  # bytes have bounds
    ((X / 255).astype(np.float32), "unit", (0.0, 1.0)),
    ((X / 255 - 0.1).astype(np.float32), "none", (None, None)),
    ((X / 50).astype(np.float32), "none", (None, None)),
])  # fmt: skip
def test_the_bounds_of_floats_are_those_of_the_training_images(
    tmp_path: Path, x: np.ndarray, bounds: str | None, space: tuple[float | None, float | None]
) -> None:
    made, dataset = opened(saved(tmp_path / "made.npz", x))
    assert (made.dataset.bounds, dataset.space.bounds) == (bounds, space)


def test_bounds_that_are_given_or_those_of_the_first_start_are_kept(tmp_path: Path) -> None:
    file = saved(tmp_path / "made.npz", (X / 255).astype(np.float32))
    first, _ = opened(file)
    assert opened(file, "dataset.bounds=none")[1].space.bounds == (None, None)
    earlier = identity(replace(first, dataset=replace(first.dataset, bounds="none")))
    assert opened(file, earlier=earlier)[0].dataset.bounds == "none"


def test_a_run_of_before_these_keys_goes_on(tmp_path: Path) -> None:
    now = identity(opened(saved(tmp_path / "made.npz"))[0])
    before = {
        key: item for key, item in now.items() if key not in ("dataset.flip", "dataset.bounds", "dataset.columns")
    }
    assert not differences(before, now)
    turned = identity(config(tmp_path / "made.npz", "dataset.flip=false"))
    assert any("dataset.flip" in line for line in differences(before, turned))
