"""The seam between a method and a run: all that the journal, the driver, cards and progress know of what is computed.

A procedure is counted in units, each complete on all workers before it is stored; a unit may have updates inside it,
after each of which its state can be stored as well. Its :class:`Outline` is known before a worker starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor

Kind = tuple[torch.dtype, tuple[int, ...]]
"""Type and shape of a tensor."""
Problem = tuple[tuple[float, ...], str]
"""An order and a sentence; of several workers' problems the smallest is the cause, and is reported."""


def kind_of(tensor: Tensor) -> Kind:
    """Of a tensor."""
    return tensor.dtype, tuple(tensor.shape)


@dataclass(frozen=True)
class Units:
    """The units of a run, counted on levels from the outermost inwards: ``{"network": K, "matching step": T}``."""

    levels: dict[str, int]

    @property
    def total(self) -> int:
        """Units of the whole run."""
        return prod(self.levels.values())

    @property
    def name(self) -> str:
        """The name of one unit."""
        return list(self.levels)[-1]

    def counters(self, done: int) -> dict[str, int]:
        """The last of ``done`` units, on each level from 0, by keys for metrics.jsonl: ``matching_step``."""
        rest, found = done - 1, list[int]()
        for size in reversed(self.levels.values()):
            rest, index = divmod(rest, size)
            found.insert(0, index)
        return {name.replace(" ", "_"): index for name, index in zip(self.levels, found, strict=True)}

    def place(self, done: int) -> str:
        """The last of ``done`` units for a person: ``network 3/20, matching step 4/10``."""
        reached = zip(self.levels.items(), self.counters(done).values(), strict=True)
        return ", ".join(f"{name} {index + 1}/{size}" for (name, size), index in reached)


class Outline(Protocol):
    """What is known of a procedure from the config and the shape of the data set: neither workers nor images."""

    @property
    def units(self) -> Units: ...

    @property
    def class_tensors(self) -> dict[str, Kind]:
        """State of one class, by name; a checkpoint holds each as ``NAME.LABEL`` for every class."""

    @property
    def shared_tensors(self) -> tuple[dict[str, Kind], dict[str, Kind]]:
        """State that is equal on all workers, by name: what a checkpoint must hold, and what it may hold besides."""

    def facts(self, done: int) -> dict[str, Any]:
        """Entries of the set's card that this procedure adds, after ``done`` units."""

    def synthetic_set(self, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Images ``[N, C, h, w]`` float32, in the value space of the card; labels, int64 ``[N]`` or class
        probabilities ``[N, classes]``.

        :param state: of all classes, by ``NAME.LABEL``.
        """


class Record(Protocol):
    """Called between units (:class:`dist_condense.job.journal.Journal`)."""

    def resume(self) -> int:
        """Load the stored state; the number of units done."""

    def after_step(self, done: int) -> None:
        """Note that ``done`` units are complete; may store, log, or end the run by an exception."""

    def finish(self) -> None:
        """Wait until everything is stored."""


class Procedure(Protocol):
    """What one worker computes, for the classes that it owns. Every worker makes the same calls in the same order."""

    @property
    def outline(self) -> Outline: ...

    @property
    def labels(self) -> list[int]:
        """The classes owned, ascending."""

    @property
    def stride(self) -> int:
        """Units that workers compute side by side: 1 where each takes part in every unit; the number of workers where
        a unit is one worker's alone. The workers meet for a log or a timed checkpoint once in so many units at most.
        """

    @property
    def updates(self) -> int:
        """Updates done inside the unit under way; 0 between units."""

    @property
    def waited(self) -> float:
        """Seconds spent waiting for images so far."""

    def run(self, record: Record) -> None:
        """Compute all units from ``record.resume()`` on, call ``record.after_step`` after each, and finish."""

    def after_updates(self, call: Callable[[], None]) -> None:
        """Call this after each update inside a unit, on all workers after the same ones."""

    def state_dict(self) -> dict[str, Tensor]:
        """State of the owned classes, by ``NAME.LABEL``, copied to the CPU."""

    def shared_state_dict(self) -> dict[str, Tensor]:
        """State that is equal on all workers, copied to the CPU."""

    def load_state_dict(self, by_class: Mapping[str, Tensor], shared: Mapping[str, Tensor], updates: int) -> None:
        """Continue from a stored state; entries of classes of other workers are ignored."""

    def measures(self) -> dict[str, float]:
        """Measurements of the last unit by key of metrics.jsonl, as floats; those of all workers are added up."""

    def problem(self, done: int) -> Problem | None:
        """Why the state must not be stored, on this worker, after ``done`` units: a number that is not finite."""

    def checksum(self) -> int | None:
        """An integer that differs between workers whose shared state differs in a bit; None without such a state."""

    def close(self) -> None:
        """Release threads and files."""
