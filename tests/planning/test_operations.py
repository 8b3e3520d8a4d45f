"""Operations and memory of an image, counted without computing it."""

from dataclasses import replace

import pytest
import torch

from dist_condense.planning.images import assumed
from dist_condense.planning.operations import OperationCount, of_network, of_run
from dist_condense.planning.peak import peak
from dist_condense.settings import assembly
from dist_condense.settings.config import load

CONVNET = 2 * (3 * 9 * 128 * 32**2 + 128 * 9 * 128 * (16**2 + 8**2) + 128 * 16 * 10)
"""Operations of ConvNet-3 at 32 px: three convolutions of 3 x 3, each before a pooling, and the classifier."""


def counted(name, *keys, matches=True):
    config = load(f"configs/{name}.yaml", keys)
    data = assumed(config, None, None)
    return of_run(config, data, assembly.network_builder(config, data)(0), matches=matches)


def test_a_gradient_costs_three_passes_and_its_pull_back_eight():
    """It is a little less, because the first layer needs no gradient with respect to its input."""
    found = counted("cifar10_idc").operations
    assert found.forward == CONVNET
    assert found.training == 3 * CONVNET - 2 * 3 * 9 * 128 * 32**2
    assert found.real == found.training - 2 * 128 * 16 * 10  # IDC's statistic: convolutions only
    assert 7.5 * CONVNET < found.synthetic < 8 * CONVNET


def test_a_feature_costs_one_pass_and_two_for_its_gradient():
    found = counted("cifar10_dm").operations
    features = CONVNET - 2 * 128 * 16 * 10
    assert (found.real, found.synthetic) == (features, 2 * features)  # no gradient of a weight


def test_the_convolutions_of_groups_cost_their_own_part():
    """The published count of the weight gradient ignores groups."""
    grouped = torch.nn.Conv2d(64, 64, 3, groups=64, device="meta")
    with OperationCount() as found:
        images = torch.empty(2, 64, 12, 12, device="meta", requires_grad=True)
        grouped(images).sum().backward()
    assert found.total == 3 * 2 * (2 * 64 * 9 * 10 * 10)


def test_what_computes_nothing_launches_nothing():
    x, y = torch.ones(4), torch.ones(4)
    with OperationCount() as found:
        torch.empty(3), x.view(2, 2).t().detach(), torch.empty_like(x)
    assert found.launches == 0
    with OperationCount() as found:
        x + y, x.add_(1), torch._foreach_add_([x, y], 1.0), x.clone(), x.sum()
    assert found.launches == 5


def test_the_memory_is_that_of_the_computation():
    """Fake tensors are as large as those that are computed."""
    config = load("configs/cifar10_idc.yaml", ["network.width=16", "compute.autocast=false"])
    data = assumed(config, None, None)
    network = assembly.network_builder(config, data)(0)
    objective = replace(assembly.objective_of(config), microbatch=0, compiled=False)

    def examples(images):
        return {"images": torch.zeros(images, 3, 32, 32), "labels": torch.zeros(images, dtype=torch.int64)}

    b = objective.statistic(network, examples(1))
    found = of_run(config, data, network, matches=True)
    assert found.real == peak(lambda n: objective.statistic(network, examples(n)))
    computed = peak(lambda n: objective.match(network, examples(n), b))
    assert found.synthetic.image == computed.image and found.synthetic.base == pytest.approx(computed.base, rel=0.01)


def test_autocast_needs_less_memory_and_the_same_operations():
    full, half = (counted("cifar10_idc", f"compute.autocast={x}") for x in ("false", "true"))
    assert half.operations == full.operations and half.synthetic.image < 0.8 * full.synthetic.image
    assert counted("cifar10_idc", matches=False).synthetic is None


def test_other_architectures_are_counted_at_their_size():
    small, large = (of_network("convnet:width=32", channels=3, size=n, classes=10) for n in (32, 64))
    assert 3.9 < large.forward / small.forward < 4.1 and 2.6 < small.training / small.forward < 3
    with pytest.raises(ValueError, match="depth"):
        of_network("convnet:depth=9", channels=3, size=32, classes=10)
    assert of_network("mlp", channels=1, size=(8, 4), classes=2).forward == 2 * (32 * 128 + 128 * 128 + 128 * 2)
