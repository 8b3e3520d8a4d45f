"""Interface between a method and a run: the only part of a computation that journal, driver, cards and progress know.

A procedure is counted in units, each of which is complete on all workers before it is stored. A unit may contain
updates; the state can also be stored after each update. The :class:`Outline` of a procedure is known before a worker
starts.
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
    """Units of a run, counted in nested levels, the outermost first: ``{"network": K, "matching step": T}``."""

    levels: dict[str, int]

    @property
    def total(self) -> int:
        """Number of units of the whole run."""
        return prod(self.levels.values())

    @property
    def name(self) -> str:
        """Singular noun for a unit, as shown in progress and logs: the innermost level, e.g. ``matching step``."""
        return list(self.levels)[-1]

    def counters(self, done: int) -> dict[str, int]:
        """Return the index, from 0, of the last of ``done`` units on each level.

        The keys are those of metrics.jsonl, with underscores: ``matching_step``.
        """
        remaining, indices = done - 1, list[int]()
        for size in reversed(self.levels.values()):
            remaining, index = divmod(remaining, size)
            indices.insert(0, index)
        return {name.replace(" ", "_"): index for name, index in zip(self.levels, indices, strict=True)}

    def place(self, done: int) -> str:
        """Describe the last of ``done`` units for users, as in ``network 3/20, matching step 4/10``."""
        reached = zip(self.levels.items(), self.counters(done).values(), strict=True)
        return ", ".join(f"{name} {index + 1}/{size}" for (name, size), index in reached)


class Outline(Protocol):
    """Facts about a procedure that follow from the config and the shape of the data set, without workers or images."""

    @property
    def units(self) -> Units: ...

    def class_tensors(self, label: int) -> dict[str, Kind]:
        """Return the dtypes and shapes of the state of a class, by name.

        A checkpoint contains each of these tensors as ``NAME.LABEL``.
        """

    @property
    def shared_tensors(self) -> tuple[dict[str, Kind], dict[str, Kind]]:
        """Dtypes and shapes of the state that is equal on all workers, by name: (required, optional)."""

    def facts(self, done: int) -> dict[str, Any]:
        """Return the entries that this procedure adds to the card of the synthetic set after ``done`` units."""

    def synthetic_set(self, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the images and labels of the synthetic set.

        Images are float32 ``[N, C, h, w]``, in the value space of the card; labels are int64 ``[N]`` or class
        probabilities ``[N, classes]``.

        :param state: state tensors of all classes, by ``NAME.LABEL``.
        """


class Record(Protocol):
    """Callbacks of a procedure between units, implemented by :class:`dist_condense.job.journal.Journal`."""

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
        """Labels of the owned classes, ascending."""

    @property
    def stride(self) -> int:
        """Number of units that workers compute in parallel.

        It is 1 if all workers take part in every unit, and the number of workers if each unit belongs to one worker.
        The workers meet for a log entry or a timed checkpoint at most once per ``stride`` units.
        """

    @property
    def updates(self) -> int:
        """Number of updates completed inside the current unit; 0 between units."""

    @property
    def waited(self) -> float:
        """Seconds spent waiting for images so far."""

    def run(self, record: Record) -> None:
        """Compute all remaining units, from ``record.resume()`` on.

        Calls ``record.after_step`` after each unit, and ``record.finish`` at the end.
        """

    def after_updates(self, call: Callable[[], None]) -> None:
        """Register a callback for every update inside a unit; all workers call it after the same updates."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state of the owned classes, by ``NAME.LABEL``, copied to the CPU."""

    def shared_state_dict(self) -> dict[str, Tensor]:
        """Return the state that is equal on all workers, copied to the CPU."""

    def load_state_dict(self, by_class: Mapping[str, Tensor], shared: Mapping[str, Tensor], updates: int) -> None:
        """Continue from a stored state; entries of other workers' classes are ignored.

        :param updates: number of updates completed inside the current unit.
        """

    def measures(self) -> dict[str, float]:
        """Return this worker's terms of the measures of the last unit, by name; they are summed over all workers."""

    def measured(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Return the measures of the last unit, by key of metrics.jsonl, from the sums of all workers' terms."""

    def problem(self, done: int) -> Problem | None:
        """Return a sort key and an error message if a number on this worker is or was not finite, else None.

        A state with a problem must not be stored.

        :param done: number of completed units.
        """

    def checksum(self) -> int | None:
        """Return a checksum of the shared state, or None if there is no shared state.

        It differs between workers whose shared state differs in a bit.
        """

    def close(self) -> None:
        """Release threads and files."""
