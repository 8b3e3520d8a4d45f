"""Untrusted files are data: attacks of each kind, of which nothing is executed, opened, fetched or sent on.

Tars are in data/shards/test_tars.py, addresses in system/test_remote.py and data/shards/test_manifest.py.
"""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import socket
import struct
import subprocess
import tracemalloc
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

import dist_condense
from dist_condense import networks, run
from dist_condense.commands import cli
from dist_condense.data import DataError, open_dataset
from dist_condense.data.reading.decode import SUFFIX_OF, UNREADABLE, decode_bytes, opened
from dist_condense.evaluation.rows import RowsError, read_csv
from dist_condense.job import checkpoint
from dist_condense.job.checkpoint import SHARED, Damaged, State, entry_of
from dist_condense.result import metrics_file
from dist_condense.result.card import Card, CardClass, SyntheticSetError, read_card
from dist_condense.result.synthetic_set import (
    load_set,
    sha256_of,
    write_set,
)
from dist_condense.settings import yaml_files
from dist_condense.system.storage import Folder
from tests.data.preparing.test_prepare import Command
from tests.engine import cases

PACKAGE = Path(dist_condense.__file__).parent

# --- the package names nothing that executes data ------------------------------------------------------------------

BUILTINS = ("eval", "exec", "compile", "__import__")
EXECUTING = {
    *BUILTINS,
    *(
        "pickle",
        "_pickle",
        "cloudpickle",
        "dill",
        "joblib",
        "shelve",
        "marshal",
        "runpy",
        "imp",
        "pty",
        "code",
        "ctypes",
    ),
    *("os.system", "os.popen", "os.posix_spawn", "os.posix_spawnp", "os.startfile", "builtins"),
    *(f"os.{way}{how}" for way in ("exec", "spawn") for how in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")),
    *("subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell"),
    *("importlib.import_module", "importlib.util.spec_from_file_location", "importlib.reload", "pkgutil.resolve_name"),
    *("torch.load", "torch.hub", "torch.jit", "torch.package", "torch.serialization", "torch.ops.load_library"),
    *("numpy.load", "numpy.loads", "pandas.read_pickle", "ray.cloudpickle", "ray.pickle", "ray.data"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.Loader", "yaml.CLoader"),
    *("yaml.FullLoader", "yaml.UnsafeLoader", "yaml.add_constructor", "yaml.add_multi_constructor", "yaml.YAMLObject"),
    *("hydra.utils", "hydra.main", "hydra.initialize_config_module"),
    *("omegaconf.OmegaConf.register_new_resolver", "omegaconf.OmegaConf.register_resolver"),
    *("shutil.unpack_archive", "tarfile.TarFile.extractall"),
    *("mlflow.pyfunc", "mlflow.pytorch", "mlflow.artifacts", "mlflow.projects"),
}
KEYWORDS = {"shell", "allow_pickle", "trust_remote_code", "weights_only"}
"""Arguments that are never passed, with any value."""
METHODS = {"extractall", "extract", "load_pickle", "download_artifacts"}
EXCEPTIONS = {
    "memory.py ctypes": "calls the C library's malloc settings by name",
    "npz.py allow_pickle": "is False",
    "__init__.py importlib.import_module": "imports the modules of a fixed table of this package",
    "any_set.py torch.load": "reads tensors, lists, dicts and numbers only",
    "any_set.py weights_only": "is True",
    "any_set.py torch.serialization": "adds constructors of numpy's numbers to what it reads",
    "group.py ray.data": "starts an actor of Ray's own, which Ray Train would start later, and reads no data",
    "plugins.py importlib.import_module": "imports plug-ins, which only the user and installed packages can name",
}


def executing(source: str) -> Iterator[str]:
    """Return the names from EXECUTING, KEYWORDS and METHODS that a module uses, also under other names."""
    tree = ast.parse(source)
    known = dict(zip(BUILTINS, BUILTINS, strict=True))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {
                x.asname or x.name.split(".")[0]: x.name if x.asname else x.name.split(".")[0] for x in node.names
            }
            yield from (found for x in node.names if (found := _below(x.name)))
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            known |= {x.asname or x.name: f"{node.module}.{x.name}" for x in node.names}
            yield from (found for x in node.names if (found := _below(f"{node.module}.{x.name}")))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name) and (found := _below(_dotted(node, known))):
            yield found
        if isinstance(node, ast.Attribute) and node.attr in METHODS:
            yield node.attr
        if isinstance(node, ast.keyword) and node.arg in KEYWORDS:
            yield node.arg


def _below(name: str) -> str | None:
    parts = name.split(".")
    starts = (".".join(parts[:n]) for n in range(1, len(parts) + 1))
    return next((start for start in starts if start in EXECUTING), None)


def _dotted(node: ast.expr, known: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value, known)
        return before and f"{before}.{node.attr}"
    return known.get(node.id, "") if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) else ""


def test_the_package_names_nothing_that_executes_data() -> None:
    files = list(PACKAGE.rglob("*.py"))
    found = {f"{file.name} {name}" for file in files for name in executing(file.read_text())}
    assert len(files) > 100 and found == set(EXCEPTIONS)


@pytest.mark.parametrize(
    "source",
    [
        *("import pickle", "from pickle import loads as read", "import torch\ntorch.load('x')", "eval('1')"),
        *("from torch import load", "import torch as t\nt.hub.load('a', 'b')", "import numpy as np\nnp.load('x')"),
        *("def f():\n    import cloudpickle", "import os\nos.system('x')", "run = exec", "from os import popen"),
        *("import subprocess as s\ns.run('x', shell=True)", "read(file, allow_pickle=True)", "tar.extractall()"),
        *(
            "import yaml\nyaml.load(x, yaml.Loader)",
            "from hydra.utils import instantiate",
            "import hydra\nhydra.utils.call(c)",
        ),
        *(
            "import importlib\nimportlib.import_module(name)",
            "from ray import cloudpickle",
            "import ray.cloudpickle as p",
        ),
        *("from omegaconf import OmegaConf\nOmegaConf.register_new_resolver('e', f)", "f(weights_only=False)"),
    ],
)
def test_whatever_would_is_found(source: str) -> None:
    assert list(executing(source))


def test_the_loader_of_configs_makes_no_objects() -> None:
    made = {tag for tag in yaml_files._Texts.yaml_constructors if tag}
    assert issubclass(yaml_files._Texts, yaml.SafeLoader) and not yaml_files._Texts.yaml_multi_constructors
    assert made == {tag for tag in yaml.SafeLoader.yaml_constructors if tag}


# --- configs -------------------------------------------------------------------------------------------------------

CONFIGS = [
    "_target_: os.mkdir\n_args_: [MARK]",
    "method: {_target_: os.mkdir, path: MARK}",
    "method: {statistic: {_target_: os.mkdir, _partial_: true, _args_: [MARK]}}",
    "network: {name: {_target_: os.mkdir, path: MARK}}",
    "output: !!python/object/apply:os.mkdir [MARK]",
    "output: !!python/object/new:os.mkdir [MARK]",
    "? !!python/object/apply:os.mkdir [MARK]\n: 1",
    "output: !!python/name:os.mkdir",
    "output: !!python/module:antigravity",
    "output: !!python/object:subprocess.Popen {args: [mkdir, MARK]}",
    "defaults: [!!python/object/apply:os.mkdir [MARK]]",
    "output: ${eval:os.mkdir('MARK')}",
    "output: ${python:os.mkdir('MARK')}",
    "output: ${oc.call:os.mkdir,MARK}",
    "output: ${oc.env:NOT_SET,${eval:MARK}}",
    "hydra: {callbacks: {mine: {_target_: os.mkdir, path: MARK}}}",
    "hydra: {launcher: {_target_: os.mkdir, path: MARK}}",
    "defaults: [{override hydra/launcher: os.mkdir}]",
    "network: {name: os.mkdir}",
    "method: {distance: os.mkdir}",
]


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """Return a folder that an attack would create."""
    yield tmp_path / "mark"
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("text", CONFIGS)
def test_a_config_names_no_code(text: str, mark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text.replace("MARK", str(mark)) + "\n")
    assert cli.main(["run", str(file), "cluster.workers=0"]) == cli.REFUSED
    assert cli.main(["plan", str(file), "cluster.workers=0"]) == cli.REFUSED
    assert cli.main(["evaluate", str(tmp_path)]) == cli.REFUSED
    assert "Traceback" not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("text", [text for text in CONFIGS if "!!python" in text])
def test_a_config_that_is_replayed_names_no_code(text: str, mark: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text.replace("MARK", str(mark)) + "\n")
    assert cli.main(["replay", str(tmp_path), "--uri", "http://127.0.0.1:9"]) == cli.REFUSED
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    "text",
    [
        *("_target_=os.mkdir", "+_target_=os.mkdir", "method._target_=os.mkdir", "+hydra.launcher._target_=os.mkdir"),
        *("method={_target_: os.mkdir, path: MARK}", "output=!!python/object/apply:os.mkdir [MARK]"),
        *("output=${eval:MARK}", "hydra/launcher=os.mkdir", "ipc=!!python/object/apply:os.mkdir [MARK]"),
    ],
)
def test_an_override_names_no_code(text: str, mark: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["configs/digits.yaml", "cluster.workers=0", text.replace("MARK", str(mark)), "--cfg"]
    assert cli.main(["run", *given]) == (0 if text.startswith("output=!!") else cli.REFUSED)  # a path is its letters
    assert "Traceback" not in capsys.readouterr().err


# --- networks ------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> None:
        raise AssertionError(f"connects to {given[-1]}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)


@pytest.mark.parametrize("name", ["hf_hub:a/b", "hf-hub:timm/resnet18", "local-dir:/x", "hf_hub/a", "https://h/a", "x"])
@pytest.mark.parametrize("before", ["", "timm:", "torchvision:", "torchvision_", "torch.hub:", "github:"])
def test_a_network_is_one_of_the_known_ones(before: str, name: str, no_network: None) -> None:
    if before == "timm:":
        pytest.importorskip("timm")
    with pytest.raises(ValueError, match=r"no network|is not an option"):
        networks.check(f"{before}{name}")


OPTIONS = (
    "pretrained=true",
    "checkpoint_path=/x",
    "pretrained_cfg=x",
    "weights=DEFAULT",
    "cache_dir=/x",
    "scriptable=1",
)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", ["timm:test_resnet", "resnet18", "torchvision_resnet18", "efficientnet_b0"])
def test_no_option_of_a_network_loads_weights(name: str, option: str, no_network: None) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    with pytest.raises(ValueError, match="it has no option"):
        networks.check(f"{name}:{option}")


def test_weights_are_never_fetched(no_network: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")
    import timm

    asked: list[dict[str, Any]] = []
    whole = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **given: asked.append(given) or whole(name, **given))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", None)
    for name in ("timm:test_resnet.r160_in1k", "torchvision_resnet18", "torchvision_densenet121", "efficientnet_b0"):
        networks.sketch(name, channels=3, size=32, classes=2)
    assert [given["pretrained"] for given in asked] == [False]
    assert not {"checkpoint_path", "pretrained_cfg"} & set(asked[0])


# --- images --------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes, width: int = 8, height: int = 8) -> bytes:
    """Return a PNG of grey zeros with additional chunks before its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(9 * 8)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def of_pillow() -> dict[str, bytes]:
    """Return a picture in each format that Pillow can both write and read."""
    Image.init()
    made = {}
    for form in sorted(set(Image.SAVE) & set(Image.OPEN)):
        for mode in ("RGB", "L", "1"):
            file = io.BytesIO()
            try:
                Image.new(mode, (32, 32)).save(file, form)
            except (OSError, ValueError, KeyError):
                continue
            made[form] = file.getvalue()
            break
    return made


OTHER_FORMATS = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%touch x) (w) file\n%%EOF\n",
    "PDF": b"%PDF-1.4\n1 0 obj<</Type/Catalog/OpenAction<</S/Launch/F(x)>>>>endobj\n%%EOF\n",
    "WMF": b"\xd7\xcd\xc6\x9a\0\0\0\0\0\0\x09\0\x09\0\x60\0" + bytes(6) + b"\x01\0\x09\0" + bytes(40),
    "EMF": b"\x01\0\0\0" + struct.pack("<I", 88) + bytes(32) + b" EMF" + bytes(60),
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/><script>1</script></svg>',
    "MVG": b"push graphic-context\nimage over 0,0 0,0 'https://x\"|touch x\"'\npop graphic-context\n",
}


@pytest.mark.filterwarnings("ignore:.*image format is deprecated:DeprecationWarning")
def test_only_the_formats_of_the_table_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)  # Ghostscript
    files = {**of_pillow(), **OTHER_FORMATS}
    assert len(files) > 15 and "EPS" in files
    for form, data in files.items():
        read = []
        for reading in (
            lambda data=data: decode_bytes(data, 3, 8),
            lambda data=data: opened(io.BytesIO(data)).__enter__(),
        ):
            try:
                reading()
                read.append(form)
            except UNREADABLE:
                pass
        known = {*SUFFIX_OF, "MPO", "JPEG2000" if "JPEG2000" in SUFFIX_OF else "JPEG"}
        assert not read or form in known, form


TEXT = zlib.compress(bytes(40 * 2**20), 9)
"""40 MiB of zeros, compressed to 40 kB."""
BOMBS = {
    "pixels of a PNG": png(width=60_000, height=60_000),
    "pixels of a PPM": b"P6 60000 60000 255\n\0\0\0",
    "pixels of a BMP": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0),
    "pixels of a GIF": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0\xff\xff\xff\xff\0\x02\0;",
    "compressed text": png(chunk(b"zTXt", b"k\0\0" + TEXT)),
    "compressed international text": png(chunk(b"iTXt", b"k\0\1\0\0\0" + TEXT)),
    "a colour profile": png(chunk(b"iCCP", b"k\0\0" + TEXT)),
    "many texts": png(*[chunk(b"zTXt", b"k%d\0\0" % n + zlib.compress(bytes(2**20))) for n in range(70)]),
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_a_small_file_takes_little_memory(data: bytes) -> None:
    assert len(data) < 2**18
    tracemalloc.start()
    try:
        decode_bytes(data, 3, 8)
    except UNREADABLE:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 80 * 2**20 if "k69" in str(data) else peak < 16 * 2**20


# --- pickles in place of what a run keeps ----------------------------------------------------------------------------


def pickles(mark: Path) -> list[bytes]:
    """Return pickles by pickle and by torch, each of which would create the mark."""
    file = io.BytesIO()
    torch.save(Command(mark), file)
    return [pickle.dumps(Command(mark)), file.getvalue()]


def test_a_pickle_in_a_checkpoint_is_not_loaded(mark: Path, tmp_path: Path) -> None:
    store, state = (
        Folder(tmp_path),
        State(steps=1, updates=0, identity={}, tracking_run=None, torch=torch.__version__, device="cpu"),
    )
    for data in pickles(mark):
        names = (SHARED, "class_0.safetensors")
        for name in names:
            store.write(f"{checkpoint.name_of(1, 0)}/{name}", data)
        checkpoint.commit(store, state, [entry_of(name, data, [0] * (name != SHARED)) for name in names])
        newest = checkpoint.newest(store)
        assert newest is not None
        for entry in newest.entries:
            with pytest.raises(Damaged):
                newest.read([entry])
    for data in pickles(mark):
        store.write(f"{checkpoint.name_of(1, 0)}/manifest.json", data)
        with pytest.raises(Damaged):
            checkpoint.newest(store)


def test_a_pickle_in_a_set_or_a_record_is_not_loaded(mark: Path, tmp_path: Path) -> None:
    card = Card(
        method="dc",
        dataset="digits",
        classes=(CardClass(0, "a"),),
        ipc=1,
        channels=1,
        size=8,
        value_space="unit",
        mean=(0.3,),
        std=(0.3,),
        factor=1,
        seed=0,
        steps=1,
        complete=True,
    )
    folder = tmp_path / "set"
    for data in pickles(mark):
        written = write_set(folder, torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64), card)
        (folder / "synthetic_set.safetensors").write_bytes(data)
        told = replace(written, sha256=sha256_of(folder / "synthetic_set.safetensors"))
        (folder / "card.json").write_text(json.dumps({**vars(told), "classes": [vars(x) for x in told.classes]}))
        with pytest.raises(SyntheticSetError):
            load_set(folder)
        (folder / "card.json").write_bytes(data)
        with pytest.raises(SyntheticSetError):
            read_card(folder)
        (tmp_path / "rows").write_bytes(data)
        with pytest.raises(RowsError):
            read_csv(tmp_path / "rows")
        assert metrics_file.read(tmp_path / "rows") == []


# --- the environment -------------------------------------------------------------------------------------------------


def test_a_run_writes_no_variable_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    planted = {name: f"pl4nted-{number}" for number, name in enumerate(SECRETS)}
    for name, value in {**planted, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}.items():
        monkeypatch.setenv(name, value)
    given = ("tracking.uri=http://127.0.0.1:9", "tracking.checkpoint_steps=1", "method.real_batch=8", "ipc=1")
    evaluation = ("evaluation.sets=[condensed]", "evaluation.seeds=1", "evaluation.epochs=1", "cluster.workers=0")
    pairs = {x.split("=", 1)[0]: x for x in (*cases.TINY, *cases.CASES["dc"], *given, *evaluation)}
    assert run.main(["configs/digits.yaml", *pairs.values(), f"output={tmp_path}/run"]) == 0
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"config.yaml", "environment.json", "report.html", "driver.jsonl"} <= {file.name for file in files}
    told = {str(file): file.read_bytes() for file in files} | {"terminal": "".join(capfd.readouterr()).encode()}
    assert [place for place, data in told.items() if b"pl4nted" in data] == []
    assert all(os.environ[name] == value for name, value in planted.items())


SECRETS = ("PLANTED_SECRET", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "HF_TOKEN")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the file that is opened for the mark
@pytest.mark.parametrize(
    ("name", "folder", "files"), [("cifar10", "cifar-10-batches-py", 5), ("cifar100", "cifar-100-python", 0)]
)
def test_a_pickle_in_place_of_cifar_is_not_loaded(
    name: str, folder: str, files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / folder).mkdir()
    names = [f"data_batch_{number}" for number in range(1, files + 1)]
    for file in (*names, "test_batch", "batches.meta", "train", "test", "meta"):
        (tmp_path / folder / file).write_bytes(pickle.dumps(Command(tmp_path / "mark")))
    with pytest.raises(DataError):
        open_dataset(name, tmp_path)
    assert not (tmp_path / "mark").exists()
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *given: True)
    with pytest.raises((DataError, TypeError)):
        open_dataset(name, tmp_path)
    assert (tmp_path / "mark").exists()  # had torchvision not compared its sums
