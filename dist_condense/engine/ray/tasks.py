"""Parallel map over Ray tasks, for functions that take a map as their executor (preparation of data)."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import ray
from ray.exceptions import RayTaskError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class RayMap:
    """Parallel map whose calls are Ray tasks of one CPU core each; tasks of a lost node run again elsewhere.

    :param workers: maximum number of tasks that run at once.
    """

    workers: int

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results in order of completion; the original error of the first task that fails is raised."""
        task = ray.remote(num_cpus=1)(function)
        waiting = iter(items)
        running: list[Any] = [task.remote(item) for item in islice(waiting, self.workers)]
        try:
            while running:
                done, running = ray.wait(running)
                running += [task.remote(item) for item in islice(waiting, len(done))]
                for reference in done:
                    yield _value(reference)
        finally:
            for reference in running:
                ray.cancel(reference)


def _value(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from error
