"""A linearly separable set: class 0 is bright on the left, class 1 on the right."""

import torch

from dist_condense.data.normalise import ChannelStatistics
from dist_condense.data.reading.source import LabelledImages
from dist_condense.evaluation.evaluate import Evaluation, TrainingSet

STATISTICS = ChannelStatistics((0.5,), (0.25,))


def labelled(per_class: int, seed: int) -> LabelledImages:
    labels = torch.arange(2).repeat_interleave(per_class)
    dim = torch.randint(0, 80, (2 * per_class, 1, 8, 8), generator=torch.Generator().manual_seed(seed))
    dim[:per_class, :, :, :4] += 160
    dim[per_class:, :, :, 4:] += 160
    return LabelledImages(dim.to(torch.uint8), labels)


def evaluation(**changes) -> Evaluation:
    train = labelled(8, 1)
    given = {
        "sets": {"bytes": TrainingSet(train.images, train.labels, epochs=6)},
        "test": labelled(20, 2),
        "statistics": STATISTICS,
        "classes": 2,
        "protocol": "dc",
    }
    return Evaluation(**{**given, **changes})
