"""Sets of real images that are selected without a trained network, in the process that needs them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dist_condense.data.reading.source import ClassSource, LabelledImages
from dist_condense.selection.candidates import Candidates
from dist_condense.selection.table import Selection


def real_sets(
    selection: Selection,
    source: ClassSource,
    counts: Sequence[int],
    *,
    numbers: Sequence[int],
    seed: int,
    draws: int = 1,
) -> LabelledImages:
    """Return ``draws`` consecutive sets of real images, as stored; each set is sorted by class.

    :param source: source of all classes; a source that reads on demand reads only the selected images.
    :param counts: number of real images of each class.
    :param numbers: number of images to select of each class.
    :raises ValueError: a class has fewer images than are to be selected.
    """
    if few := [label for label, count in enumerate(counts) if count < numbers[label]]:
        raise ValueError(f"real_sets: classes {few} have fewer images than are to be selected; lower ipc.")

    def selected(label: int, count: int) -> Tensor:
        """Return the selected images ``[draws, ipc, C, H, W]`` of a class."""
        features, ipc = torch.empty(count, 0), numbers[label]
        every = (Candidates(label, features=features, ipc=ipc, seed=seed, draw=d) for d in range(draws))
        return torch.stack([source.get(label, selection.select(own)) for own in every])

    images = torch.cat([selected(label, count) for label, count in enumerate(counts)], 1).flatten(0, 1)
    return LabelledImages(images, torch.arange(len(counts)).repeat_interleave(torch.tensor(numbers)).repeat(draws))
