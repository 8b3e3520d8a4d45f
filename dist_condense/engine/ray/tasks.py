"""A map over Ray tasks, for work that is handed one (preparing data)."""

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
    """Maps over tasks of one CPU core each, results as they come; tasks of a lost node are run again elsewhere.

    :param workers: tasks at once.
    """

    workers: int

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The first error of a task is raised as itself."""
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
