"""Operations and memory of an image, and kernels of a step, counted on tensors without data.

Nothing is computed or timed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dist_condense import networks
from dist_condense.core.objective import Examples
from dist_condense.planning.peak import peak
from dist_condense.planning.rates import Operations, Peak
from dist_condense.settings import assembly
from dist_condense.settings.config import RunConfig

IMAGES = 4, 8
"""Two numbers of images whose operations and memory are counted."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Operations and peak memory of the images of a run; None for work that the run does not do."""

    operations: Operations
    real: Peak | None = None
    synthetic: Peak | None = None
    training: Peak


ALLOCATIONS = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
"""Operators of torch that make tensors without computing them."""


class OperationCount(TorchDispatchMode):
    """Context manager that counts the operations of matrix products, convolutions and attention in it.

    The attribute ``total`` is the sum, and ``launches`` the number of operators of torch that compute something, each
    of which launches at least one kernel on a GPU. torch's ``FlopCounterMode`` has the same formulas, but refuses some
    nested gradients, and counts the weight gradient of a grouped convolution as if it had one group.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = self.launches = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        kind = func._overloadpacket
        self.launches += _launches(func)
        if kind == torch.ops.aten.convolution_backward:
            grad, images, weights, _, *geometry, needed = args
            each = flop_registry[torch.ops.aten.convolution](images, weights, None, *geometry, out_val=grad)
            self.total += each * sum(needed[:2])
        elif kind in flop_registry:
            self.total += flop_registry[kind](*args, **(kwargs or {}), out_val=result)
        return result


@functools.cache
def _launches(operator: Any) -> bool:
    """Return whether an operator writes values, rather than making a view, allocating memory or reading a shape."""
    schema = operator._schema
    is_view = any(x.alias_info is not None and not x.alias_info.is_write for x in schema.returns)
    makes = any("Tensor" in str(x.type) for x in schema.returns) and not is_view
    return bool(schema.is_mutable or (makes and schema.name.partition("::")[2] not in ALLOCATIONS))


@functools.lru_cache(maxsize=64)
def _of_network(
    text: str, *, channels: int, size: networks.Size, classes: int
) -> tuple[OperationCount, OperationCount, int]:
    """Return the counts of a forward pass, and of a forward and a backward pass, with their number of images."""
    height, width = (size, size) if isinstance(size, int) else size
    network = networks.sketch(text, channels=channels, size=size, classes=classes).to("meta").eval()
    images = torch.empty(IMAGES[0], channels, height, width, device="meta")
    labels = torch.zeros(IMAGES[0], dtype=torch.int64, device="meta")
    with OperationCount() as forward:
        network(images)
    with OperationCount() as training:
        _train(network, images, labels)
    return forward, training, len(images)


def of_network(text: str, *, channels: int, size: networks.Size, classes: int) -> Operations:
    """Count the operations of training and testing a network, which is built without weights.

    Raises the errors of :func:`dist_condense.networks.sketch`.
    """
    forward, training, images = _of_network(text, channels=channels, size=size, classes=classes)
    return Operations(forward=forward.total / images, training=training.total / images)


def launches_of_network(text: str, *, channels: int, size: networks.Size, classes: int) -> int:
    """Count the kernels of a forward and a backward pass and of a step of SGD.

    SGD is taken as one kernel for all tensors of a kind. Arguments and errors as for :func:`of_network`.
    """
    passes = _of_network(text, channels=channels, size=size, classes=classes)[1].launches
    network = networks.sketch(text, channels=channels, size=size, classes=classes).to("meta")
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3, foreach=True)
    for p in network.parameters():
        p.grad = torch.empty_like(p)
    for _ in range(2):  # the first step makes the momentum
        with OperationCount() as step:
            optimiser.step()
    return passes + step.launches


def of_run(config: RunConfig, dataset: Any, network: nn.Module, *, matches: bool) -> Counted:
    """Count the operations and the memory of an image of a run, as computed by one double backward.

    :param network: theta, with weights.
    :param matches: whether images are matched; otherwise theta is only trained.
    """
    shape, network = dataset.shape, network.eval()
    with FakeTensorMode(allow_non_fake_inputs=True):

        def examples(images: int) -> Examples:
            labels = torch.zeros(images, dtype=torch.int64)
            return {"images": torch.empty(images, *shape), "labels": labels}

        def train(images: int) -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=config.compute.autocast):
                _train(network, *examples(images).values())

        def statistic(images: int) -> list[torch.Tensor]:
            return objective.statistic(network, examples(images))

        def match(images: int) -> None:
            objective.match(network, examples(images), b)

        forward, _ = _counted(lambda images: network(examples(images)["images"]))
        training, memory = _counted(train)
        counted = Counted(operations=Operations(forward=forward, training=training), training=memory)
        if not matches:
            return counted
        objective = replace(assembly.objective_of(config), microbatch=0, compiled=False)
        b = statistic(1)
        (real, of_real), (synthetic, of_synthetic) = _counted(statistic), _counted(match)
        operations = replace(counted.operations, real=real, synthetic=synthetic)
        return replace(counted, operations=operations, real=of_real, synthetic=of_synthetic)


def _train(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    loss = nn.functional.cross_entropy(network(images).float(), labels)
    torch.autograd.grad(loss, [p for p in network.parameters() if p.requires_grad])


def _counted(work: Callable[[int], object]) -> tuple[float, Peak]:
    """Return the operations per image, and the peak memory, of a function of a number of images."""
    with OperationCount() as counted:
        memory = peak(work, IMAGES)
    return counted.total / sum(IMAGES), memory
