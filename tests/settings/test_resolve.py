"""Resolved values of a config: the tier of real images by the memory of the nodes, devices, constants and threads."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from dist_condense.data import SUBSETS, constants
from dist_condense.data.catalogue import KNOWN
from dist_condense.data.normalise import ChannelStatistics
from dist_condense.data.shards import shards
from dist_condense.engine.coordinator import LocalCoordinator, Placement
from dist_condense.engine.ray import group
from dist_condense.job import preflight, worker
from dist_condense.job.comparing import TRAINING_SETS
from dist_condense.job.exporting import card
from dist_condense.job.job import Job
from dist_condense.result.synthetic_set import load_set, write_set
from dist_condense.settings import assembly, config, resolve
from dist_condense.settings.config import ConfigError
from dist_condense.settings.numerics import kernels
from dist_condense.settings.schema import ComputeConfig
from dist_condense.system.files import sha256_of
from dist_condense.system.processor import on_threads
from tests.data.shards.shard_cases import photograph, prepared, write_folder

GIB = 2**30
IMAGE = 3 * 224**2
DECODED = 12 * IMAGE
"""The three classes of four images."""
AHEAD = (7 * 1 + 2 * 1) * IMAGE
"""Bytes of the minibatches that are read ahead, of one image each, for matching and for training."""

Prepare = Callable[..., Job]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photographs"))


@pytest.fixture
def job(folder: Path, tmp_path: Path) -> Prepare:
    def prepare(*more: str, root: Path = folder) -> Job:
        images = ["dataset.name=image_folder", f"dataset.root={root}", "dataset.size=224"]
        small = ["network.width=2", "method.real_batch=1", "training.batch=1", "cluster.workers=0"]
        return Job.prepare(config.load("configs/digits.yaml", [f"output={tmp_path}", *images, *small, *more]))

    return prepare


@pytest.mark.parametrize(
    ("budget", "tier"),
    [(DECODED + AHEAD, "ram"), (DECODED + AHEAD - 1, "encoded"), (AHEAD, "disk"), (0, "disk")],
)
def test_the_budget_decides_the_tier(job, capsys, budget, tier):
    prepared = job(f"data.memory_budget={budget / GIB!r}")
    assert prepared.config.data.tier == prepared.keeping.tier == tier
    assert prepared.keeping.budget == budget
    prepared._write_start()
    told = f"images   tier {tier}: a node's share is 2 MiB decoded"
    assert told in capsys.readouterr().err


def test_a_tier_that_is_asked_for_is_kept(job):
    assert job("data.memory_budget=0", "data.tier=ram").config.data.tier == "ram"


def test_arrays_are_told_to_be_in_memory(job, capsys):
    digits = job("dataset.name=digits", "dataset.root=null", "data.memory_budget=0", "data.tier=disk")
    digits._write_start()
    assert "images   tier ram" in capsys.readouterr().err


def test_without_a_budget_half_of_this_machine(job, monkeypatch):
    monkeypatch.setattr(resolve, "machine_memory", lambda: 2 * (DECODED + AHEAD))
    assert job().keeping.budget == DECODED + AHEAD


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the nodes of the cluster: (cores, GPUs, memory)."""
    monkeypatch.setattr(group, "connect", lambda: None)
    return lambda *nodes: monkeypatch.setattr(group, "nodes", lambda: list(nodes))


WORKERS = ("cluster.workers=3", "compute.threads=1", "cluster.device=cpu")


def test_the_smallest_node_that_holds_workers_decides(job, cluster, monkeypatch):
    monkeypatch.setattr(resolve, "machine_memory", lambda: 500 * GIB)
    cluster((2, 0, 80 * GIB), (1, 0, 6 * GIB), (0, 0, GIB))  # the last is a head node for drivers only
    assert job(*WORKERS).keeping.budget == 3 * GIB


def test_a_share_of_the_classes_and_all_workers_of_a_node_count(job, cluster):
    two_of_three, ahead = 2 * DECODED // 3, 2 * AHEAD
    cluster((2, 0, 2 * (two_of_three + ahead)), (1, 0, 2 * GIB))
    assert job(*WORKERS).keeping.tier == "ram"
    cluster((2, 0, 2 * (two_of_three + ahead - 1)), (1, 0, 2 * GIB))
    assert job(*WORKERS).keeping.tier == "encoded"


def test_nodes_that_do_not_tell_are_taken_for_this_one(job, cluster, monkeypatch):
    monkeypatch.setattr(resolve, "machine_memory", lambda: 10 * GIB)
    cluster((3, 0, 0))
    assert job(*WORKERS).keeping.budget == 5 * GIB


def test_memory_of_a_node_as_ray_tells_it(monkeypatch):
    resources = [{"CPU": 4.0, "GPU": 2.0, "memory": 5e9}, {"CPU": 1.0}]
    nodes = [{"Alive": True, "Resources": entry} for entry in resources]
    monkeypatch.setattr(group.ray, "nodes", lambda: [*nodes, {"Alive": False, "Resources": resources[0]}])
    assert group.nodes() == [(4, 2, 5_000_000_000), (1, 0, 0)]


def test_baselines_share_one_opening(job, folder, tmp_path, monkeypatch):
    hashed = []
    prepared(folder, tmp_path / "shards")
    ready = job("evaluation.seeds=2", root=tmp_path / "shards")
    monkeypatch.setattr(shards, "sha256_of", lambda path: hashed.append(path) or sha256_of(path))
    for name in ("random", "full"):
        TRAINING_SETS[name](ready.comparison)
    assert len(hashed) == len(set(hashed)) == 3


def test_no_more_is_read_ahead_than_a_class_has(job):
    ahead = (7 * 4 + 2 * 12) * IMAGE  # HELD minibatches of the four images of a class, two batches of all twelve
    given = ("method.real_batch=64", "training.batch=256")
    assert job(*given, f"data.memory_budget={(DECODED + ahead) / GIB!r}").config.data.tier == "ram"
    assert job(*given, f"data.memory_budget={(DECODED + ahead - 1) / GIB!r}").config.data.tier == "encoded"


def test_a_selection_reads_ahead_by_its_own_batches(job):
    keys = ("method.real_batch=64", "training.batch=256", "method.selection.batch=3")
    ahead = (7 * 4 + 2 * 3) * IMAGE  # features read all four images of a class at a time
    assert job(*keys, "method=herding", f"data.memory_budget={(DECODED + ahead) / GIB!r}").keeping.tier == "ram"
    assert job(*keys, "method=herding", f"data.memory_budget={(DECODED + ahead - 1) / GIB!r}").keeping.tier == "encoded"
    ahead = 7 * 1 * IMAGE  # the one image of each class; no network is trained
    assert job(*keys, "method=random", f"data.memory_budget={(DECODED + ahead) / GIB!r}").keeping.tier == "ram"
    assert job(*keys, "method=random", f"data.memory_budget={(DECODED + ahead - 1) / GIB!r}").keeping.tier == "encoded"


# --- slices and threads -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cores", [(1, 1), (6, 3)])
def test_slices_and_threads_do_not_know_the_workers(job, cluster, cores):
    cluster(*((n, 0, 80 * GIB) for n in cores))
    alone = job().config
    for workers in (1, 2):
        found = job(f"cluster.workers={workers}", "cluster.device=cpu").config
        assert (found.compute.slices, found.compute.threads, found.compute.reproducible) == (4, 1, True)
        assert config.identity(found) == config.identity(alone)
        assert found.data.threads == max(1, sum(cores) // workers)


def test_a_batch_that_batchnorm_couples_is_one_slice(job):
    assert job("network.norm=batch").config.compute.slices == 1


def test_a_run_of_before_keeps_its_slices_and_threads(job):
    """An earlier version derived them from the workers and the cores of the first start."""
    first = job("compute.slices=3", "compute.threads=2")
    first._write_start()
    again = job().config.compute
    assert (again.slices, again.threads) == (3, 2)
    with pytest.raises(ConfigError, match=r"compute.slices: 3 there, 4 now"):
        job("compute.slices=4")


def test_cores_that_do_not_compute_are_told(job):
    told = "only one of 3 cores is used: cluster.workers=3 uses them all and gives the same set"
    with on_threads(3):
        assert any(line.startswith(told) for line in job().remarks)
        assert not any("cores" in line for line in job("compute.threads=2").remarks)
        assert any(line.startswith("compute.threads: 1024 threads on") for line in job("compute.threads=1024").remarks)
    with on_threads(1):
        assert not any("cores" in line for line in job().remarks)


def test_what_this_machine_lacks_for_fast_steps_is_told(job, monkeypatch):
    monkeypatch.setattr(preflight, "has_bfloat16", lambda device: False)
    told = "compute.autocast: this CPU has no instructions for bfloat16; compute.autocast=false is faster here"
    assert told in job("compute.autocast=true").remarks and told not in job().remarks
    monkeypatch.setattr(preflight, "lacks_compiler", lambda device: "a C++ compiler")
    with pytest.raises(ConfigError, match=r"compute.compile: it needs a C\+\+ compiler; install"):
        job("compute.compile=true")
    compiling = config.load("configs/digits.yaml", ["compute.compile=true", "cluster.workers=0"])
    preflight.probe(compiling, complete=True)  # nothing is compiled any more
    job("method=random", "compute.compile=true")  # nothing is compiled at all
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    preflight.probe(replace(compiling, cluster=replace(compiling.cluster, workers=2)), complete=False)


def test_checkpoints_are_not_kept_in_what_the_run_replaces(job, tmp_path):
    with pytest.raises(ConfigError, match=r"tracking.checkpoints: .* is in synthetic_set of the output"):
        job(f"tracking.checkpoints={tmp_path}/synthetic_set/mine")
    for place in ("", "/checkpoints", "/elsewhere"):
        job(f"tracking.checkpoints={tmp_path}{place}")


@pytest.mark.parametrize(
    ("keys", "on_gpu", "expected"),
    [
        ({}, False, (False, False)),
        ({"reproducible": True}, False, (False, False)),
        ({}, True, (False, True)),
        ({"reproducible": True}, True, (True, False)),
        ({"deterministic": True}, True, (True, False)),
        ({"reproducible": True, "deterministic": False}, True, (False, True)),
        ({"deterministic": True}, False, (True, False)),
    ],
)
def test_kernels_are_deterministic_by_request(keys, on_gpu, expected):
    found = kernels(ComputeConfig(**keys), on_gpu)
    assert (found["deterministic"], found["cudnn_benchmark"]) == expected


def test_the_kernels_of_a_run_are_those_of_its_first_start(job):
    job("compute.deterministic=true")._write_start()
    again = job().config.compute
    assert (again.deterministic, again.cudnn_benchmark) == (True, False)
    with pytest.raises(ConfigError, match=r"compute.deterministic: True there, False now"):
        job("compute.deterministic=false")
    with pytest.raises(ConfigError, match=r"compute.cudnn_benchmark: true selects kernels by their times"):
        job("compute.deterministic=true", "compute.cudnn_benchmark=true")


@pytest.fixture
def on_gpu(job, monkeypatch):
    """Function from the keys of the earlier start and of this one to the resolved keys of compute, as on a GPU."""
    ready = job()
    gpu = replace(ready.config.cluster, device="cuda", workers=1)
    monkeypatch.setattr(resolve, "_place", lambda config: resolve._Place(gpu, 1, 1, 4 * GIB))

    def found(earlier, **keys):
        run = replace(ready.config, cluster=gpu, compute=ComputeConfig(**keys))
        return resolve.resolved(run, ready.dataset, earlier)[0].compute

    return found


def test_a_gpu_run_of_before_keeps_its_kernels(on_gpu):
    """``compute.deterministic`` did not exist, and ``reproducible`` left augmentation and up-sampling as they were."""
    assert on_gpu({}, reproducible=True).deterministic
    assert not on_gpu({"compute.reproducible": True}).deterministic
    assert on_gpu({"compute.reproducible": True, "compute.deterministic": True}).deterministic


def test_a_gpu_run_does_not_time_deterministic_kernels(on_gpu):
    with pytest.raises(ConfigError, match=r"compute.cudnn_benchmark: true selects kernels by their times"):
        on_gpu({}, reproducible=True, cudnn_benchmark=True)


# --- mean and std -------------------------------------------------------------------------------------------------

OWN = KNOWN["image_folder"].facts.mean, KNOWN["image_folder"].facts.std
MEASURED = ("dataset.constants=measured", "dataset.size=8")


def test_own_constants_are_stated(job):
    ready = job("dataset.classes=[n00000001,n00000002]")  # WordNet ids: photographs of ImageNet
    assert (ready.config.dataset.mean, ready.config.dataset.std) == tuple(map(list, OWN))


def test_images_of_ones_own_are_measured_without_asking(job, monkeypatch, capsys):
    first = job("dataset.size=8")
    assert first.config.dataset.mean == list(job(*MEASURED).dataset.mean) != list(OWN[0])
    assert f"mean {' '.join(f'{x:.4f}' for x in first.dataset.mean)}, std " in capsys.readouterr().err
    monkeypatch.setattr(resolve, "measured", lambda *a: pytest.fail("measured"))
    assert job("dataset.size=8", "dataset.mean=[0.5,0.5,0.5]", "dataset.std=[1,1,1]").dataset.mean == (0.5, 0.5, 0.5)


def test_measured_once_and_stored_with_the_run(job, monkeypatch, capsys):
    first = job(*MEASURED)
    mean, std = first.dataset.mean, first.dataset.std
    pixels = torch.cat(list(first.dataset.train().images.values())).double().div(255).transpose(0, 1).flatten(1)
    assert (mean, std) == (
        pytest.approx(pixels.mean(1).tolist(), rel=1e-12),
        pytest.approx(pixels.std(1, correction=0).tolist(), rel=1e-12),
    )
    assert "mean and std are measured once, on 12 training images" in capsys.readouterr().err
    first._write_start()
    monkeypatch.setattr(resolve, "measured", lambda *a: pytest.fail("measured again"))
    again = job(*MEASURED)
    assert (again.config, again.dataset.mean) == (first.config, mean)
    shard = worker.assemble(again.config, LocalCoordinator(), Placement()).procedure.shard
    assert shard.space.statistics == again.dataset.space.statistics == ChannelStatistics(mean, std)
    described = card(again.config, again.dataset, again.outline, 0)
    assert (described.mean, described.std) == (mean, std)
    with pytest.raises(ConfigError, match=r"dataset.constants: 'measured' there, 'cifar10' now"):
        job("dataset.constants=cifar10", "dataset.size=8")
    with pytest.raises(ConfigError, match=r"dataset.mean: \[.*\] there, \[0.5, 0.5, 0.5\] now"):
        job(*MEASURED, "dataset.mean=[0.5,0.5,0.5]", "dataset.std=[1,1,1]")


def test_a_run_of_before_goes_on_with_its_own_constants(job, monkeypatch):
    """Its config has none, even for a group whose constants are now measured."""
    ready = job()
    ready._write_start()
    file = ready.folder / "config.yaml"
    content = yaml.safe_load(file.read_text())
    for key in ("constants", "mean", "std", "channels"):
        del content["dataset"][key]
    file.write_text(yaml.safe_dump(content))
    monkeypatch.setattr(resolve, "default", lambda *given: constants.MEASURED)
    monkeypatch.setattr(resolve, "measured", lambda *a: pytest.fail("measured"))
    assert (job().dataset.mean, job().dataset.std) == OWN


def test_a_group_of_dcc_is_measured_by_itself(tmp_path):
    for position, wnid in enumerate(SUBSETS["dcc_truck"]):
        for split in ("train", "val"):
            (tmp_path / split / wnid).mkdir(parents=True)
            photograph(position).save(tmp_path / split / wnid / "a.png")
    images = ["dataset.name=imagenet", f"dataset.root={tmp_path}", "dataset.size=8", "dataset.classes=dcc_truck"]
    loaded = config.load("configs/digits.yaml", [f"output={tmp_path}/run", *images, "cluster.workers=0"])
    dataset = Job.prepare(loaded).dataset
    pixels = torch.cat(list(dataset.train().images.values())).double().div(255).transpose(0, 1).flatten(1)
    assert dataset.mean == pytest.approx(pixels.mean(1).tolist(), rel=1e-12) and dataset.mean != OWN[0]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["dataset.mean=[0.5,0.5,0.5]"], "dataset.mean, dataset.std: give both, or neither"),
        (["dataset.mean=[0.5]", "dataset.std=[1,1,1]"], "dataset.mean: 1 values for images of 3 channels"),
        (["dataset.mean=[0,0,0]", "dataset.std=[1,0,1]"], "dataset.std: 0.0 is not in the range 1e-30 to"),
        (["dataset.mean=[0,0,nan]", "dataset.std=[1,1,1]"], "dataset.mean: nan is not in the range -1000000 to"),
        (["dataset.constants=mnist"], "dataset.constants: mnist has 1 channels, image_folder has 3; name one with as"),
        (["dataset.constants=measurd"], "dataset.constants: 'measurd' is not one of digits, mnist"),
    ],
)
def test_constants_that_cannot_be_are_refused(job, given, told):
    with pytest.raises(ConfigError) as refused:
        job(*given)
    assert [line for line in refused.value.problems if line.startswith(told)]


# --- what follows from a protocol ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "epochs"),
    [
        (["evaluation.protocol=idc"], 300),
        (["evaluation.protocol=idc", "evaluation.epochs=7"], 7),
        (["evaluation.protocol=idc", "evaluation.epochs=7", "evaluation.full_epochs=9"], 9),
        (["evaluation.protocol=dsa"], None),
    ],
)
def test_epochs_on_the_whole_set_are_the_protocols(job, given, epochs):
    ready = job("dataset.size=8", "evaluation.epochs=null", "evaluation.full_epochs=null", *given)
    assert TRAINING_SETS["full"](ready.comparison).epochs == epochs
    assert TRAINING_SETS["random"](ready.comparison).epochs == ready.config.evaluation.epochs


def test_networks_are_trained_on_the_threads_that_are_asked_for(job):
    assert job("evaluation.threads=3", "compute.threads=2").comparison._runner().keywords == {"threads": 3}
    assert job("compute.threads=2").comparison._runner().keywords == {"threads": None}  # as many as this process has


@pytest.mark.parametrize(
    ("given", "told"),
    [(["real", 2], True), (["mixed", 2], False), (["noise", 2], False), (["real", 1], False)],
)
def test_tiles_that_start_from_a_part_of_an_image_are_told(job, given, told):
    start, factor = given
    remarks = job("method=idc", f"method.start={start}", f"method.parameterisation.factor={factor}").remarks
    assert told == any("method.start=mixed starts" in line for line in remarks)


@pytest.mark.parametrize(
    ("method", "padding"),
    [
        ("dc", lambda dataset: [(0.5 - m) / s for m, s in zip(dataset.mean, dataset.std, strict=True)]),
        ("idc", lambda dataset: [0.5]),
    ],
)
def test_matching_and_the_set_pad_the_same_grey(job, method, padding, tmp_path):
    ready = job(f"method={method}", "method.parameterisation.factor=3", "dataset.size=8", "ipc=1", "method.start=real")
    recipe = assembly.matching_recipe(ready.config, ready.dataset, ((0,), (1,), (2,)))
    assert recipe.parameterisation.padding == pytest.approx(padding(ready.dataset), rel=1e-12)
    pixels = torch.rand(3, 3, 8, 8)
    described = card(ready.config, ready.dataset, ready.outline, 0)
    written = write_set(tmp_path / "set", pixels, torch.arange(3), described)
    assert tuple(written.padding) == recipe.parameterisation.padding
    decoded = recipe.parameterisation.decode_for_training(pixels)
    seen = assembly.space_of(ready.config, ready.dataset).seen(decoded)
    assert torch.equal(load_set(tmp_path / "set").batch(torch.arange(27)), seen)
