"""Where the images of a run are kept: chosen by what its nodes have, and told."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dist_condense import config, resolve
from dist_condense.data import shards
from dist_condense.data.files import sha256_of
from dist_condense.engine import ray_group
from dist_condense.job import TRAINING_SETS, Job
from tests.data.shard_cases import prepared, write_folder

GIB = 2**30
IMAGE = 3 * 224**2
DECODED = 12 * IMAGE
"""The three classes of four images."""
AHEAD = (7 * 1 + 2 * 1) * IMAGE
"""Minibatches of one image that are read ahead to be matched, and of one to be trained on."""

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
    """Sets the nodes that there are: (cores, GPUs, memory)."""
    monkeypatch.setattr(ray_group, "connect", lambda: None)
    return lambda *nodes: monkeypatch.setattr(ray_group, "nodes", lambda: list(nodes))


WORKERS = ("cluster.workers=3", "cluster.threads=1", "cluster.device=cpu")


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
    monkeypatch.setattr(ray_group.ray, "nodes", lambda: [*nodes, {"Alive": False, "Resources": resources[0]}])
    assert ray_group.nodes() == [(4, 2, 5_000_000_000), (1, 0, 0)]


def test_baselines_share_one_opening(job, folder, tmp_path, monkeypatch):
    hashed = []
    prepared(folder, tmp_path / "shards")
    ready = job("evaluation.seeds=2", root=tmp_path / "shards")
    monkeypatch.setattr(shards, "sha256_of", lambda path: hashed.append(path) or sha256_of(path))
    for name in ("random", "whole"):
        TRAINING_SETS[name](ready)
    assert len(hashed) == len(set(hashed)) == 3
