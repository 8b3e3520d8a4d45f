"""The classes of one worker: learnt tensors, their momentum, and their update rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass, field

import torch
from torch import Tensor, nn

from dist_condense.core.image_rule import Learnt, update_
from dist_condense.data.reading.read_ahead import ReadAhead
from dist_condense.data.space import Space
from dist_condense.engine.batch_statistics import refresh_running_statistics
from dist_condense.engine.coordinator import Coordinator, Placement
from dist_condense.engine.errors import RunFailed
from dist_condense.engine.finite import NO_CLASS, Finding, FiniteWatch, Quantity, all_finite
from dist_condense.engine.matching.alone import Matched, Stepped
from dist_condense.engine.matching.draws import Draws
from dist_condense.engine.matching.halving import Halving, is_out_of_memory
from dist_condense.engine.matching.minibatches import Minibatches, Reads
from dist_condense.engine.matching.recipe import MatchingRecipe
from dist_condense.engine.matching.shared import Inputs, Shared
from dist_condense.engine.matching.view import View

MOMENTUM = {"pixels": "buffer", "labels": "labels_buffer"}
"""Names of momentum tensors in a checkpoint, by the name of the learnt tensor."""


@dataclass
class ClassShard:
    """State and matching steps of a worker's own classes.

    :param counts: number of real images of every class, owned or not.
    :param space: space of the learnt pixels.
    :param shape: (C, H, W) of an image.
    :param start: initial learnt tensors of each owned class, by name.
    :param check_finite: whether :meth:`first_not_finite` reports; updates that are not finite are skipped in any case.
    :param cuda_graphs: number of classes whose steps are captured in one CUDA graph; 0, and on CPUs: no graphs.
    """

    recipe: MatchingRecipe
    source: ReadAhead
    coordinator: Coordinator
    placement: Placement
    _: KW_ONLY
    seed: int
    counts: Sequence[int]
    space: Space
    shape: tuple[int, int, int]
    start: InitVar[Mapping[int, Learnt]]
    check_finite: bool = True
    cuda_graphs: int = 0
    labels: list[int] = field(init=False)
    """Owned classes, ascending."""
    learnt: Learnt = field(init=False)
    """Learnt tensors by name, each ``[images, ...]`` of all owned classes in order; empty if no class is owned."""
    momentum: Learnt = field(init=False)
    losses: dict[int, Tensor] = field(default_factory=dict, init=False)
    """Loss of the last step of each group whose first class is owned, by the label of that class."""
    squared_norms: dict[int, Tensor] = field(default_factory=dict, init=False)
    """Squared Euclidean norm of the gradient of each owned class in the last step, by label."""

    def __post_init__(self, start: Mapping[int, Learnt]) -> None:
        self._allocate(start)
        recipe, place = self.recipe, self.placement
        numbers = {c: len(pixels) for c, pixels in self.pixels.items()}
        self.view = View.of(recipe, numbers.values(), self.space, place)
        self.minibatches = Minibatches(
            source=self.source,
            recipe=recipe,
            seed=self.seed,
            counts=self.counts,
            labels=self.labels,
            statistics=self.space.statistics,
            placement=place,
        )
        self.draws = Draws.source(recipe, seed=self.seed, numbers=numbers, shape=self.shape, placement=place)
        self.steps = Halving(recipe.objective, self.view, recipe.rules, captured=self._graphs)
        self.shared = Shared(self.steps, self.coordinator, shape=self.shape, placement=place)
        self.watch = FiniteWatch(place.device)

    def learnt_of(self, label: int) -> Learnt:
        """Return the learnt tensors of a class by name, as views of :attr:`learnt`."""
        return self._own[label]

    @property
    def pixels(self) -> dict[int, Tensor]:
        """Pixels ``[ipc, C, h, w]`` by class, as views of :attr:`learnt`."""
        return {c: own["pixels"] for c, own in self._own.items()}

    def begin_network(self) -> None:
        """Clamp the pixels to their bounds, if the space has any, before the first matching step of a network (IDC)."""
        if self.labels:
            self.space.clamp_(self.learnt["pixels"])

    def match(self, network: nn.Module, k: int, t: int, visit: int) -> None:
        """Take one matching step of Algorithm 1:  S <- S - lr_S dL/dS  for the owned classes.

        :param k: network, from 0.
        :param t: matching step of this network, from 0.
        :param visit: number of matching steps before this one, over all networks.
        """
        reads = self.minibatches.of(visit, network)
        inputs = Inputs(
            self._own,
            self.draws.of(visit),
            stored=lambda c: self.source.redeem(reads.real[c]),
            again=lambda c: self.source.again(reads.real[c]),
        )
        refresh_running_statistics(network, lambda: self._for_statistics(reads), len(self.counts), self.coordinator)
        self._note_network(network, visit)
        self.losses, self.squared_norms = {}, {}
        groups = self.recipe.grouping.groups(k, t)
        self._match_alone(network, [g[0] for g in groups if len(g) == 1 and g[0] in self._own], inputs, visit)
        if several := [group for group in groups if len(group) > 1]:
            self._match_shared(network, several, inputs, visit)
        self.draws.prepare(visit + 1)

    def training_images(self, label: int) -> Tensor:
        """Return a class's decoded images ``[m, C, H, W]`` in normalised space, for training on the synthetic set."""
        return self.view.for_training(self._own[label]["pixels"])

    def training_labels(self, label: int) -> Tensor:
        """Return the learnt labels of a class's decoded images, probabilities ``[m, classes]``.

        Raises KeyError if labels are not learnt.
        """
        return self.view.labels_for_training(self._own[label]["labels"])

    def first_not_finite(self, network: nn.Module, done: int) -> Finding | None:
        """Return the first finding so far, after a check of the current theta, or None if all numbers were finite.

        Without ``check_finite``, always returns None. Waits for the device.

        :param done: number of completed matching steps.
        """
        if not self.check_finite:
            return None
        self._note_network(network, done)
        return self.watch.first(self.coordinator.rank, self.pixels.values())

    def state_dict(self) -> dict[str, Tensor]:
        """Return all tensors that a restart needs, by ``NAME.LABEL``, copied to the CPU."""
        return {name: x.to("cpu", copy=True).contiguous() for name, x in self._state().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the state of the owned classes; entries of other classes are ignored."""
        for name, x in self._state().items():
            x.copy_(state[name])
        self.minibatches.check()

    # --- private methods --------------------------------------------------------------------------------------------

    def _allocate(self, start: Mapping[int, Learnt]) -> None:
        """Allocate one tensor per name for all owned classes, and create its views by class."""
        place, self.labels = self.placement, sorted(start)
        names = start[self.labels[0]] if start else ()
        whole = {name: torch.cat([start[c][name] for c in self.labels]) for name in names}
        self.learnt = {name: x.to(place.device, place.dtype) for name, x in whole.items()}
        self.momentum = {name: torch.zeros_like(x) for name, x in self.learnt.items()}
        sizes = [len(start[c]["pixels"]) for c in self.labels]
        self._own, self._own_momentum = self._by_class(self.learnt, sizes), self._by_class(self.momentum, sizes)

    def _by_class(self, tensors: Learnt, sizes: Sequence[int]) -> dict[int, Learnt]:
        """Return views of each class's part of tensors, by label and name.

        :param sizes: number of images of each owned class.
        """
        own: dict[int, Learnt] = {c: {} for c in self.labels}
        for name, x in tensors.items():
            for c, part in zip(self.labels, x.split(sizes), strict=True):
                own[c][name] = part
        return own

    def _state(self) -> dict[str, Tensor]:
        state = {f"{name}.{c}": x for c, own in self._own.items() for name, x in own.items()} | self.minibatches.state
        return state | {f"{MOMENTUM[name]}.{c}": x for c, own in self._own_momentum.items() for name, x in own.items()}

    @property
    def _graphs(self) -> int:
        return self.cuda_graphs if self.placement.device.type == "cuda" else 0

    def _match_alone(self, network: nn.Module, labels: Sequence[int], inputs: Inputs, visit: int) -> None:
        """Take the step of classes that are groups of their own, as many at once as one graph captures."""
        at_once = self.steps.at_once
        for part in (labels[i : i + at_once] for i in range(0, len(labels), at_once)):
            own, momentum = [self._own[c] for c in part], [self._own_momentum[c] for c in part]
            stored, drawn = [inputs.stored(c) for c in part], [inputs.drawn[c] for c in part]
            if self.steps.in_parts:
                [c] = part
                self.losses[c] = self._update(c, self.steps.match(network, own[0], stored[0], drawn[0]), visit)
            else:
                stepped = self.steps(network, own, momentum, stored, drawn)
                self._keep(part, stepped, visit)
                self.losses |= {c: new.loss for c, new in zip(part, stepped, strict=True)}
                self.squared_norms |= {c: new.squared_norm for c, new in zip(part, stepped, strict=True)}

    def _match_shared(self, network: nn.Module, groups: Sequence[tuple[int, ...]], inputs: Inputs, visit: int) -> None:
        """Take the step of groups of several classes, some of which other workers may own."""
        first = {group[0] for group in groups}
        for c, result in self.shared(network, groups, inputs):
            loss = self._update(c, result, visit)
            del result  # otherwise its gradient would exist together with that of the next class
            if c in first:
                self.losses[c] = loss

    def _update(self, c: int, matched: Matched, visit: int) -> Tensor:
        """Take  S <- S - lr_S dL/dS  for a class, in place; return its loss, and note the norm of its gradient.

        Raises RunFailed if memory is exhausted: an update that may be half done cannot be repeated.
        """
        images = self.steps.objective.microbatch
        try:
            made = update_(
                self.recipe.rules,
                self._own[c],
                self._own_momentum[c],
                gradients=matched.gradient,
                finite=matched.finite[Quantity.LOSS],
                images=images,
            )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason, most = str(error).partition("\n")[0], images or len(self._own[c]["pixels"])
            raise RunFailed(
                f"out of memory on {self.placement.device} in the update of the pixels of class {c} "
                f"({reason}): set compute.microbatch below {most}, or a lower ipc or dataset.size, in a new output"
            ) from error
        self._note([c], [{**matched.finite, Quantity.UPDATE: made}], visit)
        self.squared_norms[c] = matched.squared_norm
        return matched.loss

    def _keep(self, labels: Sequence[int], stepped: Sequence[Stepped], visit: int) -> None:
        """Store the new state of classes."""
        for c, new in zip(labels, stepped, strict=True):
            for kept, tensors in ((self._own[c], new.learnt), (self._own_momentum[c], new.momentum)):
                for name, x in tensors.items():
                    kept[name].copy_(x)
        self._note(labels, [x.finite for x in stepped], visit)

    def _note(self, labels: Sequence[int], finite: Sequence[Mapping[Quantity, Tensor]], visit: int) -> None:
        """Note what was not finite in the step of classes."""
        for quantity in finite[0]:
            self.watch.note(quantity, labels, torch.stack([x[quantity] for x in finite]), visit)

    def _for_statistics(self, reads: Reads) -> dict[int, Tensor]:
        return {c: self.view.normalised(self.source.redeem(ticket)) for c, ticket in reads.statistics.items()}

    def _note_network(self, network: nn.Module, visit: int) -> None:
        self.watch.note(Quantity.NETWORK, [NO_CLASS], all_finite(network.state_dict().values())[None], visit)
