"""Execution of ``dist-condense run`` and ``dist-condense evaluate``; the run itself is in job/job.py."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from dist_condense.commands.arguments import CHANGEABLE
from dist_condense.data import DataError
from dist_condense.evaluation.rows import RowsError
from dist_condense.job import checkpoint, preflight
from dist_condense.job.job import Job
from dist_condense.job.journal import RunFailed
from dist_condense.job.stop import Terminated
from dist_condense.result.card import CARD, SyntheticSetError
from dist_condense.result.synthetic_set import load_set
from dist_condense.result.tracking.trust import distrusted, is_own
from dist_condense.settings import assembly, effects
from dist_condense.settings.config import ConfigError, RunConfig, given_keys, not_stored, read, to_yaml, usable
from dist_condense.settings.run_folder import RunFolder, check
from dist_condense.system import signals, terminal

FAILED = 1
MISPLACED = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
"""Errors of a path that the user can mend. Other errors of the system, such as an outage, may pass by themselves."""


def run(options: argparse.Namespace) -> int:
    """Condense, evaluate and report, or print the resolved config; return the exit code. Raises ConfigError."""
    config = loaded(options.config, options.overrides)
    if options.cfg:
        terminal.out(*to_yaml(config).rstrip("\n").split("\n"))
        return 0
    return executed(config, options.resume, given=given_keys(options.config, options.overrides))


def evaluate(path: str, overrides: Sequence[str]) -> int:
    """Train networks on the set of a finished run; return the exit code. Raises ConfigError."""
    folder = run_folder(path)
    check(folder)
    config = finished(folder, overrides)
    trusted = _names_server(overrides) or is_own(config.tracking.uri)
    return executed(config, trusted=trusted, finished=True)


def run_folder(path: str) -> Path:
    """Return the folder of a run, given its path or the path of its synthetic set.

    :raises ConfigError: the path is empty, or is not in a run's folder.
    """
    if not path.strip():
        raise ConfigError(["the folder of the run is empty; give a path"])
    folder = Path(os.path.expanduser(path)).absolute()
    for candidate in [folder, folder.parent] if os.path.isfile(folder / CARD) else [folder]:
        if os.path.isfile(RunFolder(candidate).config):  # False, too, for a path that no file can have
            return candidate
    raise ConfigError([f"{folder} is not the folder of a run: {RunFolder.config.name} is missing"])


def finished(folder: Path, overrides: Sequence[str]) -> RunConfig:
    """Return the config of a finished run, with overrides for its evaluation.

    :raises ConfigError: an override is not :data:`CHANGEABLE`, or the run cannot be evaluated, for example because its
        synthetic set is incomplete; all reasons are reported.
    """
    fixed = [pair for pair in overrides if not pair.lstrip("+").startswith(CHANGEABLE)]
    if fixed:
        raise ConfigError([f"{pair}: a finished run takes only {', '.join(CHANGEABLE)} keys" for pair in fixed])
    config = replace(read(RunFolder(folder).config, overrides), output=str(folder))
    problems = list(_not_evaluable(config))
    if not _names_server(overrides):
        problems += distrusted(config.tracking.uri, folder, "tracking.uri=")
    if problems:
        raise ConfigError(problems)
    return config


def _names_server(overrides: Sequence[str]) -> bool:
    """Return whether the overrides contain the address of the MLflow server."""
    return any(pair.lstrip("+").startswith("tracking.uri=") for pair in overrides)


def _not_evaluable(config: RunConfig) -> Iterator[str]:
    files = RunFolder(Path(config.output))
    try:
        card = load_set(files.synthetic_set, verify=False).card
    except SyntheticSetError as error:
        yield f"{error}; {_continues(files)}"
        return
    if not card.complete:
        yield f"the set in {files.path} is incomplete (step {card.steps}); {_continues(files)}"
    if not_stored(config):  # refused later, with all other problems
        return
    try:
        newest = checkpoint.newest(assembly.storage_of(config))
    except checkpoint.Damaged as error:
        yield str(error)
        return
    except (DataError, OSError) as error:
        yield from (f"tracking.checkpoints: {line}" for line in terminal.lines_of(error))
        return
    if card.complete and (newest is None or newest.steps != card.steps):
        yield f"{files.checkpoints} lacks the last step, which the run would compute again; restore it"
    if config.evaluation.epochs == 0:
        yield "evaluation.epochs: 0 means no evaluation; give evaluation.epochs=null for the protocol's own"


def _verify(files: RunFolder) -> None:
    """Check that all pixels are finite and that the file has the hash of its card, which reads the file twice.

    Raises ConfigError.
    """
    try:
        load_set(files.synthetic_set)
    except SyntheticSetError as error:
        raise ConfigError([f"{error}; {_continues(files)}"]) from error


def _continues(files: RunFolder) -> str:
    return f"`dist-condense run {shlex.quote(str(files.config))}` continues it"


def loaded(path: str, overrides: Sequence[str]) -> RunConfig:
    """Load a config; unknown keys and wrong types are reported together with all other problems."""
    config, problems = usable(path, overrides)
    if problems:
        preflight.check(config, problems)  # raises them with all others
    return config


def prepared(config: RunConfig, resume: str = "auto") -> Job:
    """Return the job of a run, before anything starts or is written.

    :raises ConfigError: the run is refused, for any reason.
    """
    try:
        return Job.prepare(config, resume)
    except (DataError, RowsError, SyntheticSetError, *MISPLACED) as error:
        raise ConfigError(terminal.lines_of(error)) from error


def executed(
    config: RunConfig,
    resume: str = "auto",
    trusted: bool = True,
    finished: bool = False,
    given: Collection[str] = (),
) -> int:
    """Run a config and return the exit code. Raises ConfigError if it is refused before anything starts.

    :param resume: value of the option ``--resume``.
    :param trusted: whether the address of MLflow comes from the user.
    :param finished: whether only the evaluation of a finished run is requested.
    :param given: keys that the user has set.
    """
    try:
        job = replace(prepared(config, resume), trusted=trusted, verified=finished)
        job.remarks.extend(effects.remarks(job.config, given))
        if finished:  # after all cheaper checks
            _verify(RunFolder(Path(config.output)))
        try:
            job.run()
        except KeyboardInterrupt as interrupt:
            terminal.say(f"{signals.description(interrupt)}: {job.where_it_continues()}")
            return signals.exit_code(interrupt)
    except Terminated as stopped:
        terminal.say(str(stopped))
        return stopped.exit_code
    except (RunFailed, DataError, RowsError, SyntheticSetError, OSError) as error:  # an OSError contains its file name
        first, *others = terminal.lines_of(error)
        terminal.say(f"failed: {first}", *others)
        return FAILED
    return 0
