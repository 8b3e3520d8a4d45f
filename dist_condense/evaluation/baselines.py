"""Sets that nobody learnt: the rows that a condensed set is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dist_condense.core import randomness
from dist_condense.data.reading.source import ClassSource, LabelledImages


def random_sets(source: ClassSource, counts: Sequence[int], ipc: int, seeds: Sequence[int]) -> LabelledImages:
    """A set of ``ipc`` real images of every class for each seed, one set after the other; uint8.

    A set is drawn without replacement by (seed, class) and stands class after class.

    :param source: of all classes; one that reads on demand reads only what is drawn.
    :param counts: real images of each class.
    """
    few = [label for label, count in enumerate(counts) if count < ipc]
    if few:
        raise ValueError(f"random_sets: ipc is {ipc}, but classes {few} have fewer images; lower ipc.")
    by_class = []
    for label, count in enumerate(counts):
        drawn = [randomness.permutation(count, seed, "random set", label)[:ipc] for seed in seeds]
        by_class.append(torch.stack([source.get(label, positions) for positions in drawn]))  # [seeds, ipc, C, h, w]
    images = torch.stack(by_class, 1).flatten(0, 2)
    return LabelledImages(images, torch.arange(len(counts)).repeat_interleave(ipc).repeat(len(seeds)))
