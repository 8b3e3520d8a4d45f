"""What a run writes while it goes: metrics.jsonl (the truth) and checkpoints. Beside Algorithm 1, never in it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dist_condense.engine import checkpoint
from dist_condense.engine.shard import ClassShard
from dist_condense.engine.trajectory import Trajectory

METRICS = "metrics.jsonl"


class RunFailed(RuntimeError):
    """The run cannot go on; the message says where and what to change."""


@dataclass
class Journal:
    """Called by every worker after each step; every ``log_every`` steps the workers compare notes.

    :param matching_steps: T, to tell (k, t) from the step.
    :param names: class names by label, for messages.
    :param minutes: at most so long between two checkpoints (to the next multiple of ``log_every``).
    """

    folder: Path
    shard: ClassShard
    trajectory: Trajectory
    matching_steps: int
    total: int
    names: Sequence[str]
    log_every: int = 10
    minutes: float = 5.0
    _saved: float = field(default_factory=time.monotonic)
    _last: float = field(default_factory=time.monotonic)
    _last_step: int = 0

    def resume(self) -> int:
        """Load the newest checkpoint if there is one; the number of matching steps already done."""
        found = checkpoint.newest(self.folder / "checkpoints")
        if self.shard.coordinator.rank == 0:
            _cut(self.folder / METRICS, found.steps if found else 0)
        if found is None:
            return 0
        self.shard.load_state_dict(found.classes())
        self.trajectory.load_state_dict(found.shared())
        self._last_step = found.steps
        return found.steps

    def after_step(self, done: int) -> None:
        """``done`` matching steps are complete, and theta has moved after them."""
        if done % self.log_every and done != self.total:
            return
        seconds = time.monotonic() - self._last
        steps, self._last, self._last_step = done - self._last_step, time.monotonic(), done
        self._compare_networks(done)
        self._refuse_not_finite()
        losses = self._losses()
        k, t = divmod(done - 1, self.matching_steps)
        if self.shard.coordinator.rank == 0:
            entry = {
                "step": done,
                "network": k,
                "matching_step": t,
                "loss": losses,
                "steps_per_second": steps / seconds,
            }
            with (self.folder / METRICS).open("a") as file:
                file.write(json.dumps(entry) + "\n")
        due = time.monotonic() - self._saved > self.minutes * 60
        if self.shard.coordinator.gather(due)[0] or done == self.total:
            self._save(done)

    def _save(self, done: int) -> None:
        manifest: dict[str, Any] = {"steps": done, "torch": torch.__version__}
        coordinator = self.shard.coordinator
        shared = self.trajectory.state_dict() if coordinator.rank == 0 else {}
        checkpoint.save(self.folder / "checkpoints", manifest, self.shard.state_dict(), shared, coordinator)
        self._saved = time.monotonic()

    def _losses(self) -> float:
        """The matching loss of the last step, summed over groups."""
        own = sum(float(x) for x in self.shard.losses.values())
        return float(sum(self.shard.coordinator.gather(own)))

    def _compare_networks(self, done: int) -> None:
        sums = self.shard.coordinator.gather(self.trajectory.checksum())
        if len(set(sums)) > 1:
            ranks = [r for r, x in enumerate(sums) if x != sums[0]]
            raise RunFailed(
                f"the network differs between workers after step {done}: ranks {ranks} disagree with rank 0. "
                "The workers' hardware or library versions differ; use equal nodes and cluster.reproducible=true"
            )

    def _refuse_not_finite(self) -> None:
        first = {c: int(x) for c, x in self.shard.not_finite.items()}
        rank = self.shard.coordinator.rank
        found = self.shard.coordinator.gather([(step, c, rank) for c, step in first.items() if step >= 0])
        if bad := sorted(entry for entries in found for entry in entries):
            step, c, worker = bad[0]
            k, t = divmod(step, self.matching_steps)
            raise RunFailed(
                f"the loss or the image gradient is not finite: class {c} ({self.names[c]}), network {k}, matching "
                f"step {t}, rank {worker}. Pixels keep their last finite values; lower method.images.lr or training.lr"
            )


def _cut(metrics: Path, steps: int) -> None:
    """Drop entries after the checkpoint, so that each step stands once."""
    if metrics.exists():
        lines = metrics.read_text().splitlines()
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= steps]
        metrics.write_text("".join(line + "\n" for line in kept))
