"""Checks of a start before it changes anything: config and data, this machine, its disks, stores and servers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from urllib.parse import urlparse

import torch

from dist_condense.data import DataError, ImageSet
from dist_condense.data.catalogue import is_url
from dist_condense.data.reading.headers import check_headers
from dist_condense.evaluation.rows import RowsError, read_csv
from dist_condense.result.tracking.server import refusal
from dist_condense.selection.table import SELECTIONS
from dist_condense.settings import assembly, checks, resolve, run_folder, selecting, tracking_address
from dist_condense.settings.config import (
    ConfigError,
    RunConfig,
    differences,
    identity,
    in_submitted_job,
    not_stored,
    read,
)
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system.storage import Folder, Storage

MANY = 20_000
"""Image files whose headers take long enough for a line that says so."""
PROBE = "probe"
"""A small entry that a start writes and removes, to test whether checkpoints can be written."""


def check(config: RunConfig, known: Sequence[str] = ()) -> tuple[ImageSet, list[str]]:
    """The opened data set, and remarks that do not stop the run. Ray is not started: what the cluster has is compared
    by ``resolve.resolved``, once all else is right.

    :param known: problems that reading the configuration found.
    :raises ConfigError: with every problem found.
    """
    run_folder.check(Path(config.output).expanduser())  # before anything in it is read
    unknown = not_stored(config)
    problems = [*known, *unknown, *checks.of_config(config), *_output(config), *_tracking(config), *_here(config)]
    dataset = None
    try:
        dataset = None if unknown else assembly.dataset_of(_as_begun(config))
    except DataError as error:
        problems += error.problems
    if dataset is not None:
        problems += checks.of_data(config, dataset)
    if problems or dataset is None:
        raise ConfigError(problems, notes=list(_not_looked_at(config, problems)))
    return dataset, list(checks.remarks(config, dataset))


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


def ask(config: RunConfig, complete: bool) -> None:
    """What only others know: whether the disk or the store takes what a run writes, and the tracking server the run.

    Nothing stays written.

    :param complete: whether the last checkpoint is there; such a run writes none.
    :raises ConfigError: with every problem found.
    """
    places: dict[str, Storage] = {"output": Folder(Path(config.output))}
    if config.tracking.checkpoints and not complete:
        places["tracking.checkpoints"] = assembly.storage_of(config)
    problems = [f"{key}: {told}" for key, place in places.items() if (told := _refuses_writes(place))]
    uri = tracking_address.resolve_uri(config.tracking.uri, config.output)
    if told := refusal(uri, config.tracking.experiment):
        problems.append(f"tracking: {uri}: {told}")
    if problems:
        raise ConfigError(problems)


def _here(config: RunConfig) -> Iterator[str]:
    cluster = config.cluster
    if cluster.min_workers is not None and cluster.min_workers > cluster.workers:
        yield f"cluster.min_workers: {cluster.min_workers} is above cluster.workers, {cluster.workers}"
    if cluster.workers == 0 and cluster.device == "cuda" and not torch.cuda.is_available():
        yield "cluster.device: cuda, but torch sees no GPU here; set cluster.device=cpu"


def _not_looked_at(config: RunConfig, problems: Sequence[str]) -> Iterator[str]:
    """A note beside problems of the cluster's keys, to which others may be added."""
    if config.cluster.workers > 0 and any(problem.startswith("cluster.") for problem in problems):
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
            assembly.storage_of(config)
        except DataError as error:
            yield f"tracking.checkpoints: {error.problems[0]}"
    folder = Path(config.output).expanduser()
    existing = RunFolder(folder).config
    if existing.exists():
        try:
            changed = differences(identity(read(existing)), identity(config))
        except ConfigError as error:
            changed = error.problems
        if changed:
            yield f"output: {folder} holds another run; give another output, or restore: {'; '.join(changed)}"
    if not (parent := _existing_parent(folder)).is_dir() or not os.access(parent, os.W_OK):
        yield f"output: {folder} cannot be written"
    named = [name for name in config.evaluation.sets if name in SELECTIONS and SELECTIONS[name].features]
    if named and config.evaluation.epochs != 0 and not os.access(_existing_parent(selecting.place(config)), os.W_OK):
        yield f"evaluation.sets: {selecting.place(config)}, where {', '.join(named)} is made, cannot be written"
    try:
        read_csv(RunFolder(folder).evaluation)
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
    existing = RunFolder(Path(config.output).expanduser()).config
    return identity(read(existing)) if existing.exists() else {}


def _as_begun(config: RunConfig) -> RunConfig:
    """With the channels of the run in the output folder; what is wrong with that is for ``_output`` to say."""
    with suppress(ConfigError):
        return resolve.with_channels(config, earlier(config))
    return config


def _existing_parent(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
