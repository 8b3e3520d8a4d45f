"""The other commands under one name: ``dist-condense run | prepare | plan | evaluate | list | replay``.

Heavy imports stand inside the commands, so that ``--help`` and ``list`` start neither Ray nor MLflow.
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
"""What a finished run may be evaluated with; all else belongs to the condensed set."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 refused before anything started."""
    given = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    options, rest = parser.parse_known_args(given)
    if options.command in WITH_OVERRIDES:
        return WITH_OVERRIDES[options.command](rest)
    if rest:
        parser.error(f"unknown: {' '.join(rest)}; see dist-condense {options.command} --help")
    return _refusing(lambda: COMMANDS[options.command](options))


def run(arguments: Sequence[str] | None = None) -> int:
    """Condense, evaluate, track and report. Exit code: 0 done, 1 the run failed (the last good set is kept), 2 refused
    before anything started, 130 stopped by Ctrl-C, 143 by SIGTERM, with its state saved.
    """
    parser = terminal.Parser(prog="dist-condense run", description="Condense a data set, evaluate and report.")
    parser.add_argument("config", help="a yaml file, or a shipped one such as configs/digits.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="see docs/config.md")
    parser.add_argument("--cfg", action="store_true", help="print the resolved config and stop")
    parser.add_argument(
        "--resume",
        default="auto",
        metavar="auto|never|PATH",
        help="auto: continue what is in the output; never: refuse to; PATH: begin from a checkpoint of another folder",
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
    """Tell what a run will need before it starts. Exit code: 0 planned, 1 it does not fit, 2 refused."""
    from dist_condense.commands import plan_command

    options = plan_command.parser().parse_intermixed_args(arguments)
    return _refusing(lambda: plan_command.plan(options, _loaded(options.config, options.overrides)))


def evaluate(options: argparse.Namespace) -> int:
    """Train networks on the set of a finished run; rows that evaluation.csv has already are not done again."""
    folder = run_folder(options.output)
    check(folder)
    config = finished(folder, options.overrides)
    return _executed(config, trusted=_names_server(options.overrides) or is_own(config.tracking.uri))


def show(options: argparse.Namespace) -> int:
    """Every name that a config can use."""
    from dist_condense.settings import names

    for title, known in names.listed():
        terminal.out(title, *textwrap.wrap("  ".join(known), 100, initial_indent="  ", subsequent_indent="  "))
    return 0


def replay(options: argparse.Namespace) -> int:
    """Send a run's folder to MLflow, without what was sent before."""
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


def prepare(options: argparse.Namespace) -> int:
    """Turn a data set into shards of one class each and a manifest, once; the same command continues. Exit code: 0
    done, 1 failed (finished classes are kept), 2 refused before anything was written, 130 interrupted.
    """
    return prepare_command.prepare(options)


WITH_OVERRIDES: dict[str, Callable[[Sequence[str] | None], int]] = {"run": run, "plan": plan}
"""Commands of a config, with key=value anywhere."""

COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "prepare": prepare,
    "evaluate": evaluate,
    "list": show,
    "replay": replay,
}


def run_folder(path: str) -> Path:
    """The folder of a run, given as itself or as its synthetic set. Raises ConfigError."""
    from dist_condense.result.card import CARD

    if not path.strip():
        raise ConfigError(["the folder of the run is an empty text"])
    folder = Path(os.path.expanduser(path)).absolute()
    places = [folder, folder.parent] if (folder / CARD).is_file() else [folder]
    for place in places:
        if RunFolder(place).config.is_file():
            return place
    raise ConfigError([f"{folder} is not the folder of a run: {RunFolder.config.name} is missing"])


def finished(folder: Path, overrides: Sequence[str]) -> RunConfig:
    """The config of a run whose set is complete, with other evaluation keys. Raises ConfigError."""
    fixed = [given for given in overrides if not given.lstrip("+").startswith(CHANGEABLE)]
    if fixed:
        raise ConfigError([f"{given}: a finished run takes only {', '.join(CHANGEABLE)} keys" for given in fixed])
    config = replace(read(RunFolder(folder).config, overrides), output=str(folder))
    problems = list(_not_evaluable(config))
    if not _names_server(overrides):
        problems += distrusted(config.tracking.uri, folder, "tracking.uri=")
    if problems:
        raise ConfigError(problems)
    return config


def _names_server(overrides: Sequence[str]) -> bool:
    """Whether the user says where MLflow is."""
    return any(given.lstrip("+").startswith("tracking.uri=") for given in overrides)


def _not_evaluable(config: RunConfig) -> Iterator[str]:
    from dist_condense.job import checkpoint
    from dist_condense.result.card import SyntheticSetError, read_card
    from dist_condense.settings import assembly

    files = RunFolder(Path(config.output))
    continues = f"`dist-condense run {shlex.quote(str(files.config))}` continues it"
    try:
        card = read_card(files.synthetic_set)
    except SyntheticSetError as error:
        yield f"{error}; {continues}"
        return
    if not card.complete:
        yield f"the set in {files.path} is not complete, but that of step {card.steps}; {continues}"
    if not_stored(config):  # refused with all else that is wrong, by checks
        return
    try:
        found = checkpoint.newest(assembly.storage_of(config))
    except checkpoint.Damaged as error:
        yield str(error)
        return
    if card.complete and (found is None or found.steps != card.steps):
        yield f"{files.checkpoints} lacks the last step, so the run would compute it again; restore it"
    if config.evaluation.epochs == 0:
        yield "evaluation.epochs: 0 means no evaluation; give evaluation.epochs=null for the protocol's own"


def _parser() -> argparse.ArgumentParser:
    parser = terminal.Parser(prog="dist-condense", description="Dataset condensation on Ray.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", add_help=False, help="condense, evaluate and report; the same command continues")
    commands.add_parser("plan", add_help=False, help="what a run will need, before it starts")
    prepare_command.add_arguments(_command(commands, "prepare", "a data set into class shards", takes_run=False))
    again = _command(commands, "evaluate", "train networks on the set of a finished run")
    again.add_argument("overrides", nargs="*", metavar="key=value", help=f"keys of {', '.join(CHANGEABLE)}")
    _command(commands, "list", "every name that a config can use", takes_run=False)
    sends = _command(commands, "replay", "send a run's folder to MLflow")
    sends.add_argument("--uri", help="the server; by default as the run's config or MLFLOW_TRACKING_URI says")
    sends.add_argument("--experiment", help="by default the run's own")
    return parser


def _command(
    commands: argparse._SubParsersAction[terminal.Parser], name: str, text: str, takes_run: bool = True
) -> argparse.ArgumentParser:
    made = commands.add_parser(name, help=text, description=COMMANDS[name].__doc__)
    if takes_run:
        made.add_argument("output", help="the folder of the run, or the synthetic set in it")
    return made


def _refusing(action: Callable[[], int]) -> int:
    """A configuration that cannot be run ends with all its problems and no traceback."""
    try:
        return action()
    except ConfigError as error:
        terminal.say(*(f"refused: {problem}" for problem in error.problems), *(f"note: {note}" for note in error.notes))
        return REFUSED


def _loaded(path: str, overrides: Sequence[str]) -> RunConfig:
    """The config; unknown keys and wrong types are told together with what else is wrong."""
    try:
        return load(path, overrides)
    except ConfigError as error:
        if error.rest is not None:
            from dist_condense.job import preflight

            preflight.check(error.rest, error.problems)
        raise


def _executed(config: RunConfig, resume: str = "auto", trusted: bool = True) -> int:
    from dist_condense.data import DataError
    from dist_condense.evaluation.rows import RowsError
    from dist_condense.job.job import Job
    from dist_condense.job.journal import RunFailed
    from dist_condense.job.stop import Terminated
    from dist_condense.result.card import SyntheticSetError

    try:
        job = replace(Job.prepare(config, resume), trusted=trusted)
        try:
            job.run()
        except KeyboardInterrupt as asked:
            terminal.say(f"{signals.description(asked)}: {job.where_it_continues()}")
            return signals.exit_code(asked)
    except Terminated as stopped:
        terminal.say(str(stopped))
        return stopped.exit_code
    except (RunFailed, DataError, RowsError, SyntheticSetError, OSError) as error:  # OSError names its file
        first, *others = terminal.lines_of(error)
        terminal.say(f"failed: {first}", *others)
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
