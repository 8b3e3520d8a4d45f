"""Classes with different numbers of images: each is learnt, or selected, as where all have its number."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dist_condense.engine.coordinator import LocalCoordinator
from dist_condense.job import checkpoint
from dist_condense.system.storage import Folder
from tests.engine import cases

NUMBERS = {3: 1, 7: 4}
"""Numbers of images by label in :data:`tests.engine.cases.BY_CLASS`; others have :data:`USUAL`."""
USUAL = 2
ALONE = {
    "dsa": ["training=frozen"],  # otherwise theta depends on the images of all classes
    "idc": ["method.synthetic_limit=10"],  # which is below the 16 images that are decoded from 4
    "dm": [],
    "random": [],
    "herding": ["method.selection.epochs=1"],
}
"""Cases in which no class depends on the synthetic images of another, with their own keys."""


def state(name: str, folder: Path, *more: str) -> dict[str, Tensor]:
    cases.execute(cases.load(name, f"output={folder}", *more), LocalCoordinator())
    return cases.classes(checkpoint.newest(Folder(folder / "checkpoints")))


@pytest.mark.parametrize("name", ALONE)
def test_each_class_is_that_of_a_run_in_which_all_have_its_number(name: str, tmp_path: Path) -> None:
    own = ALONE[name]
    found = state(name, tmp_path / "by_class", *own, cases.BY_CLASS)
    like = {ipc: state(name, tmp_path / str(ipc), *own, f"ipc={ipc}") for ipc in {USUAL, *NUMBERS.values()}}
    for key, x in found.items():
        ipc = NUMBERS.get(int(key.rsplit(".", 1)[1]), USUAL)
        assert len(x) == ipc and torch.equal(x, like[ipc][key]), key
    assert {len(x) for x in found.values()} == {1, 2, 4}


@pytest.mark.parametrize("name", ["representative_pooled", "idc_pooled_by_kmeans"])
def test_one_number_for_all_classes_is_that_number(name: str, tmp_path: Path) -> None:
    by_class, number = (state(name, tmp_path / str(len(x)), x) for x in ('ipc={"*": 2}', "ipc=2"))
    assert by_class.keys() == number.keys() and all(torch.equal(x, number[key]) for key, x in by_class.items())
