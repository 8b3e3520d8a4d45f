"""Writing of checkpoints in the background while the next steps are computed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import KW_ONLY, asdict, dataclass, field

from safetensors.torch import save
from torch import Tensor

from dist_condense.engine.coordinator import Coordinator
from dist_condense.engine.errors import RunFailed
from dist_condense.job import checkpoint
from dist_condense.job.checkpoint import AT_ONCE, SHARED, FileEntry, State, class_file, entry_of, name_of
from dist_condense.system import records
from dist_condense.system.background import Background, side_by_side
from dist_condense.system.storage import Storage

log = logging.getLogger(__name__)


@dataclass
class CheckpointWriter:
    """Background writer of one checkpoint at a time, to which each worker contributes the files of its own classes.

    :param coordinator: separate process group (:meth:`Coordinator.beside`), used by the writing thread only.
    :param kept: number of newest checkpoints to keep.
    :param writing: function that returns the context for each write; it raises RunFailed if this process may no longer
        write to the run's folder.
    """

    store: Storage
    coordinator: Coordinator
    _: KW_ONLY
    kept: int = 2
    writing: Callable[[], AbstractContextManager[None]] = nullcontext
    problem: str | None = None
    """Reason why the last checkpoint could not be written; None if it was written.

    Equal on all workers, unless their communication failed.
    """
    _thread: Background | None = field(default=None, init=False)

    def begin(self, state: State, own: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> None:
        """Wait for the previous checkpoint, then start to write one; the caller must not change the tensors afterwards.

        :param own: state of the owned classes, by ``NAME.LABEL``.
        :param shared: state that is equal on all workers; ignored on ranks other than 0.
        """
        self.wait()
        self._thread = Background("checkpoint", lambda: self._write(state, own, shared), lambda: None)

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until the checkpoint in progress is committed or ``problem`` is set, for at most ``seconds``."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _write(self, state: State, own: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> None:
        try:
            self._together(state, own, shared)
        except Exception as error:  # the process group broke; the next step will report the lost workers
            self.problem = f"the checkpoint of step {state.steps} was not finished ({type(error).__name__}: {error})"

    def _together(self, state: State, own: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> None:
        folder = name_of(state.steps, state.updates)
        try:
            files = [*([(SHARED, shared)] if self.coordinator.rank == 0 else []), *_by_class(own)]
            written = side_by_side(lambda file: self._written(folder, *file), files, AT_ONCE)
            problem = None
        except RunFailed as error:
            written, problem = [], str(error)
        reports = self.coordinator.gather({"written": [asdict(entry) for entry in written], "problem": problem})
        problem = next((report["problem"] for report in reports if report["problem"]), None)
        if problem is None and self.coordinator.rank == 0:
            entries = [entry for report in reports for entry in report["written"]]
            problem = self._commit(state, records.made(list[FileEntry], entries, "files of the workers"))
        self.problem = next((text for text in self.coordinator.gather(problem) if text), None)

    def _written(self, folder: str, name: str, tensors: Mapping[str, Tensor]) -> FileEntry:
        """Write a file and return its manifest entry. Raises RunFailed if it cannot be written."""
        data = save(dict(tensors))
        try:
            with self.writing():
                self.store.write(f"{folder}/{name}", data)
        except OSError as error:
            raise RunFailed(self._failure(f"{self.store}/{folder}/{name}", error)) from error
        return entry_of(name, data, sorted({_label(key) for key in tensors if name != SHARED}))

    def _commit(self, state: State, entries: list[FileEntry]) -> str | None:
        try:
            with self.writing():
                checkpoint.commit(self.store, state, entries)
                checkpoint.prune(self.store, self.kept, name_of(state.steps, state.updates))
            log.info("committed %s/%s", self.store, name_of(state.steps, state.updates))
        except RunFailed as error:
            return str(error)
        except OSError as error:
            return self._failure(f"{self.store}/{name_of(state.steps, state.updates)}", error)
        return None

    def _failure(self, where: str, error: OSError) -> str:
        return (
            f"rank {self.coordinator.rank} could not write the checkpoint {where}: {error}. "
            "Make room or repair the folder; the earlier checkpoints are intact"
        )


def _by_class(state: Mapping[str, Tensor]) -> Iterable[tuple[str, dict[str, Tensor]]]:
    """Group tensors, named ``NAME.LABEL``, into pairs (file name, tensors), with one file per class."""
    files: dict[str, dict[str, Tensor]] = {}
    for key, x in state.items():
        files.setdefault(class_file(_label(key)), {})[key] = x
    return files.items()


def _label(key: str) -> int:
    return int(key.rsplit(".", 1)[1])
