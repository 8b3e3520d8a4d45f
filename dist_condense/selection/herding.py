"""Herding (Welling 2009): selection of a few images whose mean feature approximates the mean feature of their class."""

from __future__ import annotations

import torch
from torch import Tensor

from dist_condense.selection.candidates import Candidates

BLOCK = 1024
"""Number of images converted to float64 at once, so that no float64 copy of all features is made."""


def herding(candidates: Candidates) -> Tensor:
    """Select images greedily; after k images, the next one minimises ``||(k + 1) mu - s - x||``.

    Here mu is the mean feature of the class, s the sum of the k selected features, and x the feature of the image. Each
    image is selected at most once, and the first of equally near images is selected. Sums and distances are float64.
    Memory is O(N d), the features of one class, and time O(ipc N d). The DeepCore library selects the farthest image
    instead (argmax of the distance), which gives another selection.
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
    """Return the squared distance ``[N]`` of each row to ``target``; equal rows have bitwise equal distances."""
    return torch.cat([(target - part.double()).square().sum(1) for part in features.split(BLOCK)])
