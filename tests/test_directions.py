"""Permitted imports between rooms: the table below is that of the design, and only this test enforces it.

A room is the first name below dist_condense: a folder (`core`) or a file (`match`).
"""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dist_condense"
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

# room: the rooms that it may import besides itself; a room that is not here may import all but `run`
MAY_IMPORT = {
    "system": set(),
    "core": set(),
    "networks": set(),
    "data": {"system", "__version__"},
    "engine": {"core", "networks", "data", "system"},
    "match": {"core", "engine"},
    "select": {"core", "engine"},
    "selection": {"core", "networks", "data", "engine", "system"},
    "procedures": {"core", "data", "engine", "match", "networks", "select", "selection", "system"},
    "evaluation": {"core", "networks", "data", "engine", "system"},
    "settings": {"core", "networks", "data", "engine", "evaluation", "procedures", "selection", "system"},
    "result": {"__version__", "core", "data", "engine", "evaluation", "settings", "system"},
    "planning": {"core", "networks", "data", "engine", "evaluation", "selection", "settings", "result", "system"},
}
MUST_NOT_IMPORT = {"job": {"commands", "planning"}}
SILENT, PRINTING = ("core/", "engine/"), "engine/ray/"
"""Rooms that print nothing, because they may run without a terminal; and the exception, which starts Ray."""
AT_THE_TOP = 6
"""Modules permitted at the top of the package, besides `__init__` and `__main__`."""
# room: the packages besides the standard library
TENSORS = {"torch", "torchvision", "numpy"}
PACKAGES = {"core": TENSORS, "networks": TENSORS | {"timm"}}
# package: the only files that may import it
ONLY_IN = {
    "ray": ["engine/ray/*.py", "evaluation/sweep.py", "commands/ray_errors.py"],
    "mlflow": ["result/tracking/*.py"],
    "hydra": ["settings/composing.py"],
    "omegaconf": ["settings/composing.py", "settings/yaml_files.py"],
    "jinja2": ["result/report.py"],
    "matplotlib": ["result/curve.py"],
}
LAZY = {"timm", "ffcv", "jinja2", "matplotlib", "torchvision", "sklearn", "simplejpeg", "webdataset", "braceexpand"}
"""Packages that may be missing, or that take a second to import: they are imported in the functions that use them."""
ABSENT = ("ray", "mlflow", "hydra", "omegaconf", "simplejpeg", "webdataset", "braceexpand")
"""Packages without which a run in one process works, from a resolved config."""


def imports(file: str, source: str) -> Iterator[tuple[str, bool]]:
    """Yield each imported dotted name, and whether it is imported when the file is, not in a function or for types."""
    here = ("dist_condense", *Path(file).parts[:-1])
    tree = ast.parse(source)
    later = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    later += [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    inside = {id(child) for node in later for child in ast.walk(node)}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) + 1 - node.level] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names = [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)]
        yield from ((name, id(node) not in inside) for name in names)


def violations(file: str, source: str) -> list[str]:
    room = Path(file).parts[0].removesuffix(".py")
    problems = []
    for name, eager in imports(file, source):
        top, *rest = name.split(".")
        if top == "dist_condense":
            other = rest[0] if rest else "__init__"
            allowed = MAY_IMPORT.get(room)
            if other == "run":
                problems.append(f"{name}: run is the command, nothing imports it")
            elif other != room and allowed is not None and other not in allowed:
                problems.append(f"{name}: {room} may import only {sorted(allowed | {room})}")
            elif other in MUST_NOT_IMPORT.get(room, ()):
                problems.append(f"{name}: {room} must not import {other}")
            elif file.startswith(SILENT) and not file.startswith(PRINTING) and rest[:2] == ["system", "terminal"]:
                problems.append(f"{name}: {room} only logs, and job/logs.py prints what it logs")
            elif room == "match" and rest[:2] == ["engine", "ray"]:
                problems.append(f"{name}: match knows the protocols of engine, not Ray")
        elif top not in sys.stdlib_module_names:
            if top not in PACKAGES.get(room, {top}):
                problems.append(f"{name}: {room} may import only {sorted(PACKAGES[room])}")
            if not any(fnmatch(file, pattern) for pattern in ONLY_IN.get(top, ["*"])):
                problems.append(f"{name}: only in {ONLY_IN[top]}")
            if top in LAZY and eager:
                problems.append(f"{name}: import it inside the function that needs it")
    return problems


@pytest.mark.parametrize("file", FILES)
def test_imports_follow_the_directions(file):
    assert violations(file, (PACKAGE / file).read_text()) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("core/objective.py", "from dist_condense.networks import ConvNet"),
        ("core/objective.py", "from ..networks import ConvNet"),
        ("core/objective.py", "from .. import engine"),
        ("core/objective.py", "def f():\n    import sklearn.cluster"),
        ("networks/convnet.py", "import dist_condense.core.objective"),
        ("networks/catalogue.py", "import timm"),
        ("data/catalogue.py", "from dist_condense.settings import config"),
        ("data/catalogue.py", "from dist_condense.engine import coordinator"),
        ("system/files.py", "from dist_condense.data import DataError"),
        ("settings/config.py", "from dist_condense.result import report"),
        ("result/report.py", "from dist_condense.job import journal"),
        ("job/job.py", "from dist_condense.commands import cli"),
        ("engine/coordinator.py", "import ray.train"),
        ("engine/ray/group.py", "from dist_condense.match import match"),
        ("engine/shard.py", "def f():\n    from dist_condense.settings import config"),
        ("engine/shard.py", "if TYPE_CHECKING:\n    from dist_condense.job import logs"),
        ("engine/shard.py", "from dist_condense import __version__"),
        ("engine/matching/halving.py", "def f():\n    from dist_condense.system import terminal"),
        ("core/program.py", "def f():\n    from dist_condense.system.terminal import say"),
        ("match.py", "from dist_condense.engine.ray.group import start"),
        ("match.py", "from importlib import import_module\nimport_module('ray')"),
        ("commands/cli.py", "from dist_condense.run import main"),
        ("commands/cli.py", "from .. import run"),
        ("result/report.py", "import mlflow"),
        ("run.py", "from omegaconf import OmegaConf"),
    ],
)
def test_a_planted_violation_is_reported(tmp_path, file, source):
    planted = tmp_path / file
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.write_text(source)
    assert len(violations(planted.relative_to(tmp_path).as_posix(), planted.read_text())) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (
            "core/objective.py",
            "import math\nimport torch\nfrom .distance import Distance\nfrom . import statistic",
        ),
        ("networks/catalogue.py", "def f():\n    import timm"),
        (
            "engine/ray/group.py",
            "import ray.train\nfrom ...core import objective\nfrom ..shard import ClassShard",
        ),
        ("engine/ray/tasks.py", "import ray"),
        (
            "match.py",
            "from dist_condense.core import objective\nfrom dist_condense.engine import Coordinator",
        ),
        ("result/tracking/server.py", "from mlflow import MlflowClient"),
    ],
)
def test_what_the_design_allows_is_not_reported(file, source):
    assert violations(file, source) == []


def arrows(files: Iterable[str]) -> dict[str, set[str]]:
    """Return the rooms that each room imports; `__init__`, `__main__` and `__version__` are no rooms."""
    imported: dict[str, set[str]] = {}
    rooms = {Path(file).parts[0].removesuffix(".py") for file in files}
    for file in files:
        room = Path(file).parts[0].removesuffix(".py")
        names = {
            name.split(".")[1]
            for name, _ in imports(file, (PACKAGE / file).read_text())
            if name.startswith("dist_condense.")
        }
        imported.setdefault(room, set()).update((names & rooms) - {room, "__init__", "__main__"})
    return imported


def circles(rooms: dict[str, set[str]]) -> set[str]:
    """Return the rooms that remain after repeatedly removing those that import no other."""
    left = dict(rooms)
    while ends := {room for room, others in left.items() if not others & left.keys()}:
        left = {room: others for room, others in left.items() if room not in ends}
    return set(left)


def test_no_circle_between_rooms():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == {"a", "b", "c"}
    assert circles(arrows(FILES)) == set()


def test_few_modules_lie_loose():
    loose = [file for file in FILES if "/" not in file and not file.startswith("__")]
    assert len(loose) <= AT_THE_TOP, loose


def test_the_rooms_work_without_ray_mlflow_and_hydra():
    rooms = ["", ".match", ".core", ".networks", ".data", ".evaluation", ".system", ".job.job", ".commands.cli"]
    code = f"import sys\nfor name in {ABSENT}:\n    sys.modules[name] = None\n"
    code += "import " + ", ".join(f"dist_condense{room}" for room in rooms)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_package_is_a_plain_folder_so_that_an_editable_install_is_a_path():
    """With a mapping of folders setuptools installs an import hook, which a clone named dist_condense in the working
    directory hides as a namespace package.
    """
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert setuptools["package-dir"] == {"": "."}
    assert (PACKAGE / "configs").resolve() == ROOT / "configs"
    assert [folder for folder in PACKAGE.rglob("*/*.py") if not (folder.parent / "__init__.py").exists()] == []
