"""Loading of a run's newest checkpoint by all workers together."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dist_condense.engine.coordinator import Coordinator
from dist_condense.engine.errors import RunFailed
from dist_condense.engine.procedure import Procedure
from dist_condense.job import checkpoint, contents
from dist_condense.job.checkpoint import Damaged, State
from dist_condense.settings.config import differences
from dist_condense.system import terminal
from dist_condense.system.storage import Storage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stored:
    """Part of a checkpoint that one worker needs: metadata, state of its classes, and shared state."""

    metadata: State
    by_class: dict[str, Tensor]
    """State of the owned classes, by ``NAME.LABEL``."""
    shared: dict[str, Tensor]


@dataclass(frozen=True)
class Loader:
    """Loader of the newest checkpoint whose files all workers find intact; each worker loads its own part.

    :param group: coordinator of the workers, all of which load at the same time.
    :param procedure: procedure whose outline and owned classes determine what is loaded.
    :param identity: everything that determines the result of this run, see :class:`State`.
    """

    store: Storage
    group: Coordinator
    procedure: Procedure
    identity: Mapping[str, Any]

    def newest(self) -> Stored | None:
        """Load the newest intact checkpoint among those that rank 0 lists; None if none was committed.

        :raises RunFailed: no checkpoint is intact, or one belongs to another run.
        """
        is_first = self.group.rank == 0
        listed = self.group.gather(checkpoint.names(self.store) if is_first else [])[0]
        try:
            return checkpoint.furthest(self.store, self._together, _report if is_first else log.warning, listed)
        except Damaged as error:
            raise RunFailed(str(error)) from error

    def _together(self, name: str) -> Stored:
        """Load a checkpoint. Raises FileNotFoundError or Damaged on all workers, even if only one worker fails."""
        stored, problem = None, None
        try:
            stored = self._loaded(name)
        except FileNotFoundError:
            problem = ""  # this worker sees no manifest
        except Damaged as error:
            problem = str(error)
        problems = self.group.gather(problem)
        if stored is not None and problems == [None] * len(problems):
            return stored
        if problems == [""] * len(problems):
            raise FileNotFoundError(name)
        unseen = f"{self.store}/{name}/{checkpoint.MANIFEST} is not visible to all workers"
        raise Damaged(next(filter(None, problems), unseen))

    def _loaded(self, name: str) -> Stored:
        opened = checkpoint.opened(self.store, name)
        if changed := differences(opened.state.identity, dict(self.identity)):
            raise RunFailed(f"{self.store}/{name} belongs to another run: {'; '.join(changed)}; remove it")
        by_class, shared = contents.loaded(opened, self.procedure.outline, self.procedure.labels)
        return Stored(opened.state, by_class, shared)


def _report(text: str) -> None:
    log.warning(text)
    terminal.event(f"note: {text}")
