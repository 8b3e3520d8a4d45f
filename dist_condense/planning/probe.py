"""Worker with at most two classes of random images, assembled as in a run, whose steps can be run one at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from dist_condense.core.grouping import Grouping
from dist_condense.core.objective import Examples, Objective
from dist_condense.data import to_values
from dist_condense.engine.coordinator import LocalCoordinator, Placement
from dist_condense.engine.matching.recipe import MatchingRecipe
from dist_condense.engine.shard import ClassShard
from dist_condense.engine.training import NetworkTrainer
from dist_condense.engine.trajectory import Trajectory
from dist_condense.engine.update import with_draws
from dist_condense.planning.images import RandomImages
from dist_condense.settings import assembly
from dist_condense.settings.config import RunConfig


@dataclass
class FirstWorker(LocalCoordinator):
    """Coordinator that assigns the share of the first of ``size`` workers, without any communication."""

    size: int = 1


@dataclass(kw_only=True)
class Probe:
    """Worker whose parts are timed one at a time: every call computes another step, update or statistic."""

    config: RunConfig
    dataset: RandomImages
    device: torch.device
    labels: list[int] = field(init=False)
    recipe: MatchingRecipe = field(init=False)
    shard: ClassShard = field(init=False)
    trajectory: Trajectory = field(init=False)
    _count: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        config, data = self.config, self.dataset
        self.labels = list(range(min(2, len(data.classes))))
        exact = LocalCoordinator(bool(config.compute.reproducible))
        self.shard = assembly.shard_of(config, data, self.labels, coordinator=exact, placement=Placement(self.device))  # type: ignore[arg-type]
        self.trajectory = assembly.trajectory_of(config, data, self.shard)  # type: ignore[arg-type]
        self.recipe = self.shard.recipe

    def match(self, grouping: Grouping, classes: int, real: int, ipc: int) -> Callable[[], None]:
        """Return a function that computes another matching step at each call.

        :param classes: number of classes to match, 1 or 2.
        :param real: number of real images per class.
        :param ipc: number of learnt images per class.
        """
        start = {c: {"pixels": self.shard.pixels[c][:ipc]} for c in self.labels[:classes]}
        recipe = replace(self.recipe, grouping=grouping, real_batch=real)
        shard, visits = replace(self.shard, recipe=recipe, start=start), itertools.count()
        return lambda: shard.match(self.trajectory.network, 0, 0, next(visits))

    def update(self, batch: int, slices: int, workers: int) -> None:
        """Compute an update of theta like the first of ``workers`` workers, which divide the slices.

        :param batch: number of images in the batch.
        """
        coordinator = FirstWorker(self.shard.coordinator.reproducible, workers)
        self._train(batch, replace(self.trajectory.trainer, coordinator=coordinator, slices=slices))

    def slice(self, images: int) -> None:
        """Compute an update of theta on one slice of images, not compiled, so that its memory can be counted."""
        self._train(images, replace(self.trajectory.trainer, slices=1, compiled=False))

    def draw(self) -> None:
        """Draw the initial parameters of another network."""
        self.trajectory.draw("network", next(self._count))

    def real(self, images: int) -> None:
        """Compute the statistic of ``images`` real images in a single pass."""
        self._objective.statistic(self.trajectory.network, self._examples(images))

    def double_backward(self, images: int) -> None:
        """Compute the gradient of the distance with respect to synthetic images, in one double backward.

        A double backward needs more memory than matching in two passes.
        """
        network, examples = self.trajectory.network, self._examples(images)
        b = self._objective.statistic(network, {name: x[:1] for name, x in examples.items()})
        self._objective.match(network, examples, b)

    def _train(self, images: int, trainer: NetworkTrainer) -> None:
        theta, key = self.trajectory, next(self._count)
        batches = with_draws([self._batch(images)], trainer.draws(key))
        for _ in trainer.train(theta.network, theta.optimiser, batches, key):
            pass

    @property
    def _objective(self) -> Objective:
        """Objective without microbatches and without compilation, so that its memory can be counted."""
        return replace(self.recipe.objective, microbatch=0, compiled=False)

    def _examples(self, images: int) -> Examples:
        batch, labels = self._batch(images)
        return {"images": batch, "labels": labels}

    def _batch(self, images: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a batch of random bytes, normalised like real images, and its labels."""
        raw = torch.randint(256, (images, *self.shard.shape), dtype=torch.uint8).to(self.device)
        labels = torch.arange(images, device=self.device) % len(self.dataset.classes)
        return self.shard.space.statistics.normalise(to_values(raw)), labels
