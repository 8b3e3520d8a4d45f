"""Features of real images: one per image for selections, and one mean per class for groupings by k-means."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dist_condense.core.grouping import Partition, from_labels
from dist_condense.data.normalise import ChannelStatistics, to_values
from dist_condense.data.reading.read_ahead import ReadAhead
from dist_condense.data.reading.source import ClassSource
from dist_condense.engine.coordinator import Coordinator, Placement

IMAGES = 128
"""Number of images in one pass through the network, and maximum number of images in the mean feature of a class."""


@torch.no_grad()
def embeddings(
    network: nn.Module,
    source: ReadAhead,
    label: int,
    positions: Tensor,
    *,
    statistics: ChannelStatistics,
    placement: Placement,
    autocast: bool = False,
) -> Tensor:
    """Return the features of images of a class, ``[n, d]`` on the device, without augmentation.

    Images are streamed; only the features stay in memory.

    :param network: network in evaluation mode.
    :param positions: positions of the images within the class, int64 ``[n]``.
    :param autocast: whether the network computes in bfloat16.
    """
    tickets = [source.announce(label, part) for part in positions.split(IMAGES)]
    with torch.autocast(placement.device.type, torch.bfloat16, enabled=autocast):
        parts = [_embed(network, source.redeem(ticket), statistics, placement) for ticket in tickets]
    return torch.cat(parts).to(placement.dtype)


def _embed(network: nn.Module, raw: Tensor, statistics: ChannelStatistics, placement: Placement) -> Tensor:
    images = statistics.normalise(to_values(raw.to(placement.device), placement.dtype))
    embedded: Tensor = network.embed(images)  # type: ignore[operator]
    return embedded


@torch.no_grad()
def class_features(
    network: nn.Module,
    source: ClassSource,
    labels: Sequence[int],
    *,
    counts: Sequence[int],
    statistics: ChannelStatistics,
    coordinator: Coordinator,
    placement: Placement,
    shape: tuple[int, int, int],
) -> Tensor:
    """Return the mean embedding of every class, ``[classes, features]`` on the CPU, equal on all workers.

    The mean is taken over the first images of a class, at most :data:`IMAGES`.
    """
    network = network.to(placement.device, placement.dtype).eval()
    width = network.embed(torch.zeros(1, *shape, device=placement.device, dtype=placement.dtype)).shape[1]  # type: ignore[operator]
    means = torch.zeros(len(counts), width, dtype=placement.dtype, device=placement.device)
    for c in labels:
        raw = source.get(c, torch.arange(min(counts[c], IMAGES)))
        means[c] = _embed(network, raw, statistics, placement).mean(0)
    return coordinator.fill(means).cpu()


def kmeans_partition(features: Tensor, number: int, seed: int) -> Partition:
    """Cluster the classes into ``number`` groups by their mean features."""
    from sklearn.cluster import KMeans

    fitted = KMeans(number, random_state=seed % 2**32, n_init=10).fit(features.double().numpy())
    return from_labels(fitted.labels_.tolist())
