"""Rates of a device, in seconds and bytes per unit of work, stored in a file for use on other machines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from scipy.optimize import nnls

from dist_condense.planning.workload import Workload
from dist_condense.settings.config import ConfigError
from dist_condense.settings.schema import CPU, CUDA
from dist_condense.system import records
from dist_condense.system.conversion import NonNegativeFloat, Rule, shown
from dist_condense.system.files import write_atomically

VERSION = 2
"""Version of the file. Version 1 has no ``version``, nor the other fields with a remark about it."""
Seconds = Annotated[float, Rule("seconds from 0 to 1e6", lambda x: 0 <= x <= 1e6)]
Size = Annotated[float, Rule("bytes from 0 to 1e15", lambda x: 0 <= x <= 1e15)]
Number = Annotated[float, Rule("operations from 0 to 1e18", lambda x: 0 <= x <= 1e18)]
MatrixRate = Annotated[float, Rule("operations per second from 1 to 1e18", lambda x: 1 <= x <= 1e18)]
BUSY, UNEVEN = 0.1, 0.1
"""Share of the machine's cores that other processes may use, and largest :attr:`Calibration.spread`, before a
measurement is called disturbed."""
NOISE = 1e-12
"""Seconds per image below which a rate cannot have been measured."""


@dataclass(frozen=True)
class Matching:
    """Rates of a matching step in seconds.

    A step takes ``step + classes * (each + real * r + synthetic * s)``, with r real and s synthetic images per class.
    """

    step: Seconds
    each: Seconds
    real: Seconds
    synthetic: Seconds

    def __post_init__(self) -> None:
        _check_some(self)

    def seconds(self, classes: int, real: int, synthetic: int) -> float:
        """Return the seconds of a step on a worker with ``classes`` classes.

        :param real: number of real images per class.
        :param synthetic: number of decoded synthetic images per class.
        """
        return self.step + classes * (self.each + real * self.real + synthetic * self.synthetic)


@dataclass(frozen=True)
class Updating:
    """Rates of an update of theta in seconds: per update, per slice of the worker, and per image."""

    update: Seconds
    slice: Seconds
    batch: Seconds
    """Seconds per image of the whole batch, which every worker augments."""
    own: Seconds
    """Seconds per image in the worker's own slices."""

    def __post_init__(self) -> None:
        _check_some(self)

    def seconds(self, batch: int, slices: int, workers: int) -> float:
        """Return the seconds of an update on the worker with the most slices.

        :param batch: number of images in the batch.
        :param slices: number of slices of the batch, divided among ``workers`` workers.
        """
        share = -(-slices // workers)
        return self.update + self.slice * share + self.batch * batch + self.own * batch * share / slices


@dataclass(frozen=True)
class Peak:
    """Peak bytes of live tensors: ``base + image * n`` for n images in the network at once."""

    base: Size
    image: Size

    def bytes(self, images: int) -> int:
        """Return the peak bytes for ``images`` images in the network at once."""
        return round(self.base + self.image * images)


@dataclass(frozen=True, kw_only=True)
class Operations:
    """Floating-point operations per image; a multiplication and an addition are two."""

    forward: Number
    """One forward pass, without gradients."""
    training: Number
    """Forward and backward pass for an update of the weights; about three times ``forward``."""
    real: Number = 0.0
    """Statistic of a real image; for gradients about three times ``forward``."""
    synthetic: Number = 0.0
    """Gradient of the distance with respect to a decoded synthetic image, including its statistic; for gradients about
    eight times ``forward``."""


@dataclass(frozen=True, kw_only=True)
class Launching:
    """Least seconds of work, which are those of launching its kernels one after the other."""

    kernel: Seconds = 0.0
    """A kernel, if the work is neither compiled nor captured."""
    step: Seconds = 0.0
    """A class in a matching step."""
    update: Seconds = 0.0
    """An update of theta, besides its slices."""
    slice: Seconds = 0.0
    """A slice of an update."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Rates of one device with one network; None for work that the config does not do.

    They were measured, unless ``stated`` or ``share`` is given.
    """

    device: str
    """Description of the device: the GPU, or the CPU and its threads, and the version of torch."""
    kind: Annotated[str, Rule("'cpu' or 'cuda'", (CPU, CUDA).__contains__)]
    """`cpu` or `cuda`."""
    compared: dict[str, Any]
    """Keys and values that a config must have to use the rates; see
    :func:`dist_condense.planning.calibrate.compared`."""
    alone: Matching | None = None
    """Rates of matching steps with every class on its own."""
    shared: Matching | None = None
    """Rates of matching steps with groups of several classes."""
    updating: Updating | None = None
    """Rates of updates of theta."""
    draw: Seconds = 0.0
    """Seconds for drawing a network."""
    launching: Launching = Launching()
    """Assumed bound of the other rates from below; 0 where they were measured, because they include launches."""
    real: Peak | None = None
    """Memory for computing the statistic of real images."""
    synthetic: Peak | None = None
    """Memory for computing the gradient of synthetic images."""
    training: Peak | None = None
    """Memory for computing an update of theta, by the number of images in a slice."""
    stated: NonNegativeFloat | None = None
    """Real images per second, as stated by the user, to which the rates of time were scaled; None: not scaled."""
    share: NonNegativeFloat | None = None
    """Share of the matrix rate of a GPU that is assumed for all work; None: the rates were measured or stated."""
    version: Annotated[int, Rule(f"a version from 1 to {VERSION}", range(1, VERSION + 1).__contains__)] = VERSION
    operations: Operations | None = None
    """Operations per image of theta. None in version 1."""
    matrix_rate: MatrixRate | None = None
    """Largest measured rate of products of bf16 matrices on the device, in operations per second; None: unknown."""
    spread: NonNegativeFloat | None = None
    """Largest relative difference between the median and the least of the repeated timings of a piece of work; the
    rates follow from the least. None in version 1, which used medians, and where nothing was timed."""
    others: NonNegativeFloat | None = None
    """Share of this machine's cores that other processes used during the timing. None: unknown, or nothing timed."""

    @property
    def on_gpu(self) -> bool:
        """Whether the rates are those of a GPU."""
        return self.kind == CUDA

    @property
    def is_measured(self) -> bool:
        """Whether the rates were measured, rather than derived from a stated rate or an assumed share."""
        return self.stated is None and self.share is None

    @property
    def disturbance(self) -> str | None:
        """Warning if other processes disturbed the measurement, or its repeated timings differ much; else None."""
        if (self.others or 0.0) <= BUSY and (self.spread or 0.0) <= UNEVEN:
            return None
        used = "" if self.others is None else f"; other processes used {self.others:.0%} of the cores meanwhile"
        differ = f"the median of repeated timings is up to {self.spread or 0.0:.0%} above their least"
        return f"warning: measured on a busy machine, so the times may be too long: {differ}{used}"

    def shares(self) -> dict[str, float]:
        """Return the measured share of the matrix rate for each kind of work; {} if it is unknown."""
        counted, peak = self.operations, self.matrix_rate
        if counted is None or peak is None:
            return {}
        seconds = {
            "statistic": (counted.real, self.alone and self.alone.real),
            "double backward": (counted.synthetic, self.alone and self.alone.synthetic),
            "training": (counted.training, self.updating and self.updating.batch + self.updating.own),
        }
        return {name: work / (each * peak) for name, (work, each) in seconds.items() if each and each > NOISE}

    def scaled(self, rate: float) -> Calibration:
        """Scale the rates to a device that computes the statistic of ``rate`` real images per second.

        The seconds of matching and updating are scaled in proportion; those of drawing a network are not.

        :raises ConfigError: the cost of real images was not measured.
        """
        if self.alone is None:
            raise ConfigError(["--rate: needs rates of matching; give --calibration of a method that matches"])
        if self.alone.real < NOISE:
            raise ConfigError([f"--rate: the cost of real images is lost in noise on {self.device}; measure again"])
        factor = 1 / (rate * self.alone.real)

        def scale(kind: Any) -> Any:
            return kind and type(kind)(**{name: factor * x for name, x in asdict(kind).items()})

        device = f"stated: {rate:g} real images/s; the proportions are those of {self.device}"
        kinds = {name: scale(getattr(self, name)) for name in ("alone", "shared", "updating")}
        return replace(self, device=device, stated=rate, **kinds)

    def write(self, file: Path) -> None:
        """Write the rates as JSON. Raises OSError if that is impossible; an older file is then kept."""
        write_atomically(file, (json.dumps(asdict(self), indent=1) + "\n").encode())


def read(file: Path, compared: dict[str, Any]) -> Calibration:
    """Read a saved calibration.

    :param compared: :func:`dist_condense.planning.calibrate.compared` of the config to plan.
    :raises ConfigError: the file is not a calibration, or it has other values of some keys; all such keys are reported.
    """
    try:
        saved = records.read(Calibration, file)
    except records.Unreadable as error:
        raise ConfigError([f"--calibration: {error}; it is not one that plan saved"]) from error
    differ = [
        f"{key} is {shown(saved.compared.get(key))} there, {shown(value)} here"
        for key, value in compared.items()
        if saved.compared.get(key) != value
    ]
    if differ:
        raise ConfigError([f"--calibration: {file} was measured with another config: {line}" for line in differ])
    return saved


def _check_some(rates: Matching | Updating) -> None:
    if not any(astuple(rates)):
        raise ValueError("all its seconds are 0, expected at least one above 0")


def lacking(rates: Calibration, load: Workload) -> Iterator[str]:
    """Yield an error message for each kind of rate that the work needs but the calibration lacks."""
    if load.steps and rates.alone is None:
        yield "--calibration: measured without matching; measure with this method"
    if load.shared_steps and rates.shared is None:
        yield "--calibration: measured without groups of several classes (method.grouping); measure with this one"
    if load.updates and rates.updating is None:
        yield "--calibration: measured without training of theta (trajectory.matching_steps=1); measure with this one"


def fitted(rows: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """Fit non-negative coefficients by least squares of the relative errors of ``rows @ coefficients``.

    :param seconds: measured seconds of each row.
    """
    weights = 1 / np.array(seconds)
    coefficients, _ = nnls(np.array(rows) * weights[:, None], np.ones(len(rows)))
    return [float(x) for x in coefficients]
