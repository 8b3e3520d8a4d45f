"""Writing checkpoints in the background, while the next steps are computed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field

from safetensors.torch import save
from torch import Tensor

from dist_condense.engine.coordinator import Coordinator
from dist_condense.engine.errors import RunFailed
from dist_condense.job import checkpoint
from dist_condense.job.checkpoint import SHARED, Entry, State, entry_of, name_of
from dist_condense.system import records
from dist_condense.system.background import Background
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
        files = {f"classes_{self.coordinator.rank}.safetensors": own} if own else {}
        if self.coordinator.rank == 0:
            files = {SHARED: shared, **files}
        written: list[Entry] = []
        problem = self._put(state, files, written)
        answers = self.coordinator.gather({"written": [asdict(entry) for entry in written], "problem": problem})
        problem = next((answer["problem"] for answer in answers if answer["problem"]), None)
        if problem is None and self.coordinator.rank == 0:
            entries = [entry for answer in answers for entry in answer["written"]]
            problem = self._commit(state, records.made(list[Entry], entries, "what the workers have written"))
        self.problem = next((text for text in self.coordinator.gather(problem) if text), None)

    def _put(self, state: State, files: Mapping[str, Mapping[str, Tensor]], written: list[Entry]) -> str | None:
        """The problem; what was written goes to the list."""
        folder = name_of(state.steps, state.updates)
        for name, tensors in files.items():
            data = save(dict(tensors))
            try:
                with self.writing():
                    self.store.write(f"{folder}/{name}", data)
            except RunFailed as error:
                return str(error)
            except OSError as error:
                return self._told(f"{self.store}/{folder}/{name}", error)
            labels = {int(key.rsplit(".", 1)[1]) for key in tensors if name != SHARED}
            written.append(entry_of(name, data, sorted(labels)))
        return None

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
