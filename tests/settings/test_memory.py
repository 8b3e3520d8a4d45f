"""What a run needs at least is counted, never exceeds what it takes, and is compared with the machines it runs on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dist_condense import networks
from dist_condense.data import ImageSet
from dist_condense.engine.coordinator import LocalCoordinator
from dist_condense.job import preflight
from dist_condense.planning.images import assumed
from dist_condense.settings import memory, resolve
from dist_condense.settings.config import ConfigError, RunConfig, load
from dist_condense.settings.needs import Need, Needs
from dist_condense.settings.procedures import PROCEDURES
from dist_condense.system.peak_bytes import PeakBytes
from tests.data.shards.shard_cases import write_folder
from tests.engine import cases

GIB = 2**30
ALONE = ("cluster.workers=0", "cluster.device=cpu")
SHORT = ["trajectory.networks=1", "trajectory.matching_steps=2", "network.width=64", "method.real_batch=4"]
"""A short run, in which the weights of theta need about as much as its feature maps."""


def planned(name: str, *keys: str) -> tuple[RunConfig, object]:
    """Return a shipped config on a CPU and random images instead of its data."""
    config = load(f"configs/{name}.yaml", [*ALONE, *keys])
    return config, assumed(config, None, None)


def checked(tmp_path: Path, *keys: str) -> tuple[RunConfig, ImageSet]:
    """Return a run on a CPU and its data, twelve photographs in a folder."""
    root = write_folder(tmp_path / "photographs")
    images = ["dataset.name=image_folder", f"dataset.root={root}", "dataset.size=1000"]
    config = load("configs/digits.yaml", [f"output={tmp_path}/run", *images, "cluster.device=cpu", *keys])
    return config, preflight.check(config)[0]


def needed(config: RunConfig, dataset: object, classes: int) -> Needs:
    return PROCEDURES[config.method.procedure].needed(config, dataset, classes)


@pytest.mark.parametrize(
    "name", ["dc", "idc_pooled_by_kmeans", "representative_pooled", "dm", "soft_labels", "herding"]
)
def test_no_run_takes_less_than_it_needs_at_least(name: str, tmp_path: Path) -> None:
    run = cases.load(name, f"output={tmp_path}/run", *SHORT)
    dataset, _ = preflight.check(run)
    with PeakBytes() as counted:
        cases.execute(run, LocalCoordinator())
    assert counted.most / 20 < needed(run, dataset, len(dataset.classes)).bytes <= counted.most


def test_needs_by_hand() -> None:
    config, dataset = planned(
        "cifar10_dc",
        *("ipc=30", "trajectory.matching_steps=10", "training.epochs=50"),
        *("compute.autocast=false", "compute.microbatch=0"),
    )
    image, weights = 4 * 3 * 32 * 32, 4 * 320_010
    found = needed(config, dataset, 10)
    assert [need.bytes for need in found.together] == [10 * 30 * 2 * image, 2 * weights]
    of_map = 4 * 128 * 32 * 32
    assert {need.bytes for need in found.in_turn} == {256 * image, 256 * of_map, 64 * of_map}
    assert found.bytes == 600 * image + 2 * weights + 256 * of_map
    small = needed(replace(config, compute=replace(config.compute, microbatch=8, autocast=True)), dataset, 1)
    assert {need.bytes for need in small.in_turn} == {256 * image, 8 * of_map // 2, 64 * of_map // 2}


def test_tiles_are_decoded_together() -> None:
    config, dataset = planned("imagenet10_idc", "method.parameterisation.decoding=multi", "compute.microbatch=0")
    most = max(needed(config, dataset, 10).in_turn, key=lambda need: need.bytes * ("decoded" in need.text))
    assert most.bytes == 10 * (1 + 4 + 9) * 4 * 3 * 224**2 and most.key == "method.parameterisation.factor"


def test_the_message_names_the_largest_need() -> None:
    needs = Needs(
        [Need("ipc", "pixels", 3 * GIB), Need("network", "weights", GIB)], [Need("a", "b", GIB), Need("c", "d", 0)]
    )
    assert needs.excess("this machine", 5 * GIB) is None
    assert needs.excess("this machine", 5 * GIB - 1) == (
        "ipc: 3.0 GiB for pixels (of at least 5.0 GiB at the same time), but this machine has 5.0 GiB; lower ipc"
    )
    assert Needs([]).excess("this machine", 0) is None


@pytest.mark.parametrize(
    ("name", "keys", "line"),
    [
        (
            "imagenet1k_idc",
            ["ipc=100000"],
            "ipc: 112152.1 GiB for the state of 1000 classes of 100000 images (of at least",
        ),
        (
            "cifar10_dc",
            ["network.width=8192", "network.depth=5"],
            "network: 18.0 GiB for the weights of convnet:width=8192",
        ),
        (
            "cifar10_dc",
            ["network.width=2048", "compute.microbatch=0", "compute.autocast=false"],
            "method.real_batch: 2.0 GiB for the largest feature map of theta for 256",
        ),
        (
            "imagenet10_idc",
            ["method.parameterisation.factor=224", "compute.microbatch=0"],
            "method.parameterisation.factor: 281",
        ),
        ("cifar10_dm", ["compute.microbatch=5", "method.real_batch=1000000", "dataset.size=512"], "method.real_batch:"),
        (
            "cifar10_dc",
            ["evaluation.sets=[random]", "evaluation.seeds=100000"],
            "evaluation.seeds: 2.9 GiB for 100000 draws",
        ),
        ("imagenet1k_idc", ["evaluation.sets=[full]"], "evaluation.sets: 179.6 GiB for all 1281000 training images"),
        ("cifar10_dc", ["evaluation.architectures=[resnet18:width=4096]"], "evaluation.architectures: 340"),
    ],
)
def test_each_kind_of_excess_names_its_key(
    name: str, keys: list[str], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "memory_and_swap", lambda: 2 * GIB)
    lines = memory.lacking(*planned(name, *keys))
    assert [each for each in lines if each.startswith(line)], lines
    assert len({each.split(":")[0] for each in lines}) == len(lines)


def test_the_shipped_configs_fit_on_their_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_and_swap", lambda: 64 * GIB)
    for name in ("digits", "cifar10_dc", "cifar100_dsac", "cifar10_idc", "imagenet10_idc", "imagenet100_idc"):
        config, dataset = planned(name, "evaluation.sets=[condensed]")
        assert memory.lacking(config, dataset) == []


def test_the_driver_of_a_cluster_needs_room_for_the_set_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    config, dataset = planned("cifar10_dc", "ipc=100", "cluster.workers=5", "evaluation.sets=[condensed]")
    state = needed(config, dataset, 10).together[0].bytes
    monkeypatch.setattr(memory, "memory_and_swap", lambda: state * 3 // 2)
    assert memory.lacking(config, dataset) == []
    monkeypatch.setattr(memory, "memory_and_swap", lambda: state * 3 // 2 - 1)
    (line,) = memory.lacking(config, dataset)
    assert line.startswith("ipc: ")
    assert line.endswith("lower ipc or dataset.size, or take fewer classes, or start from a machine with more memory")
    assert memory.lacking(config, dataset, is_complete=True) == []


def test_a_plan_needs_room_for_what_it_times(monkeypatch: pytest.MonkeyPatch) -> None:
    config, dataset = planned("imagenet1k_idc", "cluster.workers=64", "ipc=100")
    together = needed(config, dataset, memory.PROBED).together
    monkeypatch.setattr(memory, "memory_and_swap", lambda: sum(need.bytes for need in together))
    assert memory.lacking_to_plan(config, dataset, is_timed=True) == []
    monkeypatch.setattr(memory, "memory_and_swap", lambda: together[1].bytes)
    (line,) = memory.lacking_to_plan(config, dataset, is_timed=True)
    assert line.startswith("ipc: ") and line.endswith("or give --calibration, of another machine")
    assert memory.lacking_to_plan(config, dataset, is_timed=False) == []
    monkeypatch.setattr(memory, "memory_and_swap", lambda: together[1].bytes - 1)
    (line,) = memory.lacking_to_plan(config, dataset, is_timed=False)
    assert line.startswith("network: ")
    with pytest.raises(ConfigError, match=r"^network: "):
        memory.lacking_to_plan(*planned("digits", "network.depth=9"), is_timed=False)


@pytest.mark.parametrize("key", ["data.tier=ram", "data.memory_budget=1"])
def test_images_that_this_machine_cannot_keep_are_refused(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, dataset = checked(tmp_path, "cluster.workers=0", key)
    kept = sum(dataset.decoded_bytes(dataset.counts))
    monkeypatch.setattr(resolve, "memory_and_swap", lambda: kept)
    assert resolve.resolved(config, dataset, {})[1].tier == "ram"
    monkeypatch.setattr(resolve, "memory_and_swap", lambda: kept - 1)
    with pytest.raises(ConfigError, match=f"^{key.split('=')[0]}: ram keeps 34 MiB of .*; set data.tier=disk$"):
        resolve.resolved(config, dataset, {})
    assert resolve.resolved(config, dataset, {}, is_complete=True)[1].tier == "ram"


def test_arrays_that_this_machine_cannot_keep_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load("configs/digits.yaml", [f"output={tmp_path}/run", *ALONE, "data.tier=disk"])
    dataset, _ = preflight.check(config)
    monkeypatch.setattr(resolve, "memory_and_swap", lambda: 1)
    with pytest.raises(ConfigError, match=r"^dataset.size: ram keeps .*; lower it, or take fewer classes$"):
        resolve.resolved(config, dataset, {})


def test_no_file_is_measured_for_a_tier_that_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, dataset = checked(tmp_path, "cluster.workers=0", "data.tier=encoded")
    monkeypatch.setattr(type(dataset.train_split), "encoded_bytes", lambda split: pytest.fail("measured"))
    assert resolve.resolved(config, dataset, {})[1].tier == "encoded"


def test_the_nodes_of_a_cluster_are_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray may start all workers on one node or one on each, and reports the memory that a node was started with."""
    config, dataset = checked(tmp_path, "cluster.workers=8", "data.tier=ram")
    monkeypatch.setattr(resolve, "machines", lambda: [(64, 0, 1000)] * 8)
    assert resolve.resolved(config, dataset, {})[1].tier == "ram"


def test_nothing_is_allocated_to_measure_a_network() -> None:
    shape = {"channels": 3, "size": 64, "classes": 10}
    sketched = networks.sketch("convnet:width=8192:depth=4", **shape)
    size, largest = networks.weight_bytes(sketched), networks.largest_output(sketched, 3, 64)
    built = networks.build("convnet:width=8:depth=4", **shape, seed=0)
    assert networks.weight_bytes(built) == sum(x.numel() * 4 for x in built.state_dict().values())
    assert size > 3 * GIB and largest == 8192 * 64 * 64
    assert not [x for x in sketched.parameters() if not x.is_meta]
