"""Execution of ``dist-condense compare``: the folders of runs to a table of their results."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from dist_condense.commands.run_command import run_folder
from dist_condense.result.comparison import runs
from dist_condense.result.comparison.formats import FORMATS, terminal_table
from dist_condense.result.comparison.groups import Comparison, check_key, compared
from dist_condense.result.comparison.page import html
from dist_condense.settings.run_folder import RunFolder
from dist_condense.settings.values import ConfigError
from dist_condense.system import terminal
from dist_condense.system.files import write_atomically

WRITERS = {**FORMATS, "html": html}
"""Functions that return a comparison as text, by the value of ``--format``."""

WIDE = 1000
"""Number of columns where the output is no terminal, so that no line is folded."""


def compare(options: argparse.Namespace) -> int:
    """Print or write a table of runs and return the exit code. Raises ConfigError with every problem."""
    if options.output is not None and options.format is None:
        raise ConfigError([f"--output: the format of {options.output} is not given; add --format {', '.join(WRITERS)}"])
    comparison = of_folders(options.outputs, options.by)
    if options.format is None:
        show(comparison)
        return 0
    text = WRITERS[options.format](comparison)
    if options.output is None:
        terminal.out(*text.rstrip("\n").split("\n"))
        return 0
    try:
        write_atomically(options.output, text.encode())
    except OSError as error:
        raise ConfigError([f"--output: {error.filename} cannot be written: {error.strerror}"]) from error
    return 0


def of_folders(folders: Sequence[str], by: str) -> Comparison:
    """Read and group the runs in the folders. Raises ConfigError with the problems of all folders.

    :param folders: folders of runs, and folders in which such folders are.
    """
    read, problems = [], []
    for folder in folders:
        try:
            read += [runs.read(found) for found in _runs_in(folder)]
        except ConfigError as error:
            problems += error.problems
    try:
        check_key(by)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return compared(read, by)


def _runs_in(path: str) -> list[Path]:
    """Return the folder of a run, or the folders of the runs in a folder in which networks were trained, by name.

    Raises ConfigError if the path is neither.
    """
    try:
        return [run_folder(path)]
    except ConfigError:
        place = Path(os.path.expanduser(path)).absolute()
        names = sorted(os.listdir(place)) if path.strip() and os.path.isdir(place) else []
        below = [RunFolder(place / name) for name in names]
        found = [run.path for run in below if run.config.is_file() and run.evaluation.is_file()]
        if not found:
            raise
        return found


def show(comparison: Comparison, stderr: bool = False) -> None:
    """Print a comparison as a table, and its caption and notes to stderr.

    :param stderr: whether the table is printed to stderr, too.
    """
    terminal.say(comparison.caption)
    console = terminal.console(stderr)
    if not console.is_terminal:
        console.width = WIDE
    console.print(terminal_table(comparison), soft_wrap=False)
    for note in comparison.notes:
        terminal.say(f"note: {note}")
