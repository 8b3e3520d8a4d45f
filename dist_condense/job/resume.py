"""Selection of the checkpoint from which a run continues: its own, none, or a checkpoint in another folder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dist_condense.data import ImageSet
from dist_condense.job import checkpoint, contents
from dist_condense.job.checkpoint import AT_ONCE, Checkpoint, Damaged, FileEntry, progress
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
    """Return the checkpoint from which the run continues; None if it starts from the beginning.

    If ``how`` is a path but the run has its own checkpoint, its own newest checkpoint is returned.

    :param how: value of the option ``--resume``: ``auto`` for the run's own newest checkpoint, ``never`` for none, or
        the path or url of a run's folder, of its folder of checkpoints, or of one checkpoint.
    :raises ConfigError: ``how`` is ``never`` but the run has checkpoints, ``how`` is a path without a checkpoint, or no
        checkpoint is intact.
    """
    own = assembly.storage_of(config)
    if not how.strip():
        raise ConfigError([f"--resume={how}: the path is empty; give {AUTO}, {NEVER}, or a run's folder"])
    if how == NEVER and checkpoint.names(own):
        raise ConfigError([f"--resume=never: {own} has checkpoints; give another output, or leave --resume out"])
    reached = _newest(own, _note if config.cluster.workers else _unsaid)  # a worker in this process says it
    if how in (AUTO, NEVER) or reached is not None:  # a repeated --resume=PATH continues from its own progress
        return reached
    try:
        start = _at(how)
    except (OSError, ValueError) as error:  # no such store, a path that no file has, a folder of links
        option = f"--resume={how}: "
        raise ConfigError([option + line.removeprefix(option) for line in terminal.lines_of(error)]) from error
    if start is None:
        raise ConfigError([f"--resume={how}: there is no checkpoint; give a run's folder, or one of its checkpoints"])
    return start


def check(config: RunConfig, dataset: ImageSet, start: Checkpoint | None, how: str = AUTO) -> None:
    """Check that a checkpoint and its metrics.jsonl belong to this run, by config, data and tensors.

    :param how: value of the option ``--resume``, see :func:`select`.
    :raises ConfigError: config or data differ (all differences are listed), or a file does not fit the run.
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
    metrics = _metrics_of(config, start, how)
    if metrics is not None and (strange := list(run_folder.strange(metrics))):
        raise ConfigError(strange)
    if metrics is not None and (problem := metrics_file.problem(metrics, start.steps)):
        raise ConfigError([problem])


def copy(config: RunConfig, dataset: ImageSet, start: Checkpoint | None, how: str = AUTO) -> Checkpoint | None:
    """Copy a checkpoint of another folder, with its metrics.jsonl entries, to this run; return the source checkpoint.

    A checkpoint of this run, or None, is returned unchanged. Each file is verified while it is copied. If ``how`` is a
    folder of several checkpoints, those that are damaged or belong to another run are skipped.

    :param how: value of the option ``--resume``, see :func:`select`.
    :raises ConfigError: the given checkpoint is damaged, or no checkpoint in the given folder is intact and of this
        run; nothing is committed in this case.
    """
    if start is None or str(start.store) == str(assembly.storage_of(config)):
        return start

    def load(name: str) -> Checkpoint:
        source = start if name == start.name else _checked(config, dataset, checkpoint.measured(start.store, name), how)
        _copy_one(config, dataset, source, how)
        return source

    is_named = checkpoint.NAME.fullmatch(_parts(how)[1])
    listed = [name for name in checkpoint.names(start.store) if progress(name) <= progress(start.name)]
    try:
        return load(start.name) if is_named else checkpoint.furthest(start.store, load, _note, listed)
    except Damaged as error:
        advice = "; give an earlier checkpoint, by its folder" if is_named else ""
        raise ConfigError([f"--resume={how}: {error}{advice}"]) from error


def _checked(config: RunConfig, dataset: ImageSet, source: Checkpoint, how: str) -> Checkpoint:
    """Return ``source`` if it belongs to this run. Raises Damaged otherwise."""
    try:
        check(config, dataset, source, how)
    except ConfigError as error:
        raise Damaged("; ".join(error.problems)) from error
    return source


def _copy_one(config: RunConfig, dataset: ImageSet, source: Checkpoint, how: str) -> None:
    """Copy a checkpoint to this run and commit it. If it is damaged, remove the partial copy and raise Damaged.

    A copy that cannot be removed is harmless, because it is not committed.
    """
    own, outline = assembly.storage_of(config), procedures.outline_of(config, dataset)

    def put(entry: FileEntry) -> None:
        data = source.bytes_of(entry)
        contents.verify(source, entry, source.parsed(entry, data), outline)
        own.write(f"{source.name}/{entry.name}", data)

    try:
        side_by_side(put, source.entries, AT_ONCE)
    except Damaged:
        with suppress(OSError):
            own.remove(source.name)
        raise
    checkpoint.commit(own, source.state, source.entries, source.format)
    if (metrics := _metrics_of(config, source, how)) is not None:
        metrics_file.cut(metrics, source.steps, RunFolder(Path(config.output)).metrics)


def _metrics_of(config: RunConfig, start: Checkpoint, how: str) -> Path | None:
    """Return the path of metrics.jsonl of a checkpoint's run; None if the file does not exist or is not local.

    The file of another run is used only below the path ``how``, that is, if this names the run's folder.
    """
    if str(start.store) == str(assembly.storage_of(config)):
        metrics = RunFolder(Path(config.output)).metrics
    elif isinstance(start.store, Folder):
        metrics = RunFolder(start.store.path.parent).metrics
        if not metrics.absolute().is_relative_to(Path(how).absolute()):
            return None
    else:
        return None
    return metrics if metrics.is_file() else None


def _at(path: str) -> Checkpoint | None:
    """Return the newest intact checkpoint at a path or url; None if there is no checkpoint.

    :param path: path or url of a run's folder, of its folder of checkpoints, or of one checkpoint.
    :raises ConfigError: the path names a damaged checkpoint, no checkpoint in the folder is intact, or what would be
        opened is a link.
    """
    if scheme(path) is None:
        for folder in (Path(path), RunFolder(Path(path)).checkpoints):
            run_folder.check(folder, checkpoint.is_opened)
    parent, name = _parts(path)
    if checkpoint.NAME.fullmatch(name):
        try:
            return checkpoint.measured(storage(address(parent) or "."), name)
        except FileNotFoundError:  # missing or uncommitted
            return None
        except Damaged as error:
            raise ConfigError([f"--resume={path}: {error}"]) from error
    return _newest(storage(join(path, RunFolder.checkpoints.name)), _note) or _newest(storage(path), _note)


def _parts(path: str) -> tuple[str, str]:
    """Split a path or url into its parent, with the secret of a url, and its last component."""
    parent, _, name = revealed(path).rstrip("/").rpartition("/")
    return parent, name


def _newest(store: Storage, report: Callable[[str], None]) -> Checkpoint | None:
    try:
        return checkpoint.newest(store, report)
    except Damaged as error:
        raise ConfigError([str(error)]) from error


def _unsaid(text: str) -> None:
    pass


def _note(text: str) -> None:
    terminal.event(f"note: {text}")
