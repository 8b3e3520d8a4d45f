"""Kernels that a run launches, counted on tensors without data, and the least time that their launches take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dist_condense.engine.matching.alone import Step
from dist_condense.engine.matching.two_passes import TwoPasses
from dist_condense.engine.update import Batch
from dist_condense.planning import calibrate
from dist_condense.planning.images import like
from dist_condense.planning.operations import OperationCount
from dist_condense.planning.probe import Probe
from dist_condense.planning.rates import Launching
from dist_condense.planning.workload import Workload
from dist_condense.settings import assembly
from dist_condense.settings.config import RunConfig
from dist_condense.settings.schema import ComputeConfig

LAUNCH = 5e-6
"""Seconds that are assumed for launching a kernel from Python."""
STEP_COMPILED, SLICE_COMPILED = 0.12, 0.45
"""Kernels of compiled work as shares of those of the same work in float32 as it is. Counted in the programs that
torch.compile made on a CPU for configs/cifar10_idc.yaml: 61 of the 526 that the step of a class had then, 22 of 50 in a
slice. A compiler fuses casts to bfloat16 with the kernels beside them."""
CAPTURED = 0.2
"""Share of the seconds of a launch that is assumed in a CUDA graph, whose kernels follow each other without the
host."""


@dataclass(frozen=True, kw_only=True)
class Launches:
    """Numbers of kernels that are launched if nothing is compiled or captured, in float32 if the run is compiled."""

    step: int = 0
    """In a matching step, for each class."""
    update: int = 0
    """In an update of theta, besides its slices."""
    slice: int = 0
    """In a slice of an update."""
    draw: int
    """For drawing a network."""


def of_run(config: RunConfig, dataset: Any, load: Workload) -> Launches:
    """Count the kernels of a run's work."""
    made = calibrate.timed(config, load)
    method, compute = replace(made.method, start="noise"), _counted(made.compute)
    made = replace(made, method=method, compute=compute)
    probe = Probe(config=made, dataset=like(dataset, 1), device=torch.device("cpu"))
    build = assembly.network_builder(config, dataset)
    with FakeTensorMode(allow_non_fake_inputs=True):
        network = build(0).eval()
        with OperationCount() as draw:
            network.load_state_dict(build(1).state_dict())
    counted = Launches(draw=draw.launches)
    if load.steps:
        counted = replace(counted, step=_step(probe, network, load))
    if load.updates:
        one, two = (_update(probe, network, slices) for slices in (1, 2))
        counted = replace(counted, update=2 * one - two, slice=two - one)
    return counted


def _counted(compute: ComputeConfig) -> ComputeConfig:
    """Return options with which nothing is compiled; the casts that a compiler would fuse are left out."""
    return replace(compute, compile=False, autocast=compute.autocast and not compute.compile)


def launching(launches: Launches, config: RunConfig) -> Launching:
    """Return the least seconds of a run's work on a GPU."""
    compute = config.compute
    each = LAUNCH * (CAPTURED if compute.cuda_graphs else 1)
    of_step, of_slice = (STEP_COMPILED, SLICE_COMPILED) if compute.compile else (1.0, 1.0)
    return Launching(
        kernel=LAUNCH,
        step=each * of_step * launches.step,
        update=each * launches.update,
        slice=each * of_slice * launches.slice,
    )


def _step(probe: Probe, network: nn.Module, load: Workload) -> int:
    shard = probe.shard
    step, objective = shard.steps.step, shard.steps.objective
    if load.shared_steps or not objective.at_once:  # forward differentiation does not know tensors without data
        step = Step(TwoPasses(replace(objective, forward=False), shard.view), step.rules)
    learnt = shard.learnt_of(0)
    momentum, drawn = {name: torch.zeros_like(x) for name, x in learnt.items()}, shard.draws.of(0)[0]
    with FakeTensorMode(allow_non_fake_inputs=True), OperationCount() as counted:
        step(network, learnt, momentum, torch.empty(load.real, *shard.shape, dtype=torch.uint8), drawn)
    return counted.launches


def _update(probe: Probe, network: nn.Module, slices: int) -> int:
    """Count the kernels of an update after the first, with the operators of SGD that a GPU uses."""
    trainer = replace(probe.trajectory.trainer, slices=slices)
    optimiser, shape = trainer.optimiser(network), (2 * slices, *probe.shard.shape)
    for group in optimiser.param_groups:
        group["foreach"] = True
    [draws] = trainer.draws(0)(0, [2 * slices], shape[-2:]).split([2 * slices])
    with FakeTensorMode(allow_non_fake_inputs=True):
        batch = Batch(torch.empty(shape), torch.zeros(2 * slices, dtype=torch.int64), draws)
        for _ in range(2):
            with OperationCount() as counted:
                trainer.update(network, optimiser, batch, trainer.gradient)
    return counted.launches
