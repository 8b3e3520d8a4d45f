"""Writing checkpoints in the background, while the next steps are computed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field

from safetensors.torch import save
from torch import Tensor

from dist_condense.engine.coordinator import Coordinator
from dist_condense.engine.errors import RunFailed
from dist_condense.job import checkpoint
from dist_condense.job.checkpoint import AT_ONCE, SHARED, Entry, State, class_file, entry_of, name_of
from dist_condense.system import records
from dist_condense.system.background import Background, side_by_side
from dist_condense.system.storage import Storage

log = logging.getLogger(__name__)


@dataclass
class CheckpointWriter:
    """One checkpoint at a time, by all workers together.

    :param coordinator: a line of its own (:meth:`Coordinator.beside`): its thread speaks while others compute.
    :param kept: newest checkpoints that stay.
    :param writing: entered around each write; raises RunFailed where this start of the run may not write any more.
    """

    store: Storage
    coordinator: Coordinator
    kept: int = 2
    writing: Callable[[], AbstractContextManager[None]] = nullcontext
    problem: str | None = None
    """Why the last one could not be written; the same text on all workers."""
    _thread: Background | None = field(default=None, init=False)

    def begin(self, state: State, own: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> None:
        """Write these tensors, which nobody changes any more; waits for the checkpoint before.

        :param own: state of the owned classes, by ``NAME.LABEL``.
        :param shared: of rank 0; the others' is not looked at.
        """
        self.wait()
        self._thread = Background("checkpoint", lambda: self._write(state, own, shared), lambda: None)

    @property
    def busy(self) -> bool:
        """Whether one is being written."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self, seconds: float | None = None) -> None:
        """Until it is committed, or ``problem`` says why not; at most so long."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _write(self, state: State, own: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> None:
        try:
            self._together(state, own, shared)
        except Exception as error:  # the line broke: others are gone, which stepping will tell of
            self.problem = f"the checkpoint of step {state.steps} was not finished ({type(error).__name__}: {error})"

    def _together(self, state: State, own: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> None:
        folder = name_of(state.steps, state.updates)
        try:
            files = [*([(SHARED, shared)] if self.coordinator.rank == 0 else []), *_by_class(own)]
            written = side_by_side(lambda file: self._written(folder, *file), files, AT_ONCE)
            problem = None
        except RunFailed as error:
            written, problem = [], str(error)
        answers = self.coordinator.gather({"written": [asdict(entry) for entry in written], "problem": problem})
        problem = next((answer["problem"] for answer in answers if answer["problem"]), None)
        if problem is None and self.coordinator.rank == 0:
            entries = [entry for answer in answers for entry in answer["written"]]
            problem = self._commit(state, records.made(list[Entry], entries, "what the workers have written"))
        self.problem = next((text for text in self.coordinator.gather(problem) if text), None)

    def _written(self, folder: str, name: str, tensors: Mapping[str, Tensor]) -> Entry:
        """Write a file. Raises RunFailed."""
        data = save(dict(tensors))
        try:
            with self.writing():
                self.store.write(f"{folder}/{name}", data)
        except OSError as error:
            raise RunFailed(self._told(f"{self.store}/{folder}/{name}", error)) from error
        return entry_of(name, data, sorted({_label(key) for key in tensors if name != SHARED}))

    def _commit(self, state: State, entries: list[Entry]) -> str | None:
        try:
            with self.writing():
                checkpoint.commit(self.store, state, entries)
                checkpoint.prune(self.store, self.kept)
            log.info("committed %s/%s", self.store, name_of(state.steps, state.updates))
        except RunFailed as error:
            return str(error)
        except OSError as error:
            return self._told(f"{self.store}/{name_of(state.steps, state.updates)}", error)
        return None

    def _told(self, where: str, error: OSError) -> str:
        return (
            f"rank {self.coordinator.rank} could not write the checkpoint {where}: {error}. "
            "Make room or repair the folder; the checkpoints before it are intact"
        )


def _by_class(state: Mapping[str, Tensor]) -> Iterable[tuple[str, dict[str, Tensor]]]:
    """The files of classes and what is in each, from the state by ``NAME.LABEL``."""
    files: dict[str, dict[str, Tensor]] = {}
    for key, x in state.items():
        files.setdefault(class_file(_label(key)), {})[key] = x
    return files.items()


def _label(key: str) -> int:
    return int(key.rsplit(".", 1)[1])
