"""The classes that one worker owns: their learnt pixels, optimiser state and real images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from dist_condense.core import augmentation, randomness
from dist_condense.core.augmentation import Strategy
from dist_condense.core.grouping import Grouping
from dist_condense.core.image_rule import ImageRule
from dist_condense.core.objective import Objective
from dist_condense.core.parameterisation import MultiFormation
from dist_condense.data.normalise import ChannelStatistics, to_unit
from dist_condense.data.reading.read_ahead import ReadAhead
from dist_condense.engine.batch_statistics import refresh_running_statistics
from dist_condense.engine.coordinator import Coordinator, Placement
from dist_condense.engine.finite import NO_CLASS, Finding, FiniteWatch, What, all_finite
from dist_condense.networks import batch_norms
from dist_condense.system.transfer import to_device

Back = Callable[[Tensor], tuple[Tensor, ...]]
"""Gradient of the augmented images to the gradient of the pixels."""

Update = tuple[Tensor, Tensor]
"""The gradient of a class's pixels, and the loss of its group."""

Draw = Callable[[int, int, int, int, int], Tensor]
"""(count, wanted, seed, class, visit) -> positions of the real minibatch within its class."""


def fresh_draw(count: int, wanted: int, seed: int, label: int, visit: int) -> Tensor:
    """DC, DSA, DCC, DM: a fresh random draw at each step, without replacement within it; a class with fewer images
    than are wanted gives each once (as in the program).
    """
    return randomness.draw_without_replacement(count, wanted, seed, "real class batch", label, visit)


def epoch_draw(count: int, wanted: int, seed: int, label: int, visit: int) -> Tensor:
    """IDC: passes over the class without replacement, the incomplete batch of a pass dropped; a class with fewer images
    than are wanted gives each once (as in the program).
    """
    return randomness.epoch_batch(count, wanted, visit, seed, "real class batch", label)


DRAWS: dict[str, Draw] = {"fresh": fresh_draw, "epochs": epoch_draw}


@dataclass(frozen=True)
class MatchingRecipe:
    """The parts of a method that stand on the image side of a matching step."""

    objective: Objective
    grouping: Grouping
    rule: ImageRule
    parameterisation: MultiFormation = field(default_factory=MultiFormation)
    strategy: Strategy = field(default_factory=Strategy)
    unit_space: bool = False
    """Pixels are held in [0, 1] and clamped when a network begins (IDC); else normalised and never clamped (DC)."""
    real_batch: int = 256
    """Real images of a class in one step; all of a class that has fewer."""
    real_draw: Draw = fresh_draw
    synthetic_limit: int = 128
    """Decoded images of a class in one step; beyond it a random subset."""
    statistics_batch: int = 16
    """Real images per class that move the running averages of BatchNorm before a step (DC)."""


@dataclass
class ClassShard:
    """What a worker knows of its own classes.

    ``pixels[c]`` and ``buffer[c]`` are ``[ipc, C, h, w]`` with ``shape`` = (C, h, w); ``counts[c]`` is the number of
    real images of class c, owned or not.
    """

    recipe: MatchingRecipe
    seed: int
    counts: Sequence[int]
    source: ReadAhead
    statistics: ChannelStatistics
    coordinator: Coordinator
    placement: Placement
    shape: tuple[int, int, int]
    pixels: dict[int, Tensor]
    buffer: dict[int, Tensor] = field(default_factory=dict)
    losses: dict[int, Tensor] = field(default_factory=dict)
    check_finite: bool = True
    """Whether :meth:`first_not_finite` tells; updates that are not finite are left out in any case."""
    watch: FiniteWatch = field(init=False)

    def __post_init__(self) -> None:
        place = self.placement
        self.pixels = {c: x.to(place.device, place.dtype) for c, x in sorted(self.pixels.items())}
        self.buffer = self.buffer or {c: torch.zeros_like(x) for c, x in self.pixels.items()}
        self.watch = FiniteWatch(place.device)

    @property
    def labels(self) -> list[int]:
        """The classes owned, ascending."""
        return list(self.pixels)

    def begin_network(self) -> None:
        """IDC clamps the pixels to [0, 1] when a new network begins."""
        if self.recipe.unit_space:
            for pixels in self.pixels.values():
                pixels.clamp_(0, 1)

    def match(self, network: nn.Module, k: int, t: int, visit: int) -> None:
        """One matching step of Algorithm 1:  S <- S - lr_S dL/dS  for the owned classes.

        :param visit: number of matching steps before this one, k T + t.
        """
        self.losses = {}
        self._announce(network, visit + 1)
        refresh_running_statistics(network, self._statistics_images(visit), len(self.counts), self.coordinator)
        self._note_network(network, visit)
        groups = self.recipe.grouping.groups(k, t)
        updates = {g[0]: self._match_alone(network, g[0], visit) for g in groups if self._owns_alone(g)}
        if shared := [g for g in groups if len(g) > 1]:
            updates |= self._match_shared(network, shared, visit)
        for c, (gradient, loss) in updates.items():
            self._update(c, gradient, loss, visit)

    def training_images(self, label: int) -> Tensor:
        """Decoded images of a class in normalised space, as training on the set sees them."""
        return self._normalised(self.recipe.parameterisation.decode_for_training(self.pixels[label]))

    def first_not_finite(self, network: nn.Module, done: int) -> Finding | None:
        """What is or was not finite first, theta as it is now included. Waits for the device.

        :param done: matching steps done.
        """
        if not self.check_finite:
            return None
        self._note_network(network, done)
        return self.watch.first(self.coordinator.rank, self.pixels.values())

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that a restart needs, keyed by class and copied to the CPU."""
        kept = {"pixels": self.pixels, "buffer": self.buffer}
        every = {f"{name}.{c}": x for name, by_class in kept.items() for c, x in by_class.items()}
        return {name: x.to("cpu", copy=True).contiguous() for name, x in every.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The state of the owned classes; entries of other classes are ignored."""
        for c in self.labels:
            self.pixels[c].copy_(state[f"pixels.{c}"])
            self.buffer[c].copy_(state[f"buffer.{c}"])

    # --- the parts of a step --------------------------------------------------------------------------------------

    def _owns_alone(self, group: tuple[int, ...]) -> bool:
        return len(group) == 1 and group[0] in self.pixels

    def _note_network(self, network: nn.Module, visit: int) -> None:
        self.watch.note(What.NETWORK, NO_CLASS, all_finite(network.state_dict().values()), visit)

    def _match_alone(self, network: nn.Module, c: int, visit: int) -> Update:
        """A class that is a group of its own: no message."""
        objective = self.recipe.objective
        real, synthetic, decode_back = self._images(c, visit)
        y_real, y = self._label(c, len(real)), self._label(c, len(synthetic))
        if objective.microbatch:
            a, b = objective.statistic(network, synthetic, y), objective.statistic(network, real, y_real)
            self.losses[c], v = objective.cotangent(a, b)
            return decode_back(objective.pull_back(network, synthetic, y, v)), self.losses[c]
        self.losses[c], gradient = objective.match(network, real, y_real, synthetic, y)
        return decode_back(gradient), self.losses[c]

    def _match_shared(self, network: nn.Module, groups: Sequence[Sequence[int]], visit: int) -> dict[int, Update]:
        """Groups that may span workers: two passes around ONE reduction of the sums of all groups."""
        objective, slot_of = self.recipe.objective, {c: g for g, group in enumerate(groups) for c in group}
        owned = [c for c in self.labels if c in slot_of]
        parts, shapes = [], self._statistic_shapes(network)
        for c in owned:
            real, synthetic, _ = self._images(c, visit)
            a = objective.statistic(network, synthetic, self._label(c, len(synthetic)))
            b = objective.statistic(network, real, self._label(c, len(real)))
            parts.append((slot_of[c], torch.cat([x.flatten() for x in (*a, *b)])))
            self.watch.note(What.STATISTIC, c, parts[-1][1].isfinite().all(), visit)
        length = 2 * sum(s.numel() for s in shapes)
        total = torch.zeros(len(groups), length, dtype=self.placement.dtype, device=self.placement.device)
        sums = self.coordinator.sum(parts, total, terms=max(map(len, groups)))
        losses, cotangents = {}, {}
        for g, group in enumerate(groups):
            a, b = (_unflatten(half, shapes) for half in (sums[g] / len(group)).chunk(2))
            losses[g], cotangents[g] = objective.cotangent(a, b)
            if group[0] in self.pixels:
                self.losses[group[0]] = losses[g]
        updates = {}
        for c in owned:
            _, synthetic, decode_back = self._images(c, visit, real=False)
            v = [x / len(groups[slot_of[c]]) for x in cotangents[slot_of[c]]]
            gradient = decode_back(objective.pull_back(network, synthetic, self._label(c, len(synthetic)), v))
            updates[c] = gradient, losses[slot_of[c]]
        return updates

    def _statistic_shapes(self, network: nn.Module) -> list[torch.Size]:
        """Shapes of phi, from one zero image: a worker without classes takes part in the sum, too."""
        probe = torch.zeros(1, *self.shape, dtype=self.placement.dtype, device=self.placement.device)
        return [x.shape for x in self.recipe.objective.statistic(network, probe, self._label(0, 1))]

    def _images(self, c: int, visit: int, real: bool = True) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        """Augmented real and synthetic images of a class, and the way back from these to the pixels."""
        recipe, size = self.recipe, (self.pixels[c].shape[-2], self.pixels[c].shape[-1])
        augment = _identity
        if recipe.strategy:
            keyed = randomness.generator(self.seed, "matching augmentation", visit, c)
            draw = recipe.strategy.draw(1, size, keyed).to(self.placement.device, self.placement.dtype, to_device)
            augment = partial(augmentation.apply, draw=draw)
        synthetic, back = cast(
            tuple[Tensor, Back], torch.func.vjp(lambda x: augment(self._seen(x, c, visit)), self.pixels[c])
        )
        images = augment(self._real(c, recipe.real_batch, visit)) if real else synthetic[:0]
        return images, synthetic.detach(), lambda gradient: back(gradient)[0]

    def _seen(self, pixels: Tensor, c: int, visit: int) -> Tensor:
        decoded = self.recipe.parameterisation.decode(pixels)
        limit = self.recipe.synthetic_limit
        if len(decoded) > limit:
            chosen = randomness.permutation(len(decoded), self.seed, "synthetic subset", visit, c)[:limit]
            decoded = decoded[to_device(chosen, decoded.device)]
        return self._normalised(decoded)

    def _normalised(self, images: Tensor) -> Tensor:
        return self.statistics.normalise(images) if self.recipe.unit_space else images

    def _announce(self, network: nn.Module, visit: int) -> None:
        """The draws of any step are known, so that its images can be read while the one before computes."""
        if batch_norms(network):
            for c in self.labels:
                self.source.announce(c, self._statistics_positions(c, visit))
        for c in self.labels:
            self.source.announce(c, self._positions(c, self.recipe.real_batch, visit))

    def _positions(self, c: int, wanted: int, visit: int) -> Tensor:
        return self.recipe.real_draw(self.counts[c], wanted, self.seed, c, visit)

    def _real(self, c: int, wanted: int, visit: int) -> Tensor:
        images = self.source.get(c, self._positions(c, wanted, visit))
        return self.statistics.normalise(to_unit(images, self.placement.dtype))

    def _statistics_positions(self, c: int, visit: int) -> Tensor:
        wanted = self.recipe.statistics_batch
        return randomness.draw_without_replacement(self.counts[c], wanted, self.seed, "running statistics", visit, c)

    def _statistics_images(self, visit: int) -> Callable[[], dict[int, Tensor]]:
        def load() -> dict[int, Tensor]:
            raw = {c: self.source.get(c, self._statistics_positions(c, visit)) for c in self.labels}
            return {c: self.statistics.normalise(to_unit(x, self.placement.dtype)) for c, x in raw.items()}

        return load

    def _label(self, c: int, count: int) -> Tensor:
        return torch.full((count,), c, device=self.placement.device)

    def _update(self, c: int, gradient: Tensor, loss: Tensor, visit: int) -> None:
        self.watch.note(What.LOSS, c, loss.isfinite(), visit)
        finite = self.recipe.rule.step(self.pixels[c], self.buffer[c], gradient, loss.isfinite())
        self.watch.note(What.UPDATE, c, finite, visit)


def _unflatten(flat: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    parts = flat.split([s.numel() for s in shapes])
    return [x.view(s) for x, s in zip(parts, shapes, strict=True)]


def _identity(images: Tensor) -> Tensor:
    return images
