"""Sets that nobody learnt: the rows that a condensed set is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dist_condense.core import randomness
from dist_condense.data.source import ClassSource, LabelledImages


def random_set(source: ClassSource, counts: Sequence[int], ipc: int, seed: int) -> LabelledImages:
    """``ipc`` real images of every class, drawn without replacement by (seed, class); uint8, class after class.

    :param counts: real images of each class.
    """
    few = [label for label, count in enumerate(counts) if count < ipc]
    if few:
        raise ValueError(f"random_set: ipc is {ipc}, but classes {few} have fewer images; lower ipc.")
    drawn = [randomness.permutation(count, seed, "random set", label)[:ipc] for label, count in enumerate(counts)]
    images = torch.cat([source.get(label, positions) for label, positions in enumerate(drawn)])
    return LabelledImages(images, torch.arange(len(counts)).repeat_interleave(ipc))
