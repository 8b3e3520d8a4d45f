"""Interface between a method and a run: all that the journal, the driver, cards and progress know of a computation.

A procedure is counted in units, each complete on all workers before it is stored; a unit may contain updates, after
each of which its state can be stored as well. Its :class:`Outline` is known before a worker starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor

Kind = tuple[torch.dtype, tuple[int, ...]]
"""Dtype and shape of a tensor."""
Problem = tuple[tuple[float, ...], str]
"""A sort key and a message; the smallest of several workers' problems is the cause, and is reported."""


def kind_of(tensor: Tensor) -> Kind:
    """Return the dtype and shape of a tensor."""
    return tensor.dtype, tuple(tensor.shape)


@dataclass(frozen=True)
class Units:
    """Units of a run, counted on levels from the outermost inwards: ``{"network": K, "matching step": T}``."""

    levels: dict[str, int]

    @property
    def total(self) -> int:
        """Number of units of the whole run."""
        return prod(self.levels.values())

    @property
    def name(self) -> str:
        """Name of one unit."""
        return list(self.levels)[-1]

    def counters(self, done: int) -> dict[str, int]:
        """Return the index of the last of ``done`` units on each level, from 0, by key of metrics.jsonl."""
        remaining, indices = done - 1, list[int]()
        for size in reversed(self.levels.values()):
            remaining, index = divmod(remaining, size)
            indices.insert(0, index)
        return {name.replace(" ", "_"): index for name, index in zip(self.levels, indices, strict=True)}

    def place(self, done: int) -> str:
        """Describe the last of ``done`` units for a person: ``network 3/20, matching step 4/10``."""
        reached = zip(self.levels.items(), self.counters(done).values(), strict=True)
        return ", ".join(f"{name} {index + 1}/{size}" for (name, size), index in reached)


class Outline(Protocol):
    """Facts about a procedure that follow from the config and the shape of the data set, without workers or images."""

    @property
    def units(self) -> Units: ...

    @property
    def class_tensors(self) -> dict[str, Kind]:
        """State of one class, by name; a checkpoint stores each as ``NAME.LABEL`` for every class."""

    @property
    def shared_tensors(self) -> tuple[dict[str, Kind], dict[str, Kind]]:
        """State that is equal on all workers, by name: the required and the optional tensors of a checkpoint."""

    def facts(self, done: int) -> dict[str, Any]:
        """Return the entries that this procedure adds to the set's card after ``done`` units."""

    def synthetic_set(self, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return images ``[N, C, h, w]`` float32, in the value space of the card, and labels, int64 ``[N]`` or class
        probabilities ``[N, classes]``.

        :param state: state of all classes, by ``NAME.LABEL``.
        """


class Record(Protocol):
    """Callbacks between units (:class:`dist_condense.job.journal.Journal`)."""

    def resume(self) -> int:
        """Load the stored state and return the number of completed units."""

    def after_step(self, done: int) -> None:
        """Record that ``done`` units are complete; may store, log, or end the run by an exception."""

    def finish(self) -> None:
        """Wait until everything is stored."""


class Procedure(Protocol):
    """Computation of one worker for its owned classes. Every worker makes the same calls in the same order."""

    @property
    def outline(self) -> Outline: ...

    @property
    def labels(self) -> list[int]:
        """Owned classes, ascending."""

    @property
    def stride(self) -> int:
        """Number of units that workers compute in parallel: 1 where all take part in every unit, else the number of
        workers.

        The workers meet for a log or a timed checkpoint at most once per ``stride`` units.
        """

    @property
    def updates(self) -> int:
        """Updates completed inside the current unit; 0 between units."""

    @property
    def waited(self) -> float:
        """Seconds spent waiting for images so far."""

    def run(self, record: Record) -> None:
        """Compute all units from ``record.resume()`` on, call ``record.after_step`` after each, and finish."""

    def after_updates(self, call: Callable[[], None]) -> None:
        """Call ``call`` after each update inside a unit, on all workers after the same ones."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state of the owned classes, by ``NAME.LABEL``, copied to the CPU."""

    def shared_state_dict(self) -> dict[str, Tensor]:
        """Return the state that is equal on all workers, copied to the CPU."""

    def load_state_dict(self, by_class: Mapping[str, Tensor], shared: Mapping[str, Tensor], updates: int) -> None:
        """Continue from a stored state; entries of other workers' classes are ignored."""

    def measures(self) -> dict[str, float]:
        """Return measurements of the last unit by key of metrics.jsonl, as floats. They are summed over all workers."""

    def problem(self, done: int) -> Problem | None:
        """Return why this worker's state after ``done`` units must not be stored, if a number of it is not finite."""

    def checksum(self) -> int | None:
        """Return an integer that differs between workers whose shared state differs in a bit; None if there is none."""

    def close(self) -> None:
        """Release threads and files."""
