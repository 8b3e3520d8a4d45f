"""Everything that can be refused before a run starts, found all at once."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from math import isfinite
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from urllib.parse import urlparse

import torch

from dist_condense import names, networks, parts, run_folder, tracking, tracking_address
from dist_condense.config import ConfigError, RunConfig, differences, identity, in_submitted_job, not_stored, read
from dist_condense.core.grouping import check_partition
from dist_condense.data import DataError, ImageSet, constants
from dist_condense.data.catalogue import KNOWN, is_url
from dist_condense.data.ffcv_extra import PACKAGE, SYSTEM
from dist_condense.data.headers import check_headers
from dist_condense.data.listing import is_utf8
from dist_condense.data.manifest_reader import read_manifest
from dist_condense.data.split import NO_BETON
from dist_condense.data.tiers import FILES
from dist_condense.engine.storage import Folder, Storage
from dist_condense.evaluation.rows import EVALUATION, RowsError, read_csv

CONFIG_FILE = "config.yaml"
MANY = 20_000
"""Image files whose headers take long enough for a line that says so."""
THETA = "network"
"""The key of the network that condenses."""
PROBE = "probe"
"""A small entry, written and removed, by which a start knows that checkpoints can be."""


def check(config: RunConfig, known: Sequence[str] = ()) -> tuple[ImageSet, list[str]]:
    """The opened data set, and remarks that do not stop the run. Ray is not started: what the cluster has is compared
    by ``resolve.resolved``, once all else is right.

    :param known: problems that reading the configuration found.
    :raises ConfigError: with every problem found.
    """
    run_folder.check(Path(config.output).expanduser())  # before anything in it is read
    unknown = not_stored(config)
    problems = [*known, *unknown, *of_config(config), *_output(config), *_tracking(config), *_here(config)]
    dataset = None
    try:
        dataset = None if unknown else parts.dataset_of(config)
    except DataError as error:
        problems += error.problems
    if dataset is not None:
        problems += [*_data(config, dataset), *_constants(config, dataset), *_networks(config, dataset)]
    if problems or dataset is None:
        raise ConfigError(problems, notes=list(_not_looked_at(config)))
    return dataset, list(_remarks(config, dataset))


def headers(config: RunConfig, dataset: ImageSet, say: Callable[[str], None]) -> None:
    """Read the headers of the image files that the run will need, which takes longer than all other checks.

    :raises ConfigError: with one problem, for all files that are broken.
    """
    if not config.data.verify:
        return
    evaluated = config.evaluation.epochs != 0
    folders = [*dataset.train_split.unread, *(dataset.test_split.unread if evaluated else ())]
    if (files := sum(len(entry.files) for entry in folders)) >= MANY:
        say(f"reading the headers of {files:,} image files before the start (data.verify=false leaves this out)")
    if problem := check_headers(folders):
        raise ConfigError([f"dataset.root: {problem}"])


def ask(config: RunConfig, steps: int) -> None:
    """What only others know: whether the disk or the store takes what a run writes, and the tracking server the run.

    Nothing stays written.

    :param steps: matching steps done; a complete run writes no checkpoints.
    :raises ConfigError: with every problem found.
    """
    places: dict[str, Storage] = {"output": Folder(Path(config.output))}
    if config.tracking.checkpoints and steps < config.trajectory.networks * config.trajectory.matching_steps:
        places["tracking.checkpoints"] = parts.storage_of(config)
    problems = [f"{key}: {told}" for key, place in places.items() if (told := _refuses_writes(place))]
    uri = tracking_address.resolve_uri(config.tracking.uri, config.output)
    if told := tracking.refusal(uri, config.tracking.experiment):
        problems.append(f"tracking: {uri}: {told}")
    if problems:
        raise ConfigError(problems)


def of_config(config: RunConfig) -> list[str]:
    """What is wrong whatever the machine and the data."""
    return [*names.unknown(config), *_numbers(config), *_paths(config), *_named_networks(config)]


def _paths(config: RunConfig) -> Iterator[str]:
    """Paths go into files and addresses that are UTF-8, also those below the working directory."""
    for key, path in {"output": config.output, "dataset.root": config.dataset.root or "."}.items():
        place = path if is_url(path) else os.path.abspath(path)
        if not is_utf8(place):
            yield f"{key}: {place} is not UTF-8; rename the folder, or link to it under another name"


def _numbers(config: RunConfig) -> Iterator[str]:
    at_least: list[tuple[str, float | None, float]] = [
        ("ipc", config.ipc, 1),
        ("trajectory.networks", config.trajectory.networks, 1),
        ("trajectory.matching_steps", config.trajectory.matching_steps, 1),
        ("trajectory.pool_size", config.trajectory.pool_size, 1),
        ("trajectory.pretrain_epochs", config.trajectory.pretrain_epochs, 0),
        ("method.real_batch", config.method.real_batch, 1),
        ("method.synthetic_limit", config.method.synthetic_limit, 1),
        ("method.parameterisation.factor", config.method.parameterisation.factor, 1),
        ("method.grouping.number", config.method.grouping.number, 1),
        ("training.batch", config.training.batch, 1),
        ("training.epochs", config.training.epochs, 0),
        ("training.images", config.training.images, 0),
        ("compute.microbatch", config.compute.microbatch, 0),
        ("cluster.workers", config.cluster.workers, 0),
        ("cluster.slices", config.cluster.slices, 1),
        ("cluster.threads", config.cluster.threads, 1),
        ("cluster.max_failures", config.cluster.max_failures, 0),
        ("cluster.timeout", config.cluster.timeout, 1),
        ("cluster.min_workers", config.cluster.min_workers, 1),
        ("data.memory_budget", config.data.memory_budget, 0),
        ("data.threads", config.data.threads, 1),
        ("evaluation.seeds", config.evaluation.seeds, 1),
        ("evaluation.epochs", config.evaluation.epochs, 0),
        ("evaluation.whole_epochs", config.evaluation.whole_epochs, 1),
        ("evaluation.threads", config.evaluation.threads, 1),
        ("tracking.log_every", config.tracking.log_every, 1),
        ("tracking.checkpoint_minutes", config.tracking.checkpoint_minutes, 0),
        ("tracking.checkpoint_steps", config.tracking.checkpoint_steps, 1),
        ("tracking.checkpoints_kept", config.tracking.checkpoints_kept, 1),
    ]
    for key, value, least in at_least:
        if value is not None and value < least:
            yield f"{key}: {value} is below {least}"
    for key, names_given in (("sets", config.evaluation.sets), ("architectures", config.evaluation.architectures)):
        if not names_given:
            yield f"evaluation.{key}: names none; name one, or set evaluation.epochs=0 for no evaluation"
    if not 0 <= config.training.cutmix <= 1:
        yield f"training.cutmix: {config.training.cutmix} is not a probability"
    budgets = {"synthetic": ("epochs", config.training.epochs), "real": ("images", config.training.images)}
    key, amount = budgets.get(config.training.source, ("", 1))
    if config.trajectory.matching_steps > 1 and amount == 0:
        yield f"training.{key}: state how much theta is trained after each matching step (the papers: by ipc)"


def _here(config: RunConfig) -> Iterator[str]:
    cluster = config.cluster
    if cluster.min_workers is not None and cluster.min_workers > cluster.workers:
        yield f"cluster.min_workers: {cluster.min_workers} is above cluster.workers, {cluster.workers}"
    if cluster.workers == 0 and cluster.device == "cuda" and not torch.cuda.is_available():
        yield "cluster.device: cuda, but torch sees no GPU here; set cluster.device=cpu"


def _not_looked_at(config: RunConfig) -> Iterator[str]:
    if config.cluster.workers > 0:
        yield "cluster.workers is not compared with the cluster yet; Ray is only started when all else is right"


def _output(config: RunConfig) -> Iterator[str]:
    if in_submitted_job() and not Path(config.output).is_absolute():
        yield (
            f"output: {config.output} is relative, and a submitted job's working directory is thrown away; "
            "give an absolute path that all nodes see (output=..., or DIST_CONDENSE_OUTPUT in the job's environment)"
        )
        return
    if urlparse(config.output).scheme not in ("", "file"):
        yield f"output: {config.output} is not a path; give a local or shared folder"
        return
    if config.data.cache and is_url(config.data.cache):
        yield f"data.cache: {config.data.cache} is an address; give a folder, which each node has for itself"
    if config.tracking.checkpoints:
        try:
            parts.storage_of(config)
        except DataError as error:
            yield f"tracking.checkpoints: {error.problems[0]}"
    folder = Path(config.output).expanduser()
    existing = folder / CONFIG_FILE
    if existing.exists():
        try:
            changed = differences(identity(read(existing)), identity(config))
        except ConfigError as error:
            changed = error.problems
        if changed:
            yield f"output: {folder} holds another run; give another output, or restore: {'; '.join(changed)}"
    if not (parent := _existing_parent(folder)).is_dir() or not os.access(parent, os.W_OK):
        yield f"output: {folder} cannot be written"
    try:
        read_csv(folder / EVALUATION)
    except RowsError as error:
        yield f"output: {error}"


def _tracking(config: RunConfig) -> Iterator[str]:
    given = config.tracking
    yield from tracking_address.problems(given.uri, config.output, given.experiment)


def _refuses_writes(store: Storage) -> str | None:
    """Why nothing can be written there; a folder that is not there yet is not made, the one that would hold it is
    asked."""
    try:
        if isinstance(store, Folder):
            with TemporaryFile(dir=_existing_parent(store.path)) as file:  # has no name
                file.write(bytes(4096))
                file.flush()
                os.fsync(file.fileno())
        else:
            store.write(PROBE, b"")
            store.remove(PROBE)
    except Exception as error:  # every store has its own kinds
        return f"{store} cannot be written ({type(error).__name__}: {error}); mend that or give another place"
    return None


def earlier(config: RunConfig) -> dict[str, Any]:
    """What the run in the output folder is known by; empty where there is none."""
    existing = Path(config.output).expanduser() / CONFIG_FILE
    return identity(read(existing)) if existing.exists() else {}


def _existing_parent(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _data(config: RunConfig, dataset: ImageSet) -> Iterator[str]:
    method, classes = config.method, len(dataset.classes)
    if classes < 2:
        yield (
            f"dataset.classes: {dataset.classes[0].name} is the only class, so there is nothing to tell apart; "
            "condense at least two classes (dataset.classes=null takes all there are)"
        )
    factor = method.parameterisation.factor
    if factor > dataset.size:
        yield f"method.parameterisation.factor: {factor} is larger than the images' side, {dataset.size}"
    if method.start in parts.STARTS and factor >= 1:
        wanted = parts.STARTS[method.start](config)
        few = [f"{dataset.classes[c].name} ({n})" for c, n in enumerate(dataset.counts) if n < wanted]
        if few:
            yield f"method.start: {method.start} needs {wanted} real images of each class; too few in {_some(few)}"
    if "random" in config.evaluation.sets and config.ipc > min(dataset.counts):
        yield f"evaluation.sets: a random set of ipc={config.ipc} needs as many images of each class; leave random out"
    if config.data.source != FILES:
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
        if values is not None and not all(map(isfinite, values)):
            yield f"dataset.{key}: {values} is not finite"
    if given.std is not None and min(given.std, default=1) <= 0:
        yield f"dataset.std: {given.std} is not above 0"
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
        yield f"data.source: ffcv reads a local folder, not {root}; copy the beton to one, or set data.source=files"
    elif (size := read_manifest(str(Path(root).expanduser())).size) != dataset.size:
        yield f"dataset.size: the beton at {root} holds {size} px, not {dataset.size}; leave dataset.size out"
    if importlib.util.find_spec("ffcv") is None:
        yield f"data.source: ffcv needs the package ffcv: `{SYSTEM}`, then `{PACKAGE}`"


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
        keys = [f"network.{key}=null" for key in parts.network_options(config.network) if key not in known]
        return f"; leave out what the config gives: {' '.join(keys)}" if keys else ""
    return ""


def _networks(config: RunConfig, dataset: ImageSet) -> Iterator[str]:
    """Networks that have the right names and options, but do not suit the images or the method."""
    shape, made = parts.network_shape(dataset), dict[str, networks.Network]()

    def sketch(text: str) -> None:
        made[text] = networks.sketch(text, **shape)

    for key, text in _wanted_networks(config):
        if not _refusal(networks.check, config, text) and (said := _refusal(sketch, config, text)):
            yield f"{key}: {said}"
    theta = made.get(parts.network_text(config.network))
    if theta is not None:
        yield from _coupled(config, theta)


def _all_networks(config: RunConfig) -> list[tuple[str, str]]:
    """Key and text of each network that is named, theta first."""
    others = [text for text in dict.fromkeys(config.evaluation.architectures) if text != parts.SAME_NETWORK]
    theta = parts.network_text(config.network)
    return [(THETA, theta), *(("evaluation.architectures", text) for text in others)]


def _wanted_networks(config: RunConfig) -> list[tuple[str, str]]:
    """Those that the run will build."""
    theta, *others = _all_networks(config)
    return [theta, *others] if config.evaluation.epochs != 0 else [theta]


def _refusal(make: Callable[[str], object], config: RunConfig, text: str) -> str:
    """Why a network cannot be made; empty where it can."""
    try:
        make(parts.architecture(config, text))
    except (ValueError, ImportError) as error:
        return str(error)
    return ""


def _coupled(config: RunConfig, theta: networks.Network) -> Iterator[str]:
    """Where batch statistics and a part of the method do not go together."""
    if networks.batch_norms(theta):
        statistic = parts.STATISTICS.get(config.method.statistic.name)
        if statistic is not None and statistic(config).batch_statistics:
            yield (
                "network.norm: the embedding of a network with BatchNorm uses the statistics of the batch, which "
                "couples all images and cannot be split over classes; choose network.norm=instance"
            )
        if (config.cluster.slices or 1) > 1:
            yield (
                f"cluster.slices: {config.cluster.slices}, but BatchNorm couples the images of a training batch, which "
                "cannot be cut; set cluster.slices=1 or network.norm=instance"
            )


def _remarks(config: RunConfig, dataset: ImageSet) -> Iterator[str]:
    yield from dataset.notes
    few = [f"{dataset.classes[c].name} ({n})" for c, n in enumerate(dataset.counts) if n < config.method.real_batch]
    if few:
        yield f"fewer real images than method.real_batch={config.method.real_batch}, each once a step: {_some(few)}"
    tiles = config.method.parameterisation.factor**2
    if 0 < parts.STARTS[config.method.start](config) < config.ipc * tiles:
        yield (
            f"method.start: {config.method.start} with {tiles} tiles an image starts each tile from a part of one real "
            "image; method.start=mixed makes each of a whole one"
        )
    idle = config.cluster.workers - len(dataset.classes)
    if idle > 0:
        yield (
            f"{idle} of {config.cluster.workers} workers own no class and only help to train theta; "
            f"cluster.workers={len(dataset.classes)} is as fast in matching"
        )


def _some(classes: list[str]) -> str:
    return ", ".join(classes[:5]) + (f" and {len(classes) - 5} more" if len(classes) > 5 else "")
