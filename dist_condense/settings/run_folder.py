"""The files of a run's folder, each named once, and the check that an untrusted folder contains only plain files.

Everything in a run's folder is read, replaced, appended to or uploaded by name. A link in it would be followed, and
reading a named pipe would never end, so only files and folders are accepted.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from dist_condense.settings.values import ConfigError
from dist_condense.system.errors import SHOWN

KINDS = {stat.S_ISFIFO: "a named pipe", stat.S_ISSOCK: "a socket", stat.S_ISCHR: "a device", stat.S_ISBLK: "a device"}


@dataclass(frozen=True)
class Entry:
    """Descriptor of a file or folder of a run; returns a path on a :class:`RunFolder` instance, itself on the class."""

    name: str
    is_folder: bool = False

    @overload
    def __get__(self, folder: None, kind: type[RunFolder]) -> Entry: ...

    @overload
    def __get__(self, folder: RunFolder, kind: type[RunFolder]) -> Path: ...

    def __get__(self, folder: RunFolder | None, kind: type[RunFolder]) -> Entry | Path:
        return self if folder is None else folder.path / self.name


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, whose attributes are the paths of its files and folders.

    :param path: path of the folder, which may be a link to a folder and need not exist.
    """

    path: Path

    config = Entry("config.yaml")
    """Resolved config. A folder that contains this file is recognised as the folder of a run."""
    environment = Entry("environment.json")
    """Package versions, devices, the commit of the code, and hashes of the training and the test images."""
    metrics = Entry("metrics.jsonl")
    """Measurements: one line after the first and every ``tracking.log_every`` units, in order, without repetition."""
    checkpoints = Entry("checkpoints", is_folder=True)
    """Checkpoints (:mod:`dist_condense.job.checkpoint`), unless ``tracking.checkpoints`` names another location."""
    pool = Entry("pool", is_folder=True)
    """Pool of pretrained networks, beside the checkpoints."""
    synthetic_set = Entry("synthetic_set", is_folder=True)
    """The synthetic set (:mod:`dist_condense.result.synthetic_set`)."""
    stages = Entry("stages", is_folder=True)
    """Pictures of a few learnt images during the run (:mod:`dist_condense.result.stages`)."""
    evaluation = Entry("evaluation.csv")
    """Results of the evaluation, one row per trained network."""
    evaluated = Entry("evaluation.json")
    """Sets and test images of an evaluation of sets that no run in this folder made, and its resolved config."""
    evaluation_classes = Entry("evaluation_classes.csv")
    """Results of the evaluation by class, one row per trained network and class."""
    report = Entry("report.html")
    tracking = Entry("tracking.json")
    """Identifier of the run on the MLflow server."""
    database = Entry("mlflow.db")
    """MLflow's database of a run that does not share one with the runs beside it, see ``tracking_address``."""
    stop = Entry("stop")
    """Marker that asks the workers to save and stop."""
    restarts = Entry("restarts.log")
    """Reasons for worker group failures, one line each."""
    logs = Entry("logs", is_folder=True)
    """Logs of driver and workers, as JSON lines."""
    sweep = Entry("sweep", is_folder=True)
    """Ray Tune's records of the evaluation."""
    owner = Entry("owner")
    """Identifier of the driver process that may write to the folder."""
    lock = Entry(".owner.lock")
    """Lock file that a driver process holds while it writes."""


ENTRIES = {entry.name: entry for entry in vars(RunFolder).values() if isinstance(entry, Entry)}
MAY_LEAD = (RunFolder.checkpoints.name, RunFolder.pool.name)
"""Names of entries that may be links to folders, for example to a disk for large files."""

SELECTIONS_FOLDER = "selections"
"""Folder beside the outputs of runs, with the runs that make selections for their evaluations."""
LOGS = ".jsonl"
"""Suffix of the files in :attr:`RunFolder.logs`."""
OPENED = {*ENTRIES, "ray", "mlartifacts", "mlruns"}
"""Names of entries that are opened: those of a run, and of what Ray and MLflow keep in its folder."""


def is_run_entry(path: Path) -> bool:
    """Return whether :func:`check` examines an entry of a run's own folder: all but folders that are not opened."""
    return path.name in OPENED or path.is_symlink() or not path.is_dir()


def check(folder: Path, examined: Callable[[Path], object] = is_run_entry) -> None:
    """Check that a run's folder contains only plain files and folders, and neither in place of the other.

    The folder itself and :data:`MAY_LEAD` may be links to folders. Raises ConfigError with a message for each entry
    that is refused; if there are many, the last message states the number of entries that are not listed. If there are
    several in an output that is not the folder of a run, they are one message.

    :param examined: returns whether an entry of the folder is examined; others are not even searched, because the
        given folder may be any, even the root of the file system.
    """
    if refused := list(problems(folder, examined)):
        config = RunFolder(folder).config
        if examined is is_run_entry and len(refused) > 1 and not os.path.lexists(config):
            found = f"contains {len(refused)} links, pipes or others that are refused in one"
            raise ConfigError([f"output: {folder} is not the folder of a run, and {found}; give another folder"])
        more = [f"... and {len(refused) - SHOWN} more in {folder}"] if len(refused) > SHOWN else []
        raise ConfigError(refused[:SHOWN] + more)


def problems(folder: Path, examined: Callable[[Path], object] = is_run_entry) -> Iterator[str]:
    """Yield an error message for each entry that :func:`check` refuses; none if the folder does not exist."""
    if folder.is_dir():
        for path in filter(examined, _listed(folder)):
            if path.name in MAY_LEAD and path.is_symlink() and path.is_dir():
                yield from problems_below(path)
            else:
                yield from strange(path)
                yield from _of_other_kind(path)


def _of_other_kind(path: Path) -> Iterator[str]:
    entry = ENTRIES.get(path.name)
    if entry is None or path.is_symlink():
        return
    if path.is_file() if entry.is_folder else path.is_dir():
        found, expected = ("file", "folder") if entry.is_folder else ("folder", "file")
        yield f"{path} is a {found}, and a run's folder has a {expected} of this name; remove it"
    elif entry is RunFolder.logs:
        for log in _listed(path):
            if log.suffix == LOGS and log.is_dir() and not log.is_symlink():
                yield f"{log} is a folder, and a run's folder has a file of this name; remove it"


def strange(path: Path) -> Iterator[str]:
    """Yield an error message if a path is neither a file nor a folder, and one for each such entry below a folder.

    Links are not followed.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        yield (
            f"{path} is a link, to {os.readlink(path)}, and not followed: in a run's folder only "
            f"{' and '.join(MAY_LEAD)} may be links, to folders; replace it by its target, or remove it"
        )
    elif stat.S_ISDIR(mode):
        yield from problems_below(path)
    elif not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in KINDS.items() if is_kind(mode)), "neither file nor folder")
        yield f"{path} is {kind}, and not opened: a run's folder contains only files and folders; remove it"


def problems_below(folder: Path) -> Iterator[str]:
    """Yield an error message for each entry of a folder, at any depth, that is neither a file nor a folder."""
    for path in _listed(folder):
        yield from strange(path)


def _listed(folder: Path) -> list[Path]:
    """Return the sorted entries of a folder.

    Empty if this user may not enter the folder, and so cannot open anything in it, or if another process has just
    removed it.
    """
    try:
        return sorted(folder.iterdir()) if os.access(folder, os.X_OK) else []
    except FileNotFoundError:
        return []
    except PermissionError as error:
        raise ConfigError([f"{folder} cannot be searched for links; allow yourself to read it"]) from error
