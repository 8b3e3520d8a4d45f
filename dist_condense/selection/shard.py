"""State of a selection on one worker: the images selected from the classes that it owns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field

import torch
from torch import Tensor, nn

from dist_condense.data.normalise import to_values
from dist_condense.data.reading.read_ahead import ReadAhead
from dist_condense.data.space import Space
from dist_condense.engine.class_features import embeddings
from dist_condense.engine.coordinator import Placement
from dist_condense.selection.candidates import Candidates
from dist_condense.selection.table import Selection

NOT_YET = -1
"""Placeholder for the position of an image that is not selected yet."""


@dataclass
class SelectionShard:
    """Selected images of the classes ``labels``, which the worker owns.

    ``pixels[c]`` contains the selected images of class c as pixels of ``space``, float32 ``[ipc, C, H, W]``; in a space
    of image values (bytes divided by 255, floats unchanged) these are exactly the stored images. ``positions[c]``
    contains their positions within the class, int64 ``[ipc]``. Until class c is complete, its pixels are 0 and
    its positions -1.

    :param numbers: number of images to select of every class, owned or not.
    :param counts: number of real images of every class, owned or not.
    :param shape: (C, H, W) of an image.
    """

    selection: Selection
    labels: list[int]
    _: KW_ONLY
    seed: int
    numbers: Sequence[int]
    counts: Sequence[int]
    source: ReadAhead
    space: Space
    placement: Placement
    shape: tuple[int, int, int]
    pixels: dict[int, Tensor] = field(init=False)
    positions: dict[int, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.pixels = {c: torch.zeros(self.numbers[c], *self.shape) for c in self.labels}
        self.positions = {c: torch.full((self.numbers[c],), NOT_YET) for c in self.labels}

    def select(self, network: nn.Module, label: int) -> None:
        """Select the images of class ``label``; do nothing if another worker owns it."""
        if label not in self.pixels:
            return
        own = Candidates(label, features=self._features(network, label), ipc=self.numbers[label], seed=self.seed)
        self.positions[label] = self.selection.select(own)
        images = self.source.redeem(self.source.announce(label, self.positions[label]))
        self.pixels[label] = self.space.of(to_values(images.cpu()))

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of the images and positions of all owned classes, by ``NAME.LABEL``."""
        kept = {"pixels": self.pixels, "positions": self.positions}
        return {f"{name}.{c}": x.clone() for name, by_class in kept.items() for c, x in by_class.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the state of the owned classes; entries of other classes are ignored."""
        self.pixels = {c: state[f"pixels.{c}"] for c in self.labels}
        self.positions = {c: state[f"positions.{c}"] for c in self.labels}

    def _features(self, network: nn.Module, label: int) -> Tensor:
        count = self.counts[label]
        if not self.selection.features:
            return torch.empty(count, 0)
        every, statistics = torch.arange(count), self.space.statistics
        return embeddings(network, self.source, label, every, statistics=statistics, placement=self.placement).cpu()
