"""Sets of real images that are selected without a trained network, in the process that needs them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dist_condense.data.reading.source import ClassSource, LabelledImages
from dist_condense.selection.candidates import Candidates
from dist_condense.selection.table import Selection


def real_sets(
    selection: Selection, source: ClassSource, counts: Sequence[int], *, ipc: int, seed: int, draws: int = 1
) -> LabelledImages:
    """Return ``draws`` consecutive sets of ``ipc`` real images per class, as stored; each set is sorted by class.

    :param source: source of all classes; a source that reads on demand reads only the selected images.
    :param counts: number of real images of each class.
    :raises ValueError: a class has fewer images than ``ipc``.
    """
    if few := [label for label, count in enumerate(counts) if count < ipc]:
        raise ValueError(f"real_sets: ipc is {ipc}, but classes {few} have fewer images; lower ipc.")

    def selected(label: int, count: int) -> Tensor:
        """Return the selected images ``[draws, ipc, C, H, W]`` of a class."""
        every = (Candidates(label, features=torch.empty(count, 0), ipc=ipc, seed=seed, draw=d) for d in range(draws))
        return torch.stack([source.get(label, selection.select(own)) for own in every])

    images = torch.stack([selected(label, count) for label, count in enumerate(counts)], 1).flatten(0, 2)
    return LabelledImages(images, torch.arange(len(counts)).repeat_interleave(ipc).repeat(draws))
