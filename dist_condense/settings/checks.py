"""All checks of a config, alone and together with its data set; every problem is reported, not only the first."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from dist_condense import networks
from dist_condense.data import DataError, ImageSet, constants
from dist_condense.data.catalogue import KNOWN, is_url
from dist_condense.data.reading.split import NO_BETON
from dist_condense.data.reading.tiers import RAW
from dist_condense.data.sets.listing import is_utf8
from dist_condense.data.shards.manifest_reader import read_manifest
from dist_condense.evaluation.protocols import PROTOCOLS
from dist_condense.selection.table import SELECTIONS
from dist_condense.settings import architectures, assembly, images_per_class
from dist_condense.settings.assembly import Pass
from dist_condense.settings.keys import refused, without
from dist_condense.settings.numerics import contradictions
from dist_condense.settings.procedures import PROCEDURES
from dist_condense.settings.schema import CONDENSED, FULL, RunConfig
from dist_condense.settings.values import some

THETA = "network"
"""Name of the config section of the condensing network."""
Named = tuple[str, str]
"""Key that names a network, and the text of the network."""


def screened(config: RunConfig, known: Sequence[str] = ()) -> tuple[RunConfig, list[str]]:
    """Replace each value outside its key's range or table by the key's default, so that all others can be checked.

    :param known: problems that were found when the config was read.
    :returns: the config, and an error message for each problem so far.
    """
    lines = refused(config)
    return without(config, lines), [*known, *lines.values()]


def joined(problems: Sequence[str], others: Iterable[str]) -> list[str]:
    """Return ``problems`` and the messages of ``others`` that name none of their keys.

    A check of a default that replaces a refused value states nothing about the user's config.
    """
    named = {key for line in problems for key in _named(line)}
    return [*problems, *(line for line in others if named.isdisjoint(_named(line)))]


def _named(line: str) -> list[str]:
    """Return the keys with which an error message begins: ``dataset.mean, dataset.std: ...``."""
    return line.split(":")[0].split(", ")


def of_config(config: RunConfig) -> list[str]:
    """Return an error message for each problem of a :func:`screened` config on any machine and with any data."""
    return [*_together(config), *_paths(config), *_named_networks(config)]


def of_data(config: RunConfig, dataset: ImageSet) -> list[str]:
    """Return an error message for each problem of the config with this data set."""
    beton = _beton(config, dataset) if config.data.tier == RAW else ()
    return [*of_facts(config, dataset), *beton, *_constants(config, dataset)]


def of_facts(config: RunConfig, dataset: Any) -> list[str]:
    """Return an error message for each problem that follows from the classes, and the number and shape of the images.

    :param dataset: an ImageSet, or images that planning assumes.
    """
    return [*_data(config, dataset), *_networks(config, dataset)]


def _paths(config: RunConfig) -> Iterator[str]:
    """Check that absolute paths are UTF-8, because they are written to UTF-8 files and addresses."""
    for key, path in {"output": config.output, "dataset.root": config.dataset.root or "."}.items():
        whole = path if is_url(path) else os.path.abspath(path)
        if not is_utf8(whole):
            yield f"{key}: {whole} is not UTF-8; rename the folder, or link to it under another name"


def _together(config: RunConfig) -> Iterator[str]:
    """Check keys that contradict each other, or name nothing, and that the procedure accepts the config."""
    for key, names in (("sets", config.evaluation.sets), ("architectures", config.evaluation.architectures)):
        if not names:
            yield f"evaluation.{key}: names none; name one, or set evaluation.epochs=0 for no evaluation"
    yield from contradictions(config.compute)
    yield from PROCEDURES[config.method.procedure].problems(config)


def _data(config: RunConfig, dataset: ImageSet) -> Iterator[str]:
    if len(dataset.classes) < 2:
        yield (
            f"dataset.classes: {dataset.classes[0].name} is the only class, so there is nothing to classify; "
            "condense at least two classes (dataset.classes=null takes all)"
        )
    yield from images_per_class.problems(config, dataset)
    selected = [name for name in config.evaluation.sets if name in SELECTIONS and config.evaluation.epochs != 0]
    if selected and (few := images_per_class.lacking(config, dataset)):
        yield (
            f"evaluation.sets: ipc is larger than the number of real images of {some(few)}; leave out "
            f"{', '.join(selected)}"
        )
    yield from PROCEDURES[config.method.procedure].data_problems(config, dataset)
    if config.evaluation.epochs != 0:
        yield from _protocol(config, dataset.channels)


def _protocol(config: RunConfig, channels: int) -> Iterator[str]:
    name = config.evaluation.protocol
    needed = PROTOCOLS[name].augmentation.channels
    if needed not in (None, channels):
        others = [other for other, each in PROTOCOLS.items() if each.augmentation.channels in (None, channels)]
        yield (
            f"evaluation.protocol: {name} augments images of {needed} channels, and {config.dataset.name} has "
            f"{channels}; set {' or '.join(others)}"
        )


def _constants(config: RunConfig, dataset: ImageSet) -> Iterator[str]:
    section = config.dataset
    if (section.mean is None) != (section.std is None):
        yield "dataset.mean, dataset.std: give both, or neither"
    for key, values in (("mean", section.mean), ("std", section.std)):
        if values is not None and len(values) != dataset.channels:
            yield f"dataset.{key}: {len(values)} values for images of {dataset.channels} channels"
    if section.mean is None and section.constants in KNOWN:
        try:
            constants.of_name(section.constants, dataset)
        except DataError as error:
            yield from error.problems


def _beton(config: RunConfig, dataset: ImageSet) -> Iterator[str]:
    root = config.dataset.root
    if root is None or not dataset.train_split.raw:
        yield NO_BETON
    elif is_url(root):
        yield f"data.tier: ffcv reads a local folder, not {root}; copy the beton to one, or set data.tier=auto"
    elif (size := read_manifest(str(Path(root).expanduser())).size) != dataset.size:
        yield f"dataset.size: the beton at {root} has {size} px, not {dataset.size}; omit dataset.size"


def _named_networks(config: RunConfig) -> Iterator[str]:
    """Check the names and options of networks; no data is needed."""
    built = _built_networks(config)
    for key, text in _all_networks(config):
        check = partial(networks.check, installed=(key, text) in built)
        if key == THETA and (unknown := _refusal(check, config, config.network.name)):
            yield f"network.name: {unknown}"
        elif problem := _refusal(check, config, text):
            yield f"{key}: {problem}{_unset(config) if key == THETA else ''}"


def _unset(config: RunConfig) -> str:
    """Return a hint that lists options to unset because theta's network does not have them; empty if there are none."""
    with suppress(ValueError):
        known = networks.options(networks.split(config.network.name)[0])
        keys = [f"network.{key}=null" for key in assembly.network_options(config.network) if key not in known]
        return f"; unset options that the config sets: {' '.join(keys)}" if keys else ""
    return ""


def _networks(config: RunConfig, dataset: ImageSet) -> Iterator[str]:
    """Check that networks with valid names and options fit the images and the method."""
    shape, made = assembly.network_shape(dataset), dict[Named, networks.Network]()

    def sketch(text: str, entry: Named) -> None:
        made[entry] = networks.sketch(text, **shape)

    for key, text in _built_networks(config):
        make = partial(sketch, entry=(key, text))
        if not _refusal(networks.check, config, text) and (problem := _refusal(make, config, text)):
            yield f"{key}: {problem}"
    theta, *_ = _built_networks(config)
    if theta in made:
        yield from _theta(config, made[theta])
    yield from _single_images(config, dataset, made)


def _all_networks(config: RunConfig) -> list[Named]:
    """Return the key and the text of each network of the config, theta first."""
    others = [text for text in architectures.entries(config) if text != assembly.SAME_NETWORK]
    theta = assembly.network_text(config.network)
    return [(THETA, theta), *(("evaluation.architectures", text) for text in others)]


def _built_networks(config: RunConfig) -> list[Named]:
    """Return the key and the text of each network that the run builds."""
    theta, *others = _all_networks(config)
    return [theta, *others] if config.evaluation.epochs != 0 else [theta]


def _refusal(make: Callable[[str], object], config: RunConfig, text: str) -> str:
    """Return the reason why a network cannot be built; empty if it can."""
    try:
        make(assembly.architecture(config, text))
    except (ValueError, ImportError) as error:
        return str(error)
    return ""


def _theta(config: RunConfig, theta: networks.Network) -> Iterator[str]:
    """Check that theta suits the procedure and the number of slices."""
    yield from PROCEDURES[config.method.procedure].network_problems(config, theta)
    if networks.batch_norms(theta) and (config.compute.slices or 1) > 1:
        yield (
            f"compute.slices: {config.compute.slices}, but BatchNorm couples the images of a training batch, which "
            "cannot be cut; set compute.slices=1 or network.norm=instance"
        )


def _single_images(config: RunConfig, dataset: ImageSet, made: Mapping[Named, networks.Network]) -> Iterator[str]:
    """Check that a network which cannot be trained on a batch of one image is not trained on one.

    :param made: networks of the config without weights.
    """
    channels, height, width = dataset.shape
    is_theta_tested = assembly.SAME_NETWORK in architectures.entries(config)
    for each in _passes(config, dataset):
        if 1 not in (each.batch, each.images % each.batch):
            continue
        for (key, text), network in made.items():
            is_trained = (each.of_theta or is_theta_tested) if key == THETA else not each.of_theta
            if is_trained and networks.needs_several(network, channels, (height, width)):
                keys = *each.keys, "network.name" if each.of_theta else "evaluation.architectures"
                yield (
                    f"{keys[0]}: a pass over {each.images} images in batches of {each.batch} has a batch of one, "
                    f"which BatchNorm of {text} cannot normalise at 1 x 1 pixel; change {' or '.join(keys)}"
                )


def _passes(config: RunConfig, dataset: ImageSet) -> list[Pass]:
    """Return the different passes over images in which networks are trained."""
    maker, evaluation = PROCEDURES[config.method.procedure], config.evaluation
    passes = list(maker.passes(config, dataset))
    if evaluation.epochs != 0:
        of_set, keys = images_per_class.total(config, dataset), ("evaluation.sets", "ipc")
        images = dict.fromkeys(SELECTIONS, of_set)
        images |= {CONDENSED: of_set * maker.form(config, dataset)[1].tiles, FULL: sum(dataset.counts)}
        batch = PROTOCOLS[evaluation.protocol].batch
        passes += [Pass(keys, images[name], batch, of_theta=False) for name in evaluation.sets]
    return list(dict.fromkeys(passes))


def remarks(config: RunConfig, dataset: ImageSet) -> Iterator[str]:
    """Yield remarks about the config and the data set, which are printed and do not stop the run."""
    yield from dataset.notes
    yield from PROCEDURES[config.method.procedure].remarks(config, dataset)
    idle = config.cluster.workers - len(dataset.classes)
    if idle > 0:
        yield (
            f"{idle} of {config.cluster.workers} workers own no class and help only where theta is trained; "
            f"cluster.workers={len(dataset.classes)} is as fast otherwise"
        )
