"""Execution of ``dist-condense evaluate``: networks are trained on the set of a run, or on sets of any origin."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dist_condense.commands import run_command
from dist_condense.data import DataError
from dist_condense.data.catalogue import KNOWN
from dist_condense.data.sets.request import VARIABLES
from dist_condense.evaluation.evaluate import TrialFailed
from dist_condense.evaluation.rows import RowsError
from dist_condense.job import any_set
from dist_condense.job.any_set import Stated
from dist_condense.job.evaluating import evaluate_sets
from dist_condense.job.journal import RunFailed
from dist_condense.job.stop import Terminated
from dist_condense.result.card import CARD, Card, SyntheticSetError, read_card
from dist_condense.result.summary import summary_table
from dist_condense.settings import config as configs
from dist_condense.settings import overrides
from dist_condense.settings.config import ConfigError, RunConfig
from dist_condense.settings.keys import GROUPS, KEYS, RECIPE, SECTIONS, value
from dist_condense.settings.recipes import WITH
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system import signals, terminal

OWN = ("evaluation.", "dataset.", "data.", "network.", "cluster.", "compute.", "seed", "output")
"""Prefixes of the keys that an evaluation of sets takes."""
OF_RUN = ("dataset.", "network.", "evaluation.protocol", "evaluation.architectures")
"""Prefixes of the keys that are those of the run whose set is evaluated."""


def evaluate(options: argparse.Namespace) -> int:
    """Train networks on sets and test them; return the exit code. Raises ConfigError."""
    sets, given = _parted(options.sets)
    stated = Stated(space=options.space, factor=options.factor)
    if len(sets) == 1 and (options.dataset, options.root, stated) == (None, None, Stated()) and _is_of_run(sets[0]):
        return run_command.evaluate(sets[0], given)
    if not sets:
        raise ConfigError([f"there is no set to evaluate; give {any_set.FORMS}"])
    paths = [Path(os.path.expanduser(path)) for path in sets]
    command = overrides.parsed(given)
    problems = [*command.problems, *_foreign(command)]
    try:
        config = configs.from_dict({**_implied(paths), **_stated(options), **command.keys})
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


def _is_of_run(text: str) -> bool:
    """Return whether a set is named by a run, or by nothing, which the run's command refuses."""
    path = Path(os.path.expanduser(text))
    is_set = os.path.isfile(path / CARD) or path.suffix in any_set.TENSORS or _has_entries(path)
    return _run_of(path) is not None or not is_set


def _run_of(path: Path) -> Path | None:
    """Return the folder of the run that a path names, itself or by its synthetic set; None if it names none."""
    whole = Path(os.path.abspath(path))
    folder = whole.parent if whole.name == RunFolder.synthetic_set.name else whole
    return folder if os.path.lexists(RunFolder(folder).config) else None


def _has_entries(path: Path) -> bool:
    try:
        return path.is_dir() and next(path.iterdir(), None) is not None
    except (OSError, ValueError):
        return False


def _foreign(command: overrides.Overrides) -> Iterator[str]:
    for key in [*command.groups, *command.keys]:
        if (key in KEYS or key in SECTIONS or key in GROUPS) and not key.startswith(OWN):
            yield f"{key}: it makes a set; an evaluation of sets takes {', '.join(OWN)}"


def _implied(paths: Sequence[Path]) -> dict[str, Any]:
    """Return the keys that follow from the first synthetic set: from the config of its run, else from its card."""
    for path in paths:
        for folder in (path, RunFolder(path).synthetic_set):
            if os.path.isfile(folder / CARD):
                return _of_set(folder)
    return {}


def _of_set(folder: Path) -> dict[str, Any]:
    try:
        card = read_card(folder)
    except SyntheticSetError as error:
        raise ConfigError([str(error)]) from error
    keys = _of_card(card)
    if (run := _run_of(folder)) is not None:
        own = configs.read(RunFolder(run).config)
        keys |= {key: value(own, key) for key in KEYS if key.startswith(OF_RUN)}
    return keys


def _of_card(card: Card) -> dict[str, Any]:
    names = [name for name, known in KNOWN.items() if known.facts.family == card.dataset]
    keys: dict[str, Any] = {"dataset.mean": list(card.mean), "dataset.std": list(card.std)}
    if len(names) == 1:
        keys["dataset.name"] = names[0]
        keys["dataset.root"] = os.environ.get(VARIABLES.get(names[0], "")) or None
    if card.width is None:
        keys["dataset.size"] = card.size
    keys["dataset.classes"] = [entry.wnid or entry.name for entry in card.classes]
    if len(protocols := _protocols(card.method)) == 1:
        keys["evaluation.protocol"] = protocols.pop()
    return keys


def _protocols(method: str) -> set[str]:
    """Return the evaluation protocols of the recipes of a method, whose name may state how it deviates."""
    composed = [configs.load(str(file)) for file in (configs.shipped() / RECIPE).glob("*.yaml")]
    return {config.evaluation.protocol for config in composed if config.method.name == method.partition(WITH)[0]}


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
        done = evaluate_sets(paths, config, stated, output, problems)
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
    terminal.console(stderr=True).print(summary_table(done.rows))
    terminal.say(f"rows     {RunFolder(done.folder).evaluation}")
    return 0
