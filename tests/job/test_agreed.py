"""A microbatch that fits is chosen before the first step, by all workers alike, and kept by later starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_condense.data.image_set import ClassName
from dist_condense.engine.coordinator import Coordinator, LocalCoordinator
from dist_condense.job.agreed import with_microbatch
from dist_condense.job.claim import Claim
from dist_condense.planning.images import RandomImages
from dist_condense.settings import microbatch
from dist_condense.settings.config import RunConfig, identity, load, read, to_yaml
from dist_condense.settings.microbatch import Room, fitting
from tests.engine.test_units import on_threads

MIB = 2**20


class Data(RandomImages):
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


def test_all_workers_take_the_least(tmp_path: Path) -> None:
    run = config(f"output={tmp_path}", "data.tier=disk")
    claim, found = started(tmp_path, run), dict[int, RunConfig]()

    def work(coordinator: Coordinator) -> None:
        found[coordinator.rank] = settled(run, claim, (LARGE, SMALL)[coordinator.rank], coordinator)

    settled(run, started(tmp_path / "other", run), SMALL)  # counts once, before the threads
    on_threads(2, work)
    assert found[0] == found[1] and found[0].compute.microbatch
