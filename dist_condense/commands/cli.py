"""The command line: ``dist-condense run | check | prepare | plan | evaluate | export | compare | list | replay``.

A command's module is imported when the command is executed, because it imports torch, which takes seconds; ``--help``,
``--version`` and refused arguments need none, and ``list`` reads names only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from dist_condense.commands import arguments, stand_ins
from dist_condense.settings.values import ConfigError
from dist_condense.system import plugins, signals, terminal

REFUSED, FAILED, INTERRUPTED, TERMINATED = 2, 1, 130, 143


def main(argv: Sequence[str] | None = None) -> int:
    """Execute a command and return its exit code: 0 done, 1 failed, 2 refused before anything started."""
    parser = arguments.parser()
    options, others = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    if options.command in WITH_OVERRIDES:
        return WITH_OVERRIDES[options.command](others)
    if others:
        parser.error(f"unknown: {' '.join(others)}; see dist-condense {options.command} --help")
    return _refusing(options, lambda: COMMANDS[options.command](options))


def run(given: Sequence[str] | None = None) -> int:
    """Execute ``dist-condense run`` and return its exit code.

    0 done, 1 the run failed (the last good set is kept), 2 refused before anything started, 130 stopped by Ctrl-C and
    143 by SIGTERM, with its state saved.
    """
    options = arguments.run_parser().parse_intermixed_args(given)

    def command() -> int:
        from dist_condense.commands import multirun_command, run_command

        return (multirun_command if options.multirun else run_command).run(options)

    return _refusing(options, command)


def plan(given: Sequence[str] | None = None) -> int:
    """Estimate the time and memory of a run, print them, and return the exit code.

    0 planned, 1 the run does not fit, its steps could not be timed or the rates could not be saved, 2 refused.
    """
    options = arguments.plan_parser().parse_intermixed_args(given)

    def command() -> int:
        from dist_condense.commands import plan_command

        return plan_command.plan(options)

    return _refusing(options, command)


def check(given: Sequence[str] | None = None) -> int:
    """Check all that a run may be refused for, decode all of its images, and return the exit code.

    0 the run would start, 2 it is refused.
    """
    options = arguments.check_parser().parse_intermixed_args(given)

    def command() -> int:
        from dist_condense.commands import check_command

        return check_command.check(options)

    return _refusing(options, command)


def prepare(options: argparse.Namespace) -> int:
    """Convert a data set to class shards."""
    from dist_condense.commands import prepare_command

    return prepare_command.prepare(options)


def evaluate(given: Sequence[str] | None = None) -> int:
    """Train networks on the set of a finished run, or on other sets; those with a row in evaluation.csv are skipped."""
    options = arguments.evaluate_parser().parse_intermixed_args(given)

    def command() -> int:
        from dist_condense.commands import evaluate_command

        return evaluate_command.evaluate(options)

    return _refusing(options, command)


def export(options: argparse.Namespace) -> int:
    """Write a synthetic set in the format of other programs."""
    from dist_condense.commands import export_command

    return export_command.export(options)


def compare(options: argparse.Namespace) -> int:
    """Compare the results of runs."""
    from dist_condense.commands import compare_command

    return compare_command.compare(options)


def show(options: argparse.Namespace) -> int:
    """List the names that a config can use, and their meanings."""
    with stand_ins.for_libraries():
        from dist_condense.commands import list_command

        return list_command.show(options)


def replay(options: argparse.Namespace) -> int:
    """Send the records of a run to MLflow; records sent before are skipped."""
    from dist_condense.commands import run_command
    from dist_condense.result.tracking.replay import replay as send
    from dist_condense.result.tracking.server import TrackingError

    folder = run_command.run_folder(options.output)
    signals.writing_starts()
    try:
        terminal.out(send(folder, options.uri, options.experiment))
    except TrackingError as error:
        terminal.say(f"failed: {error}")
        return FAILED
    return 0


WITH_OVERRIDES: dict[str, Callable[[Sequence[str] | None], int]] = {
    "run": run,
    "check": check,
    "plan": plan,
    "evaluate": evaluate,
}
"""Commands that take ``key=value`` arguments in any order."""

COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "prepare": prepare,
    "export": export,
    "compare": compare,
    "list": show,
    "replay": replay,
}


def _refusing(options: argparse.Namespace, action: Callable[[], int]) -> int:
    """Load plug-ins, execute an action and return its exit code; print problems instead of a traceback.

    These are the problems of a refused config, and of plug-ins that cannot be imported.
    """
    try:
        if (given := getattr(options, "plugin", None)) is not None:  # `replay` has no such option, and uses no part
            plugins.load(given)
        return action()
    except plugins.PluginError as error:
        terminal.say(*(f"refused: {line}" for line in error.problems))
        return REFUSED
    except ConfigError as error:
        terminal.say(
            *(f"refused: {line}" for line in terminal.lines_of(error)), *(f"note: {note}" for note in error.notes)
        )
        return REFUSED


if __name__ == "__main__":
    sys.exit(main())
