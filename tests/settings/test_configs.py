"""The shipped configs have the published budgets; a wrong config is refused with all of its problems."""

import functools
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dist_condense.commands import cli
from dist_condense.data import SUBSETS
from dist_condense.data.shards.manifest import SPLITS, Beton, write_manifest
from dist_condense.engine.ray import group
from dist_condense.job import preflight
from dist_condense.job.job import Job
from dist_condense.settings import assembly, checks, config, values
from dist_condense.settings.config import ConfigError, differences, from_dict, identity, load
from dist_condense.settings.keys import KEYS, refused
from dist_condense.settings.limits import OneOf, Range
from dist_condense.settings.schema import ImagesConfig
from dist_condense.system import records
from tests.data.shards.shard_cases import prepared, write_folder

NAMES = sorted(file.stem for file in config.shipped().glob("*.yaml"))

# Section 2 of the specification: ipc, K, T, passes over the set, real images; batch, lr, decay, CutMix of theta.
_DC, _IDC = (0.01, 256, 0, 0, 0), (0.01, 64, 0.9, 5e-4, 0.5)
BUDGETS = {  # name: (ipc, K, T, passes, images), (lr, batch, momentum, weight decay, CutMix)
    "fashion_mnist_dc": ((1, 1000, 1, 1, 0), _DC),
    "fashion_mnist_dsa": ((1, 1000, 1, 1, 0), _DC),
    **{
        f"{data}_{method}": budget
        for data in ("cifar10", "cifar100")
        for method, budget in {
            "dc": ((1, 1000, 1, 1, 0), _DC),
            "dsa": ((1, 1000, 1, 1, 0), _DC),
            "dcc": ((1, 1000, 10, 5, 0), _DC),
            "dsac": ((1, 1000, 10, 5, 0), _DC),
            "dm": ((1, 20000, 1, 0, 0), None),
            "idc_i": ((10, 2000, 100, 0, 2000), _IDC),
            "idc": ((10, 2000, 100, 0, 2000), _IDC),
        }.items()
    },
    "imagenet10_idc": ((10, 500, 100, 0, 500), (0.01, 64, 0.9, 5e-4, 1.0)),
    "imagenette224_idc": ((10, 500, 100, 0, 500), (0.01, 64, 0.9, 5e-4, 1.0)),
    "imagenet100_idc": ((10, 500, 100, 0, 500), (0.1, 128, 0.9, 1e-4, 1.0)),
    "imagenet1k_idc": ((10, 500, 100, 0, 500), (0.1, 128, 0.9, 1e-4, 1.0)),
    "miniimagenet84_idc": ((1, 500, 100, 0, 500), (0.1, 128, 0.9, 1e-4, 1.0)),
}
DC_STEPS = {10: (10, 50), 50: (50, 10)}  # ipc: T and passes over the set
# lr of the pixels, momentum, distance, real batch, real draw; factor, and the ipc and size that lr is given at.
PIXELS = {
    "dc": (0.1, 0.5, "layerwise_cosine", 256, "fresh"),
    "dsa": (0.1, 0.5, "layerwise_cosine", 256, "fresh"),
    "dcc": (0.1, 0.5, "layerwise_cosine", 256, "fresh"),
    "dsac": (0.1, 0.5, "layerwise_cosine", 256, "fresh"),
    "dm": (1.0, 0.5, "sum_squared", 256, "fresh"),
    "cifar10_idc": (5e-3, 0.5, "sum_squared", 64, "epochs"),
    "cifar10_idc_i": (5e-3, 0.5, "sum_squared", 64, "epochs"),
    "cifar100_idc": (5e-3, 0.5, "sum_squared", 64, "epochs"),
    "cifar100_idc_i": (5e-3, 0.5, "sum_squared", 64, "epochs"),
    "imagenet10_idc": (3e-3, 0.5, "sum_absolute", 64, "epochs"),
    "imagenette224_idc": (3e-3, 0.5, "sum_absolute", 64, "epochs"),
    "imagenet100_idc": (1e-3, 0.5, "sum_absolute", 128, "epochs"),
    "imagenet1k_idc": (1e-3, 0.5, "sum_absolute", 128, "epochs"),
    "miniimagenet84_idc": (1e-3, 0.5, "sum_absolute", 128, "epochs"),
}
FACTORS = {"cifar10_idc": 2, "cifar100_idc": 2, "miniimagenet84_idc": 2}  # and 3 on 224 px


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("DIST_CONDENSE_OUTPUT", "DIST_CONDENSE_WORKERS", "IMAGENET_ROOT", "CIFAR10_ROOT", "CIFAR100_ROOT"):
        monkeypatch.delenv(name, raising=False)


def shipped(name, *overrides):
    return load(str(config.shipped() / f"{name}.yaml"), overrides)


def header(name):
    lines = (config.shipped() / f"{name}.yaml").read_text().splitlines()
    return lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_config_loads(name):
    loaded = shipped(name)
    assert loaded.output == f"outputs/{name}"
    assert from_dict(config.to_dict(loaded)) == loaded
    assert checks.screened(loaded) == (loaded, []) and checks.of_config(loaded) == []


def test_every_published_config_has_its_budget_here():
    assert set(BUDGETS) == set(NAMES) - {"digits"}


@pytest.mark.parametrize("name", BUDGETS)
def test_the_budget_is_the_published_one(name):
    c = shipped(name)
    budget, theta = BUDGETS[name]
    schedule, training = c.trajectory, c.training
    assert (c.ipc, schedule.networks, schedule.matching_steps, training.epochs, training.images) == budget
    if theta is None:
        assert training.source == "frozen"
    else:
        found = (training.lr, training.batch, training.momentum, training.weight_decay, training.cutmix)
        assert found == theta
        assert training.source == ("real" if budget[4] else "synthetic")


@pytest.mark.parametrize("name", BUDGETS)
def test_the_pixels_move_as_published(name):
    c = shipped(name)
    method, images = c.method, c.method.images
    expected = PIXELS.get(name) or PIXELS[name.rsplit("_", 1)[1]]
    found = (images.lr, images.momentum, method.distance, method.real_batch, method.real_draw)
    assert found == expected
    is_idc = "_idc" in name
    assert images.shared_buffer == method.unit_space == is_idc
    assert method.parameterisation.factor == FACTORS.get(name, 3 if name.startswith("imagenet") else 1)
    size = 224 if "imagenet" in name else 32
    assert (images.reference_ipc, images.reference_size) == ((10, size) if is_idc else (None, None))
    assert c.evaluation.seeds == (3 if is_idc else 20)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("cifar")])
def test_cifar_100_is_normalised_as_each_program_does_it(name):
    """IDC and DCC use the constants of CIFAR-10; DC, DSA and DM those of CIFAR-100."""
    borrowed = name in ("cifar100_dcc", "cifar100_dsac", "cifar100_idc", "cifar100_idc_i")
    assert shipped(name).dataset.constants == ("cifar10" if borrowed else None)


def test_networks_start_as_published():
    pool = ("pool", 10, 5)
    for name, expected in {
        "imagenet100_idc": pool,
        "imagenet1k_idc": pool,
        "miniimagenet84_idc": pool,
        "cifar10_idc": ("fresh", 10, 0),
    }.items():
        start = shipped(name).trajectory
        assert (start.start, start.pool_size, start.pretrain_epochs) == expected
    for name in ("imagenet10_idc", "imagenette224_idc"):
        assert (shipped(name).trajectory.start, shipped(name).trajectory.pretrain_epochs) == ("pretrained", 10)


@pytest.mark.parametrize("name", [name for name in BUDGETS if BUDGETS[name][0][3]])
def test_the_header_gives_the_other_budgets(name):
    """The lines `ipc 10: key=value ...` of the header are correct and load."""
    stated = dict(re.findall(r"^# ipc (\d+): (.*)$", "\n".join(header(name)), re.MULTILINE))
    assert set(stated) == {"10", "50"}
    for ipc, overrides in stated.items():
        c = shipped(name, *overrides.split())
        assert (c.ipc, (c.trajectory.matching_steps, c.training.epochs)) == (int(ipc), DC_STEPS[int(ipc)])


@pytest.mark.parametrize("name", NAMES)
def test_the_header_names_a_number_or_says_that_there_is_none(name):
    text = " ".join(header(name))
    assert "No published number" in text or (re.search(r"\b\d\d\.\d\b", text) and re.search(r"\b20\d\d\b", text))
    assert "ost" in text or "minute" in text


def test_the_environment_names_roots_workers_and_output(monkeypatch):
    assert shipped("imagenet100_idc").cluster.workers == 1 and shipped("imagenet100_idc").dataset.root is None
    monkeypatch.setenv("DIST_CONDENSE_WORKERS", "8")
    monkeypatch.setenv("IMAGENET_ROOT", "/data/imagenet")
    monkeypatch.setenv("DIST_CONDENSE_OUTPUT", "/shared/runs")
    c = shipped("imagenet100_idc")
    assert (c.cluster.workers, c.dataset.root, c.output) == (8, "/data/imagenet", "/shared/runs/imagenet100_idc")


def test_a_config_elsewhere_finds_the_groups_and_its_own(tmp_path):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("unit_space: true\ngrouping: {name: pooled}\n")
    mine = tmp_path / "own.yaml"
    mine.write_text("defaults: [{method: idc}, {training: real}, _self_]\nipc: 3\n")
    assert load(str(mine)).method.parameterisation.factor == 2 and load(str(mine)).training.batch == 64
    assert load(str(mine)).method.name == "idc with trajectory.matching_steps=1, training.cutmix=0"
    assert load(str(mine), ["method.name=x"]).method.name == "x"
    own = load(str(mine), ["method=mine", "training=frozen"])
    assert (own.method.name, own.method.grouping.name, own.training.source, own.ipc) == ("mine", "pooled", "frozen", 3)


def test_everything_wrong_is_reported_at_once():
    with pytest.raises(ConfigError) as refused:
        shipped("digits", "ipc=many", "+trajectry.networks=3", "method.imagess.lr=1", "dataset.size=[8]", "quux=1")
    said = refused.value.problems
    assert len(said) == 5
    assert "ipc: 'many' does not fit; expected int or {NAME: int}" in said
    assert "trajectry.networks: unknown key; did you mean trajectory.networks?" in said
    assert "method.imagess.lr: unknown key; did you mean method.images.lr?" in said
    assert any(line.startswith("dataset.size: [8] does not fit") for line in said)
    assert "quux: unknown key; see docs/config.md" in said


def test_a_list_without_brackets_is_told_how_to_be_written():
    with pytest.raises(ConfigError) as refused:
        shipped("digits", "dataset.classes=a,b", "+evaluation.sets=random,full", "ipc=2")
    several = "is several values; a list has brackets,"
    assert refused.value.problems == [
        f"dataset.classes: 'a,b' {several} 'dataset.classes=[a,b]'",
        f"evaluation.sets: 'random,full' {several} 'evaluation.sets=[random,full]'",
    ]


TABLES = [(key.name, key.limit.names) for key in KEYS.values() if isinstance(key.limit, OneOf)]
RANGES = [(key.name, key.limit) for key in KEYS.values() if isinstance(key.limit, Range)]


@pytest.mark.parametrize(("key", "known"), TABLES)
def test_names_of_the_table_are_taken_and_another_is_refused(key, known):
    is_list = values.takes_list(KEYS[key].kind)
    taken, other = ([list(known)], ["nobody"]) if is_list else (list(known), "nobody")
    for value in taken:
        assert refused(from_dict({key: value})) == {}
    assert list(refused(from_dict({key: other})).values()) == [f"{key}: 'nobody' is not one of {', '.join(known)}"]


@pytest.mark.parametrize(("key", "limit"), RANGES)
def test_numbers_of_the_range_are_taken_and_others_are_refused(key, limit):
    is_list, is_float = values.takes_list(KEYS[key].kind), "float" in values.type_name(KEYS[key].kind)
    step = 0.5 if is_float else 1
    outside = [limit.least if limit.above else limit.least - step, limit.most if limit.below else limit.most + step]
    outside += [float(text) for text in ("nan", "inf", "-inf") if is_float]
    inside = [limit.least + (step if limit.above else 0), limit.most - (step if limit.below else 0)]
    for value in inside:
        assert refused(from_dict({key: [value] if is_list else value})) == {}
    for value in outside:
        made = from_dict({key: [value] if is_list else value})
        shown = at(made, key)[0] if is_list else at(made, key)
        assert list(refused(made).values()) == [f"{key}: {shown} is not in the range {limit}"]


def test_every_number_has_a_range():
    """Except for labels, which are compared with the classes."""
    numbers = {
        key.name for key in KEYS.values() if {"int", "float"} & set(re.findall(r"\w+", values.type_name(key.kind)))
    }
    assert numbers - {"method.grouping.groups"} == {key for key, _ in RANGES}


def test_a_whole_number_beyond_all_floats_is_refused_by_its_type():
    with pytest.raises(ConfigError, match=r"^training.lr: .* does not fit; expected float$"):
        from_dict({"training.lr": 10**400})


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A folder of 100 classes of ImageNet, with the 90 files from which ten images of nine tiles start."""
    root = tmp_path_factory.mktemp("imagenet")
    for wnid in SUBSETS["imagenet100_idc"]:
        for split, number in (("train", 90), ("val", 1)):
            (root / split / wnid).mkdir(parents=True)
            for i in range(number):
                (root / split / wnid / f"{i}.JPEG").touch()
    return root


@pytest.mark.parametrize(("name", "classes"), [("imagenet10", 10), ("imagenet100", 100), ("imagenet1k", 100)])
def test_the_imagenet_configs_need_only_a_root(name, classes, imagenet, tmp_path):
    dataset, _ = preflight.check(shipped(f"{name}_idc", f"dataset.root={imagenet}", f"output={tmp_path}/run"))
    assert len(dataset.classes) == classes and dataset.size == 224
    if name != "imagenet1k":
        assert [entry.wnid for entry in dataset.classes] == list(SUBSETS[f"{name}_idc"])


TEXT_KEYS = [key.name for key in KEYS.values() if values.type_name(key.kind) in ("str", "str or null")]
ODD = [
    "My Pictures (1)",
    "20241126_001",
    "1e3",
    "0x10",
    "no",
    "Null",
    "2024-11-26",
    "12:30",
    "a,b",
    "a=b",
    "[x]",
    "{x: y}",
    "{x",
    "a: b",
    "# a",
    "a #b",
    "&a",
    "*a",
    "!a",
    "@a",
    "%a",
    "`a`",
    "it's",
    'a "b" c',
    "\\a\\",
    "$HOME",
    "a$",
    "é",
    "ß 🎉",
    "a\nb",
    "a\tb",
    "<<",
    "=",
    "-",
    "---",
    "?",
    "|",
    ">",
    ".",
    ".inf",
    "choice(1,2)",
    "${a b",
    "\\${a}",
    "a\\\\${b}c${",
]
"""Texts that YAML, Hydra's grammar or OmegaConf would interpret."""


def literally(text):
    """Write a text for the command line or a file so that `${` is taken literally."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def at(made, key):
    return functools.reduce(getattr, key.split("."), made)


def test_a_text_stays_what_it_is_from_the_command_line_through_the_file_that_the_run_writes(tmp_path):
    file = tmp_path / "config.yaml"
    for shift in range(0, len(ODD), len(ODD) // 4):
        given = {key: ODD[(n + shift) % len(ODD)] for n, key in enumerate(TEXT_KEYS)}
        made = shipped("digits", *(f"{key}={literally(text)}" for key, text in given.items()))
        assert {key: at(made, key) for key in TEXT_KEYS} == given
        made.dataset.classes = made.evaluation.sets = ODD
        file.write_text(config.to_yaml(made), encoding="utf-8")
        assert config.read(file) == load(str(file)) == made


def test_a_text_in_a_file_keeps_its_letters(tmp_path):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yml").write_text("name: 007\nimages: {lr: 5e-4}\nunit_space: on\n")
    mine = tmp_path / "mine.yml"
    mine.write_text(
        "defaults: [{method: mine}]\noutput: 20241126_001\nipc: 1_000\ntracking: {experiment: 2024_11, uri: null}\n"
        "dataset: {root: 'null', classes: [0, 1, no, null, 2024-11-26, 1e3]}\ncluster: {timeout: .inf}\n"
    )
    made = load(str(mine), ["dataset.name=010"])
    assert (made.output, made.tracking.experiment, made.tracking.uri) == ("20241126_001", "2024_11", None)
    assert (made.dataset.root, made.dataset.name) == ("null", "010")
    assert made.dataset.classes == ["0", "1", "no", "null", "2024-11-26", "1e3"]
    assert (made.ipc, made.cluster.timeout) == (1000, float("inf"))
    assert (made.method.name, made.method.images.lr, made.method.unit_space) == ("007", 5e-4, True)


def test_a_text_of_the_environment_keeps_its_letters(monkeypatch, tmp_path):
    variables = {f"ODD_{n}": text for n, text in enumerate(ODD)}
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setenv("DIST_CONDENSE_OUTPUT", "2024_11")
    (tmp_path / "mine.yaml").write_text(f"dataset: {{classes: {[f'${{oc.env:{name}}}' for name in variables]}}}\n")
    assert load(str(tmp_path / "mine.yaml")).dataset.classes == ODD
    assert shipped("cifar10_dc", "dataset.root=${oc.env:ODD_0}").dataset.root == ODD[0]
    assert shipped("cifar10_dc").output == "2024_11/cifar10_dc"


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("dataset.root='null'", "null"),
        ("dataset.root=null", None),
        ('dataset.root="a b"', "a b"),
        ("dataset.root='a' and 'b'", "'a' and 'b'"),
        ("dataset.root=a=b", "a=b"),
        ("dataset.classes=imagenet100_idc", "imagenet100_idc"),
        ("dataset.classes=[0,1]", ["0", "1"]),
        ("dataset.classes=[cat, no,'a,b']", ["cat", "no", "a,b"]),
        ("evaluation.architectures=[timm:x, convnet:depth=4]", ["timm:x", "convnet:depth=4"]),
        ("method.grouping.groups=[[0, 1], [2]]", [[0, 1], [2]]),
        ("method.images={lr: 0.2, momentum: 0}", ImagesConfig(lr=0.2, momentum=0.0)),
        ("method.images={lr:2e-1,momentum:0}", ImagesConfig(lr=0.2, momentum=0.0)),
        ("++ipc='3'", 3),
        ("ipc=1_000", 1000),
        ("compute.threads=null", None),
        ("compute.reproducible=off", False),
        ("output=runs/${ipc}", "runs/1"),
    ],
)
def test_the_key_says_how_its_value_is_read(override, value):
    assert at(shipped("digits", override), override.lstrip("+").split("=")[0]) == value


def test_the_home_is_the_one_of_whoever_starts(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    made = shipped("digits", "tracking.uri=sqlite:///~/runs.db", *(f"{key}=~/x" for key in config.PATHS))
    assert {at(made, key) for key in config.PATHS} == {"/home/ann/x"}
    assert made.tracking.uri == "sqlite:////home/ann/runs.db"
    with pytest.raises(ConfigError, match="output: '~nobody_of_that_name/x': there is no home of ~nobody_of_that_name"):
        shipped("digits", "output=~nobody_of_that_name/x")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["output="], "output: the value is empty; give str"),
        (["output= "], "output: the value is empty; give str"),
        (["output=null"], "output: null does not fit; expected str"),
        (["output=???"], "output: ??? stands for a value that has to be given, output=VALUE"),
        (["ipc="], "ipc: the value is empty; give int"),
        (["ipc=1,2"], "ipc: '1,2' is several values; expected int or {NAME: int}"),
        (["ipc"], "'ipc' is not key=value"),
        (["~ipc"], "'~ipc': a key cannot be removed; give another value, ipc=VALUE"),
        (["dataset.root=My", "Pictures"], "if it belongs to the text before it: 'dataset.root=My Pictures'"),
        (["evaluation.sets=random"], "'random' is no list; a list has brackets, 'evaluation.sets=[random]'"),
        (["dataset.classes=[@a"], """; write it as 'dataset.classes=["A","B"]'"""),
        (["dataset.classes=[&a [*a]]"], "cannot be read: an anchor leads to itself"),
        (["ipc=!!int x"], "ipc: 'x' does not fit; expected int or {NAME: int}"),
        (["ipc={}"], "ipc: {} does not fit; expected int or {NAME: int}"),
        (["dataset.classes=[a: b]"], "dataset.classes: [{'a': 'b'}] does not fit; expected str or list[str] or null"),
        (["method.images={lr: 1"], "; write it as 'method.images={KEY: VALUE}'"),
        (["method.images=1"], "give method.images.KEY=VALUE"),
        (["dataset=cifar10"], "give dataset.KEY=VALUE"),
        (["data=cifar10"], "data: the defaults of "),
        (["output=a${b"], "output: 'a${b' is no interpolation, as ${oc.env:NAME} would be; write \\${ for"),
        (["output=${oc.env:NO_SUCH_NAME}"], "output: Environment variable 'NO_SUCH_NAME' not found"),
        (["output=${ipd}"], "output: Interpolation key 'ipd' not found"),
        (["a b=1"], "a b: unknown key"),
    ],
)
def test_a_refusal_names_the_key_and_what_works(overrides, line):
    with pytest.raises(ConfigError) as refused:
        shipped("digits", *overrides)
    assert line in refused.value.problems[-1] and "\n" not in refused.value.problems[-1]


@pytest.mark.parametrize(
    ("variable", "key"),
    [
        ("DIST_CONDENSE_OUTPUT", "output"),
        ("DIST_CONDENSE_WORKERS", "cluster.workers"),
        ("IMAGENET_ROOT", "dataset.root"),
    ],
)
def test_a_variable_that_is_set_to_nothing_is_named(variable, key, monkeypatch):
    monkeypatch.setenv(variable, "")
    with pytest.raises(ConfigError, match=rf"^{key}: the variable {variable} is set, but empty") as refused:
        shipped("imagenet100_idc")
    assert len(refused.value.problems) == 1
    assert shipped("imagenet100_idc", f"{key}=1") and shipped("digits", "output=1${oc.env:" + variable + ",''}")


def test_a_wrong_value_of_the_environment_is_told_with_the_variable(monkeypatch):
    monkeypatch.setenv("DIST_CONDENSE_WORKERS", "two")
    with pytest.raises(ConfigError, match=r"^cluster.workers: 'two' does not fit; expected int, from .*_WORKERS"):
        shipped("imagenet100_idc")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"ipc: 1\n\tseed: 1\n", "line 2: .*a tab is here; indent by spaces"),
        (b"ipc: 1\nseed: 2\nipc: 3\n", "line 3: the key 'ipc' is here a second time"),
        (b"ipc: 1\ndataset: {name: digits\n", "line 3: while parsing a flow mapping from line 2: expected ',' or '}'"),
        ("ipc: 1\n".encode("utf-16"), "line 1: this is not UTF-8; save the file in that encoding"),
        ("ipc: 1\n".encode("utf-16-le"), "line 1: a character that text cannot contain"),
        ("ipc: 1\noutput: é\n".encode("latin-1"), "line 2: this is not UTF-8; save the file in that encoding"),
        (b"ipc: 1\ndefaults:\n  method: dc\n", "line 3: defaults is a list"),
        (b"defaults: [{method: dc, training: real}]\n", "line 1: defaults is a list"),
        (b"# a list\n- ipc: 1\n", "line 2: a config consists of keys and values"),
        (b"# nothing\n", "is empty; a config consists of keys"),
        (b"ipc: 1\n---\nipc: 2\n", "line 2: .*found another document"),
        (b"output: !!python/object/apply:os.system [ls]\n", "line 1: the tag '!!python/object/apply:os.system' is not"),
        (b"ipc: !!int x\n", "ipc: 'x' does not fit"),
        (b"ipc: 1\noutput: a${b\n", r"line 2: 'a\$\{b' is no interpolation"),
        (b"defaults: [mine]\n", "refer to themselves"),
        (b"method: &x {images: *x}\n", "an anchor leads to itself"),
        (b"output: !!set {a}\n", "line 1: the tag '!!set' is not read; write the value without a tag"),
        (b"defaults: [other]\n", "other was not found, but the defaults of .*mine.yaml name it"),
        (b"hydra: {run: {dir: x}}\n", "hydra: unknown key"),
    ],
)
def test_a_file_that_is_no_config_is_told_in_one_line(content, line, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_bytes(content)
    assert cli.main(["run", str(tmp_path / "mine.yaml"), "--cfg"]) == 2
    said = capsys.readouterr().err
    assert re.match(f"refused: .*mine.yaml.*{line}|refused: {line}", said) and said.count("\n") == 1


def test_a_file_of_a_group_is_named_itself(tmp_path):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("name: mine\nimages: {lr: 1\n")
    (tmp_path / "own.yaml").write_text("defaults: [{method: mine}]\n")
    with pytest.raises(ConfigError, match=r"method/mine.yaml, line 3: .* from line 2"):
        load(str(tmp_path / "own.yaml"))


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "mine.yml").write_text("ipc: 3")
    with pytest.raises(ConfigError, match=r"mine.yaml was not found; looked at .*; is .*/mine.yml meant\?$"):
        load(str(tmp_path / "mine.yaml"))
    with pytest.raises(ConfigError, match=r"is not a file; name one that ends in \.yaml"):
        load(str(tmp_path))

    def refuse(path, limit):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(records, "read_regular", refuse)
    with pytest.raises(ConfigError, match=r"mine.yml cannot be read: Permission denied"):
        load(str(tmp_path / "mine.yml"))


FOLDERS = [
    "(a)",
    "a=b",
    "it's",
    "#a",
    "&a",
    "[a]",
    "a,b",
    "a b",
    "$a",
    "%41",
    "a\\b",
    "a\\",
    "é",
    "🎉",
    "a:b",
    '"',
    "~",
    "*",
    "a${b",
]


def test_configs_and_groups_below_folders_of_any_name(tmp_path, monkeypatch):
    """The files themselves have such names as well, and so do the folders of the shipped configs."""
    root = tmp_path.joinpath(*FOLDERS)
    shutil.copytree(config.PACKAGE.parent / "configs", root / "configs")
    own = root / "configs" / f"{''.join(FOLDERS)}.yaml"
    own.write_text("defaults: [{method: idc}, {training: real}]\nipc: 6\n")
    monkeypatch.setattr(config, "PACKAGE", root / "dist_condense")
    monkeypatch.chdir(root.parent)  # without ${, which Hydra reads in the name of the working directory alone
    made = load(str(own))
    assert (made.ipc, made.method.unit_space, load("configs/digits.yaml").method.name) == (6, True, "dc")
    for name in ("it's", "a\\", "a b,[c](d)", "é🎉", '"', "$a=%41{", "#:~*"):
        (root / "configs" / "method" / f"{name}.yaml").write_text("start: real\n")
        method = load("configs/digits.yaml", [f"method={name}"]).method
        assert (method.name, method.start) == (name, "real")
    monkeypatch.chdir(root)
    with pytest.raises(ConfigError, match=r"Hydra cannot read a \$\{ in the name of the working directory"):
        load(str(own))


def test_an_unknown_group_option_is_refused():
    with pytest.raises(ConfigError, match="dcx"):
        shipped("digits", "method=dcx")


def test_a_missing_config_names_the_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as refused:
        load("configs/nothing.yaml")
    for place in (tmp_path, config.PACKAGE, config.PACKAGE.parent):
        assert str(place / "configs" / "nothing.yaml") in str(refused.value)
    assert load("configs/digits.yaml").ipc == 1  # a shipped one, from any working directory


def test_the_cluster_is_looked_at_once_all_else_is_right(tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(group, "connect", lambda: looked.append("connected"))
    monkeypatch.setattr(group, "nodes", lambda: [(1, 0, 0), (1, 0, 0)])
    given = [f"output={tmp_path}/run", "cluster.workers=3", "cluster.device=cuda"]
    with pytest.raises(ConfigError) as refused:
        Job.prepare(shipped("digits", *given, "ipc=0", "cluster.timeout=0"))
    assert [line.split(":")[0] for line in refused.value.problems] == ["ipc", "cluster.timeout"]
    assert "not compared with the cluster yet" in refused.value.notes[0] and looked == []
    with pytest.raises(ConfigError) as refused:
        Job.prepare(shipped("digits", *given))
    cores, gpus = refused.value.problems
    assert "3 workers of 1 threads need 3 cores, the cluster has 2" in cores and "the cluster has 0" in gpus
    assert looked == ["connected"]


def test_an_elastic_group_is_refused_only_below_its_least(tmp_path, monkeypatch):
    monkeypatch.setattr(group, "connect", lambda: None)
    monkeypatch.setattr(group, "nodes", lambda: [(1, 0, 0), (1, 0, 0)])
    given = [f"output={tmp_path}/run", "cluster.workers=4"]
    job = Job.prepare(shipped("digits", *given, "cluster.min_workers=2"))
    assert job.config.compute.slices == 4  # of the whole group, so that the set does not depend on what there is now
    with pytest.raises(ConfigError, match=r"^cluster.min_workers: 3 workers of 1 threads need 3 cores"):
        Job.prepare(shipped("digits", *given, "cluster.min_workers=3"))
    with pytest.raises(ConfigError, match=r"^cluster.min_workers: 5 is above cluster.workers, 4"):
        preflight.check(shipped("digits", *given, "cluster.min_workers=5"))


def test_a_gpu_that_is_not_here_is_told_with_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError) as refused:
        preflight.check(
            shipped("digits", f"output={tmp_path}/run", "cluster.workers=0", "cluster.device=cuda", "ipc=0")
        )
    assert [line.split(":")[0] for line in refused.value.problems] == ["ipc", "cluster.device"]


@pytest.fixture
def beton(tmp_path):
    """Prepared shards of 24 px whose manifest names a beton; keys of a run that reads it."""
    root = tmp_path / "shards"
    manifest = prepared(write_folder(tmp_path / "photographs"), root, size=24)
    write_manifest(root, replace(manifest, ffcv={split: Beton(f"{split}.beton", 1, 64 * "0") for split in SPLITS}))
    return ["dataset.name=image_folder", f"dataset.root={root}", "data.tier=ffcv", f"output={tmp_path}/run"]


def test_a_beton_of_another_size_is_refused_before_the_start(beton):
    with pytest.raises(ConfigError) as refused:
        Job.prepare(shipped("digits", *beton, "dataset.size=32"))
    assert any("has 24 px, not 32; omit dataset.size" in line for line in refused.value.problems)
    same = shipped("digits", *beton, "dataset.size=24")
    assert not any("dataset.size" in line for line in checks._beton(same, assembly.dataset_of(same)))


def test_a_beton_in_a_remote_store_is_refused_before_the_start(beton):
    opened = assembly.dataset_of(shipped("digits", *beton, "dataset.size=24"))
    there = shipped("digits", *beton, "dataset.root=s3://bucket/shards")
    assert next(checks._beton(there, opened)).startswith("data.tier: ffcv reads a local folder, not s3://bucket")


def test_a_relative_output_in_a_submitted_job_is_refused(tmp_path, monkeypatch):
    assert not any("submitted" in line for line in preflight._output(shipped("digits")))
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(ConfigError, match="DIST_CONDENSE_OUTPUT") as refused:
        preflight.check(shipped("digits"))
    assert "output: outputs/digits is relative" in str(refused.value)
    assert list(preflight._output(shipped("digits", f"output={tmp_path}/run"))) == []


def test_differences_are_those_that_change_the_result():
    old = shipped("digits")
    free = ["cluster.workers=5", "tracking.uri=x", "evaluation.seeds=9", f"output={Path('/other')}"]
    assert differences(identity(old), identity(shipped("digits", *free))) == []
    changed = differences(identity(old), identity(shipped("digits", "seed=3", "method.images.lr=0.2", *free)))
    assert changed == ["seed: 0 there, 3 now", "method.images.lr: 0.1 there, 0.2 now"]
    two, four = (identity(shipped("digits", f"compute.slices={n}")) for n in (2, 4))
    assert differences(two, four) == ["compute.slices: 2 there, 4 now"]
