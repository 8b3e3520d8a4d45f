"""Plug-ins: a package outside the repository registers parts, which are used, shown, recorded or refused."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import dist_condense
from dist_condense.commands import cli
from dist_condense.core.augmentation import OPERATIONS
from dist_condense.core.distance import DISTANCES
from dist_condense.core.statistic import STATISTICS
from dist_condense.data.catalogue import KNOWN
from dist_condense.evaluation.protocols import PROTOCOLS
from dist_condense.evaluation.rows import read_csv
from dist_condense.networks.catalogue import NETWORKS
from dist_condense.selection.table import SELECTIONS
from dist_condense.settings.config import ConfigError
from dist_condense.system import plugins
from tests import plugged
from tests.engine import cases

ROOT = Path(__file__).parents[1]
TABLES = {
    "augmentation": OPERATIONS,
    "data set": KNOWN,
    "distance": DISTANCES,
    "network": NETWORKS,
    "protocol": PROTOCOLS,
    "selection": SELECTIONS,
    "statistic": STATISTICS,
}
DIGITS = "configs/digits.yaml"


@pytest.fixture(autouse=True)
def nothing_is_registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start without plug-ins, and forget those of the test."""
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.setattr(plugins, "_registered", [])
    monkeypatch.setenv(plugins.VARIABLE, "")
    before, modules = [dict(table) for table in TABLES.values()], set(sys.modules)
    yield
    for table, entries in zip(TABLES.values(), before, strict=True):
        table.clear()
        table.update(entries)
    for name in sys.modules.keys() - modules:
        if name.startswith(("mypkg", "another")):
            del sys.modules[name]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that writes a module to a folder on the import path."""
    folder = tmp_path / "elsewhere"
    monkeypatch.syspath_prepend(str(folder))

    def written(text: str | None = None, module: str = "mypkg") -> Path:
        plugged.write(folder, text, module)
        importlib.invalidate_caches()
        return folder

    return written


def refused(capsys: pytest.CaptureFixture[str], *given: str) -> list[str]:
    """Return the lines with which a command is refused."""
    assert cli.main(given) == cli.REFUSED
    return [line.removeprefix("refused: ") for line in capsys.readouterr().err.splitlines()]


def commanded(*given: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a new process without the working directory on its import path."""
    command = [sys.executable, "-P", "-m", "dist_condense", *given]
    path = os.pathsep.join(filter(None, [str(ROOT), environment.pop("path", "")]))
    env = os.environ | environment | {"PYTHONPATH": path}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


# --- each part is used --------------------------------------------------------------------------------------------


def test_a_run_uses_a_part_of_every_kind(
    write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write()
    output = tmp_path / "runs" / "all"
    given = (*plugged.ALL_PARTS, *plugged.EVALUATION, "cluster.workers=0", f"output={output}")
    assert cli.main(["run", "--plugin", "mypkg", DIGITS, *given]) == 0, capsys.readouterr().err
    assert all(plugged.NAMES[kind] in table for kind, table in TABLES.items())
    data = dist_condense.load_set(output)
    assert data.card.dataset == "noisy stripes" and len(data) == 4
    rows = read_csv(output / "evaluation.csv")
    assert {(row.set, row.architecture, row.protocol) for row in rows} == {
        (name, network, "short") for name in ("condensed", "central") for network in ("tanh:width=8", "tanh:width=4")
    }
    assert json.loads((output / "environment.json").read_text())["plugins"] == {"mypkg": None}
    assert os.environ[plugins.VARIABLE] == "mypkg"


def test_the_parts_of_a_run_are_those_of_the_plugin(write: Callable[..., Path], tmp_path: Path) -> None:
    """Another distance in place of the registered one gives another set."""
    write()
    plugins.load(["mypkg"])
    sets = []
    for name in ("huber", "sum_squared"):
        given = (*plugged.ALL_PARTS, "evaluation.epochs=0", "cluster.workers=0", f"method.distance={name}")
        overrides = {x.split("=", 1)[0]: x for x in given}
        assert cli.main(["run", DIGITS, *overrides.values(), f"output={tmp_path / name}"]) == 0
        sets.append(cases.result(tmp_path / name))
    assert not torch.equal(*sets)


def test_a_registered_selection_is_a_method(write: Callable[..., Path], tmp_path: Path) -> None:
    write()
    given = ["dataset.name=stripes", "method=herding", "method.selection.name=central", "evaluation.epochs=0", "ipc=3"]
    more = [
        "method.selection.epochs=1",
        "cluster.workers=0",
        "tracking.uri=http://127.0.0.1:9",
        f"output={tmp_path / 'r'}",
    ]
    assert cli.main(["run", "--plugin", "mypkg", DIGITS, *given, *more]) == 0
    assert len(dist_condense.load_set(tmp_path / "r")) == 6


def test_the_python_api_loads_the_plugins_of_the_variable(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write()
    generator = np.random.default_rng(0)
    train = (generator.integers(0, 256, (20, 8, 8, 1), dtype=np.uint8), np.arange(20) % 2)
    keys = {
        "method.distance": "huber",
        "method.real_batch": 4,
        "network": {"name": "tanh", "width": 4},
        "trajectory": {"networks": 1, "matching_steps": 1},
        "tracking.uri": "http://127.0.0.1:9",
    }

    def condensed() -> dist_condense.Result:
        return dist_condense.condense(train, method="dc", ipc=1, output=tmp_path / "r", **keys)

    with pytest.raises(ConfigError, match="'huber' is not one of"):
        condensed()
    monkeypatch.setenv(plugins.VARIABLE, "mypkg")
    assert len(condensed().dataset) == 2
    monkeypatch.setenv(plugins.VARIABLE, "mypkg,absent")
    with pytest.raises(ConfigError, match="plug-in absent"):
        condensed()


def test_a_plan_as_json_has_the_plugins(write: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    write()
    given = (*plugged.ALL_PARTS, "evaluation.epochs=0", "cluster.workers=0", "--rate", "100", "--json")
    assert cli.main(["plan", "--plugin", "mypkg", DIGITS, *given]) == 0
    found = json.loads(capsys.readouterr().out)["plugins"]
    assert found == [{"module": "mypkg", "named_by": "--plugin", "version": None}]


# --- named by an entry point, in new processes --------------------------------------------------------------------


def test_an_installed_package_is_found_by_its_entry_point(tmp_path: Path) -> None:
    folder = plugged.write(tmp_path / "site")
    plugged.install(folder)
    own = "\n".join(commanded("list", path=str(folder)).stdout.splitlines())
    last = own.partition("of these, registered by plug-ins\n")[2]
    words = " ".join(last.split())
    assert all(f"{kind} {name} of mypkg" in words for kind, name in plugged.NAMES.items())
    given = (*plugged.ALL_PARTS, "evaluation.epochs=0", "cluster.workers=0", "--rate", "100")
    done = commanded("plan", DIGITS, *given, path=str(folder))
    assert "plug-in: mypkg 1.0 (entry point mine of mypkg-dist)\n" in done.stdout, done.stderr
    assert "on stripes: 2 classes" in done.stdout


def test_the_variable_names_modules_and_without_it_nothing_is_loaded(tmp_path: Path) -> None:
    folder = plugged.write(tmp_path / "site")
    done = commanded("list", path=str(folder), **{plugins.VARIABLE: " mypkg, "})
    assert "registered by plug-ins" in done.stdout and "huber" in done.stdout
    done = commanded("list", path=str(folder))
    assert done.returncode == 0 and "plug-in" not in done.stdout and "huber" not in done.stdout


def test_the_working_directory_is_not_searched(tmp_path: Path) -> None:
    """Neither for a module that the option names, nor for an entry point that lies there."""
    folder = plugged.write(tmp_path / "here", "open('mark', 'w')\n")
    plugged.install(folder)
    done = commanded("list", cwd=folder)
    assert done.returncode == 0 and "plug-in" not in done.stdout
    done = commanded("list", "--plugin", "mypkg", cwd=folder)
    assert done.returncode == cli.REFUSED
    assert done.stderr.startswith("refused: plug-in mypkg (--plugin): No module named 'mypkg'; install it here")
    assert not (folder / "mark").exists()


def test_no_file_of_a_run_names_a_plugin(
    write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A config has no such key, and a record of another's run only makes a note."""
    write("open('mark', 'w')\n")
    own = tmp_path / "own.yaml"
    for key in ("plugins", "plugin", "DIST_CONDENSE_PLUGINS"):
        own.write_text(f"defaults: [recipe: dc, _self_]\n{key}: [mypkg]\noutput: {tmp_path / 'r'}\n")
        assert any(line.startswith(f"{key}: unknown key") for line in refused(capsys, "run", str(own)))
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "environment.json").write_text(json.dumps({"plugins": {"mypkg\x1b[2J": None}}))
    lines = refused(capsys, "run", DIGITS, "method.distance=huber", f"output={tmp_path / 'r'}")
    assert lines[0].startswith("method.distance: 'huber' is not one of")
    assert "was started with plug-ins that are not loaded now: 'mypkg\\x1b[2J'; if you trust" in lines[-1]
    assert "mypkg" not in sys.modules


def test_a_run_continued_without_its_plugin_is_refused_with_a_hint(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write()
    given = ("evaluation.epochs=0", "cluster.workers=0", f"output={tmp_path / 'run'}")
    assert cli.main(["run", "--plugin", "mypkg", DIGITS, *plugged.ALL_PARTS, *given]) == 0
    monkeypatch.setenv(plugins.VARIABLE, "")
    done = commanded("run", DIGITS, *plugged.ALL_PARTS, *given)
    assert done.returncode == cli.REFUSED
    assert "refused: method.distance: 'huber' is not one of" in done.stderr
    assert "refused: dataset.name is 'stripes', which is not known" in done.stderr
    hint = "was started with plug-ins that are not loaded now: 'mypkg'"
    assert "note: the run in" in done.stderr and hint in done.stderr
    done = commanded("evaluate", str(tmp_path / "run"), "evaluation.epochs=1")
    assert done.returncode == cli.REFUSED and hint in done.stderr


# --- refusals -----------------------------------------------------------------------------------------------------


def test_every_plugin_that_cannot_be_imported_has_a_line(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write("raise RuntimeError('two\\nlines')", "another_broken")
    write("import sys\nsys.exit(3)", "another_exit")
    write("import absent_library", "another_lacking")
    write("class E(Exception):\n    def __str__(self): raise SystemExit(7)\nraise E", "another_silent")
    monkeypatch.setenv(plugins.VARIABLE, "absent,another_broken")
    named = ("another_exit", "another_lacking", "another_silent", "../mypkg", ".mypkg", "", "a.b.c")
    given = [f"--plugin={x}" for x in named]
    assert refused(capsys, "plan", "nothing.yaml", *given) == [
        "plug-in absent (DIST_CONDENSE_PLUGINS): No module named 'absent'; install it here, or add the folder that "
        "contains it to PYTHONPATH",
        "plug-in another_broken (DIST_CONDENSE_PLUGINS): its import fails (RuntimeError: two lines); repair it, or "
        "leave it out",
        "plug-in another_exit (--plugin): its import fails (SystemExit: 3); repair it, or leave it out",
        "plug-in another_lacking (--plugin): No module named 'absent_library'; install it here, or add the folder that "
        "contains it to PYTHONPATH",
        "plug-in another_silent (--plugin): its import fails (E: without a message); repair it, or leave it out",
        *(
            f"plug-in {name} (--plugin): this is not the name of a module, such as mypkg or mypkg.parts"
            for name in ("../mypkg", ".mypkg", "")
        ),
        "plug-in a.b.c (--plugin): No module named 'a'; install it here, or add the folder that contains it to "
        "PYTHONPATH",
    ]


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("distance('sum_squared', Distance(huber))", "distance 'sum_squared': dist_condense has one of this name"),
        ("distance('huber', Distance(huber))", "distance 'huber': mypkg has one of this name; choose another name"),
        ("distance('a-b', Distance(huber))", "distance 'a-b': a name has small letters, digits and underscores"),
        ("distance('mine', huber)", "distance 'mine': give a core.distance.Distance"),
        ("distance('mine', Distance(lambda a, b: a[0]))", "distance 'mine': return a scalar"),
        ("distance('mine', Distance(lambda a: a))", "distance 'mine': it fails on a small example (TypeError: "),
        ("statistic('mine', Moments())", "statistic 'mine': it fails on a small example (TypeError: "),
        ("statistic('mine', lambda _: huber)", "statistic 'mine': the made statistic lacks batch_statistics, reads_"),
        ("network('network', Tanh)", "network 'network': the word has another meaning in configs"),
        ("network('mine', lambda classes: 0)", "network 'mine': its builder lacks the parameter channels, size"),
        ("network('mine', plain)", "network 'mine': give the option width a default and a type such as Annotated"),
        ("data_set('measured', None)", "data set 'measured': the word has another meaning in configs"),
        ("data_set('mine', open_stripes)", "data set 'mine': give a data.catalogue.Known, its facts and a function"),
        ("data_set('mine', Known(replace(STRIPES, channels=3), open_stripes))", "data set 'mine': its facts need a me"),
        ("augmentation('mine', lambda draw, sampler: None)", "augmentation 'mine': return the Draw with other"),
        ("augmentation('mine', single)", "augmentation 'mine': its brightness must be torch.float64 of shape [3]"),
        ("protocol('dsa_noflip', PROTOCOLS['dc'])", "protocol 'dsa_noflip': the word has another meaning in configs"),
        ("protocol('mine', replace(PROTOCOLS['dc'], augmentation=1))", "protocol 'mine': its augmentation lacks chan"),
        ("selection('full', Selection(central))", "selection 'full': the word has another meaning in configs"),
        ("selection('mine', Selection(lambda c: torch.zeros(c.ipc).long()))", "selection 'mine': for ipc=3 of 8 imag"),
    ],
)
def test_a_part_that_does_not_keep_its_contract_is_refused(
    call: str, reason: str, write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write()
    lines = (
        "from mypkg import *",
        "from mypkg import PROTOCOLS",
        "def plain(channels, size, classes, width: int = 3): pass",
        "def single(draw, sampler): return replace(draw, brightness=draw.brightness[:1])",
        f"register.{call}",
    )
    write("\n".join(lines), "another")
    (line,) = refused(capsys, "list", "--plugin", "mypkg", "--plugin", "another")
    assert line.startswith(f"plug-in another (--plugin): {reason}"), line


def test_a_plugin_whose_import_fails_can_be_loaded_once_it_is_repaired(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """What it had registered is withdrawn."""
    made = "from dist_condense import register\nfrom dist_condense.core.distance import DISTANCES\n"
    made += "register.distance('mine', DISTANCES['sum_squared'])\n"
    write(made + "raise BaseException('not yet')\n")
    [line] = refused(capsys, "list", "--plugin", "mypkg")
    assert "its import fails (BaseException: not yet)" in line and "mine" not in DISTANCES
    write(made)
    assert cli.main(["list", "distances", "--plugin", "mypkg"]) == 0
    assert "mine" in DISTANCES


def test_options_of_a_network_may_have_postponed_annotations(write: Callable[..., Path]) -> None:
    write(f"from __future__ import annotations\n{plugged.source()}")
    plugins.load(["mypkg"])
    made = dist_condense.networks.build("tanh:width=3", channels=1, size=8, classes=2, seed=0)
    assert made.embed(torch.zeros(1, 1, 8, 8)).shape == (1, 3)
    with pytest.raises(ValueError, match="width is '0'; give a whole number in the range 1 to 8192"):
        dist_condense.networks.check("tanh:width=0")


def test_the_order_of_augmentations_does_not_depend_on_the_order_of_plugins(write: Callable[..., Path]) -> None:
    for module, name in {"another_1": "zoom", "another_2": "blink"}.items():
        write(f"from dist_condense import register\nregister.augmentation('{name}', lambda draw, _: draw)", module)
    before = list(OPERATIONS)
    plugins.load(["another_1", "another_2", "another_1"])
    assert list(OPERATIONS) == [*before, "blink", "zoom"]
    assert [plugin.module for plugin in plugins.loaded()] == ["another_1", "another_2"]
    assert [str(part) for part in plugins.registered()] == [
        "augmentation blink of another_2",
        "augmentation zoom of another_1",
    ]


def test_a_worker_loads_the_plugins_of_its_driver_only(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write()
    monkeypatch.setenv(plugins.VARIABLE, "absent")
    plugins.load_only(["mypkg"])
    assert [plugin.module for plugin in plugins.loaded()] == ["mypkg"]
    with pytest.raises(plugins.PluginError, match=r"plug-in other \(the driver of this run\): No module named 'other'"):
        plugins.load_only(["mypkg", "other"])
