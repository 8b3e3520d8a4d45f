"""Every imported package is declared, with a lower bound where an older version would break or be unsafe."""

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
OPTIONAL = [requirement for name in ("ffcv", "hf", "timm") for requirement in EXTRAS[name]]
"""Packages that are imported only where a user asks for them."""

DISTRIBUTIONS = {
    "grpc": "grpcio",
    "PIL": "pillow",
    "hydra": "hydra-core",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Distributions of modules with another name."""


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-")


def imported(folder: str) -> set[str]:
    """Return top-level modules, without those of Python and of this repository."""
    modules = set()
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                modules.add(node.module)
    own = {"dist_condense", "tests", "benchmarks"}
    return {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names) - own


@pytest.mark.parametrize(
    ("folder", "declared"),
    [
        ("dist_condense", [*PROJECT["dependencies"], *OPTIONAL]),
        ("benchmarks", [*PROJECT["dependencies"], *OPTIONAL, *EXTRAS["dev"]]),
        ("tests", [*PROJECT["dependencies"], *OPTIONAL, *EXTRAS["dev"], *EXTRAS["s3"]]),
    ],
)
def test_what_is_imported_is_declared(folder: str, declared: list[str]) -> None:
    known = {name_of(requirement) for requirement in declared}
    installs = {module: DISTRIBUTIONS.get(module, module.replace("_", "-")) for module in imported(folder)}
    missing = {module for module, name in installs.items() if name not in known}
    assert not missing, f"{folder} imports {sorted(missing)}, which pyproject.toml does not declare"


def test_the_package_a_store_needs_has_an_extra() -> None:
    from dist_condense.system.remote import BACKENDS

    declared = {name_of(requirement) for extra in EXTRAS.values() for requirement in extra}
    declared |= {name_of(requirement) for requirement in PROJECT["dependencies"]}
    assert set(BACKENDS.values()) <= declared


def test_direct_dependencies_have_a_lower_bound_and_a_tested_version() -> None:
    """Packages for developers only are excepted."""
    pinned = {name_of(line) for line in Path(ROOT / "constraints.txt").read_text().splitlines() if line[:1] not in "#"}
    shipped = [*PROJECT["dependencies"], *(r for name, extra in EXTRAS.items() if name != "dev" for r in extra)]
    for requirement in shipped:
        assert ">=" in requirement, f"{requirement} has no lower bound"
    for requirement in [*shipped, *EXTRAS["dev"]]:
        assert name_of(requirement) in {*pinned, "dist-condense"}, f"{requirement} is not in constraints.txt"


def refused(text: str) -> list[str]:
    """Return the lines with which pip installs an untested version, or this package from an index that lacks it."""
    commands = [line for line in text.splitlines() if re.search(r"\bpip3? (install|wheel|download)\b", line)]
    return [line for line in commands if not TESTED.search(line) or OURS.search(line)]


TESTED = re.compile(r"(-c|--constraint)[ =]\S*constraints\.txt")
OURS = re.compile(r"(?i)[\s'\"]dist[-_]condense(\[|\W*$)")


def test_pip_is_told_to_take_the_tested_versions() -> None:
    """Covers commands that users copy; the Dockerfile has its own tests, and messages name one package each."""
    files = [ROOT / "README.md", ROOT / "Makefile", ROOT / ".ci" / "run", ROOT / "k8s" / "README.md"]
    files += [*(ROOT / "docs").glob("*.md"), *(path for path in (ROOT / "launch").iterdir() if path.suffix != ".json")]
    assert {file.name: commands for file in files if (commands := refused(file.read_text()))} == {}
    assert not [file for file in (ROOT / "dist_condense").rglob("*.py") if OURS.search(_installs(file.read_text()))]


def _installs(text: str) -> str:
    return "\n".join(re.findall(r"pip install [^`\n]*", text))


@pytest.mark.parametrize(
    "line", ["pip install boto3", "pip install -c constraints.txt 'dist-condense[s3]'", "  - pip wheel -q ffcv"]
)
def test_a_version_that_nobody_tested_is_noticed(line: str) -> None:
    assert refused(f"# a\n{line}\n") == [line]
    assert refused("pip install -q -c /home/ray/dist_condense/constraints.txt /home/ray/dist_condense") == []
