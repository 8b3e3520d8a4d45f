"""Comparison of the memory that a run needs at least (:mod:`dist_condense.settings.needs`) with what machines have.

Where a run computes decides what it is compared with:

* Without Ray, one process owns all classes: its tensors must fit in this machine's memory, or on its GPU.
* With Ray, nothing is compared for the workers, which fail by themselves: the memory that Ray reports for a node is a
  number given or estimated at its start, not what the node has, and it is unknown which nodes get workers.
* The driver of any run exports the whole set and opens the sets of the evaluation, in the memory of its own machine.

The memory of this machine includes its swap space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import torch

from dist_condense.evaluation.protocols import protocol
from dist_condense.selection.table import SELECTIONS
from dist_condense.settings import architectures, assembly, images_per_class, needs
from dist_condense.settings.needs import FLOAT, Need, Needs
from dist_condense.settings.procedures import PROCEDURES, outline_of
from dist_condense.settings.schema import CONDENSED, FULL, RunConfig
from dist_condense.system.memory import memory_and_swap

HERE = "this machine"
PROBED = 2
"""Number of classes of the worker whose steps ``plan`` times."""


def lacking(config: RunConfig, dataset: Any, is_complete: bool = False) -> list[str]:
    """Return an error message for each part of a run that surely needs more memory than this machine has.

    :param is_complete: whether the set exists already, so that only the evaluation is left.
    """
    config = replace(config, cluster=config.cluster.settled(torch.cuda.is_available))
    driver, process = [*_sets(config, dataset)], [*_evaluation(config, dataset)]
    if not is_complete:
        driver.insert(0, _export(config, dataset))
        process.insert(0, PROCEDURES[config.method.procedure].needed(config, dataset, len(dataset.classes)))
    lines = [each.excess(HERE, memory_and_swap()) for each in driver]
    room = _room(config)
    if config.cluster.workers > 0:
        lines = [line and f"{line}, or start from a machine with more memory" for line in lines]
    elif room is not None:
        lines += [each.excess(*room) for each in process]
    return _one_per_key(lines)


def lacking_to_plan(config: RunConfig, dataset: Any, is_timed: bool) -> list[str]:
    """Return an error message if this machine surely lacks the memory to plan a run, which may need more itself.

    :param config: config with a definite device.
    :param is_timed: whether steps of the run are timed here; otherwise only its network is built.
    """
    needed = PROCEDURES[config.method.procedure].needed(config, dataset, min(PROBED, len(dataset.classes)))
    room = _room(config)
    if not is_timed or room is None:
        theta = Needs(needed.together[1:])  # the first is the state of the classes
        return _one_per_key([theta.excess(HERE, memory_and_swap())])
    timed = Needs(needed.together).excess(*room)
    return [f"{timed}, or give --calibration, of another machine"] if timed else []


def _room(config: RunConfig) -> tuple[str, int] | None:
    """Return the name and the bytes of the memory in which this machine computes; None for a GPU that is not here."""
    if not config.cluster.on_gpu:
        return HERE, memory_and_swap()
    return ("its GPU", torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else None


def _export(config: RunConfig, dataset: Any) -> Needs:
    """Return the needs of exporting the set from a checkpoint."""
    state = needs.of_state(config, dataset, outline_of(config, dataset).class_tensors, len(dataset.classes))
    return Needs([state, _learnt(config, dataset)])


def _sets(config: RunConfig, dataset: Any) -> Iterator[Needs]:
    """Yield the needs of opening the sets of the evaluation, all of which the driver keeps."""
    if config.evaluation.epochs != 0:
        yield Needs([_set(name, config, dataset) for name in dict.fromkeys(config.evaluation.sets)])


def _evaluation(config: RunConfig, dataset: Any) -> Iterator[Needs]:
    """Yield the needs of training each network of the evaluation."""
    if config.evaluation.epochs != 0:
        batch = min(protocol(config.evaluation.protocol).batch, images_per_class.total(config, dataset))
        for text in architectures.entries(config):
            yield needs.of_trained(config, dataset, text, batch)


def _learnt(config: RunConfig, dataset: Any) -> Need:
    number = images_per_class.total(config, dataset)
    text = f"the {number} images of the set"
    return Need(needs.images_key(config), text, FLOAT * number * prod(dataset.shape), less=needs.LESS)


def _condensed(config: RunConfig, dataset: Any) -> Need:
    number = images_per_class.total(config, dataset) * prod(assembly.grid(config))
    text = f"the {number} decoded images of the set"
    return Need(needs.images_key(config), text, FLOAT * number * prod(dataset.shape), less=needs.LESS)


def _full(config: RunConfig, dataset: Any) -> Need:
    images, less = sum(dataset.counts), "leave out the set of all images, or lower dataset.size"
    return Need("evaluation.sets", f"all {images} training images", _stored(images, dataset), less=less)


def _selected(name: str, config: RunConfig, dataset: Any) -> Need:
    draws = config.evaluation.seeds if SELECTIONS[name].varies else 1
    key = "evaluation.seeds" if draws > 1 else needs.images_key(config)
    images = draws * images_per_class.total(config, dataset)
    return Need(key, f"{draws} draws of {name} images", _stored(images, dataset))


SETS: dict[str, Callable[[RunConfig, Any], Need]] = {CONDENSED: _condensed, FULL: _full}
"""Function that returns the need of a training set of the evaluation, by the name of the set, which is no selection."""


def _set(name: str, config: RunConfig, dataset: Any) -> Need:
    return SETS.get(name, partial(_selected, name))(config, dataset)


def _stored(images: int, dataset: Any) -> int:
    return int(images * prod(dataset.shape) * dataset.stored.itemsize)


def _one_per_key(lines: Iterable[str | None]) -> list[str]:
    """Return the messages without those about a key that an earlier one names."""
    return list({line.split(":")[0]: line for line in reversed([line for line in lines if line])}.values())[::-1]
