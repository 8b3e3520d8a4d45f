"""Programs of a matching step on a device that may have too little memory: fewer images at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dist_condense.core.image_rule import ImageRule, Learnt
from dist_condense.core.objective import Objective
from dist_condense.core.program import Branches, CannotCapture, Captured, Record, compiled, cuda_graph
from dist_condense.engine.errors import RunFailed
from dist_condense.engine.matching.alone import Matched, Step, Stepped, Whole
from dist_condense.engine.matching.draws import Drawn
from dist_condense.engine.matching.two_passes import TwoPasses
from dist_condense.engine.matching.view import View

log = logging.getLogger(__name__)
T = TypeVar("T")
Pair = tuple[list[Tensor], list[Tensor]]
"""Statistics of the synthetic and of the real images of a class."""
ALLOCATORS = ("DefaultCPUAllocator", "ALLOC_FAILED", "out of memory")
"""Words in the text of a RuntimeError by which torch reports that memory is exhausted, besides its own class of errors:
its allocator on CPUs, cuDNN and cuBLAS, CUDA and Triton."""


@dataclass
class Halving:
    """The steps of classes that are groups of their own, and the two passes of the classes of other groups.

    When memory is exhausted, with a warning and for the rest of the process, the microbatch is halved, once; then the
    steps of the classes, or the pass, are computed again with the same draws. The microbatch changes the last bits of
    the result. This takes place on this worker alone; no other worker needs to know, because they exchange only
    statistics of whole classes. Memory that is exhausted during a capture ends the run (:class:`CannotCapture`).

    :param objective: objective with the current microbatch. If it is compiled, a step without microbatches is compiled
        as a whole.
    :param rules: update rule of each learnt tensor, by name.
    :param captured: number of classes whose steps are captured together in a CUDA graph; each pass is captured in
        another. 0: no graphs.
    :param record: how programs are captured.
    """

    objective: Objective
    view: View
    rules: Mapping[str, ImageRule]
    _: KW_ONLY
    captured: int = 0
    record: Record = cuda_graph
    step: Step = field(init=False)
    """Step of a class as it is, neither compiled nor captured."""
    _most: int = field(default=0, init=False)
    """Largest number of images of a class, real or decoded, so far."""
    _is_halved: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._build()

    def _build(self) -> None:
        objective = self.objective
        passes = TwoPasses(objective, self.view)
        as_one = objective.compiled and not objective.microbatch
        plain = replace(objective, compiled=False) if as_one else objective
        self.step = Step((Whole if objective.at_once else TwoPasses)(plain, self.view), self.rules)
        branches = Branches(compiled(self.step.__call__, "the step of a class") if as_one else self.step)
        form: Callable[[Any], Any] = partial(Captured, record=self.record) if self.captured else _unchanged
        self._steps: Callable[..., list[Stepped]] = form(branches)
        self._statistics: Callable[..., Pair] = form(passes.statistics)
        self._pull_back: Callable[..., Learnt] = form(passes.pull_back)

    def __call__(
        self,
        network: nn.Module,
        learnt: Sequence[Learnt],
        momentum: Sequence[Learnt],
        stored: Sequence[Tensor],
        drawn: Sequence[Drawn],
    ) -> list[Stepped]:
        """Return the state after the step of each of some classes that are groups of their own."""
        for each in zip(learnt, stored, drawn, strict=True):
            self._note(*each)
        return self._fitting(lambda: self._steps(network, learnt, momentum, stored, drawn))

    @property
    def at_once(self) -> int:
        """Number of classes whose steps are computed together."""
        return self.captured or 1

    @property
    def in_parts(self) -> bool:
        """Whether classes take their steps by :meth:`match` and an update in place, with memory for a microbatch.

        All other steps return new tensors, as a program does that is compiled as a whole or captured.
        """
        return self.objective.microbatch > 0 and not self.captured

    def match(self, network: nn.Module, learnt: Learnt, stored: Tensor, drawn: Drawn) -> Matched:
        """Return the result of the matching step of one class that is a group of its own."""
        self._note(learnt, stored, drawn)
        return self._fitting(lambda: self.step.match(network, learnt, stored, drawn))

    def statistics(self, network: nn.Module, learnt: Learnt, stored: Tensor, drawn: Drawn) -> Pair:
        """Return phi of the synthetic and of the real examples."""
        self._note(learnt, stored, drawn)
        return self._fitting(lambda: self._statistics(network, learnt, stored, drawn))

    def pull_back(self, network: nn.Module, learnt: Learnt, drawn: Drawn, v: Sequence[Tensor]) -> Learnt:
        """Return the gradient of <phi(synthetic examples), v> with respect to the learnt tensors, by name."""
        return self._fitting(lambda: self._pull_back(network, learnt, drawn, v))

    def _note(self, learnt: Learnt, stored: Tensor, drawn: Drawn) -> None:
        self._most = max(self._most, len(stored), self.view.count(learnt, drawn))

    def _fitting(self, compute: Callable[[], T]) -> T:
        """Return the result of ``compute``, if necessary with half of the microbatch.

        Raises RunFailed if half is too much as well.
        """
        try:
            return compute()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0]
        self._shrink(reason)  # not in the handler, where the error keeps the tensors of the failed pass
        return self._fitting(compute)

    def _shrink(self, reason: str) -> None:
        """Halve the microbatch, with a warning. Raises RunFailed if that is not possible."""
        place, images = self.view.mean.device, self.objective.microbatch or self._most
        if self._is_halved or images < 2:
            raise RunFailed(
                f"out of memory on {place} in a matching step with {images} images in the network at once ({reason}): "
                f"set compute.microbatch below {images}, compute.autocast=true, or a lower dataset.size or "
                "network.width in a new output; dist-condense plan estimates what fits"
            )
        less, self._is_halved = images // 2, True
        self.objective = replace(self.objective, microbatch=less)
        self._build()
        torch.cuda.empty_cache()
        log.warning(
            f"out of memory on {place} in a matching step with {images} images in the network at once; continuing with "
            f"{less}, which changes the last bits of the result. Set compute.microbatch={less} in a new output to "
            f"start with it ({reason})"
        )


def _unchanged(function: T) -> T:
    return function


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that the memory of the device, or of this machine, is exhausted.

    False if that happened during a capture, after which this process cannot continue.
    """
    if isinstance(error, CannotCapture):
        return False
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in ALLOCATORS)
