"""Known GPUs: their memory and links, their matrix rate, and the rates that were measured on them (devices.json)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from dist_condense.planning.rates import Calibration, Matching, MatrixRate, Operations, Updating
from dist_condense.system import records
from dist_condense.system.conversion import NonNegativeFloat, Positive

FILE = Path(__file__).with_name("devices.json")
EQUAL = ("compute.autocast", "compute.compile", "statistic.name")
"""Keys in which rates of another network must have been measured to be scaled to this one."""
SIZE = "dataset.size"
GIB, GIGABYTE = 2**30, 1e9


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Rates measured on a GPU, with the commit of this package and the date of the measurement."""

    commit: str
    date: str
    calibration: Calibration
    """Content of a file that ``plan --save`` writes."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """A GPU, and how several of them are connected."""

    name: str
    """Value of ``--gpu``."""
    title: str
    """Name that torch reports."""
    memory: NonNegativeFloat
    """Memory in GiB, as torch reports it."""
    matrix_rate: MatrixRate
    """Rate of products of large bf16 matrices in operations per second."""
    matrix_source: str
    node: Positive
    """Number of GPUs in a node."""
    inside: NonNegativeFloat
    """Bandwidth of each GPU in an all-reduce within a node, in 1e9 bytes per second."""
    between: NonNegativeFloat
    """The same between several nodes."""
    latency: NonNegativeFloat
    """Latency of a collective in seconds."""
    link_source: str
    measured: list[Measured]
    """Rates of networks that were measured on it; empty: none were."""

    @property
    def bytes(self) -> int:
        """Memory in bytes."""
        return int(self.memory * GIB)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Content of devices.json."""

    devices: list[Device]


@cache
def known() -> Mapping[str, Device]:
    """Return the known GPUs by name."""
    return {device.name: device for device in records.read(Table, FILE).devices}


def named(name: str) -> Device | None:
    """Return the known GPU of a name, in upper or lower case; None if there is none."""
    return known().get(name.lower())


def rates(device: Device, compared: Mapping[str, Any], operations: Operations) -> Calibration | None:
    """Return the measured rates of a GPU for a config, or those of the most similar measured network, scaled.

    The rates per image of another network are scaled by its operations per image, that is, its shares of the matrix
    rate are taken over; the seconds per step, class and slice are not scaled, and neither is the memory.

    :param compared: :func:`dist_condense.planning.calibrate.compared` of the config to plan.
    :param operations: operations per image of the config's network.
    :returns: None if no measured network has the precision, compilation and statistic of the config.
    """
    usable = list(_usable(device, compared))
    for each in usable:
        if each.calibration.compared.items() >= compared.items():
            return _described(each, device)
    size = compared.get(SIZE, 0)
    similar = sorted(usable, key=lambda each: abs(each.calibration.compared.get(SIZE, 0) - size))
    return _scaled(_described(similar[0], device), operations) if similar else None


def _usable(device: Device, compared: Mapping[str, Any]) -> Iterator[Measured]:
    for each in device.measured:
        there = each.calibration.compared
        if each.calibration.operations and all(there.get(key) == compared.get(key) for key in EQUAL if key in compared):
            yield each


def _described(each: Measured, device: Device) -> Calibration:
    there, when = each.calibration.compared, f"commit {each.commit}, {each.date}"
    text = f"{device.title}, measured with {there.get('network.name')} at {there.get(SIZE)} px, {when}"
    return replace(each.calibration, device=text, matrix_rate=each.calibration.matrix_rate or device.matrix_rate)


def _scaled(measured: Calibration, operations: Operations) -> Calibration:
    """Return the rates for a network of other operations per image."""

    def factor(name: str) -> float:
        before, now = getattr(measured.operations, name), getattr(operations, name)
        return now / before if before else 1.0

    real, synthetic, training = map(factor, ("real", "synthetic", "training"))

    def matching(rate: Matching | None) -> Matching | None:
        return rate and replace(rate, real=rate.real * real, synthetic=rate.synthetic * synthetic)

    updating: Updating | None = measured.updating and replace(
        measured.updating, batch=measured.updating.batch * training, own=measured.updating.own * training
    )
    return replace(
        measured,
        device=f"{measured.device}, scaled by operations",
        operations=operations,
        alone=matching(measured.alone),
        shared=matching(measured.shared),
        updating=updating,
    )
