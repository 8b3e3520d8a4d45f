"""What a run has cost: time, processes and hardware, as the files of its folder record them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from dist_condense.result.metrics_file import MetricsEntry, process_hours
from dist_condense.result.progress import duration

HOUR = 3600
LONGEST = 10**9
"""Largest number of hours; metrics that give more were not measured."""


def cost(tags: Mapping[str, str], entries: Sequence[MetricsEntry]) -> Iterator[tuple[str, str]]:
    """Yield the names and texts of the facts about a run's cost that are recorded.

    :param tags: tags of the run, see :func:`dist_condense.result.tracking.tags.tags_of`.
    :param entries: entries of metrics.jsonl, in order.
    """
    hours = process_hours(entries, 1)
    is_measured = hours is not None and hours < LONGEST
    if hours is not None and is_measured:
        yield "time of condensing", duration(hours * HOUR)
    workers = tags.get("workers", "")
    if workers.isdecimal() and len(workers) < len(str(LONGEST)):
        count = int(workers)
        yield "workers", str(count) if count else "none, one process"
        if hours is not None and is_measured and count > 1:
            yield "process hours", f"{hours * count:.3g}"
    for name, key in {"device": "device", "hardware of the driver": "host"}.items():
        if key in tags:
            yield name, tags[key]
