"""Running averages of BatchNorm, computed from images that are spread over workers.

Before each matching step, DC's program makes one forward in training mode over 16 real images of every class; it then
matches in evaluation mode. Here, the layers are processed one by one in the order of execution. For each layer, every
worker streams the images of its own classes through the network, in which the earlier layers already normalise with the
statistics of the whole batch. The sums of x and x^2 per class are added exactly, so the result does not depend on which
worker owns a class. This costs one forward per layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dist_condense.engine.coordinator import Coordinator
from dist_condense.networks import batch_norms


@torch.no_grad()
def refresh_running_statistics(
    network: nn.Module, images: Callable[[], Mapping[int, Tensor]], classes: int, coordinator: Coordinator
) -> None:
    """Update the running averages of BatchNorm once, with the images of all classes as one batch.

    Each layer uses its own momentum (torch's default: 0.1).

    :param images: function that returns ``{label: [n, C, h, w]}`` for the owned classes; not called without BatchNorm.
    :param classes: number of classes over all workers.
    """
    layers = [cast(_BatchNorm, layer) for _, layer in batch_norms(network)]
    if not layers:
        return
    network.eval()
    own = images()
    before = {id(layer): (layer.running_mean.clone(), layer.running_var.clone()) for layer in layers}  # type: ignore[union-attr]
    corrected = {}
    for layer in _execution_order(network, layers, own, coordinator):
        sums = _layer_sums(network, layer, own, classes=classes, coordinator=coordinator)
        features = layer.num_features
        mean, square = sums[:features] / sums[-1], sums[features:-1] / sums[-1]
        variance = square - mean**2
        layer.running_mean.copy_(mean)  # type: ignore[union-attr]
        layer.running_var.copy_(variance)  # type: ignore[union-attr]
        corrected[id(layer)] = (mean, variance * sums[-1] / (sums[-1] - 1))
    for layer in layers:
        momentum = 0.1 if layer.momentum is None else layer.momentum
        for buffer, old, new in zip(
            (layer.running_mean, layer.running_var), before[id(layer)], corrected[id(layer)], strict=True
        ):
            buffer.copy_((1 - momentum) * old + momentum * new)  # type: ignore[union-attr]


def _layer_sums(
    network: nn.Module, layer: _BatchNorm, own: Mapping[int, Tensor], *, classes: int, coordinator: Coordinator
) -> Tensor:
    """Return the sums of a layer's input and of its square, and the count, over all classes.

    The result is float64 ``[2 * features + 1]``.
    """
    parts: list[tuple[int, Tensor]] = []

    def collect(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].to(torch.float64).transpose(0, 1).flatten(1)
        count = torch.full((1,), x.shape[1], dtype=torch.float64, device=x.device)
        parts.append((0, torch.cat([x.sum(1), x.square().sum(1), count])))

    hook = layer.register_forward_pre_hook(collect)
    try:
        for batch in own.values():
            network(batch)
    finally:
        hook.remove()
    total = torch.zeros(1, 2 * layer.num_features + 1, dtype=torch.float64, device=layer.running_mean.device)  # type: ignore[union-attr]
    return coordinator.sum(parts, total, terms=classes)[0]


def _execution_order(
    network: nn.Module, layers: list[_BatchNorm], own: Mapping[int, Tensor], coordinator: Coordinator
) -> list[_BatchNorm]:
    """Return the layers in the order of execution; a worker without classes receives it from another worker."""
    order: list[int] = []
    hooks = [layer.register_forward_pre_hook(lambda *_, i=i: order.append(i)) for i, layer in enumerate(layers)]
    try:
        for batch in list(own.values())[:1]:
            network(batch[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return [layers[i] for i in max(coordinator.gather(order), key=len)]
