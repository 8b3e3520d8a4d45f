"""Execution of ``dist-condense run CONFIG -m key=A,B``: several runs, one after the other, and their comparison."""

from __future__ import annotations

import argparse
import os
import signal
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dist_condense.commands import compare_command
from dist_condense.commands.run_command import FAILED, executed, loaded, prepared
from dist_condense.result.comparison.groups import METHOD, NAMES
from dist_condense.settings.config import RunConfig, given_keys
from dist_condense.settings.keys import KEYS
from dist_condense.settings.run_folder import RunFolder
from dist_condense.settings.sweeps import Point, points, swept_keys
from dist_condense.settings.values import ConfigError
from dist_condense.system import terminal

INTERRUPTED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit codes of a run after which no other run starts."""


def run(options: argparse.Namespace) -> int:
    """Check all runs, execute them one after the other, compare them, and return the exit code.

    0 if all are done, 1 if one failed, which does not stop the others; that of a run that was interrupted, at once.

    :raises ConfigError: a run is refused, before any of them has started; every problem has the name of its run.
    """
    if options.cfg or options.resume not in ("auto", "never"):
        raise ConfigError(["-m: --cfg and --resume PATH are for a single run; leave them out"])
    runs = points(options.overrides)
    configs = _checked(options, runs)
    failed = []
    for number, point in enumerate(runs, 1):
        terminal.event(f"run {number} of {len(runs)}: {point.name}")
        code = _executed(configs[point.name], options, point)
        if code in INTERRUPTED:
            return code
        if code:
            failed.append(point.name)
    _compare(configs, _by(options.overrides))
    for name in failed:
        terminal.say(f"failed: {name}")
    return FAILED if failed else 0


def _checked(options: argparse.Namespace, runs: Sequence[Point]) -> dict[str, RunConfig]:
    """Return the config of each run by its name, with its own output. Raises ConfigError with every problem."""
    configs: dict[str, RunConfig] = {}
    found: dict[str, list[str]] = {}
    notes: dict[str, None] = {}
    for point in runs:
        try:
            config = loaded(options.config, point.overrides)
            if (equal := _equal(config, configs)) is not None:
                raise ConfigError([f"it is the run {equal} again; give each value once"])
            configs[point.name] = replace(config, output=os.path.join(config.output, point.name))
            if RunFolder(Path(config.output).expanduser()).config.exists():
                raise ConfigError([f"output: {config.output} is the folder of a run; give -m another folder"])
            prepared(configs[point.name], options.resume)
        except ConfigError as error:
            notes |= dict.fromkeys(error.notes)
            for problem in error.problems:
                found.setdefault(problem, []).append(point.name)
    if found:
        each = {problem: ["every run"] if len(names) == len(runs) else names for problem, names in found.items()}
        raise ConfigError([f"{name}: {problem}" for problem, names in each.items() for name in names], notes=[*notes])
    return configs


def _equal(config: RunConfig, others: Mapping[str, RunConfig]) -> str | None:
    """Return the name of a run with an equal config but for its output; None if there is none."""
    return next((name for name, other in others.items() if replace(other, output=config.output) == config), None)


def _executed(config: RunConfig, options: argparse.Namespace, point: Point) -> int:
    """Execute one run and return its exit code; a run that is refused only now, or has a fault, has failed."""
    try:
        return executed(config, options.resume, given=given_keys(options.config, point.overrides))
    except ConfigError as error:
        terminal.say(*(f"refused: {line}" for line in terminal.lines_of(error)))
    except Exception as error:  # the others are still to be run
        terminal.say(*"".join(traceback.format_exception(error)).rstrip().split("\n"))
    return FAILED


def _compare(configs: Mapping[str, RunConfig], by: str) -> None:
    """Print the comparison of all runs in which networks were trained."""
    folders = [str(Path(config.output).expanduser()) for config in configs.values()]
    evaluated = [folder for folder in folders if RunFolder(Path(folder)).evaluation.exists()]
    if not evaluated:
        return
    try:
        compare_command.show(compare_command.of_folders(evaluated, by), stderr=True)
    except ConfigError as error:  # the runs are done
        terminal.say(*(f"not compared: {line}" for line in terminal.lines_of(error)))


def _by(overrides: Sequence[str]) -> str:
    """Return the key of the comparison: the first one with several values that is no seed, if it can be one."""
    keys = (key for key in swept_keys(overrides) if key != "seed" and (key in NAMES or key in KEYS))
    return next(keys, METHOD)
