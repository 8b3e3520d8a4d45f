"""What was measured on a device: seconds and bytes per unit of work, kept in a file that another machine can read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from dist_condense.settings.config import ConfigError
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
        """On a worker with so many classes; images per class."""
        return self.step + classes * (self.each + real * self.real + synthetic * self.synthetic)


@dataclass(frozen=True)
class Updating:
    """Seconds of an update of theta on a worker that computes some slices of a batch."""

    update: NonNegativeFloat
    slice: NonNegativeFloat
    batch: NonNegativeFloat
    """Per image of the batch: every worker augments all of it."""
    own: NonNegativeFloat
    """Per image of the worker's slices."""

    def seconds(self, batch: int, slices: int, workers: int) -> float:
        """On the worker with most slices."""
        share = -(-slices // workers)
        return self.update + self.slice * share + self.batch * batch + self.own * batch * share / slices


@dataclass(frozen=True)
class Peak:
    """Bytes of tensors alive at once: ``base + image * images that are in the network at once``."""

    base: NonNegativeFloat
    image: NonNegativeFloat

    def bytes(self, images: int) -> int:
        """At most."""
        return round(self.base + self.image * images)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """One device with one network."""

    device: str
    """In words, with the CPU threads."""
    kind: str
    """`cpu` or `cuda`."""
    compared: dict[str, Any]
    """What has to be the same where it is used; see :func:`dist_condense.planning.calibrate.compared`."""
    alone: Matching
    shared: Matching | None
    """None: no groups of several classes."""
    updating: Updating | None
    """None: theta is not trained."""
    draw: NonNegativeFloat
    """Seconds that drawing a network takes."""
    real: Peak
    """Of the statistic of real images."""
    synthetic: Peak
    """Of the gradient of synthetic ones."""
    training: Peak | None
    """Of an update, by the images of a slice."""
    stated: NonNegativeFloat | None = None
    """The rate that all others were brought in proportion to."""

    def scaled(self, rate: float) -> Calibration:
        """As on a device that takes ``rate`` real images a second through the statistic, all else in proportion."""
        if not self.alone.real:
            raise ConfigError([f"--rate: what real images cost is lost in noise on {self.device}; measure again"])
        factor = 1 / (rate * self.alone.real)

        def scale(kind: Any) -> Any:
            return kind and type(kind)(**{name: factor * x for name, x in asdict(kind).items()})

        told = f"stated: {rate:g} real images/s; the proportions are those of {self.device}"
        kinds = {name: scale(getattr(self, name)) for name in ("alone", "shared", "updating")}
        return replace(self, device=told, stated=rate, **kinds)

    def write(self, file: Path) -> None:
        """As JSON."""
        file.write_text(json.dumps(asdict(self), indent=1) + "\n")


def read(file: Path, compared: dict[str, Any]) -> Calibration:
    """A calibration that was saved, of what is to be planned. Raises ConfigError with every difference."""
    try:
        found = records.read(Calibration, file)
    except records.Unreadable as error:
        raise ConfigError([f"--calibration: {error}; it is not one that plan saved"]) from error
    there, keys = found.compared, [*compared]
    differ = [
        f"{key} is {there.get(key)!r} there, {compared[key]!r} here" for key in keys if there.get(key) != compared[key]
    ]
    if differ:
        raise ConfigError([f"--calibration: {file} was measured with something else: {line}" for line in differ])
    return found


def lacking(found: Calibration, shared: bool, updates: bool) -> Iterator[str]:
    """What the work needs and was not measured, as where the config it was measured with had none of it."""
    if shared and found.shared is None:
        yield "--calibration: measured without groups of several classes (method.grouping); measure with this one"
    if updates and found.updating is None:
        yield "--calibration: measured without training of theta (trajectory.matching_steps=1); measure with this one"


def fitted(rows: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """Coefficients, none below 0, that give the seconds of each row with the least relative errors."""
    weights = 1 / np.array(seconds)
    found, _ = nnls(np.array(rows) * weights[:, None], np.ones(len(rows)))
    return [float(x) for x in found]
