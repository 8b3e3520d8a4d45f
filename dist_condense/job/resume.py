"""Selection of the checkpoint that a start of a run continues from: its own, none, or that of another folder."""

from __future__ import annotations

import os
from pathlib import Path

from dist_condense.data import ImageSet
from dist_condense.job import checkpoint, contents
from dist_condense.job.checkpoint import AT_ONCE, Checkpoint, Damaged, FileEntry
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


def select(config: RunConfig, how: str = AUTO) -> Checkpoint | None:
    """Return the checkpoint that a start of this run continues from; None to start from the beginning.

    :param how: the option ``--resume``: ``auto`` for the run's own newest checkpoint; ``never``; or the path of a run's
        folder, of its checkpoints or of one of them.
    :raises ConfigError: ``never`` in a folder with checkpoints, a path without any, or no checkpoint that is intact.
    """
    own = assembly.storage_of(config)
    if how == NEVER and checkpoint.names(own):
        raise ConfigError([f"--resume=never: {own} has checkpoints; give another output, or leave --resume out"])
    reached = _newest(own)
    if how in (AUTO, NEVER) or reached is not None:  # a repeated --resume=PATH continues from its own progress
        return reached
    start = _at(address(os.path.expanduser(how))) if how.strip() else None
    if start is None:
        raise ConfigError([f"--resume={how}: there is no checkpoint; give a run's folder, or one of its checkpoints"])
    return start


def check(config: RunConfig, dataset: ImageSet, start: Checkpoint | None) -> None:
    """Check that a checkpoint and its metrics.jsonl belong to this run, by config, data and tensors.

    :raises ConfigError: with every difference.
    """
    if start is None:
        return
    changed = differences(start.state.identity, assembly.identity_of(config, dataset))
    if changed:
        advice = f"give another output, or restore: {'; '.join(changed)}"
        raise ConfigError([f"{start.store}/{start.name} belongs to another run; {advice}"])
    outline = procedures.outline_of(config, dataset)
    if other := next(contents.problems(start, outline, len(dataset.classes)), None):
        advice = "it is not a checkpoint of this run; give another one, or remove it"
        raise ConfigError([f"{start.store}/{start.name}/{other}; {advice}"])
    metrics = _metrics_of(config, start)
    if metrics is not None and (strange := list(run_folder.strange(metrics))):
        raise ConfigError(strange)
    if metrics is not None and (problem := metrics_file.problem(metrics, start.steps)):
        raise ConfigError([problem])


def copy(config: RunConfig, dataset: ImageSet, start: Checkpoint | None, how: str = AUTO) -> Checkpoint | None:
    """Copy a checkpoint of another folder, with its entries of metrics.jsonl, to this run; return the copied one.

    Each file is verified while it is copied. If ``how`` is a folder of several checkpoints, damaged ones are skipped.

    :raises ConfigError: the given checkpoint, or every one in the given folder, is damaged; nothing is committed then.
    """
    if start is None or str(start.store) == str(assembly.storage_of(config)):
        return start

    def load(name: str) -> Checkpoint:
        source = start if name == start.name else checkpoint.measured(start.store, name)
        if source is not start:
            check(config, dataset, source)
        _copy_one(config, source)
        return source

    is_named = checkpoint.NAME.fullmatch(_parts(how)[1])
    listed = [name for name in checkpoint.names(start.store) if name <= start.name]
    try:
        return load(start.name) if is_named else checkpoint.furthest(start.store, load, _note, listed)
    except Damaged as error:
        advice = "; give an earlier checkpoint, by its folder" if is_named else ""
        raise ConfigError([f"--resume={how}: {error}{advice}"]) from error


def _copy_one(config: RunConfig, source: Checkpoint) -> None:
    """Copy a checkpoint to this run and commit it. Raises Damaged; then nothing of it remains."""
    own = assembly.storage_of(config)

    def put(entry: FileEntry) -> None:
        own.write(f"{source.name}/{entry.name}", source.bytes_of(entry))

    try:
        side_by_side(put, source.entries, AT_ONCE)
    except Damaged:
        own.remove(source.name)
        raise
    checkpoint.commit(own, source.state, source.entries, source.format)
    if (metrics := _metrics_of(config, source)) is not None:
        own_metrics = RunFolder(Path(config.output)).metrics
        own_metrics.write_bytes(metrics.read_bytes())
        metrics_file.cut(own_metrics, source.steps)


def _metrics_of(config: RunConfig, start: Checkpoint) -> Path | None:
    """Return the metrics.jsonl of a checkpoint's run, if the file exists and is local."""
    if str(start.store) == str(assembly.storage_of(config)):
        metrics = RunFolder(Path(config.output)).metrics
    elif isinstance(start.store, Folder):
        metrics = RunFolder(start.store.path.parent).metrics
    else:
        return None
    return metrics if metrics.is_file() else None


def _at(path: str) -> Checkpoint | None:
    """Return the checkpoint at the path or url of a run's folder, of its checkpoints, or of one of them."""
    if scheme(path) is None:
        run_folder.check(Path(path))
    parent, name = _parts(path)
    if checkpoint.NAME.fullmatch(name):
        try:
            return checkpoint.measured(storage(address(parent) or "."), name)
        except (FileNotFoundError, Damaged) as error:
            raise ConfigError([f"--resume={path}: {error}"]) from error
    return _newest(storage(join(path, RunFolder.checkpoints.name))) or _newest(storage(path))


def _parts(path: str) -> tuple[str, str]:
    """Split a path or url, with its secret, into its parent and its last part."""
    parent, _, name = revealed(path).rstrip("/").rpartition("/")
    return parent, name


def _newest(store: Storage) -> Checkpoint | None:
    try:
        return checkpoint.newest(store, _note)
    except Damaged as error:
        raise ConfigError([str(error)]) from error


def _note(text: str) -> None:
    terminal.say(f"note: {text}")
