"""Values of the published protocols; their schedules are compared in tests/golden/test_evaluation.py."""

import pytest
import torch
from torch import nn

from dist_condense.data.normalise import ChannelStatistics
from dist_condense.evaluation.protocols import PROTOCOLS, REPLACED, imagenet_epochs, protocol
from dist_condense.evaluation.training import Course
from dist_condense.settings.config import from_dict
from dist_condense.settings.keys import refused


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


@pytest.mark.parametrize(
    ("architecture", "ipc", "factor", "epochs"),
    [
        ("densenet121", 50, 2, 400),
        ("densenet121:growth=12", 50, 3, 400),
        ("densenet121", 49, 2, 1000),
        ("densenet121", 50, 1, 1000),
        ("densenet121", 200, 1, 1000),  # as many images as 50 of factor 2
        ("densenet161", 50, 2, 1000),
        ("convnet", 50, 2, 1000),
    ],
)
def test_idc_trains_densenet_for_400_epochs_on_large_sets(architecture, ipc, factor, epochs):
    labels = torch.arange(10).repeat(ipc * factor**2)
    assert protocol("idc").epochs_for(labels, architecture, factor**2) == epochs
    assert protocol("idc_imagenet").epochs_for(labels, architecture, factor**2) == imagenet_epochs(ipc * factor**2, 10)
    assert protocol("dsa").epochs_for(labels, architecture, factor**2) == 1000


def test_the_whole_set_takes_300_epochs_with_idc():
    for name, p in PROTOCOLS.items():
        assert p.full_epochs == (300 if name.startswith("idc") else None)


FLIPPING = {"dsa", "dm", "idc", "idc_mnist_factor2", "idc_imagenet", "idc_imagenet100"}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_nothing_flips_where_the_data_set_does_not(name):
    """Images bright on the left and dark on the right, which only a flip reverses."""
    images = torch.ones(20, 3, 16, 16)
    images[..., 8:] = -1

    def turned(flip):
        augment, statistics = protocol(name, flip).augmentation, ChannelStatistics((0.5,) * 3, (0.5,) * 3)
        seen = torch.cat([augment(images, torch.Generator().manual_seed(seed), statistics) for seed in range(30)])
        return bool((seen[..., :8].mean((1, 2, 3)) < seen[..., 8:].mean((1, 2, 3))).any())

    assert turned(True) == (name in FLIPPING)
    assert not turned(False)


def test_idcs_exceptions_are_those_of_its_program():
    """As in `misc/reproduce.py`: color_crop_scale_rotate for MNIST, factor > 1; cutout for SVHN, ipc 1, factor 1."""
    mnist, svhn = protocol("idc_mnist_factor2", flip=False), protocol("idc_svhn_ipc1", flip=False)
    for p, always in ((mnist, {"color"}), (svhn, {"color", "cutout"})):
        assert (set(p.augmentation.strategy.always), p.cutmix) == (always, 0)
        assert set(p.augmentation.strategy.one_of) == {"crop", "scale", "rotate"}


@pytest.mark.parametrize(("name", "now"), REPLACED.items())
def test_a_protocol_of_before_is_told_what_to_use_now(name, now):
    assert now in PROTOCOLS
    with pytest.raises(ValueError, match=f"{name!r}: set it to one of dc, .* {now} does the same now"):
        protocol(name)
    (said,) = refused(from_dict({"evaluation.protocol": name})).values()
    assert said.startswith(f"evaluation.protocol: {name!r} is not one of dc, ")
    assert said.endswith(f"; set {now} instead, which does the same now")


def test_an_unknown_protocol_lists_the_known_ones():
    with pytest.raises(ValueError, match="'idk': set it to one of dc, dc_mnist"):
        protocol("idk")


@pytest.mark.parametrize(("name", "kept"), [("dc", False), ("idc", True)])
def test_momentum_at_a_drop(name, kept):
    """DC starts a new optimiser and IDC keeps it; both use the lower learning rate."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    images = torch.randn(4, 1, 4, 4)
    course = Course(
        network=network,
        protocol=PROTOCOLS[name],
        images=images.__getitem__,
        labels=torch.tensor([0, 1, 0, 1]),
        statistics=ChannelStatistics((0.0,), (1.0,)),
        seed=0,
        device=torch.device("cpu"),
    )
    course.run_epoch(0, 1.0)
    first = course.optimiser
    assert len(first.state) == 2
    course._set_factor(0.1)
    assert (course.optimiser is first) is kept
    assert bool(course.optimiser.state) is kept
    assert [group["lr"] for group in course.optimiser.param_groups] == pytest.approx([0.001])
