"""The name of every file of a run is in one place."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

import dist_condense
from dist_condense.settings.run_folder import Entry, RunFolder, check
from dist_condense.settings.values import ConfigError

PACKAGE = Path(dist_condense.__file__).parent
OTHER_MEANINGS = {
    "pool": {"engine/trajectory.py", "planning/workload.py", "settings/parts.py"},
    "config.yaml": {"data/sets/division.py"},  # a sign that a folder among images is no class; `data` knows no runs
}
"""Names that are also used with another meaning, and the files that do so."""


def test_a_name_and_a_path() -> None:
    folder = RunFolder(Path("a"))
    assert RunFolder.metrics.name == "metrics.jsonl" and folder.metrics == Path("a/metrics.jsonl")
    assert folder == RunFolder(Path("a")) and folder.config.parent == folder.path


@pytest.mark.parametrize("entry", [x for x in vars(RunFolder).values() if isinstance(x, Entry)], ids=lambda x: x.name)
def test_a_file_in_place_of_a_folder_is_refused_and_the_other_way_round(entry: Entry, tmp_path: Path) -> None:
    make: list[Callable[[Path], object]] = [Path.touch, Path.mkdir]
    right, wrong = make[::-1] if entry.is_folder else make
    right(tmp_path / entry.name)
    check(tmp_path)
    (tmp_path / entry.name).rename(tmp_path / "other")
    wrong(tmp_path / entry.name)
    with pytest.raises(
        ConfigError, match=rf"^{tmp_path / entry.name} is a \w+, and a run's folder has a \w+ of this name"
    ):
        check(tmp_path)


def test_no_other_module_names_a_file_of_a_run() -> None:
    names = {entry.name for entry in vars(RunFolder).values() if isinstance(entry, Entry)}
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and node.value in names:
                found.setdefault(node.value, set()).add(path.relative_to(PACKAGE).as_posix())
    assert len(names) > 15 and set(found) == names
    for name, files in found.items():
        assert files - OTHER_MEANINGS.get(name, set()) == {"settings/run_folder.py"}, name
