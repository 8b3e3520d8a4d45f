"""Rates that follow from operations: an image takes its operations divided by a rate, and nothing is timed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dist_condense.planning import calibrate, devices, launches
from dist_condense.planning.devices import Device
from dist_condense.planning.operations import Counted, of_run
from dist_condense.planning.rates import Calibration, Launching, Matching, Updating
from dist_condense.planning.workload import Workload
from dist_condense.settings import assembly
from dist_condense.settings.config import RunConfig
from dist_condense.settings.schema import CUDA

SHARE = 0.4
"""Share of a GPU's bf16 matrix rate that is assumed where none was measured: the goal of this package."""


def of_device(device: Device, config: RunConfig, dataset: Any, load: Workload, share: float | None) -> Calibration:
    """Return the rates that were measured on a known GPU, or those of an assumed share of its matrix rate.

    :param share: share that is assumed even if rates were measured; None: the measured rates, else :data:`SHARE`.
    """
    counted = _counted(config, dataset, load)
    if share is None:
        measured = devices.rates(device, calibrate.compared(config, dataset, load), counted.operations)
        if measured is not None:
            return replace(measured, real=counted.real, synthetic=counted.synthetic, training=counted.training)
    share = share or SHARE
    made = _rates(counted, config, dataset, load, rate=share * device.matrix_rate, kind=CUDA)
    text = f"assumed, not measured: {share:.0%} of the {device.matrix_rate / 1e12:.0f} TFLOP/s of an {device.title}"
    return replace(made, device=text, share=share, matrix_rate=device.matrix_rate)


def of_rate(rate: float, kind: str, config: RunConfig, dataset: Any, load: Workload) -> Calibration:
    """Return the rates of a device that computes the statistic of ``rate`` real images per second.

    Without matching, it is the rate of training. All other work has the same number of operations per second.

    :param kind: `cpu` or `cuda`.
    """
    counted = _counted(config, dataset, load)
    each = counted.operations.real or counted.operations.training
    made = _rates(counted, config, dataset, load, rate=rate * each, kind=kind)
    text = f"stated, not measured: {rate:g} real images/s, and as many operations per second in all other work"
    return replace(made, device=text, stated=rate)


def _counted(config: RunConfig, dataset: Any, load: Workload) -> Counted:
    network = assembly.network_builder(config, dataset)(0)
    return of_run(config, dataset, network, matches=load.steps > 0)


def _rates(counted: Counted, config: RunConfig, dataset: Any, load: Workload, *, rate: float, kind: str) -> Calibration:
    """Return the rates of a device with ``rate`` operations per second in all work, and on a GPU those of launches.

    Augmentation and decoding have no operations, only launches.
    """
    work, launching, draw = counted.operations, Launching(), 0.0
    if kind == CUDA:
        of_run = launches.of_run(config, dataset, load)
        launching, draw = launches.launching(of_run, config), launches.LAUNCH * of_run.draw
    real, synthetic, training = (x / rate for x in (work.real, work.synthetic, work.training))
    is_split = 0 < load.microbatch < max(load.real, load.synthetic)  # two passes: the statistic, then the pull-back
    alone = Matching(0.0, 0.0, real, synthetic + real * is_split) if load.steps else None
    return Calibration(
        device="",
        kind=kind,
        compared=calibrate.compared(config, dataset, load),
        alone=alone,
        shared=Matching(0.0, 0.0, real, synthetic + real) if load.shared_steps else None,
        updating=Updating(0.0, 0.0, 0.0, training) if load.updates or load.trials else None,
        real=counted.real,
        synthetic=counted.synthetic,
        training=counted.training,
        operations=work,
        draw=draw,
        launching=launching,
    )
