"""A microbatch that fits is chosen before the first step, by all workers alike, and kept by later starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_condense.data.image_set import ClassName
from dist_condense.engine.coordinator import Coordinator, LocalCoordinator
from dist_condense.engine.errors import RunFailed
from dist_condense.job.agreed import with_microbatch
from dist_condense.job.claim import Claim
from dist_condense.planning.forecast import STATISTICS, memory
from dist_condense.planning.images import RandomImages
from dist_condense.planning.workload import workload_of
from dist_condense.settings import microbatch
from dist_condense.settings.config import RunConfig, identity, load, read, to_yaml
from dist_condense.settings.microbatch import Room, fitting
from dist_condense.settings.needs import FLOAT
from tests.engine.test_units import on_threads
from tests.planning.cases import CLUSTER, RATES

MIB = 2**20


class Split:
    def encoded_bytes(self) -> list[int]:
        return [100, 20, 3]


class Data(RandomImages):
    train_split = Split()

    def decoded_bytes(self, counts: list[int]) -> list[int]:
        return [n * self.channels * self.size**2 for n in counts]


DATA = Data(classes=(ClassName("a"), ClassName("b"), ClassName("c")), size=16, per_class=80)
LARGE, SMALL = 1000 * MIB, 60 * MIB


def config(*keys: str) -> RunConfig:
    return load("configs/digits.yaml", ["method=dc", "ipc=64", "method.real_batch=64", "network.width=64", *keys])


def needed(run: RunConfig, images: int) -> float:
    """Return the bytes of a step with a number of images in the network, by counting two other numbers."""
    of_real, of_synthetic = microbatch._peaks.__wrapped__(*_case(run)[:2], **_case(run)[2])
    few, many = microbatch.COUNTS
    return max(x[1] + (images - many) * (x[1] - x[0]) / (many - few) for x in (of_real, of_synthetic))


def _case(run: RunConfig) -> tuple[Any, ...]:
    assembly = microbatch.assembly
    objective = replace(assembly.objective_of(run), microbatch=0, compiled=False)
    return assembly.network_text(run.network), objective, assembly.network_shape(DATA)  # type: ignore[arg-type]


@pytest.mark.parametrize("keys", [(), ("compute.autocast=true",)])
def test_the_choice_fits_and_twice_as_much_does_not(keys: tuple[str, ...]) -> None:
    run = config(*keys)
    beside = microbatch._beside(run, DATA, 3)
    assert fitting(run, DATA, 3, Room(LARGE)) == 0
    room = int((beside + needed(run, 24)) / microbatch.SHARE)
    chosen = fitting(run, DATA, 3, Room(room))
    assert chosen == 16
    assert fitting(run, DATA, 3, Room(room, images=room // 2)) < 16
    assert fitting(run, DATA, 3, Room(0)) == 1


@pytest.mark.parametrize("text", ["convnet:depth=2", "alexnet", "mlp"])
@pytest.mark.parametrize(
    "keys", [(), ("compute.autocast=true",), ("method.statistic.name=embedding", "method.distance=sum_squared")]
)
def test_no_step_needs_more_than_its_bound(text: str, keys: tuple[str, ...]) -> None:
    objective, shape = _case(config(*keys))[1], {"channels": 3, "size": 32, "classes": 10}
    of_real, of_synthetic = microbatch._peaks(text, objective, **shape)
    for images, at in ((2, 0), (4, 1)):
        assert max(of_real[at], of_synthetic[at]) < 0.9 * microbatch.bound(text, images, **shape)  # type: ignore[arg-type]


def test_nothing_is_counted_if_the_bound_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(microbatch, "_peaks", None)
    cifar = load("configs/cifar10_dc.yaml", [])
    images = RandomImages(classes=DATA.classes, size=32, per_class=5000)
    for run, data in ((config(), DATA), (cifar, images)):
        assert fitting(run, data, 3, Room(6 * 2**30)) == 0


@pytest.mark.parametrize("statistic", ["gradient", "embedding"])
def test_statistics_of_groups_are_counted_as_plan_counts_them(statistic: str) -> None:
    alone = config("method.grouping.name=per_class", f"method.statistic.name={statistic}")
    pooled = config("method.grouping.name=pooled", f"method.statistic.name={statistic}")
    load = workload_of(pooled, DATA)
    expected = memory(load, RATES, CLUSTER, 1)[STATISTICS]
    assert load.groups == 1 and expected == FLOAT * 2 * load.statistic * (3 + 2 + 3)
    assert microbatch._beside(pooled, DATA, 3) - microbatch._beside(alone, DATA, 3) == expected


def test_the_classes_in_a_graph_are_in_the_network_at_once() -> None:
    run = config("compute.cuda_graphs=8")
    room = int((microbatch._beside(run, DATA, 3) + 2 * needed(run, 64)) / microbatch.SHARE)
    on_gpu = Room(room, on_gpu=True)
    assert fitting(run, DATA, 3, Room(room)) == 0 and fitting(run, DATA, 3, on_gpu) == 32
    assert fitting(run, DATA, 1, on_gpu) == fitting(run, DATA, 2, on_gpu) == 0, "no more classes than the worker owns"
    told = microbatch.reason(run, DATA, 3, on_gpu)
    assert told.startswith("all images of 3 classes in a CUDA graph do not fit") and "compute.cuda_graphs=1" in told
    assert microbatch.reason(run, DATA, 3, Room(room // 4, on_gpu=True)) == "all images of a class at once do not fit"


def test_bfloat16_needs_less() -> None:
    assert needed(config("compute.autocast=true"), 64) < 0.8 * needed(config(), 64)


def started(folder: Path, run: RunConfig) -> Claim:
    """Return the claim of a run whose folder contains its config."""
    claim = Claim.new(folder)
    claim.take()
    (folder / "config.yaml").write_text(to_yaml(run))
    return claim


def settled(run: RunConfig, claim: Claim, size: int, coordinator: Coordinator | None = None) -> RunConfig:
    return with_microbatch(
        run,
        DATA,  # type: ignore[arg-type]
        [0, 1, 2],
        coordinator=coordinator or LocalCoordinator(),
        device=torch.device("cpu"),
        claim=claim,
        room=lambda device, workers, images: Room(size, images),
    )


def test_later_starts_keep_the_choice(tmp_path: Path) -> None:
    run = config(f"output={tmp_path}", "data.tier=disk")
    claim = started(tmp_path, run)
    small = settled(run, claim, SMALL)
    chosen = small.compute.microbatch
    assert chosen and 64 % chosen == 0
    assert read(tmp_path / "config.yaml").compute.microbatch == chosen
    assert settled(run, claim, LARGE) == small, "a group that is started again"
    assert identity(small)["compute.microbatch"] == chosen and "compute.microbatch" not in identity(run)


def test_a_number_of_the_config_is_kept(tmp_path: Path) -> None:
    run = config(f"output={tmp_path}", "compute.microbatch=0")
    assert settled(run, started(tmp_path, run), SMALL) is run


@pytest.mark.parametrize(
    ("device", "tier", "images"),
    [
        ("cuda", "ram", 0),
        ("cuda", "encoded", 0),
        ("cuda", "gpu", 2 * 80 * 3 * 16**2),
        ("cpu", "ram", 2 * 80 * 3 * 16**2),
        ("cpu", "encoded", 103),
        ("cpu", "disk", 0),
    ],
)
def test_real_images_count_where_they_are_kept(tmp_path: Path, device: str, tier: str, images: int) -> None:
    run, found = config(f"output={tmp_path}", f"data.tier={tier}"), list[int]()

    def room(device: torch.device, workers: int, images: int) -> Room:
        found.append(images)
        return Room(LARGE)

    keys: Any = {"device": torch.device(device), "claim": started(tmp_path, run), "room": room}
    with_microbatch(run, DATA, [0, 2], coordinator=LocalCoordinator(), **keys)  # type: ignore[arg-type]
    assert found == [images]


@pytest.mark.parametrize("sent", ["many", -1, 2.0])
def test_a_number_of_another_version_is_refused(tmp_path: Path, sent: object) -> None:
    class Other(LocalCoordinator):
        def gather(self, value: object) -> list[object]:
            return [value, sent if isinstance(value, int) else value]

    run = config(f"output={tmp_path}")
    with pytest.raises(RunFailed, match=f"a worker sent {sent!r} as compute.microbatch; give all workers the same"):
        settled(run, started(tmp_path, run), LARGE, Other())


def test_each_worker_logs_its_own_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = config(f"output={tmp_path}", "data.tier=disk")
    with caplog.at_level("INFO", "dist_condense.job.agreed"):
        chosen = settled(run, started(tmp_path, run), SMALL).compute.microbatch
    reason = "all images of a class at once do not fit"
    assert caplog.messages == [f"compute.microbatch={chosen} is chosen: {reason}; this worker has 60 MiB"]


def test_all_workers_take_the_least(tmp_path: Path) -> None:
    run = config(f"output={tmp_path}", "data.tier=disk")
    claim, found = started(tmp_path, run), dict[int, RunConfig]()

    def work(coordinator: Coordinator) -> None:
        found[coordinator.rank] = settled(run, claim, (LARGE, SMALL)[coordinator.rank], coordinator)

    settled(run, started(tmp_path / "other", run), SMALL)  # counts once, before the threads
    on_threads(2, work)
    assert found[0] == found[1] and found[0].compute.microbatch
