"""Images that represent a class: those nearest to the centres of k-means of their features."""

from __future__ import annotations

import torch
from torch import Tensor

ITERATIONS = 15
"""Number of iterations of Lloyd's algorithm. With 5,000 images of CIFAR-10, 2,048 features of a ConvNet-3 and 64
clusters, the mean squared distance to the nearest centre falls from 345 to 197.6 in these, and to 197.2 in 15 more.
"""


def nearest_to_centres(features: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Return the rows of ``features`` ``[n, d]`` that are nearest to the centres of ``number`` clusters.

    The centres start from different random rows and take :data:`ITERATIONS` iterations of Lloyd's algorithm, on the
    device of the features and without waiting for it; a cluster that loses all its rows keeps its centre. Centres that
    share their nearest row return it repeatedly. If ``n <= number``, each row is returned once.

    :returns: int64 ``[min(n, number)]`` on the CPU, in no particular order.
    """
    if len(features) <= number:
        return torch.arange(len(features))
    centres = features[torch.randperm(len(features), generator=generator)[:number].to(features.device)]
    for _ in range(ITERATIONS):
        members = torch.zeros(len(features), number, dtype=features.dtype, device=features.device)
        members.scatter_(1, _distances(features, centres).argmin(1, keepdim=True), 1)  # a product adds in a fixed order
        sizes = members.sum(0)[:, None]
        centres = torch.where(sizes > 0, members.T @ features / sizes.clamp(min=1), centres)
    return (_distances(features, centres) + features.square().sum(1, keepdim=True)).argmin(0).cpu()


def _distances(features: Tensor, centres: Tensor) -> Tensor:
    """Return the squared distances from rows to centres ``[n, k]``, less the squared norm of each row."""
    return centres.square().sum(1) - 2 * features @ centres.T
