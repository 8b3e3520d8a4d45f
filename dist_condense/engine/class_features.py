"""Mean features of classes, for groupings that the data decide (k-means superclasses)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from dist_condense.core.grouping import Partition, from_labels
from dist_condense.data.normalise import ChannelStatistics, to_values
from dist_condense.data.reading.source import ClassSource
from dist_condense.engine.coordinator import Coordinator, Placement

IMAGES = 128


@torch.no_grad()
def class_features(
    network: nn.Module,
    source: ClassSource,
    labels: Sequence[int],
    counts: Sequence[int],
    statistics: ChannelStatistics,
    coordinator: Coordinator,
    placement: Placement,
    shape: tuple[int, int, int],
) -> Tensor:
    """Mean embedding ``[classes, features]`` of the first images of every class, the same on every worker."""
    network = network.to(placement.device, placement.dtype).eval()
    width = network.embed(torch.zeros(1, *shape, device=placement.device, dtype=placement.dtype)).shape[1]  # type: ignore[operator]
    means = torch.zeros(len(counts), width, dtype=placement.dtype, device=placement.device)
    for c in labels:
        raw = source.get(c, torch.arange(min(counts[c], IMAGES))).to(placement.device)
        images = statistics.normalise(to_values(raw, placement.dtype))
        means[c] = network.embed(images).mean(0)  # type: ignore[operator]
    return coordinator.fill(means).cpu()


def kmeans_partition(features: Tensor, number: int, seed: int) -> Partition:
    """``number`` groups of classes whose mean features are near each other."""
    fitted = KMeans(number, random_state=seed % 2**32, n_init=10).fit(features.double().numpy())
    return from_labels(fitted.labels_.tolist())
