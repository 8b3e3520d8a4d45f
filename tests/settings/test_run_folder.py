"""The name of every file of a run is in one place."""

from __future__ import annotations

import ast
from pathlib import Path

import dist_condense
from dist_condense.settings.run_folder import Entry, RunFolder

PACKAGE = Path(dist_condense.__file__).parent
OTHER_MEANINGS = {"pool": {"engine/trajectory.py", "planning/workload.py", "settings/parts.py"}}
"""Names that are also used with another meaning, and the files that do so."""


def test_a_name_and_a_path() -> None:
    folder = RunFolder(Path("a"))
    assert RunFolder.metrics.name == "metrics.jsonl" and folder.metrics == Path("a/metrics.jsonl")
    assert folder == RunFolder(Path("a")) and folder.config.parent == folder.path


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
