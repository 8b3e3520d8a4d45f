"""Base class of the procedures, which combine a shard of a worker's classes with a trajectory of theta."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from dist_condense.data.reading.read_ahead import ReadAhead
from dist_condense.data.reading.source import close
from dist_condense.engine.batches import Batches, NoBatches
from dist_condense.engine.procedure import Outline, Record
from dist_condense.engine.shard import ClassShard
from dist_condense.engine.trajectory import Trajectory
from dist_condense.selection.shard import SelectionShard


class NoNetwork:
    """Trajectory of a procedure without a network, which has nothing to train, store or compare."""

    network = nn.Module()
    batches: Batches = NoBatches()
    updates = 0
    after_update: Callable[[], None]

    def reach(self, k: int, t: int) -> None:
        pass

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        pass

    def checksum(self) -> None:
        pass


@dataclass(frozen=True)
class Checked:
    """Record of a run whose last unit is complete only if all real images can be read, even those that no unit uses.

    Whether a run refuses a damaged file thus does not depend on how fast files are read in the background.

    :param total: number of units of the run.
    :param source: source of the real images.
    """

    record: Record
    total: int
    source: ReadAhead

    def resume(self) -> int:
        return self.record.resume()

    def after_step(self, done: int) -> None:
        """Record that ``done`` units are complete; raises DataError naming unreadable files after the last one."""
        if done == self.total:
            self.source.complete()
        self.record.after_step(done)

    def finish(self) -> None:
        self.record.finish()


@dataclass(kw_only=True)
class ShardProcedure:
    """Base of a :class:`dist_condense.engine.procedure.Procedure` on a shard of classes and a trajectory of theta."""

    outline: Outline
    shard: ClassShard | SelectionShard
    trajectory: Trajectory | NoNetwork

    @property
    def labels(self) -> list[int]:
        return self.shard.labels

    @property
    def updates(self) -> int:
        return self.trajectory.updates

    @property
    def waited(self) -> float:
        return self.shard.source.waited + self.trajectory.batches.waited

    def after_updates(self, call: Callable[[], None]) -> None:
        self.trajectory.after_update = call

    def state_dict(self) -> dict[str, Tensor]:
        return self.shard.state_dict()

    def shared_state_dict(self) -> dict[str, Tensor]:
        return self.trajectory.state_dict()

    def load_state_dict(self, by_class: Mapping[str, Tensor], shared: Mapping[str, Tensor], updates: int) -> None:
        self.shard.load_state_dict(by_class)
        self.trajectory.load_state_dict(shared)
        self.trajectory.updates = updates

    def measured(self, sums: Mapping[str, float]) -> dict[str, float]:
        return dict(sums)

    def checksum(self) -> int | None:
        return self.trajectory.checksum()

    def checked(self, record: Record) -> Checked:
        """Return the record with which all units are computed."""
        return Checked(record, self.outline.units.total, self.shard.source)

    def close(self) -> None:
        self.trajectory.batches.close()
        self.shard.source.close()
        close(self.shard.source.source)
