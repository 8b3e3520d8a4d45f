"""Data sets, read class by class: images, labels and normalisation constants; independent of condensation methods."""

from dist_condense.data.catalogue import names, open_dataset
from dist_condense.data.image_set import ClassName, ImageSet
from dist_condense.data.normalise import ChannelStatistics, to_values
from dist_condense.data.reading.source import ClassSource, LabelledImages, MemorySource
from dist_condense.data.reading.tiers import Reading
from dist_condense.data.sets.subsets import SUBSETS
from dist_condense.system.errors import DataError

__all__ = [
    "SUBSETS",
    "ChannelStatistics",
    "ClassName",
    "ClassSource",
    "DataError",
    "ImageSet",
    "LabelledImages",
    "MemorySource",
    "Reading",
    "names",
    "open_dataset",
    "to_values",
]
