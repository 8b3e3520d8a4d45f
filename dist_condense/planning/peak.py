"""Peak memory by the number of images in the network at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dist_condense.planning.rates import Peak
from dist_condense.system.peak_bytes import PeakBytes


def peak(use: Callable[[int], object], counts: Sequence[int] = (4, 8)) -> Peak:
    """Fit a linear function to the peak bytes of ``use(images)``, counted at two numbers of images.

    :param counts: the two numbers, the smaller first.
    """
    few, many = counts
    low, high = (_bytes(use, n) for n in counts)
    image = (high - low) / (many - few)
    return Peak(max(0.0, high - many * image), image)


def _bytes(use: Callable[[int], object], images: int) -> int:
    with PeakBytes() as counted:
        use(images)
    return counted.most
