"""Every package that is imported is declared, with a lower bound where an older one would break or be unsafe."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
OPTIONAL = [requirement for name in ("ffcv", "timm") for requirement in EXTRAS[name]]
"""Imported by the package where somebody asks for them."""

DISTRIBUTIONS = {
    "PIL": "pillow",
    "hydra": "hydra-core",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Of modules that are named otherwise than what installs them."""


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-")


def imported(folder: str) -> set[str]:
    """Top-level modules, without those of Python and of this repository."""
    found = set()
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                found.add(node.module)
    own = {"dist_condense", "tests", "benchmarks"}
    return {module.split(".")[0] for module in found} - set(sys.stdlib_module_names) - own


@pytest.mark.parametrize(
    ("folder", "declared"),
    [
        ("dist_condense", [*PROJECT["dependencies"], *OPTIONAL]),
        ("benchmarks", [*PROJECT["dependencies"], *OPTIONAL]),
        ("tests", [*PROJECT["dependencies"], *OPTIONAL, *EXTRAS["dev"], *EXTRAS["s3"]]),
    ],
)
def test_what_is_imported_is_declared(folder: str, declared: list[str]) -> None:
    known = {name_of(requirement) for requirement in declared}
    installs = {module: DISTRIBUTIONS.get(module, module.replace("_", "-")) for module in imported(folder)}
    missing = {module for module, name in installs.items() if name not in known}
    assert not missing, f"{folder} imports {sorted(missing)}, which pyproject.toml does not declare"


def test_the_package_a_store_needs_has_an_extra() -> None:
    from dist_condense.data.remote import BACKENDS

    declared = {name_of(requirement) for extra in EXTRAS.values() for requirement in extra}
    declared |= {name_of(requirement) for requirement in PROJECT["dependencies"]}
    assert set(BACKENDS.values()) <= declared


def test_direct_dependencies_have_a_lower_bound_and_a_tested_version() -> None:
    """But for what only developers install."""
    pinned = {name_of(line) for line in Path(ROOT / "constraints.txt").read_text().splitlines() if line[:1] not in "#"}
    shipped = [*PROJECT["dependencies"], *(r for name, extra in EXTRAS.items() if name != "dev" for r in extra)]
    for requirement in shipped:
        assert ">=" in requirement, f"{requirement} has no lower bound"
    for requirement in [*shipped, *EXTRAS["dev"]]:
        assert name_of(requirement) in {*pinned, "dist-condense"}, f"{requirement} is not in constraints.txt"
