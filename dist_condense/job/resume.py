"""From where a run goes on: its own checkpoints, nothing, or those of another folder."""

from __future__ import annotations

import os
from pathlib import Path

from dist_condense.data import ImageSet
from dist_condense.job import checkpoint, contents
from dist_condense.job.checkpoint import AT_ONCE, Checkpoint, Damaged, Entry
from dist_condense.result import metrics_file
from dist_condense.settings import assembly, procedures, run_folder
from dist_condense.settings.config import ConfigError, RunConfig, differences
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system import terminal
from dist_condense.system.background import side_by_side
from dist_condense.system.credentials import address, revealed
from dist_condense.system.remote import join, scheme
from dist_condense.system.storage import Folder, Storage, storage

AUTO, NEVER = "auto", "never"


def found(config: RunConfig, how: str = AUTO) -> Checkpoint | None:
    """The checkpoint that a start of this run continues from; None for a start from the beginning.

    :param how: ``auto``, the run's own newest; ``never``; or a run's folder, its checkpoints or one of them.
    :raises ConfigError: ``never`` in a folder with checkpoints, a path without any, or none that is whole.
    """
    own = assembly.storage_of(config)
    if how == NEVER and checkpoint.names(own):
        raise ConfigError([f"--resume=never: {own} has checkpoints; give another output, or leave --resume out"])
    reached = _newest(own)
    if how in (AUTO, NEVER) or reached is not None:  # a retry of --resume=PATH goes on with what it has reached itself
        return reached
    chosen = _at(address(os.path.expanduser(how))) if how.strip() else None
    if chosen is None:
        raise ConfigError([f"--resume={how}: there is no checkpoint; give a run's folder, or one of its checkpoints"])
    return chosen


def check(config: RunConfig, dataset: ImageSet, chosen: Checkpoint | None) -> None:
    """Refuse a checkpoint that another config or other data made, one with other tensors than those of this run, and a
    metrics.jsonl that cannot go on with it. Raises ConfigError, with every difference."""
    if chosen is None:
        return
    changed = differences(chosen.state.identity, assembly.identity_of(config, dataset))
    if changed:
        held = f"{chosen.store}/{chosen.name} is of another run"
        raise ConfigError([f"{held}; give another output, or restore: {'; '.join(changed)}"])
    outline = procedures.outline_of(config, dataset)
    if other := next(contents.problems(chosen, outline, len(dataset.classes)), None):
        advice = "it is no checkpoint of this run; take another, or remove it"
        raise ConfigError([f"{chosen.store}/{chosen.name}/{other}; {advice}"])
    metrics = _metrics_of(config, chosen)
    if metrics is not None and (strange := list(run_folder.strange(metrics))):
        raise ConfigError(strange)
    if metrics is not None and (problem := metrics_file.problem(metrics, chosen.steps)):
        raise ConfigError([problem])


def bring(config: RunConfig, chosen: Checkpoint | None) -> None:
    """Copy a checkpoint that lies elsewhere, and the lines of metrics.jsonl until it, to the run's own place. Each file
    is verified on the way. Raises ConfigError for one that is damaged; nothing is committed then."""
    own = assembly.storage_of(config)
    if chosen is None or str(chosen.store) == str(own):
        return

    def put(entry: Entry) -> None:
        own.write(f"{chosen.name}/{entry.name}", chosen.bytes_of(entry))

    try:
        side_by_side(put, chosen.entries, AT_ONCE)
    except Damaged as error:
        advice = "give one of the checkpoints before it, by its folder"
        raise ConfigError([f"--resume={chosen.store}/{chosen.name}: {error}; {advice}"]) from error
    checkpoint.commit(own, chosen.state, chosen.entries, chosen.format)
    if (metrics := _metrics_of(config, chosen)) is not None:
        copy = RunFolder(Path(config.output)).metrics
        copy.write_bytes(metrics.read_bytes())
        metrics_file.cut(copy, chosen.steps)


def _metrics_of(config: RunConfig, chosen: Checkpoint) -> Path | None:
    """The metrics.jsonl that belongs to a checkpoint; None where there is none at a path."""
    if str(chosen.store) == str(assembly.storage_of(config)):
        metrics = RunFolder(Path(config.output)).metrics
    elif isinstance(chosen.store, Folder):
        metrics = RunFolder(chosen.store.path.parent).metrics
    else:
        return None
    return metrics if metrics.is_file() else None


def _at(place: str) -> Checkpoint | None:
    """Of a run's folder, its checkpoints, or one of them."""
    if scheme(place) is None:
        run_folder.check(Path(place))
    parent, _, name = revealed(place).rstrip("/").rpartition("/")
    if checkpoint.NAME.fullmatch(name):
        try:
            return checkpoint.measured(storage(address(parent) or "."), name)
        except (FileNotFoundError, Damaged) as error:
            raise ConfigError([f"--resume={place}: {error}"]) from error
    return _newest(storage(join(place, RunFolder.checkpoints.name))) or _newest(storage(place))


def _newest(store: Storage) -> Checkpoint | None:
    try:
        return checkpoint.newest(store, lambda text: terminal.say(f"note: {text}"))
    except Damaged as error:
        raise ConfigError([str(error)]) from error
