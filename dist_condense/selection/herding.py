"""Herding (Welling 2009): a few images whose mean feature follows the mean feature of their class."""

from __future__ import annotations

import torch
from torch import Tensor

from dist_condense.selection.candidates import Candidates

BLOCK = 1024
"""Images whose distances are computed at once, so that no second copy of the features in float64 is made."""


def herding(candidates: Candidates) -> Tensor:
    """Select greedily the image x that minimises ``|| (k + 1) mu - sum of the k selected - x ||``.

    mu is the mean feature of the class. Each image is selected at most once; of equally near images the first is
    selected. Sums and distances are float64. Memory is O(N d), the features of one class, and time O(ipc N d). The
    DeepCore library takes the farthest image instead (argmax of the distance), which is another selection.
    """
    features, ipc = candidates.features, candidates.ipc
    mean = torch.stack([part.double().sum(0) for part in features.split(BLOCK)]).sum(0) / len(features)
    target, taken = mean.clone(), torch.zeros(len(features), dtype=torch.bool)
    selected = []
    for _ in range(ipc):
        nearest = int(_squared_distances(features, target).masked_fill(taken, torch.inf).argmin())
        selected.append(nearest)
        taken[nearest] = True
        target += mean - features[nearest].double()
    return torch.tensor(selected)


def _squared_distances(features: Tensor, target: Tensor) -> Tensor:
    """Return the squared distance of each row, computed row by row, so that equal rows have bitwise equal distances."""
    return torch.cat([(target - part.double()).square().sum(1) for part in features.split(BLOCK)])
