"""Herding (Welling 2009): a few images whose mean feature follows that of their class."""

from __future__ import annotations

import torch
from torch import Tensor

from dist_condense.selection.candidates import Candidates

BLOCK = 1024
"""Images whose distances are computed at once, so that no second copy of the features in float64 is made."""


def herding(candidates: Candidates) -> Tensor:
    """Choose greedily the image x that minimises ``|| (k + 1) mu - sum of the k chosen - x ||``.

    mu is the mean feature of the class. Each image is chosen at most once; of equally near ones the first is taken.
    Sums and distances are float64. Memory is O(N d), the features of one class, and time O(ipc N d). The DeepCore
    library takes the farthest image instead (argmax of the distance), which is another selection.
    """
    features, ipc = candidates.features, candidates.ipc
    mean = torch.stack([part.double().sum(0) for part in features.split(BLOCK)]).sum(0) / len(features)
    target, taken = mean.clone(), torch.zeros(len(features), dtype=torch.bool)
    chosen = []
    for _ in range(ipc):
        nearest = int(_squared_distances(features, target).masked_fill(taken, torch.inf).argmin())
        chosen.append(nearest)
        taken[nearest] = True
        target += mean - features[nearest].double()
    return torch.tensor(chosen)


def _squared_distances(features: Tensor, target: Tensor) -> Tensor:
    """Of each row; computed row by row, so that equal rows have equal distances to the last bit."""
    return torch.cat([(target - part.double()).square().sum(1) for part in features.split(BLOCK)])
