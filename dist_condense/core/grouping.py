"""Groupings G: partitions of the classes into groups, whose statistics are averaged before the distance is taken.

A group of one class is matched alone (DC, IDC, DM); one group of all classes adds the contrastive signal of DCC (Lee et
al. 2022, eq. 6); every other partition of the classes is possible.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dist_condense.core import randomness

Partition = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Grouping:
    """Partition of the classes, with a warm-up in which every class is a group of its own.

    The warm-up applies at network k and matching step t (both from 0) if ``k < warmup_networks and t < warmup_steps``.
    This is DCC's schedule, with 250 networks and 10 steps in the authors' program.
    """

    partition: Partition
    warmup_networks: int = 0
    warmup_steps: int = 0

    def groups(self, k: int, t: int) -> Partition:
        """Return the groups at network k and matching step t, each a tuple of labels in ascending order."""
        warming = k < self.warmup_networks and t < self.warmup_steps
        return per_class(sum(map(len, self.partition))) if warming else self.partition


def per_class(classes: int) -> Partition:
    """Return one group for each class."""
    return tuple((c,) for c in range(classes))


def pooled(classes: int) -> Partition:
    """Return one group of all classes."""
    return (tuple(range(classes)),)


def random_partition(classes: int, groups: int, seed: int) -> Partition:
    """Draw a partition into ``groups`` groups of nearly equal size by the run's seed."""
    order = randomness.permutation(classes, seed, "partition").tolist()
    return canonical(order[g::groups] for g in range(groups))


def from_labels(assignment: Sequence[int]) -> Partition:
    """Return the partition in which classes with equal group numbers are in one group (k-means, superclasses).

    :param assignment: group number of each class.
    """
    return canonical([c for c, g in enumerate(assignment) if g == group] for group in set(assignment))


def canonical(groups: Iterable[Iterable[int]]) -> Partition:
    """Return the groups as sorted tuples in sorted order, without empty groups."""
    return tuple(sorted(filter(None, (tuple(sorted(group)) for group in groups))))


def check_partition(groups: Sequence[Sequence[int]], classes: int) -> Partition:
    """Check that the groups contain every class once and none is empty, and return them as a partition.

    :raises ValueError: a class is missing, repeated or unknown, or a group is empty; the message names the labels, and
        the positions of empty groups, from 0.
    """
    times, known = Counter(c for group in groups for c in group), range(classes)
    wrong = {
        "missing": [c for c in known if c not in times],
        "unknown": sorted(c for c in times if c not in known),
        "repeated": sorted(c for c in times if times[c] > 1),
        "no label in group": [g for g, group in enumerate(groups) if not group],
    }
    if any(wrong.values()):
        problems = ", ".join(f"{problem} {_some(numbers)}" for problem, numbers in wrong.items() if numbers)
        raise ValueError(f"method.grouping.groups must contain each of the {classes} classes once: {problems}")
    return canonical(groups)


def _some(numbers: Sequence[int]) -> str:
    """Format the first ten numbers, followed by the number of the others."""
    return f"{list(numbers[:10])}" + (f" and {len(numbers) - 10} more" if len(numbers) > 10 else "")
