"""Everything that can be refused of a config by itself and with its data set, found all at once."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from dist_condense import networks
from dist_condense.core.grouping import check_partition
from dist_condense.core.parameterisation import AXES, BOTH
from dist_condense.core.start import STARTS
from dist_condense.core.statistic import STATISTICS
from dist_condense.data import DataError, ImageSet, constants
from dist_condense.data.catalogue import KNOWN, is_url
from dist_condense.data.ffcv.extra import PACKAGE, SYSTEM
from dist_condense.data.reading.split import NO_BETON
from dist_condense.data.reading.tiers import RAW
from dist_condense.data.sets.listing import is_utf8
from dist_condense.data.shards.manifest_reader import read_manifest
from dist_condense.selection.table import SELECTIONS
from dist_condense.settings import assembly
from dist_condense.settings.keys import refused
from dist_condense.settings.procedures import PROCEDURES
from dist_condense.settings.schema import RunConfig
from dist_condense.settings.values import some

THETA = "network"
"""The key of the network that condenses."""


def of_config(config: RunConfig) -> list[str]:
    """What is wrong whatever the machine and the data."""
    return [*refused(config), *_together(config), *_learnt(config), *_paths(config), *_named_networks(config)]


def of_data(config: RunConfig, dataset: ImageSet) -> list[str]:
    """What is wrong of the config with this data set."""
    return [*_data(config, dataset), *_constants(config, dataset), *_networks(config, dataset)]


def _paths(config: RunConfig) -> Iterator[str]:
    """Paths go into files and addresses that are UTF-8, also those below the working directory."""
    for key, path in {"output": config.output, "dataset.root": config.dataset.root or "."}.items():
        place = path if is_url(path) else os.path.abspath(path)
        if not is_utf8(place):
            yield f"{key}: {place} is not UTF-8; rename the folder, or link to it under another name"


def _together(config: RunConfig) -> Iterator[str]:
    """Keys that do not go together."""
    for key, names_given in (("sets", config.evaluation.sets), ("architectures", config.evaluation.architectures)):
        if not names_given:
            yield f"evaluation.{key}: names none; name one, or set evaluation.epochs=0 for no evaluation"
    budgets = {"synthetic": ("epochs", config.training.epochs), "real": ("images", config.training.images)}
    key, amount = budgets.get(config.training.source, ("", 1))
    if config.trajectory.matching_steps > 1 and amount == 0:
        yield f"training.{key}: state how much theta is trained after each matching step (the papers: by ipc)"


def _learnt(config: RunConfig) -> Iterator[str]:
    lr = config.method.label_lr
    if lr is not None and config.method.statistic.name in STATISTICS and not assembly.statistic_of(config).reads_labels:
        yield (
            f"method.label_lr: {lr}, but method.statistic.name={config.method.statistic.name} does not depend on the "
            "labels, so that they would never move; set label_lr=null, or another statistic"
        )


def _data(config: RunConfig, dataset: ImageSet) -> Iterator[str]:
    method, classes = config.method, len(dataset.classes)
    if classes < 2:
        yield (
            f"dataset.classes: {dataset.classes[0].name} is the only class, so there is nothing to tell apart; "
            "condense at least two classes (dataset.classes=null takes all there are)"
        )
    factor, axes = method.parameterisation.factor, method.parameterisation.axes or BOTH
    cut = [side for side, cut in zip(dataset.shape[1:], AXES.get(axes, ()), strict=False) if cut]
    if factor > min(cut, default=factor):
        yield f"method.parameterisation.factor: {factor} is larger than the images' side, {min(cut)}"
    if method.start in STARTS and axes in AXES:
        needed = assembly.start_images(config)
        few = [f"{dataset.classes[c].name} ({n})" for c, n in enumerate(dataset.counts) if n < needed]
        if few:
            yield f"method.start: {method.start} needs {needed} real images of each class; too few in {some(few)}"
    selected = [name for name in config.evaluation.sets if name in SELECTIONS]
    if selected and config.ipc > min(dataset.counts):
        named = ", ".join(selected)
        yield f"evaluation.sets: a set of ipc={config.ipc} real images needs as many of each class; leave out {named}"
    if config.method.procedure in PROCEDURES:
        yield from PROCEDURES[config.method.procedure].problems(config, dataset)
    if config.data.tier == RAW:
        yield from _beton(config, dataset)
    if method.grouping.number > classes:
        yield f"method.grouping.number: {method.grouping.number} groups of {classes} classes"
    if method.grouping.groups:
        try:
            check_partition(method.grouping.groups, classes)
        except ValueError as error:
            yield str(error)
    elif method.grouping.name == "given":
        yield "method.grouping.groups: list the labels of each group, or choose another method.grouping.name"


def _constants(config: RunConfig, dataset: ImageSet) -> Iterator[str]:
    given = config.dataset
    if (given.mean is None) != (given.std is None):
        yield "dataset.mean, dataset.std: give both, or neither"
    for key, values in (("mean", given.mean), ("std", given.std)):
        if values is not None and len(values) != dataset.channels:
            yield f"dataset.{key}: {len(values)} values for images of {dataset.channels} channels"
    if given.mean is None and given.constants in KNOWN:
        try:
            constants.of_name(given.constants, dataset)
        except DataError as error:
            yield from error.problems


def _beton(config: RunConfig, dataset: ImageSet) -> Iterator[str]:
    root = config.dataset.root
    if root is None or not dataset.train_split.raw:
        yield NO_BETON
    elif is_url(root):
        yield f"data.tier: ffcv reads a local folder, not {root}; copy the beton to one, or set data.tier=auto"
    elif (size := read_manifest(str(Path(root).expanduser())).size) != dataset.size:
        yield f"dataset.size: the beton at {root} holds {size} px, not {dataset.size}; leave dataset.size out"
    if importlib.util.find_spec("ffcv") is None:
        yield f"data.tier: ffcv needs the package ffcv: `{SYSTEM}`, then `{PACKAGE}`"


def _named_networks(config: RunConfig) -> Iterator[str]:
    """What is wrong with names and options of networks, which need no data."""
    wanted = _wanted_networks(config)
    for key, text in _all_networks(config):
        if said := _refusal(partial(networks.check, installed=(key, text) in wanted), config, text):
            yield f"{key}: {said}{_left_out(config) if key == THETA else ''}"


def _left_out(config: RunConfig) -> str:
    """How to take away options of theta that the config gives and the network does not have."""
    with suppress(ValueError):
        known = networks.options(networks.split(config.network.name)[0])
        keys = [f"network.{key}=null" for key in assembly.network_options(config.network) if key not in known]
        return f"; leave out what the config gives: {' '.join(keys)}" if keys else ""
    return ""


def _networks(config: RunConfig, dataset: ImageSet) -> Iterator[str]:
    """Networks that have the right names and options, but do not suit the images or the method; none is made whose
    width or depth is out of range."""
    if any(line.startswith(f"{THETA}.") for line in refused(config)):
        return
    shape, made = assembly.network_shape(dataset), dict[str, networks.Network]()

    def sketch(text: str) -> None:
        made[text] = networks.sketch(text, **shape)

    for key, text in _wanted_networks(config):
        if not _refusal(networks.check, config, text) and (said := _refusal(sketch, config, text)):
            yield f"{key}: {said}"
    theta = made.get(assembly.network_text(config.network))
    if theta is not None:
        yield from _coupled(config, theta)


def _all_networks(config: RunConfig) -> list[tuple[str, str]]:
    """Key and text of each network that is named, theta first."""
    others = [text for text in dict.fromkeys(config.evaluation.architectures) if text != assembly.SAME_NETWORK]
    theta = assembly.network_text(config.network)
    return [(THETA, theta), *(("evaluation.architectures", text) for text in others)]


def _wanted_networks(config: RunConfig) -> list[tuple[str, str]]:
    """Those that the run will build."""
    theta, *others = _all_networks(config)
    return [theta, *others] if config.evaluation.epochs != 0 else [theta]


def _refusal(make: Callable[[str], object], config: RunConfig, text: str) -> str:
    """Why a network cannot be made; empty where it can."""
    try:
        make(assembly.architecture(config, text))
    except (ValueError, ImportError) as error:
        return str(error)
    return ""


def _coupled(config: RunConfig, theta: networks.Network) -> Iterator[str]:
    """Where batch statistics and a part of the method do not go together."""
    if networks.batch_norms(theta):
        if config.method.statistic.name in STATISTICS and assembly.statistic_of(config).batch_statistics:
            yield (
                "network.norm: the embedding of a network with BatchNorm uses the statistics of the batch, which "
                "couples all images and cannot be split over classes; choose network.norm=instance"
            )
        if (config.compute.slices or 1) > 1:
            yield (
                f"compute.slices: {config.compute.slices}, but BatchNorm couples the images of a training batch, which "
                "cannot be cut; set compute.slices=1 or network.norm=instance"
            )


def remarks(config: RunConfig, dataset: ImageSet) -> Iterator[str]:
    """What a person should know, and what does not stop the run."""
    yield from dataset.notes
    yield from PROCEDURES[config.method.procedure].remarks(config, dataset)
    idle = config.cluster.workers - len(dataset.classes)
    if idle > 0:
        yield (
            f"{idle} of {config.cluster.workers} workers own no class and only help to train theta; "
            f"cluster.workers={len(dataset.classes)} is as fast in matching"
        )
