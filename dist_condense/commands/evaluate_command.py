"""Execution of ``dist-condense evaluate``: networks are trained on the set of a run, or on sets of any origin."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dist_condense.commands import run_command
from dist_condense.data import DataError
from dist_condense.evaluation.evaluate import TrialFailed
from dist_condense.evaluation.rows import RowsError
from dist_condense.job import any_set
from dist_condense.job.any_set import Stated
from dist_condense.job.evaluating import by_name, evaluate_sets, foreign
from dist_condense.job.implied import implied, run_of
from dist_condense.job.journal import RunFailed
from dist_condense.job.stop import Terminated
from dist_condense.result.card import CARD, SyntheticSetError
from dist_condense.result.summary import summary_table
from dist_condense.settings import config as configs
from dist_condense.settings import overrides
from dist_condense.settings.config import ConfigError, RunConfig
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system import signals, terminal


def evaluate(options: argparse.Namespace) -> int:
    """Train networks on sets and test them; return the exit code. Raises ConfigError."""
    sets, given = _parted(options.sets)
    stated = Stated(space=options.space, factor=options.factor, columns=options.columns)
    is_alone = len(sets) == 1 and (options.dataset, options.root, stated) == (None, None, Stated())
    if is_alone and not _names_output(given) and _is_of_run(sets[0]):
        return run_command.evaluate(sets[0], given)
    if "" in map(str.strip, sets):
        raise ConfigError(["a set has no name; give a path"])
    if not sets:
        raise ConfigError([f"there is no set to evaluate; give {any_set.FORMS}"])
    paths = [Path(os.path.expanduser(path)) for path in sets]
    command = overrides.parsed(given)
    problems = [*command.problems, *foreign([*command.groups, *command.keys]), *stated.problems(paths)]
    try:
        config = configs.from_dict({**implied(paths, [*command.keys]), **_stated(options), **command.keys})
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from error
    output = config.output if "output" in command.keys else None
    return _executed(paths, config, stated, output, problems)


def _parted(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the sets and the ``key=value`` texts among the arguments."""
    is_key = [_is_override(text) for text in arguments]
    sets, given = ([x for x, key in zip(arguments, is_key, strict=True) if key == wanted] for wanted in (False, True))
    return sets, given


def _is_override(text: str) -> bool:
    key, equals, _ = text.lstrip("+~").partition("=")
    return bool(equals) and "/" not in key and not os.path.lexists(text)


def _names_output(given: Sequence[str]) -> bool:
    """Return whether the rows go to a folder that the user names, so that those of a run stay as they are."""
    return any(text.lstrip("+").startswith("output=") for text in given)


def _is_of_run(text: str) -> bool:
    """Return whether a set is named by a run, or by nothing, which the run's command refuses."""
    path = Path(os.path.expanduser(text))
    is_set = os.path.isfile(path / CARD) or path.suffix in any_set.TENSORS or _has_entries(path)
    return run_of(path) is not None or not is_set


def _has_entries(path: Path) -> bool:
    try:
        return path.is_dir() and next(path.iterdir(), None) is not None
    except (OSError, ValueError):
        return False


def _stated(options: argparse.Namespace) -> dict[str, Any]:
    return {
        **({} if options.dataset is None else {"dataset.name": options.dataset}),
        **({} if options.root is None else {"dataset.root": options.root}),
    }


def _executed(
    paths: Sequence[Path], config: RunConfig, stated: Stated, output: str | None, problems: Sequence[str]
) -> int:
    try:
        signals.writing_starts()
        read = replace(stated, orientation=config.dataset.orientation)
        done = evaluate_sets(by_name(paths, read), config, output, problems)
    except KeyboardInterrupt as interrupt:
        rest = "the same command trains the networks that have no row in evaluation.csv"
        terminal.say(f"{signals.description(interrupt)}: {rest}")
        return signals.exit_code(interrupt)
    except Terminated as stopped:
        terminal.say(str(stopped))
        return stopped.exit_code
    except (TrialFailed, RunFailed, SyntheticSetError, DataError, RowsError, OSError) as error:
        first, *others = terminal.lines_of(error)
        terminal.say(f"failed: {first}", *others)
        return run_command.FAILED
    terminal.console(stderr=True).print(summary_table(done.scores))
    terminal.say(f"rows     {RunFolder(done.folder).evaluation}")
    return 0
