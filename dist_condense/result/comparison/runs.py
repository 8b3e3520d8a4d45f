"""What a comparison reads from the folder of a run, which is untrusted and may be of a run that is not finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_condense.data.catalogue import KNOWN
from dist_condense.evaluation.rows import Row, RowsError, read_csv
from dist_condense.result import metrics_file
from dist_condense.result.card import Card, SyntheticSetError, read_card
from dist_condense.result.synthetic_set import TENSORS
from dist_condense.result.tracking.tags import tags_of
from dist_condense.settings import config, run_folder
from dist_condense.settings.run_folder import RunFolder
from dist_condense.settings.schema import RunConfig
from dist_condense.settings.values import ConfigError, Unusable
from dist_condense.system import records, terminal
from dist_condense.system.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Digests:
    """Hashes of a run's images, as environment.json has them; None if one is not recorded."""

    data: str | None = None
    """Hash of the training images."""
    test_data: str | None = None
    """Hash of the test images."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run with a set on which networks were trained."""

    folder: Path
    config: RunConfig
    card: Card
    rows: Sequence[Row]
    """Rows of evaluation.csv, at least one."""
    hours: float | None
    """Process hours of condensing; None if metrics.jsonl has no rate."""
    size: int
    """Number of bytes of the set."""
    host: str | None
    """Hardware of the driver; None if it is not recorded."""
    digests: Digests

    @property
    def tested_on(self) -> dict[str, str]:
        """Description of the classes and the test images, by name."""
        known = KNOWN.get(self.config.dataset.name)
        own = known is None or known.facts.own
        return {
            "classes": ", ".join(entry.name for entry in self.card.classes),
            "shape": " x ".join(map(str, self.card.shape)),
            "root": str(self.config.dataset.root) if own else "",  # the files of a published set are the same anywhere
        }


def read(folder: Path) -> Run:
    """Read the folder of a run.

    :raises ConfigError: a link is in the folder, a file is missing or unreadable, or no network was trained yet.
    """
    files = RunFolder(folder)
    try:
        run_folder.check(folder)
        own = _config(files.config)
        if not (rows := read_csv(files.evaluation)):
            raise ConfigError([f"{files.evaluation} is missing or has no rows: no network was trained on the set yet"])
        return Run(
            folder=folder,
            config=own,
            card=read_card(files.synthetic_set),
            rows=rows,
            hours=metrics_file.process_hours(metrics_file.read(files.metrics), max(1, own.cluster.workers)),
            size=(files.synthetic_set / TENSORS).stat().st_size,
            host=tags_of(folder).get("host"),
            digests=_digests(files.environment),
        )
    except (RowsError, SyntheticSetError, DataError, Unusable, OSError) as error:
        raise ConfigError(terminal.lines_of(error)) from error


def _config(file: Path) -> RunConfig:
    """Read the config of a run. Raises ConfigError, whose problems name the file."""
    try:
        return config.read(file)
    except ConfigError as error:
        named = (problem if str(file) in problem else f"{file}: {problem}" for problem in error.problems)
        raise ConfigError([*named]) from error


def _digests(file: Path) -> Digests:
    return records.read(Digests, file, ignore_unknown=True) if file.exists() else Digests()
