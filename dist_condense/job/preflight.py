"""Checks of config, data, this machine, disks, stores and servers, before a run changes anything."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from urllib.parse import urlparse

import torch

from dist_condense.data import DataError, ImageSet
from dist_condense.data.catalogue import is_url
from dist_condense.data.ffcv.extra import PACKAGE, SYSTEM
from dist_condense.data.reading.headers import check_headers
from dist_condense.data.reading.tiers import RAW
from dist_condense.evaluation.class_rows import read_classes
from dist_condense.evaluation.rows import RowsError, read_csv
from dist_condense.job.checkpoint import State, is_opened
from dist_condense.job.exporting import set_problem
from dist_condense.result.tracking.server import refusal
from dist_condense.selection.table import SELECTIONS
from dist_condense.settings import (
    assembly,
    checks,
    effects,
    memory,
    places,
    resolve,
    run_folder,
    selecting,
    tracking_address,
    values,
)
from dist_condense.settings.config import (
    ConfigError,
    RunConfig,
    differences,
    identity,
    in_submitted_job,
    not_stored,
    read,
)
from dist_condense.settings.identity import impossible
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system import plugins, records
from dist_condense.system.processor import has_bfloat16, lacks_compiler
from dist_condense.system.storage import Folder, Storage

MANY = 20_000
"""Minimum number of image files for which the user is informed that their headers are being read."""
PROBE = "probe"
"""Name of a small entry that is written and removed to test whether checkpoints can be written."""


def check(config: RunConfig, known: Sequence[str] = (), condenses: bool = True) -> tuple[ImageSet, list[str]]:
    """Check a config and open its data set; return the data set, and remarks that do not stop the run.

    Ray is not started, because ``resolve.resolved`` compares the config with the cluster after all other checks.

    :param known: problems that were found when the config was read.
    :param condenses: whether the run makes a set, rather than only evaluating others, and so needs the memory for it.
    :raises ConfigError: the config has problems, all of which are listed.
    """
    found = findings(config, known, condenses)
    if found.problems or found.dataset is None:
        raise ConfigError(found.problems, notes=found.notes)
    return found.dataset, list(checks.remarks(found.config, found.dataset))


@dataclass(frozen=True)
class Findings:
    """Result of the checks of a config.

    :param config: the config, with the default of each key whose value is refused.
    :param dataset: the opened data set; None if it cannot be opened.
    :param problems: an error message for each problem.
    :param notes: messages about what is not checked because of problems.
    """

    config: RunConfig
    dataset: ImageSet | None
    problems: list[str]
    notes: list[str]


def findings(config: RunConfig, known: Sequence[str] = (), condenses: bool = True) -> Findings:
    """Check a config and open its data set like :func:`check`, and return all that was found.

    :raises ConfigError: the output folder has entries that may not be opened.
    """
    run_folder.check(Path(config.output).expanduser())  # before any file in it is read
    config, problems = checks.screened(config, known)
    unknown, tracker = not_stored(config), config.tracking
    own = checks.of_config(config)
    others = [*unknown, *own, *_output(config), *places.problems(config)]
    others += [*tracking_address.problems(tracker.uri, config.output, tracker.experiment), *_here(config)]
    dataset = None
    try:
        dataset = None if unknown else assembly.dataset_of(_as_started(config))
    except DataError as error:
        others += error.problems
    if dataset is not None:
        others += checks.of_data(config, dataset) or (
            []
            if own or not condenses
            else memory.lacking(config, dataset, set_problem(config, dataset, verify=False) is None)
        )
    problems = checks.joined(problems, others)
    notes = [*_unchecked(config, problems), *_not_loaded(config)] if problems or dataset is None else []
    return Findings(config, dataset, problems, notes)


def headers(config: RunConfig, dataset: ImageSet, say: Callable[[str], None]) -> None:
    """Check the headers of the image files that the run needs, which takes longer than all other checks.

    This does not overlap with the start of Ray, during which both would need the interpreter: with 60,000 files that
    took 4 s longer.

    :param say: called with a message for the user if there are many files.
    :raises ConfigError: some files are broken; one problem lists all of them.
    """
    if not config.data.verify:
        return
    evaluated = config.evaluation.epochs != 0
    folders = [*dataset.train_split.unread, *(dataset.test_split.unread if evaluated else ())]
    if (files := sum(len(entry.files) for entry in folders)) >= MANY:
        say(f"reading the headers of {files:,} image files before the start (data.verify=false skips this)")
    if problem := check_headers(folders):
        raise ConfigError([f"dataset.root: {problem}"])


def probe(config: RunConfig, complete: bool) -> None:
    """Check that the disk, the store of checkpoints, the tracking server and the compiler accept this run.

    No test files are left.

    :param complete: whether the last checkpoint exists already, so that the run writes no checkpoint.
    :raises ConfigError: one of them does not accept the run; every problem is listed.
    """
    stores: dict[str, Storage] = {"output": Folder(Path(config.output))}
    if config.tracking.checkpoints and not complete:
        stores["tracking.checkpoints"] = assembly.storage_of(config)
    problems = [f"{key}: {problem}" for key, store in stores.items() if (problem := _write_problem(store))]
    problems += [] if complete else _compiler(config)
    uri = tracking_address.resolve_uri(config.tracking.uri, config.output)
    if problem := refusal(uri, config.tracking.experiment):
        problems.append(f"tracking: {uri}: {problem}")
    if problems:
        raise ConfigError(problems)


def _here(config: RunConfig) -> Iterator[str]:
    """Yield an error message for each requirement that this machine does not meet."""
    cluster = config.cluster
    if config.data.tier == RAW and importlib.util.find_spec("ffcv") is None:
        yield f"data.tier: ffcv needs the package ffcv: `{SYSTEM}`, then `{PACKAGE}`"
    if cluster.min_workers is not None and cluster.min_workers > cluster.workers:
        yield f"cluster.min_workers: {cluster.min_workers} is above cluster.workers, {cluster.workers}"
    if cluster.workers == 0 and cluster.device == "cuda" and not torch.cuda.is_available():
        yield "cluster.device: cuda, but torch sees no GPU here; set cluster.device=cpu"


def _compiler(config: RunConfig) -> Iterator[str]:
    """Yield an error message if steps are compiled on this machine, which lacks what that needs."""
    device = config.cluster.settled(torch.cuda.is_available).device
    if not config.compute.compile or effects.hindrance(config, "compute.compile"):
        return
    if _computes_here(config) and (lacking := lacks_compiler(device)):
        yield f"compute.compile: it needs {lacking}; install it, or set compute.compile=false in a new output"


def _computes_here(config: RunConfig) -> bool:
    """Return whether this machine computes: this process, or workers of a Ray that the run will start."""
    return config.cluster.workers == 0 or not (in_submitted_job() or os.environ.get("RAY_ADDRESS"))


def remarks(config: RunConfig, stored: State | None) -> Iterator[str]:
    """Yield remarks on a resolved config that do not stop the run: idle cores, slow bfloat16, another torch or device.

    :param stored: metadata of the checkpoint that the run continues from; None for a new run.
    """
    cluster, cores = config.cluster, torch.get_num_threads()
    if (cluster.workers, cluster.device, config.compute.threads) == (0, "cpu", 1) and cores > 1:
        yield (
            f"only one of {cores} cores is used: cluster.workers={cores} uses them all and gives the same set; "
            f"compute.threads={cores} does too, and changes the last bits of the set"
        )
    if cluster.workers == 0 and (threads := config.compute.threads or 1) > (here := os.cpu_count() or threads):
        yield f"compute.threads: {threads} threads on {here} cores hinder each other, which can take much longer"
    asked = cluster.workers == 0 if cluster.on_gpu else _computes_here(config)  # the driver of workers uses no GPU
    if config.compute.autocast and asked and not has_bfloat16(cluster.device):
        yield (
            f"compute.autocast: this {'GPU' if cluster.on_gpu else 'CPU'} has no instructions for bfloat16; "
            "compute.autocast=false is faster here"
        )
    if stored is not None and (stored.torch, stored.device) != (torch.__version__, cluster.device):
        yield (
            f"the run was started with torch {stored.torch} on {stored.device} and continues with torch "
            f"{torch.__version__} on {cluster.device}: the set will differ in its last bits"
        )


def _unchecked(config: RunConfig, problems: Sequence[str]) -> Iterator[str]:
    """Yield a note that ``cluster.workers`` is not compared with the cluster yet, if cluster keys have problems."""
    if config.cluster.workers > 0 and any(problem.startswith("cluster.") for problem in problems):
        yield "cluster.workers is not compared with the cluster yet; Ray is started after all other checks"


@dataclass(frozen=True)
class _Started:
    """Content of environment.json that says which plug-ins the last start of a run has loaded."""

    plugins: Mapping[str, str | None] = field(default_factory=dict)


def _not_loaded(config: RunConfig) -> Iterator[str]:
    """Yield a note if the run in the output folder was started with plug-ins that are not loaded now."""
    file = RunFolder(Path(config.output).expanduser()).environment
    now = {plugin.module for plugin in plugins.loaded()}
    with suppress(records.Unreadable):
        if missing := sorted({*records.read(_Started, file, ignore_unknown=True).plugins} - now):
            names = values.some([*map(values.shown, missing)])
            yield (
                f"the run in {config.output} was started with plug-ins that are not loaded now: {names}; if you trust "
                f"them, name them by {plugins.OPTION} or {plugins.VARIABLE}"
            )


def _output(config: RunConfig) -> Iterator[str]:
    if in_submitted_job() and not Path(config.output).is_absolute():
        yield (
            f"output: {config.output} is relative, and a submitted job's working directory is deleted; "
            "give an absolute path that all nodes see (output=..., or DIST_CONDENSE_OUTPUT in the job's environment)"
        )
        return
    if urlparse(config.output).scheme:
        yield f"output: {config.output} is not a path; give a local or shared folder"
        return
    if config.data.cache and is_url(config.data.cache):
        yield f"data.cache: {config.data.cache} is an address; give a local folder of each node"
    if (entry := _entry_of_output(config)) is not None:
        yield (
            f"tracking.checkpoints: {config.tracking.checkpoints} is in {entry} of the output, which the run itself "
            "writes; give a folder elsewhere, or null for the output"
        )
    if config.tracking.checkpoints:
        try:
            for part in (RunFolder.checkpoints, RunFolder.pool):
                if isinstance(store := assembly.storage_of(config, part), Folder):
                    run_folder.check(store.path, is_opened)
        except (DataError, ConfigError) as error:
            yield from (f"tracking.checkpoints: {problem}" for problem in error.problems)
    folder = Path(config.output).expanduser()
    existing = RunFolder(folder).config
    if existing.exists():
        try:
            changed = differences(identity(read(existing)), identity(config))
        except ConfigError as error:
            changed = error.problems
        if changed:
            advice = f"give another output, or restore them: {'; '.join(changed)}"
            yield f"output: {folder} contains a run with other settings; {advice}"
    if not (parent := _existing_parent(folder)).is_dir() or not os.access(parent, os.W_OK):
        yield f"output: {folder} cannot be written"
    named = [name for name in config.evaluation.sets if name in SELECTIONS and SELECTIONS[name].features]
    if named and config.evaluation.epochs != 0 and not os.access(_existing_parent(selecting.place(config)), os.W_OK):
        yield f"evaluation.sets: {selecting.place(config)}, the folder for {', '.join(named)}, cannot be written"
    for file, rows in ((RunFolder(folder).evaluation, read_csv), (RunFolder(folder).evaluation_classes, read_classes)):
        try:
            rows(file)
        except RowsError as error:
            yield f"output: {error}"


def _entry_of_output(config: RunConfig) -> str | None:
    """Return the name of the run's own entry in which the folder of checkpoints is; None if it is elsewhere."""
    if config.tracking.checkpoints is None or is_url(config.tracking.checkpoints):
        return None
    place, output = (os.path.realpath(os.path.expanduser(x)) for x in (config.tracking.checkpoints, config.output))
    first = Path(place).relative_to(output).parts[:1] if Path(place).is_relative_to(output) else ()
    return next((name for name in first if name in run_folder.OPENED.difference(run_folder.MAY_LEAD)), None)


def _write_problem(store: Storage) -> str | None:
    """Return why a store cannot be written to, or None; for a missing folder, test its nearest existing parent."""
    try:
        if isinstance(store, Folder):
            with TemporaryFile(dir=_existing_parent(store.path)) as file:  # it has no name in the folder
                file.write(bytes(4096))
                file.flush()
                os.fsync(file.fileno())
        else:
            store.write(PROBE, b"")
            store.remove(PROBE)
    except Exception as error:  # each kind of store raises its own
        return f"{store} cannot be written ({type(error).__name__}: {error}); repair it, or give another location"
    return None


def earlier(config: RunConfig) -> dict[str, Any]:
    """Return the identity of the run in the output folder, by key of its config; empty if there is no run.

    Raises ConfigError if a value that later starts keep is impossible.
    """
    existing = RunFolder(Path(config.output).expanduser()).config
    stored = identity(read(existing)) if existing.exists() else {}
    if problems := list(impossible(stored)):
        raise ConfigError([f"{existing}: {problem}" for problem in problems])
    return stored


def _as_started(config: RunConfig) -> RunConfig:
    """Return the config with ``dataset.channels`` of the run in the output folder, if there is one."""
    with suppress(ConfigError):  # reported by _output
        return resolve.with_channels(config, earlier(config))
    return config


def _existing_parent(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
