"""Measured rates of a device, in seconds and bytes per unit of work, stored in a file for use on other machines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from dist_condense.planning.workload import Workload
from dist_condense.settings.config import ConfigError
from dist_condense.settings.schema import CUDA
from dist_condense.system import records
from dist_condense.system.conversion import NonNegativeFloat


@dataclass(frozen=True)
class Matching:
    """Seconds of a matching step: ``step + classes * (each + real * real images + synthetic * synthetic images)``."""

    step: NonNegativeFloat
    each: NonNegativeFloat
    real: NonNegativeFloat
    synthetic: NonNegativeFloat

    def seconds(self, classes: int, real: int, synthetic: int) -> float:
        """Return the seconds of a step on a worker with ``classes`` classes, and these numbers of images per class."""
        return self.step + classes * (self.each + real * self.real + synthetic * self.synthetic)


@dataclass(frozen=True)
class Updating:
    """Seconds of an update of theta on a worker that computes some slices of a batch."""

    update: NonNegativeFloat
    slice: NonNegativeFloat
    batch: NonNegativeFloat
    """Seconds per image of the batch, all of which every worker augments."""
    own: NonNegativeFloat
    """Seconds per image of the worker's slices."""

    def seconds(self, batch: int, slices: int, workers: int) -> float:
        """Return the seconds of an update on the worker with the most slices."""
        share = -(-slices // workers)
        return self.update + self.slice * share + self.batch * batch + self.own * batch * share / slices


@dataclass(frozen=True)
class Peak:
    """Peak bytes of live tensors: ``base + image * images in the network at once``."""

    base: NonNegativeFloat
    image: NonNegativeFloat

    def bytes(self, images: int) -> int:
        """Return the peak with ``images`` images in the network."""
        return round(self.base + self.image * images)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Rates of one device with one network. Rates of work that the measured config does not have are None."""

    device: str
    """Description of the device, with the CPU threads."""
    kind: str
    """`cpu` or `cuda`."""
    compared: dict[str, Any]
    """Keys that a config must share to use the rates; see :func:`dist_condense.planning.calibrate.compared`."""
    alone: Matching | None
    """Matching steps with every class on its own."""
    shared: Matching | None
    """Matching steps with groups of several classes."""
    updating: Updating | None
    """Updates of theta."""
    draw: NonNegativeFloat
    """Seconds of drawing a network."""
    real: Peak | None
    """Memory of the statistic of real images."""
    synthetic: Peak | None
    """Memory of the gradient of synthetic images."""
    training: Peak | None
    """Memory of an update, by the images of a slice."""
    stated: NonNegativeFloat | None = None
    """Given rate of real images per second to which all others were scaled."""

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU was measured."""
        return self.kind == CUDA

    def scaled(self, rate: float) -> Calibration:
        """Return the rates of a device that computes the statistic of ``rate`` real images per second, all else in
        proportion. Raises ConfigError if this rate was not measured here.
        """
        if self.alone is None:
            raise ConfigError(["--rate: needs rates of matching; give --calibration of a method that matches"])
        if not self.alone.real:
            raise ConfigError([f"--rate: the cost of real images is lost in noise on {self.device}; measure again"])
        factor = 1 / (rate * self.alone.real)

        def scale(kind: Any) -> Any:
            return kind and type(kind)(**{name: factor * x for name, x in asdict(kind).items()})

        device = f"stated: {rate:g} real images/s; the proportions are those of {self.device}"
        kinds = {name: scale(getattr(self, name)) for name in ("alone", "shared", "updating")}
        return replace(self, device=device, stated=rate, **kinds)

    def write(self, file: Path) -> None:
        """Write the rates as JSON."""
        file.write_text(json.dumps(asdict(self), indent=1) + "\n")


def read(file: Path, compared: dict[str, Any]) -> Calibration:
    """Read a saved calibration. Raises ConfigError with every key that differs from the config to plan."""
    try:
        saved = records.read(Calibration, file)
    except records.Unreadable as error:
        raise ConfigError([f"--calibration: {error}; it is not one that plan saved"]) from error
    differ = [
        f"{key} is {saved.compared.get(key)!r} there, {value!r} here"
        for key, value in compared.items()
        if saved.compared.get(key) != value
    ]
    if differ:
        raise ConfigError([f"--calibration: {file} was measured with another config: {line}" for line in differ])
    return saved


def lacking(rates: Calibration, load: Workload) -> Iterator[str]:
    """Yield a line for each rate that the work needs and that was not measured."""
    if load.steps and rates.alone is None:
        yield "--calibration: measured without matching; measure with this method"
    if load.shared_steps and rates.shared is None:
        yield "--calibration: measured without groups of several classes (method.grouping); measure with this one"
    if load.updates and rates.updating is None:
        yield "--calibration: measured without training of theta (trajectory.matching_steps=1); measure with this one"


def fitted(rows: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """Return non-negative coefficients that give the seconds of each row with the least relative errors."""
    weights = 1 / np.array(seconds)
    coefficients, _ = nnls(np.array(rows) * weights[:, None], np.ones(len(rows)))
    return [float(x) for x in coefficients]
