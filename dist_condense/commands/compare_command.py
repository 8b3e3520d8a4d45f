"""Execution of ``dist-condense compare``: the folders of runs to a table of their results."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from dist_condense.commands.run_command import run_folder
from dist_condense.result.comparison import runs
from dist_condense.result.comparison.formats import FORMATS, terminal_table
from dist_condense.result.comparison.groups import Comparison, check_key, compared
from dist_condense.result.comparison.page import html
from dist_condense.result.comparison.runs import Run
from dist_condense.settings.run_folder import SELECTIONS_FOLDER, RunFolder
from dist_condense.settings.values import ConfigError
from dist_condense.system import terminal
from dist_condense.system.errors import listed
from dist_condense.system.files import write_atomically

WRITERS = {**FORMATS, "html": html}
"""Functions that return a comparison as text, by the value of ``--format``."""

WIDE = 1000
"""Number of columns where the output is no terminal, so that no line is folded."""


def compare(options: argparse.Namespace) -> int:
    """Print or write a table of runs and return the exit code. Raises ConfigError with every problem."""
    if options.output is not None and options.format is None:
        raise ConfigError([f"--output: the format of {options.output} is not given; add --format {', '.join(WRITERS)}"])
    if options.output is not None and os.path.lexists(options.output) and not os.path.isfile(options.output):
        raise ConfigError([f"--output: {options.output} is no file; name another"])  # a device would be replaced
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

    :param folders: folders of runs, which are refused if they are unreadable, and folders with such folders, also
        one level below, of which the unreadable ones are left out with a note.
    """
    read: list[Run] = []
    notes: list[str] = []
    problems: list[str] = []
    for folder in folders:
        try:
            if (named := _named(folder)) is not None:
                read.append(runs.read(named))
            else:
                found, remarks = _runs_in(Path(os.path.expanduser(folder)).absolute())
                read += found
                notes += remarks
        except ConfigError as error:
            problems += error.problems
    try:
        check_key(by)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return compared([*{os.path.realpath(run.folder): run for run in read}.values()], by, notes)


def _named(path: str) -> Path | None:
    """Return the folder of a run that a path names; None if it names a folder that is not that of a run.

    Raises ConfigError if it names neither.
    """
    try:
        return run_folder(path)
    except ConfigError:
        if path.strip() and os.path.isdir(os.path.expanduser(path)):
            return None
        raise


def _runs_in(place: Path) -> tuple[list[Run], list[str]]:
    """Read the runs in a folder, by name, and return those in which networks were trained, with notes on the others.

    Raises ConfigError if there is none, with the problems of the runs that cannot be read.
    """
    found: list[Run] = []
    problems: list[str] = []
    untrained: list[str] = []
    for files in _folders_in(place, problems):
        try:
            if _exists(files.evaluation):
                found.append(runs.read(files.path))
            else:
                untrained.append(str(files.path.relative_to(place)))
        except ConfigError as error:
            problems += error.problems
    if not found:
        missing = RunFolder.evaluation if untrained else RunFolder.config
        where = f"{place} is not the folder of a run, and has none in which networks were trained"
        raise ConfigError([*problems, f"{where}: {missing.name} is missing"])
    notes = [f"left out: {problem}" for problem in problems]
    if untrained:
        notes.append(f"left out, without {RunFolder.evaluation.name}: {len(untrained)} in {place}, {listed(untrained)}")
    return found, notes


def _folders_in(place: Path, problems: list[str], levels: int = 2) -> Iterator[RunFolder]:
    """Yield the folders of runs in a folder, by name, and those in its folders that are no runs, as ``run -m`` makes.

    The runs that selected real images for evaluations are left out. Raises ConfigError if the folder cannot be read.

    :param problems: list to which those of the entries are appended.
    :param levels: number of levels below the folder at which runs may be.
    """
    try:
        names = sorted(os.listdir(place))
    except OSError as error:
        raise ConfigError([f"{place} cannot be read: {error.strerror}"]) from error
    for files in (RunFolder(place / name) for name in names if name != SELECTIONS_FOLDER):
        try:
            if _exists(files.config):
                yield files
            elif levels > 1 and os.path.isdir(files.path):
                yield from _folders_in(files.path, problems, levels - 1)
        except ConfigError as error:
            problems += error.problems


def _exists(file: Path) -> bool:
    """Return whether a file exists. Raises ConfigError if its folder cannot be entered."""
    try:
        file.lstat()
    except PermissionError as error:
        raise ConfigError([f"{file.parent} cannot be read: {error.strerror}"]) from error
    except OSError:
        return False
    return True


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
