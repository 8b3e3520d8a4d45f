"""Doors: what `evaluate SET`, `compare OUTPUT`, `export SET DEST`, `run -m` and `--plugin` are given."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import strategies as st

from dist_condense.commands import compare_command
from dist_condense.data import DataError, ImageSet, open_dataset
from dist_condense.job.any_set import Stated, read
from dist_condense.result import formats
from dist_condense.result.synthetic_set import SyntheticSetError
from dist_condense.settings.config import ConfigError
from dist_condense.settings.sweeps import MOST, points
from dist_condense.system import plugins
from tests.doors.fuzzing import TEXTS, door, fuzz, mutated_bytes, mutated_json, mutated_yaml, unchanged
from tests.doors.test_folders import FILES, IMAGES, SIZE, change_tree
from tests.doors.test_records import RESOLVED
from tests.doors.test_results import CSV, ENVIRONMENT, LINES, csv_changed
from tests.doors.test_sets import names, valid
from tests.result.comparison.folders import folder_of_run

MEMBERS = ("synthetic_set/card.json", "config.yaml", "evaluation.csv", "metrics.jsonl", "environment.json")


def write_tree(root: Path) -> None:
    for file in FILES:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(IMAGES["exif.jpg" if file.endswith(".jpg") else "palette.png"])


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """Data set of the test images, with the classes a and b."""
    root = tmp_path_factory.mktemp("target")
    write_tree(root)
    return open_dataset("image_folder", root, size=SIZE)


@pytest.mark.filterwarnings("ignore::Warning:PIL")
@fuzz(st.data(), st.sampled_from(["", "train", "val", "train/a", "gone", "x" * 300]), examples=150)
def test_folders_of_images(target: ImageSet, draw: st.DataObject, below: str) -> None:
    """A folder is one of images of both classes, or refused and named."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        write_tree(root)
        for _ in range(draw.draw(st.integers(0, 2))):
            change_tree(root, draw)
        with door(DataError) as answer:
            images = read(root / below, target, Stated()).images
            assert images.images.shape[1:] == target.shape and images.labels.unique().tolist() == [0, 1]
        assert all(str(root) in line for line in answer.lines or [])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run, not to be changed."""
    folder = folder_of_run(tmp_path_factory.mktemp("runs") / "run", {"condensed": [60, 62], "random": [30]}, digests={})
    return folder


def content_of(member: str, run: Path) -> st.SearchStrategy[bytes]:
    """Return a strategy of changed contents of a file of a run."""
    return st.one_of(
        mutated_bytes((run / member).read_bytes()),
        {
            MEMBERS[0]: lambda: mutated_json(json.loads((run / member).read_text())),
            MEMBERS[1]: lambda: mutated_yaml(RESOLVED),
            MEMBERS[2]: lambda: csv_changed(CSV),
            MEMBERS[3]: lambda: mutated_json(LINES[1]),
            MEMBERS[4]: lambda: mutated_json(ENVIRONMENT),
        }[member](),
    )


@pytest.mark.parametrize("member", MEMBERS)
def test_comparisons_of_changed_runs(member: str, run: Path) -> None:
    """A run that is named is compared or refused; one in a folder is left out with a note, and the others compared."""

    @fuzz(content_of(member, run), examples=60, seconds=2)
    def each(content: bytes) -> None:
        with TemporaryDirectory() as folder:
            place = Path(folder)
            for name in ("changed", "whole"):
                shutil.copytree(run, place / name)
            (place / "changed" / member).write_bytes(content)
            with unchanged(place):
                with door(ConfigError) as answer:
                    compare_command.of_folders([str(place / "changed")], "method")
                with door() as both:
                    compare_command.of_folders([str(place)], "method")
            assert all(str(place / "changed") in line for line in answer.lines or [])
            assert both.is_accepted

    each()


@fuzz(
    names.flatmap(lambda name: st.tuples(st.just(name), mutated_json(valid(name).card))),
    st.sampled_from(sorted(formats.FORMATS)),
    st.sampled_from(
        ["out", "out", "a/b/out", "set", "set/out", "gone/../set/out", "set/card.json/out", "x" * 300, "."]
    ),
    st.sampled_from([None, None, "unit", "normalised"]),
    examples=150,
    seconds=4,
)
def test_exports(changed: tuple[str, bytes], form: str, dest: str, space: str | None) -> None:
    """A set is exported, or refused and nothing is written; it is never changed."""
    name, card = changed
    with TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "set").mkdir()
        (place / "set" / "tensors.safetensors").write_bytes(valid(name).tensors)
        (place / "set" / "card.json").write_bytes(card)
        before = sorted(place.rglob("*"))
        with unchanged(place / "set"), door(DataError, SyntheticSetError) as answer:
            done = formats.export(place / "set", place / dest, form, space)
            assert done.images > 0 and (done.clipped is None or 0 <= done.clipped <= 1)
        if answer.is_accepted:
            assert sorted(place.rglob("*")) != before
        else:
            assert sorted(place.rglob("*")) == before and all(
                str(place) in line or "--space" in line for line in answer.lines
            )


SWEPT = ("seed", "+seed", "~seed", "method", "ipc", "output", "evaluation.sets", "", "seed@x", "x" * 300, "\x1b[31m")
SETS_OF_VALUES = (
    "0,1",
    "0,",
    ",",
    "0,,1",
    "[0,1],[2]",
    "range(0,3)",
    "choice(a,b)",
    "interval(0,1)",
    "'a,b'",
    "{a: 1},2",
)


@fuzz(
    st.lists(
        st.builds(
            "{}{}{}".format,
            st.sampled_from(SWEPT),
            st.sampled_from(["=", "=", "=", "", "=="]),
            st.one_of(st.sampled_from([*SETS_OF_VALUES, *TEXTS[:24]]), st.text(st.sampled_from("ab01,[]{}()'\"$=\\ "))),
        ),
        max_size=4,
    ),
    examples=300,
    seconds=4,
)
def test_sweeps(overrides: list[str]) -> None:
    """Each run has a name of its own, which is that of a folder, and one value for each key."""
    with door(ConfigError) as answer:
        made = points(overrides)
        assert 1 < len(made) <= MOST and len({point.name for point in made}) == len(made)
        assert all("/" not in point.name and point.name not in (".", "..") for point in made)
    assert answer.is_accepted or all(": " in line for line in answer.lines or [])


@fuzz(st.one_of(st.sampled_from([x for x in TEXTS if x]), st.text(max_size=12)), examples=100, seconds=2)
def test_names_of_plugins(name: str) -> None:
    with pytest.MonkeyPatch.context() as patch, door(plugins.PluginError) as answer:
        patch.delenv(plugins.VARIABLE, raising=False)
        patch.setattr(plugins, "_version", lambda module: None)  # reads the records of all installed packages
        plugins.load([f"absent_{name}", f"{name}.absent"])
    assert answer.lines is not None and len(answer.lines) == 2


@fuzz(st.data(), st.sampled_from([0.5, 1e-9, 1 - 1e-9]), examples=100, seconds=4)
def test_divided_folders(draw: st.DataObject, fraction: float) -> None:
    """Each class has training and test images, together those in its folder."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        write_tree(root)
        for _ in range(draw.draw(st.integers(0, 2))):
            change_tree(root, draw)
        with door(DataError) as answer:
            opened = open_dataset("image_folder", root / "train", size=SIZE, test_fraction=fraction)
            counts = torch.tensor([opened.counts, opened.test_split.counts])
            assert counts.shape == (2, len(opened.classes)) and counts.min() > 0
        assert all(str(root) in line for line in answer.lines or [])
