"""Kernels of a run: as many operators as a real step and a real update call."""

from dataclasses import replace

import pytest
import torch

from dist_condense.planning import calibrate, launches
from dist_condense.planning.images import assumed, like
from dist_condense.planning.operations import OperationCount
from dist_condense.planning.probe import Probe
from dist_condense.planning.workload import workload_of
from dist_condense.settings.config import load

SMALL = ["network.width=4", "network.depth=2", "method.real_batch=4"]
SMALL += ["compute.compile=false", "compute.autocast=false"]


def case(name, *keys):
    config = load(f"configs/{name}.yaml", [*SMALL, *keys])
    data = assumed(config, None, None)
    return config, data, workload_of(config, data)


@pytest.mark.parametrize("keys", [(), ("compute.microbatch=3",)])
def test_as_many_as_a_step_with_data(keys):
    config, data, work = case("cifar10_idc", "ipc=2", *keys)
    probe = Probe(config=calibrate.timed(config, work), dataset=like(data, 16), device=torch.device("cpu"))
    shard = probe.shard
    drawn, stored = shard.draws.of(0)[0], torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    momentum = {name: torch.zeros_like(x) for name, x in shard.learnt_of(0).items()}
    with OperationCount() as counted:
        shard.steps.step(probe.trajectory.network, shard.learnt_of(0), momentum, stored, drawn)
    assert launches.of_run(config, data, work).step == counted.launches


def test_as_many_as_an_update_with_data():
    config, data, work = case("cifar10_idc")
    probe = Probe(config=calibrate.timed(config, work), dataset=like(data, 16), device=torch.device("cpu"))
    probe.update(8, 1, 1)
    with OperationCount() as counted:
        probe.update(8, 1, 1)
    found = launches.of_run(config, data, work)
    assert 0 < found.slice < found.update + found.slice < counted.launches  # SGD updates all tensors at once on a GPU


def test_casts_are_counted_unless_a_compiler_fuses_them():
    def found(*keys):
        return launches.of_run(*case("cifar10_idc", "ipc=1", *keys))

    plain, cast, compiled = "compute.autocast=false", "compute.autocast=true", "compute.compile=true"
    assert found(cast, compiled) == found(plain, compiled) == found(plain)
    assert found(cast).step > found(plain).step and found(cast).slice > found(plain).slice


def test_a_selection_launches_no_steps():
    config, data, work = case("cifar10_dc", "method=herding")
    found = launches.of_run(config, data, work)
    assert found.step == 0 < found.slice and found.draw > 0
    assert launches.of_run(*case("cifar10_dm")[:2], replace(work, updates={}, steps=1, real=4)).slice == 0
