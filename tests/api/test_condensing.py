"""`condense` as a function: the set of the same data from a folder, a second call, and refusals."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from PIL import Image

from dist_condense import Result, condense, load_set
from dist_condense.settings.config import ConfigError
from dist_condense.system.errors import DataError

TINY: dict[str, Any] = {
    "method": "dc",
    "ipc": 1,
    "trajectory": {"networks": 2},
    "network": {"width": 4, "depth": 1},
    "evaluation": {"epochs": 2, "seeds": 1},
    "tracking": {"uri": "http://127.0.0.1:9"},
}
NAMES = ["ant", "bee", "cat"]


class Pictures(torch.utils.data.Dataset[Any]):
    """Random pictures, defined in a module that Ray's workers cannot import."""

    classes = NAMES

    def __init__(self, count: int, seed: int) -> None:
        self.images = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(self.images[index]).permute(2, 0, 1).float().div(255), index % 3

    def as_folder(self, split: Path) -> None:
        """Write the pictures of each class as PNG files, in their order."""
        for index, image in enumerate(self.images):
            file = split / NAMES[index % 3] / f"{index:06}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file, compress_level=0)


TRAIN, TEST = Pictures(60, 0), Pictures(12, 1)


def pixels(folder: Path) -> torch.Tensor:
    return load_set(folder).pixels()


def from_folder(data: Path, output: Path, *more: str) -> Path:
    """Condense the same pictures from a folder, by the command."""
    from dist_condense import run

    keys = ["recipe=dc", "trajectory.networks=2", "network.width=4", "network.depth=1", "evaluation.epochs=0"]
    keys += ["dataset.name=image_folder", f"dataset.root={data}", "dataset.size=8", "cluster.workers=0"]
    keys += ["method.real_batch=256", "tracking.uri=http://127.0.0.1:9", f"output={output}", *more]
    assert run.main(["configs/digits.yaml", *keys]) == 0
    return output


def test_the_set_is_that_of_the_same_data_in_a_folder(tmp_path: Path) -> None:
    made = condense(TRAIN, TEST, output=tmp_path / "made", **TINY)
    TRAIN.as_folder(tmp_path / "data" / "train")
    assert torch.equal(pixels(made.folder), pixels(from_folder(tmp_path / "data", tmp_path / "folder")))
    assert [row.set for row in made.scores] == ["condensed"] and 0 <= made.scores[0].top1_last <= 100
    assert made.dataset.classes == NAMES and len(made.dataset) == 3


def test_arrays_give_the_same_set_and_a_second_call_computes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    labels = np.array(NAMES)[np.arange(60) % 3]
    first = condense(TRAIN, TEST, **TINY)
    assert first.folder.parent == tmp_path / "outputs" and first.folder.name.startswith("dc_ipc1_")
    capsys.readouterr()
    assert condense(TRAIN, TEST, **TINY) == first
    assert "the set is complete" in capsys.readouterr().err
    arrays = condense((TRAIN.images, labels), (TEST.images, labels[:12]), **TINY)
    assert torch.equal(pixels(arrays.folder), pixels(first.folder))
    other = condense(Pictures(60, 3), TEST, **TINY)
    assert other.folder != first.folder and not torch.equal(pixels(other.folder), pixels(first.folder))


def test_without_test_images_there_is_no_evaluation_and_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = condense(TRAIN, output=tmp_path, **(TINY | {"evaluation": {}}))
    assert made.scores == [] and len(made.dataset) == 3
    note = "there are no test images, so no network is trained on the set"
    assert capsys.readouterr().err.count(note) == 1
    condense(TRAIN, output=tmp_path, **(TINY | {"evaluation": {"epochs": 0}}))
    assert note not in capsys.readouterr().err


def test_settings_are_refused_all_at_once_and_nothing_is_written(tmp_path: Path) -> None:
    keys = TINY | {"trajectory": {"networks": "many"}, "netwrk": 3, "dataset": {"root": "/data"}}
    with pytest.raises(ConfigError, match=r"dataset\.root: the data set it"):
        condense(TRAIN, TEST, output=tmp_path / "out", **keys)
    with pytest.raises(ConfigError, match=r"method: 'dq' is not one of dc, "):
        condense(TRAIN, TEST, output=tmp_path / "out", **(TINY | {"method": "dq"}))
    with pytest.raises(ConfigError) as refusal:
        condense(TRAIN, TEST, output=tmp_path / "out", **(keys | {"dataset": {}}))
    assert len(refusal.value.problems) == 2
    with pytest.raises(ConfigError, match=r"ipc"):
        condense(TRAIN, TEST, output=tmp_path / "out", **(TINY | {"ipc": 0}))
    assert not (tmp_path / "out" / "config.yaml").exists()


def test_what_cannot_work_is_refused_before_data_are_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"evaluation\.epochs: there are no test images"):
        condense(TRAIN, output=out, **TINY)
    with pytest.raises(DataError, match=r"test: labels without training images: '?dog'?"):
        condense((TRAIN.images, ["cat", "eel"] * 30), (TEST.images, ["cat", "dog"] * 6), output=out, **TINY)
    with pytest.raises(ConfigError, match="is not one of dc, "):
        condense(TRAIN, TEST, output=out, **(TINY | {"method": {"name": "dc"}}))
    assert not out.exists()
    for place in ("", 3, "a\0b", "x" * 300):
        with pytest.raises(ConfigError, match=r"^output: "):
            condense(TRAIN, TEST, output=place, **TINY)
    out.touch()
    with pytest.raises(ConfigError, match="output: the data cannot be written"):
        condense(TRAIN, TEST, output=out, **TINY)


def test_values_of_keys_are_numbers_of_numpy_and_paths_too(tmp_path: Path) -> None:
    keys = TINY | {"ipc": np.int64(1), "trajectory": {"networks": np.int64(2)}, "data": {"cache": tmp_path / "cache"}}
    assert len(condense(TRAIN, TEST, output=tmp_path / "out", **keys).dataset) == 3


def test_other_data_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    condense(TRAIN, TEST, output=tmp_path, **TINY)
    before = pixels(tmp_path)
    with pytest.raises(ConfigError, match="output"):
        condense(Pictures(60, 3), TEST, output=tmp_path, **TINY)
    assert torch.equal(pixels(tmp_path), before)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.daemon("Ray worker groups")
def test_two_ray_workers_read_each_byte_once(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """10,000 images of a data set that workers cannot import give the set of one process; the data are one file."""
    request.addfinalizer(ray.shutdown)  # of this process, in which other tests start their own
    train = Pictures(10_000, 0)
    alone = condense(train, TEST, output=tmp_path / "alone", **TINY)
    together = condense(train, TEST, output=tmp_path / "together", cluster={"workers": 2}, **TINY)
    assert torch.equal(pixels(alone.folder), pixels(together.folder))
    [file] = (together.folder / "data").iterdir()
    assert train.images.nbytes < os.stat(file).st_size < 1.1 * train.images.nbytes + TEST.images.nbytes
    assert isinstance(together, Result)


def test_scores_of_other_test_images_are_not_returned(tmp_path: Path) -> None:
    made = condense(TRAIN, TEST, output=tmp_path, **TINY)
    files = sorted((tmp_path / "data").iterdir())
    for other in (Pictures(12, 2), None):
        with pytest.raises(ConfigError, match=r"output: .* has scores of other data \(data_.*\); give another output"):
            condense(TRAIN, other, output=tmp_path, **TINY | {"evaluation": {}})
    assert sorted((tmp_path / "data").iterdir()) == files and condense(TRAIN, TEST, output=tmp_path, **TINY) == made


def test_test_images_may_come_later(tmp_path: Path) -> None:
    condense(TRAIN, output=tmp_path, **TINY | {"evaluation": {}})
    assert len(condense(TRAIN, TEST, output=tmp_path, **TINY).scores) == 1


def test_any_thread_may_condense(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(condense, TRAIN, output=tmp_path, **TINY | {"evaluation": {}}).result()
    assert len(made.dataset) == 3


def test_data_of_a_refused_call_are_not_left(tmp_path: Path) -> None:
    condense(TRAIN, output=tmp_path, **TINY | {"evaluation": {}})
    files = sorted((tmp_path / "data").iterdir())
    with pytest.raises(ConfigError):
        condense(Pictures(60, 3), output=tmp_path, **TINY | {"evaluation": {}})
    assert sorted((tmp_path / "data").iterdir()) == files
    for output in (tmp_path / "new" / "run", tmp_path / "new"):
        with pytest.raises(ConfigError, match="ipc: 0 is not in the range"):
            condense(TRAIN, output=output, **TINY | {"ipc": 0, "evaluation": {}})
    assert not (tmp_path / "new").exists()


def test_recipes_are_the_shipped_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs" / "recipe").mkdir(parents=True)
    (tmp_path / "configs" / "recipe" / "dc.yaml").write_text("ipc: many\n")
    monkeypatch.chdir(tmp_path)
    assert len(condense(TRAIN, **TINY | {"evaluation": {}}).dataset) == 3
