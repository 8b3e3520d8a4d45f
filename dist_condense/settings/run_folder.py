"""A run's folder: every file of it, named once; and whether all in it is plain, since somebody else can have made it.

What a run writes is plain files and folders. Everything in such a folder is read, replaced, appended to or sent to a
server under its name, so a link would be followed by all of that, and a named pipe would never end.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from dist_condense.settings.values import ConfigError
from dist_condense.system.errors import SHOWN

KINDS = {stat.S_ISFIFO: "a named pipe", stat.S_ISSOCK: "a socket", stat.S_ISCHR: "a device", stat.S_ISBLK: "a device"}


@dataclass(frozen=True)
class Entry:
    """A file or folder of a run: of a :class:`RunFolder` its path, of the class itself its name."""

    name: str

    @overload
    def __get__(self, folder: None, kind: type[RunFolder]) -> Entry: ...

    @overload
    def __get__(self, folder: RunFolder, kind: type[RunFolder]) -> Path: ...

    def __get__(self, folder: RunFolder | None, kind: type[RunFolder]) -> Entry | Path:
        return self if folder is None else folder.path / self.name


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run.

    :param path: may be a link to a folder; nothing of it needs to be there.
    """

    path: Path

    config = Entry("config.yaml")
    """Resolved; with it the folder is that of a run."""
    environment = Entry("environment.json")
    """Versions, devices, commit."""
    metrics = Entry("metrics.jsonl")
    """A line for every ``log_every`` matching steps, each step once and in order."""
    checkpoints = Entry("checkpoints")
    """Unless ``tracking.checkpoints`` names another place; see :mod:`dist_condense.job.checkpoint`."""
    pool = Entry("pool")
    """Of pretrained networks, beside the checkpoints."""
    synthetic_set = Entry("synthetic_set")
    """See :mod:`dist_condense.result.synthetic_set`."""
    evaluation = Entry("evaluation.csv")
    """A row per trained network."""
    report = Entry("report.html")
    tracking = Entry("tracking.json")
    """The run's place on a server of MLflow."""
    database = Entry("mlflow.db")
    """MLflow's own, where no server is named."""
    stop = Entry("stop")
    """Asks the workers to save and stop."""
    restarts = Entry("restarts.log")
    """Why worker groups failed, a line each."""
    logs = Entry("logs")
    """What driver and workers do, as JSON lines."""
    sweep = Entry("sweep")
    """Ray Tune's records of the evaluation."""
    owner = Entry("owner")
    """The start that may write."""
    lock = Entry(".owner.lock")
    """Shared by all writes of a start."""


MAY_LEAD = (RunFolder.checkpoints.name, RunFolder.pool.name)
"""Entries that may be links to folders, as to a disk for large files."""


def check(folder: Path) -> None:
    """Refuse a run's folder in which something is no plain file and no folder. The folder itself may be a link, and
    those of :data:`MAY_LEAD`. Raises ConfigError, with a line for each."""
    if found := list(problems(folder)):
        rest = [f"... and {len(found) - SHOWN} more in {folder}"] if len(found) > SHOWN else []
        raise ConfigError(found[:SHOWN] + rest)


def problems(folder: Path) -> Iterator[str]:
    """A line for each entry that :func:`check` refuses; none where there is no folder."""
    if folder.is_dir():
        for path in _listed(folder):
            if path.name in MAY_LEAD and path.is_symlink() and path.is_dir():
                yield from problems_below(path)
            else:
                yield from strange(path)


def strange(path: Path) -> Iterator[str]:
    """The same for one entry and, where that is a folder, all that lies in it. Nothing is followed."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        yield (
            f"{path} is a link, to {os.readlink(path)}, and not followed: of a run's folder only "
            f"{' and '.join(MAY_LEAD)} may be links, to folders; put there what it leads to, or remove it"
        )
    elif stat.S_ISDIR(mode):
        yield from problems_below(path)
    elif not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in KINDS.items() if is_kind(mode)), "neither file nor folder")
        yield f"{path} is {kind}, and not opened: a run's folder has files and folders alone; remove it"


def problems_below(folder: Path) -> Iterator[str]:
    """Of all that lies in a folder."""
    for path in _listed(folder):
        yield from strange(path)


def _listed(folder: Path) -> list[Path]:
    """What lies in a folder; nothing in one that this user may not enter, and could open nothing in, or that an earlier
    start, which still goes on, has just removed."""
    try:
        return sorted(folder.iterdir()) if os.access(folder, os.X_OK) else []
    except FileNotFoundError:
        return []
    except PermissionError as error:
        raise ConfigError([f"{folder} cannot be looked through for links; allow yourself to read it"]) from error
