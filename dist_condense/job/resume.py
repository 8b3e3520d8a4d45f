"""From where a run goes on: its own checkpoints, nothing, or those of another folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from dist_condense.data import ImageSet
from dist_condense.engine.procedure import Kind
from dist_condense.job import checkpoint
from dist_condense.job.checkpoint import SHARED, Checkpoint, Damaged
from dist_condense.result import metrics_file
from dist_condense.settings import assembly, procedures, run_folder
from dist_condense.settings.config import ConfigError, RunConfig, differences
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system import terminal
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
    has_own = bool(checkpoint.names(own))
    if how == NEVER and has_own:
        raise ConfigError([f"--resume=never: {own} has checkpoints; give another output, or leave --resume out"])
    if how in (AUTO, NEVER) or has_own:  # a retry of --resume=PATH goes on with what it has reached itself
        return _newest(own)
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
    if other := next(_other_content(config, dataset, chosen), None):
        advice = "it is no checkpoint of this run; take another, or remove it"
        raise ConfigError([f"{chosen.store}/{chosen.name}/{other}; {advice}"])
    metrics = _metrics_of(config, chosen)
    if metrics is not None and (strange := list(run_folder.strange(metrics))):
        raise ConfigError(strange)
    if metrics is not None and (problem := metrics_file.problem(metrics, chosen.steps)):
        raise ConfigError([problem])


def bring(config: RunConfig, chosen: Checkpoint | None) -> None:
    """Copy a checkpoint that lies elsewhere, and the lines of metrics.jsonl until it, to the run's own place."""
    own = assembly.storage_of(config)
    if chosen is None or str(chosen.store) == str(own):
        return
    for entry in chosen.entries:
        own.write(f"{chosen.name}/{entry.name}", chosen.store.read(f"{chosen.name}/{entry.name}"))
    checkpoint.commit(own, chosen.state, chosen.entries)
    if (metrics := _metrics_of(config, chosen)) is not None:
        copy = RunFolder(Path(config.output)).metrics
        copy.write_bytes(metrics.read_bytes())
        metrics_file.cut(copy, chosen.steps)


def _other_content(config: RunConfig, dataset: ImageSet, chosen: Checkpoint) -> Iterator[str]:
    """What a checkpoint holds that this run's would not, or lacks: the file and a sentence about it."""
    classes, times = len(dataset.classes), Counter(c for entry in chosen.entries for c in entry.labels)
    outline = procedures.outline_of(config, dataset)
    by_class, (shared, optional) = outline.class_tensors, outline.shared_tensors
    for entry in chosen.entries:
        for label in entry.labels:
            if label >= classes or times[label] > 1:
                yield f"{entry.name}: class {label} stands {times[label]} times, and this run has 0 to {classes - 1}"
        own = {f"{name}.{c}": kind for name, kind in by_class.items() for c in entry.labels}
        needed, allowed = (shared, shared | optional) if entry.name == SHARED else (own, own)
        yield from (f"{entry.name}: {problem}" for problem in _unlike(chosen.kinds[entry.name], needed, allowed))
    if missing := sorted(set(range(classes)) - set(times)):
        yield f"{checkpoint.MANIFEST}: no file has class {missing[0]}"


def _unlike(found: dict[str, Kind], needed: dict[str, Kind], allowed: dict[str, Kind]) -> Iterator[str]:
    """Sentences about the tensors of a file that are missing, or others than a run's."""
    yield from (f"{name} is missing" for name in needed if name not in found)
    for name, kind in found.items():
        if name not in allowed:
            yield f"{name!r:.80} is no tensor of it"
        elif kind != allowed[name]:
            yield f"{name} is {_words(kind)} and must be {_words(allowed[name])}"


def _words(kind: Kind) -> str:
    return f"{str(kind[0]).removeprefix('torch.')} {list(kind[1])}"


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
            chosen = checkpoint.opened(storage(address(parent) or "."), name)
            chosen.verify()
        except (FileNotFoundError, Damaged) as error:
            raise ConfigError([f"--resume={place}: {error}"]) from error
        return chosen
    return _newest(storage(join(place, RunFolder.checkpoints.name))) or _newest(storage(place))


def _newest(store: Storage) -> Checkpoint | None:
    try:
        return checkpoint.newest(store, lambda text: terminal.say(f"note: {text}"))
    except Damaged as error:
        raise ConfigError([str(error)]) from error
