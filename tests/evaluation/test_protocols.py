"""The numbers of the published protocols."""

import pytest
import torch
from torch import nn

from dist_condense.engine.batches import Statistics
from dist_condense.evaluation.protocols import PROTOCOLS, imagenet_epochs, one_drop, protocol, two_drops
from dist_condense.evaluation.training import Course


@pytest.mark.parametrize(
    ("per_class", "ten", "hundred"),
    [
        (1, 3000, 2000),
        (2, 2000, 1300),
        (10, 2000, 1300),
        (11, 1500, 1000),
        (50, 1500, 1000),
        (51, 1000, 600),
        (200, 1000, 600),
        (201, 500, 300),
        (500, 500, 300),
        (501, 300, 200),
        (1300, 300, 200),
    ],
)
def test_epochs_on_imagenet(per_class, ten, hundred):
    assert (imagenet_epochs(per_class, 10), imagenet_epochs(per_class, 100)) == (ten, hundred)


def test_dc_drops_after_epoch_151_of_301():
    factors = [one_drop(epoch, 300) for epoch in range(300 + PROTOCOLS["dc"].extra_epochs)]
    assert factors == [1.0] * 152 + [0.1] * 149


def test_idc_drops_at_two_thirds_and_five_sixths():
    factors = [two_drops(epoch, 1000) for epoch in range(1000)]
    assert factors == pytest.approx([1.0] * 666 + [0.2] * 167 + [0.04] * 167)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dc", (0.01, 0.9, 5e-4, 256, 300, 0, 1)),
        ("dc_mnist", (0.01, 0.9, 5e-4, 256, 1000, 0, 1)),
        ("dc_batchnorm", (0.01, 0.9, 5e-4, 256, 1000, 0, 1)),
        ("dsa", (0.01, 0.9, 5e-4, 256, 1000, 0, 1)),
        ("dm", (0.01, 0.9, 5e-4, 256, 1000, 0, 1)),
        ("idc", (0.01, 0.9, 5e-4, 64, 1000, 0.5, 4)),
        ("idc_imagenet", (0.01, 0.9, 5e-4, 64, 2000, 1.0, 4)),
        ("idc_imagenet100", (0.1, 0.9, 1e-4, 128, 2000, 1.0, 4)),
    ],
)
def test_table(name, expected):
    p, labels = protocol(name), torch.arange(10).repeat(7)
    assert (
        p.lr,
        p.momentum,
        p.weight_decay,
        p.batch,
        p.epochs_for(labels),
        p.cutmix,
        p.evaluations,
    ) == expected


def test_an_unknown_protocol_lists_the_known_ones():
    with pytest.raises(ValueError, match="'idk': set it to one of dc, dc_mnist"):
        protocol("idk")


@pytest.mark.parametrize(("name", "kept"), [("dc", False), ("idc", True)])
def test_momentum_at_a_drop(name, kept):
    """DC starts a new optimiser, IDC keeps its own; both take the lower learning rate."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    images = torch.randn(4, 1, 4, 4)
    course = Course(
        network,
        PROTOCOLS[name],
        images.__getitem__,
        torch.tensor([0, 1, 0, 1]),
        Statistics((0.0,), (1.0,)),
        0,
        torch.device("cpu"),
    )
    course.run_epoch(0, 1.0)
    first = course.optimiser
    assert len(first.state) == 2
    course._set_factor(0.1)
    assert (course.optimiser is first) is kept
    assert bool(course.optimiser.state) is kept
    assert [group["lr"] for group in course.optimiser.param_groups] == pytest.approx([0.001])
