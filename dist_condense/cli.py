"""The other commands under one name: ``dist-condense run | evaluate | list | replay``.

Heavy imports stand inside the commands, so that ``--help`` and ``list`` start neither Ray nor MLflow.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dist_condense.config import ConfigError, RunConfig, load, shipped, to_yaml

if TYPE_CHECKING:
    from dist_condense.job import Job

REFUSED, FAILED, INTERRUPTED = 2, 1, 130
RUN_FILE, CARD_FILE = "config.yaml", "card.json"
CHANGEABLE = ("evaluation.", "cluster.", "tracking.")
"""What a finished run may be evaluated with; all else belongs to the condensed set."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 refused before anything started."""
    given = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    options, rest = parser.parse_known_args(given)
    if options.command == "run":
        return run(rest)
    if rest:
        parser.error(f"unknown: {' '.join(rest)}; see dist-condense {options.command} --help")
    return _refusing(lambda: COMMANDS[options.command](options))


def run(arguments: Sequence[str] | None = None) -> int:
    """Condense, evaluate, track and report. Exit code: 0 done, 1 the run failed (the last good set is kept), 2 refused
    before anything started, 130 interrupted.
    """
    parser = argparse.ArgumentParser(prog="dist-condense run", description="Condense a data set, evaluate and report.")
    parser.add_argument("config", help="a yaml file, or a shipped one such as configs/digits.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="see docs/config.md")
    parser.add_argument("--cfg", action="store_true", help="print the resolved config and stop")
    options = parser.parse_intermixed_args(arguments)
    return _refusing(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    config = _loaded(options.config, options.overrides)
    if options.cfg:
        print(to_yaml(config), end="")
        return 0
    from dist_condense.job import Job

    return _executed(Job.prepare(config))


def evaluate(options: argparse.Namespace) -> int:
    """Train networks on the set of a finished run; rows that evaluation.csv has already are not done again."""
    config = finished(run_folder(options.output), options.overrides)
    from dist_condense.job import Job

    return _executed(Job.prepare(config))


def show(options: argparse.Namespace) -> int:
    """Every name that a config can use."""
    for title, names in catalogue():
        print(f"{title}\n  " + "\n  ".join(names))
    return 0


def replay(options: argparse.Namespace) -> int:
    """Send a run's folder to MLflow, without what was sent before."""
    folder = run_folder(options.output)
    from dist_condense import tracking

    try:
        print(tracking.replay(folder, options.uri, options.experiment))
    except tracking.TrackingError as error:
        print(f"failed: {error}", file=sys.stderr)
        return FAILED
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {"evaluate": evaluate, "list": show, "replay": replay}


def run_folder(path: str) -> Path:
    """The folder of a run, given as itself or as its synthetic set. Raises ConfigError."""
    folder = Path(path).expanduser().absolute()
    places = [folder, folder.parent] if (folder / CARD_FILE).is_file() else [folder]
    for place in places:
        if (place / RUN_FILE).is_file():
            return place
    raise ConfigError([f"{folder} is not the folder of a run: {RUN_FILE} is missing"])


def finished(folder: Path, overrides: Sequence[str]) -> RunConfig:
    """The config of a run whose set is complete, with other evaluation keys. Raises ConfigError."""
    fixed = [given for given in overrides if not given.lstrip("+").startswith(CHANGEABLE)]
    if fixed:
        raise ConfigError([f"{given}: a finished run takes only {', '.join(CHANGEABLE)} keys" for given in fixed])
    config = replace(load(str(folder / RUN_FILE), overrides), output=str(folder))
    problems = list(_not_evaluable(config))
    if problems:
        raise ConfigError(problems)
    return config


def _not_evaluable(config: RunConfig) -> Iterator[str]:
    from dist_condense.engine import checkpoint
    from dist_condense.synthetic_set import SyntheticSetError, read_card

    folder = Path(config.output)
    total = config.trajectory.networks * config.trajectory.matching_steps
    continues = f"`dist-condense run {folder / RUN_FILE}` continues it"
    try:
        card = read_card(folder / "synthetic_set")
    except SyntheticSetError as error:
        yield f"{error}; {continues}"
        return
    if not card.complete:
        yield f"the set in {folder} is that of step {card.steps} of {total}; {continues}"
    found = checkpoint.newest(folder / "checkpoints")
    if card.complete and (found is None or found.steps != total):
        yield f"{folder / 'checkpoints'} does not hold the last step, so the run would condense again; restore it"
    if config.evaluation.epochs == 0:
        yield "evaluation.epochs: 0 means no evaluation; give evaluation.epochs=null for the protocol's own"


def catalogue() -> Iterator[tuple[str, list[str]]]:
    """Titles and names."""
    from dist_condense import networks
    from dist_condense.core.distance import DISTANCES
    from dist_condense.data import catalogue as data
    from dist_condense.data.subsets import SUBSETS
    from dist_condense.evaluation.protocols import PROTOCOLS

    yield "data sets (dataset.name)", list(data.names())
    yield "named classes (dataset.classes)", list(SUBSETS)
    yield "networks (network.name, evaluation.architectures)", [*networks.names(), f"{networks.TIMM}NAME"]
    yield "methods (method=)", _stems(shipped() / "method")
    yield "training of theta (training=)", _stems(shipped() / "training")
    yield "distances (method.distance)", list(DISTANCES)
    yield "protocols (evaluation.protocol)", list(PROTOCOLS)
    yield "shipped configs", [f"configs/{name}.yaml" for name in _stems(shipped())]


def _stems(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.yaml"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dist-condense", description="Dataset condensation on Ray.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", add_help=False, help="condense, evaluate and report; the same command continues")
    again = _command(commands, "evaluate", "train networks on the set of a finished run")
    again.add_argument("overrides", nargs="*", metavar="key=value", help=f"keys of {', '.join(CHANGEABLE)}")
    _command(commands, "list", "every name that a config can use", takes_run=False)
    sends = _command(commands, "replay", "send a run's folder to MLflow")
    sends.add_argument("--uri", help="the server; by default as the run's config or MLFLOW_TRACKING_URI says")
    sends.add_argument("--experiment", help="by default the run's own")
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, takes_run: bool = True
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
        print("\n".join(f"refused: {problem}" for problem in error.problems), file=sys.stderr)
        return REFUSED


def _loaded(path: str, overrides: Sequence[str]) -> RunConfig:
    """The config; unknown keys and wrong types are told together with what else is wrong."""
    try:
        return load(path, overrides)
    except ConfigError as error:
        if error.rest is not None:
            from dist_condense import checks

            checks.check(error.rest, error.problems)
        raise


def _executed(job: Job) -> int:
    from dist_condense.data import DataError
    from dist_condense.engine.journal import RunFailed

    try:
        job.run()
    except (RunFailed, DataError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"interrupted: {job.where_it_continues()}", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
