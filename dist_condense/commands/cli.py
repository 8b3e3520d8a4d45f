"""The command line: ``dist-condense run | prepare | plan | evaluate | list | replay``.

Slow imports are made inside the commands, so that ``--help`` and ``list`` import neither Ray nor MLflow.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from dist_condense.commands import prepare_command
from dist_condense.result.tracking.trust import distrusted, is_own
from dist_condense.settings.config import ConfigError, RunConfig, load, not_stored, read, to_yaml
from dist_condense.settings.run_folder import RunFolder, check
from dist_condense.system import signals, terminal

REFUSED, FAILED, INTERRUPTED, TERMINATED = 2, 1, 130, 143
CHANGEABLE = ("evaluation.", "cluster.", "data.", "tracking.", "dataset.root")
"""Prefixes of the keys that may change when a finished run is evaluated; all other keys determined its set."""


def main(argv: Sequence[str] | None = None) -> int:
    """Execute a command and return its exit code: 0 done, 1 failed, 2 refused before anything started."""
    parser = _parser()
    options, others = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    if options.command in WITH_OVERRIDES:
        return WITH_OVERRIDES[options.command](others)
    if others:
        parser.error(f"unknown: {' '.join(others)}; see dist-condense {options.command} --help")
    return _refusing(lambda: COMMANDS[options.command](options))


def run(arguments: Sequence[str] | None = None) -> int:
    """Execute ``dist-condense run`` and return its exit code.

    0 done, 1 the run failed (the last good set is kept), 2 refused before anything started, 130 stopped by Ctrl-C and
    143 by SIGTERM, with its state saved.
    """
    parser = terminal.Parser(
        prog="dist-condense run",
        description="Condense a data set, evaluate the result, and write a report. The same command continues a run "
        "that was stopped. Exit code: 0 done, 1 the run failed (the last good set is kept), 2 refused before anything "
        "started, 130 stopped by Ctrl-C and 143 by SIGTERM, with its state saved.",
    )
    parser.add_argument("config", help="a YAML file, or a shipped one such as configs/digits.yaml")
    overrides = "overrides of the config; docs/config.md lists all keys"
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=overrides)
    parser.add_argument("--cfg", action="store_true", help="print the resolved config and exit")
    parser.add_argument(
        "--resume",
        default="auto",
        metavar="auto|never|PATH",
        help="auto (default): continue the run in the output folder; never: refuse a folder with checkpoints; "
        "PATH: start from the newest intact checkpoint of another run's folder, or from the given checkpoint",
    )
    options = parser.parse_intermixed_args(arguments)
    return _refusing(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    config = _loaded(options.config, options.overrides)
    if options.cfg:
        terminal.out(*to_yaml(config).rstrip("\n").split("\n"))
        return 0
    return _executed(config, options.resume)


def plan(arguments: Sequence[str] | None = None) -> int:
    """Estimate the time and memory of a run, print them, and return the exit code.

    0 planned, 1 the run does not fit or the rates could not be saved, 2 refused.
    """
    from dist_condense.commands import plan_command

    options = plan_command.parser().parse_intermixed_args(arguments)
    return _refusing(lambda: plan_command.plan(options, _loaded(options.config, options.overrides)))


def evaluate(options: argparse.Namespace) -> int:
    """Train networks on the set of a finished run; networks with a row in evaluation.csv are skipped."""
    folder = run_folder(options.output)
    check(folder)
    config = finished(folder, options.overrides)
    trusted = _names_server(options.overrides) or is_own(config.tracking.uri)
    return _executed(config, trusted=trusted, verified=True)


def show(options: argparse.Namespace) -> int:
    """List every name that a config can use."""
    from dist_condense.settings import names

    for title, known in names.listed():
        terminal.out(title, *textwrap.wrap("  ".join(known), 100, initial_indent="  ", subsequent_indent="  "))
    return 0


def replay(options: argparse.Namespace) -> int:
    """Send the records of a run to MLflow; records sent before are skipped."""
    folder = run_folder(options.output)
    from dist_condense.result.tracking.replay import replay as send
    from dist_condense.result.tracking.server import TrackingError

    signals.writing_starts()
    try:
        terminal.out(send(folder, options.uri, options.experiment))
    except TrackingError as error:
        terminal.say(f"failed: {error}")
        return FAILED
    return 0


MISPLACED = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
"""Errors of a path that the user can mend. Other errors of the system, such as an outage, may pass by themselves."""

WITH_OVERRIDES: dict[str, Callable[[Sequence[str] | None], int]] = {"run": run, "plan": plan}
"""Commands that take a config and ``key=value`` arguments in any order."""

COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "prepare": prepare_command.prepare,
    "evaluate": evaluate,
    "list": show,
    "replay": replay,
}


def run_folder(path: str) -> Path:
    """Return the folder of a run, given its path or the path of its synthetic set.

    :raises ConfigError: the path is empty, or is not in a run's folder.
    """
    from dist_condense.result.card import CARD

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
    from dist_condense.data import DataError
    from dist_condense.job import checkpoint
    from dist_condense.result.card import SyntheticSetError
    from dist_condense.result.synthetic_set import load_set
    from dist_condense.settings import assembly

    files = RunFolder(Path(config.output))
    continues = f"`dist-condense run {shlex.quote(str(files.config))}` continues it"
    try:
        card = load_set(files.synthetic_set).card
    except SyntheticSetError as error:
        yield f"{error}; {continues}"
        return
    if not card.complete:
        yield f"the set in {files.path} is incomplete (step {card.steps}); {continues}"
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


def _parser() -> argparse.ArgumentParser:
    parser = terminal.Parser(prog="dist-condense", description="Dataset condensation on Ray.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", add_help=False, help="condense, evaluate and report; repeat it to continue a run")
    commands.add_parser("plan", add_help=False, help="estimate time and memory of a run before it starts")
    prepare_command.add_arguments(_command(commands, "prepare", "convert a data set to class shards", takes_run=False))
    again = _command(commands, "evaluate", "train networks on the set of a finished run")
    again.add_argument(
        "overrides", nargs="*", metavar="key=value", help=f"config keys that start with one of {', '.join(CHANGEABLE)}"
    )
    _command(commands, "list", "list every name that a config can use", takes_run=False)
    sends = _command(commands, "replay", "send a run's records to MLflow")
    sends.add_argument("--uri", help="address of the server (default: as in the run's config, or MLFLOW_TRACKING_URI)")
    sends.add_argument("--experiment", help="name of the experiment (default: as in the run's config)")
    return parser


def _command(
    commands: argparse._SubParsersAction[terminal.Parser], name: str, text: str, takes_run: bool = True
) -> argparse.ArgumentParser:
    made = commands.add_parser(name, help=text, description=COMMANDS[name].__doc__)
    if takes_run:
        made.add_argument("output", help="the folder of the run, or the synthetic set in it")
    return made


def _refusing(action: Callable[[], int]) -> int:
    """Execute an action and return its exit code; print the problems of a refused config instead of a traceback."""
    try:
        return action()
    except ConfigError as error:
        terminal.say(
            *(f"refused: {line}" for line in terminal.lines_of(error)), *(f"note: {note}" for note in error.notes)
        )
        return REFUSED


def _loaded(path: str, overrides: Sequence[str]) -> RunConfig:
    """Load a config; unknown keys and wrong types are reported together with all other problems."""
    try:
        return load(path, overrides)
    except ConfigError as error:
        if error.rest is not None:
            from dist_condense.job import preflight

            preflight.check(error.rest, error.problems)
        raise


def _executed(config: RunConfig, resume: str = "auto", trusted: bool = True, verified: bool = False) -> int:
    from dist_condense.data import DataError
    from dist_condense.evaluation.rows import RowsError
    from dist_condense.job.job import Job
    from dist_condense.job.journal import RunFailed
    from dist_condense.job.stop import Terminated
    from dist_condense.result.card import SyntheticSetError

    try:
        try:
            job = replace(Job.prepare(config, resume), trusted=trusted, verified=verified)
        except (DataError, RowsError, SyntheticSetError, *MISPLACED) as error:  # nothing has started
            raise ConfigError(terminal.lines_of(error)) from error
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


if __name__ == "__main__":
    sys.exit(main())
