"""The catalogue: every network builds, is drawn from its seed alone, and treats images as its norm says."""

import math
import sys
from typing import Any

import pytest
import torch
from torch import nn

from dist_condense import networks
from dist_condense.networks.norms import InstanceNorm

TINY: dict[str, dict[str, object]] = {
    "convnet": {"width": 8},
    "resnet10_ap": {"width": 4},
    "resnet18_ap": {"width": 4},
    "resnet10_cifar": {"width": 4},
    "resnet18_cifar": {"width": 4},
    "mlp": {"width": 8},
    "lenet": {},
    "alexnet": {"width": 8},
    "vgg11": {"width": 4},
    "densenet121": {"growth": 4},
    "resnet18": {},
    "efficientnet_b0": {},
}
IMAGES = [(1, 28), (3, 32), (3, 64)]
WITH_NORM = [name for name in TINY if "norm" in networks.options(name)]


def tiny(name: str, channels: int = 3, size: int = 32, seed: int = 0, **options: object) -> networks.Network:
    return networks.build(name, channels=channels, size=size, classes=5, seed=seed, **{**TINY[name], **options})


def per_image(name: str) -> dict[str, Any]:
    """The option for a norm of each image alone, where the network has norms."""
    return {"norm": "instance"} if name in WITH_NORM else {}


def images(count: int, channels: int = 3, size: int = 32) -> torch.Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def test_every_network_is_tested() -> None:
    assert networks.names() == list(TINY)


@pytest.mark.parametrize("name", networks.names())
@pytest.mark.parametrize(("channels", "size"), IMAGES)
def test_forward_is_classifier_of_embed(name: str, channels: int, size: int) -> None:
    network = tiny(name, channels, size).eval()
    x = images(2, channels, size)
    with torch.no_grad():
        features = network.embed(x)
        assert features.dim() == 2
        assert network(x).shape == (2, 5)
        assert torch.equal(network(x), network.classifier(features))


@pytest.mark.parametrize(("name", "options"), [("resnet10_ap", {"width": 4}), ("resnet18", {})])
def test_imagenet_size(name: str, options: dict[str, object]) -> None:
    network = networks.build(name, channels=3, size=224, classes=5, seed=0, **options).eval()
    with torch.no_grad():
        assert network(images(1, size=224)).shape == (1, 5)


@pytest.mark.parametrize("name", networks.names())
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    before = torch.get_rng_state()
    first, again, other = tiny(name, seed=2**63 - 1), tiny(name, seed=2**63 - 1), tiny(name, seed=4)
    assert torch.equal(before, torch.get_rng_state())
    weights = [nn.utils.parameters_to_vector(network.parameters()) for network in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seed_out_of_range(seed: int) -> None:
    with pytest.raises(ValueError, match="less than 2"):
        tiny("mlp", seed=seed)


@pytest.mark.parametrize("name", [name for name in networks.names() if name not in ("efficientnet_b0", "resnet18")])
def test_a_batch_equals_its_images_alone(name: str) -> None:
    network = tiny(name, **per_image(name)).double()
    x = images(2).double()
    assert networks.batch_norms(network) == []
    with torch.no_grad():
        torch.testing.assert_close(network(x), torch.cat([network(x[:1]), network(x[1:])]))


@pytest.mark.parametrize("name", WITH_NORM)
def test_batch_norms_are_found(name: str) -> None:
    assert networks.batch_norms(tiny(name, norm="batch"))


@pytest.mark.parametrize("name", networks.names())
def test_gradient_of_a_gradient(name: str) -> None:
    network = tiny(name, size=64, **(per_image(name) if name != "efficientnet_b0" else {}))
    x = images(2, size=64).requires_grad_()
    gradients = torch.autograd.grad(network(x).square().sum(), list(network.parameters()), create_graph=True)
    loss = torch.stack([gradient.square().sum() for gradient in gradients]).sum()
    (pixels,) = torch.autograd.grad(loss, x)
    assert pixels.isfinite().all() and pixels.abs().sum() > 0


@pytest.mark.parametrize("activation", ["sigmoid", "relu", "leaky", "swish"])
@pytest.mark.parametrize("pooling", ["none", "max", "avg"])
@pytest.mark.parametrize("norm", ["none", "batch", "layer", "instance", "group"])
def test_convnet_variants_have_gradients_of_gradients(norm: str, pooling: str, activation: str) -> None:
    network = tiny("convnet", size=8, norm=norm, pooling=pooling, activation=activation, width=4)
    x = images(2, size=8).requires_grad_()
    gradients = torch.autograd.grad(network(x).square().sum(), list(network.parameters()), create_graph=True)
    (pixels,) = torch.autograd.grad(torch.stack([g.square().sum() for g in gradients]).sum(), x)
    assert pixels.isfinite().all()


def test_convnet_of_the_paper() -> None:
    network = networks.build("convnet", channels=3, size=32, classes=10, seed=0)
    assert sum(parameter.numel() for parameter in network.parameters()) == 320_010
    grey = networks.build("convnet", channels=1, size=28, classes=10, seed=0)
    assert grey.embed(images(1, 1, 28)).shape == (1, 128 * 4 * 4)


def test_densenet121_has_the_published_size() -> None:
    network = networks.build("densenet121", channels=3, size=224, classes=1000, seed=0)
    assert sum(parameter.numel() for parameter in network.parameters()) == 7_978_856


@pytest.mark.parametrize("name", ["resnet10_ap", "resnet18_ap", "resnet10_cifar", "resnet18_cifar"])
def test_residual_networks_start_as_idc_does(name: str) -> None:
    network = tiny(name, width=16, norm="instance")
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 4000:
            expected = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels))
            assert module.weight.std().item() == pytest.approx(expected, rel=0.06)
        if isinstance(module, InstanceNorm):
            assert module.weight.eq(1).all() and module.bias.eq(0).all()


@pytest.mark.parametrize(("size", "kernel", "side"), [(32, 3, 4), (64, 3, 8), (65, 3, 4), (112, 3, 7), (224, 7, 7)])
def test_stem_of_resnet_ap(size: int, kernel: int, side: int) -> None:
    network = tiny("resnet10_ap", size=size)
    features = network.get_submodule("features")
    assert isinstance(features, nn.Sequential) and isinstance(features[0], nn.Conv2d)
    assert features[0].kernel_size == (kernel, kernel)
    with torch.no_grad():
        assert features(images(1, size=size)).shape == (1, 32, side, side)


def test_unknown_network() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'resnet10_ap'.*convnet, resnet10_ap"):
        networks.build("resnet10ap", channels=3, size=32, classes=5, seed=0)


def test_unknown_option() -> None:
    with pytest.raises(ValueError, match=r"no option 'dept'.*did you mean 'depth'.*activation, depth, norm"):
        tiny("convnet", dept=3)


@pytest.mark.parametrize(("key", "value"), [("norm", "batchnorm"), ("activation", "gelu"), ("pooling", "mean")])
def test_unknown_part(key: str, value: str) -> None:
    changed: dict[str, Any] = {key: value}
    with pytest.raises(ValueError, match=f"network.{key} is '{value}'"):
        tiny("convnet", **changed)


def test_options_of_a_network() -> None:
    assert networks.options("resnet10_ap") == {"width", "norm"}
    assert networks.options("lenet") == set()


def test_convnet_too_deep() -> None:
    with pytest.raises(ValueError, match=r"network.depth to 4 or less, or dataset.size to 64 or more"):
        tiny("convnet", size=16, depth=6)


@pytest.mark.parametrize("name", ["lenet", "alexnet", "vgg11", "resnet10_ap", "densenet121"])
def test_image_too_small(name: str) -> None:
    with pytest.raises(ValueError, match=r"dataset.size"):
        tiny(name, size=7)


def test_group_norm_needs_a_multiple_of_its_groups() -> None:
    with pytest.raises(ValueError, match=r"network.width to a multiple of 4"):
        tiny("convnet", width=6, norm="group")


def test_timm_network() -> None:
    pytest.importorskip("timm")
    network = networks.build("timm:test_resnet", channels=1, size=32, classes=5, seed=0).eval()
    x = images(2, 1)
    with torch.no_grad():
        assert torch.equal(network(x), network.classifier(network.embed(x)))
        assert network(x).shape == (2, 5)


def test_timm_unknown_name() -> None:
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match="has no network 'resnet_18'"):
        networks.build("timm:resnet_18", channels=3, size=32, classes=5, seed=0)


def test_timm_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match="pip install"):
        networks.build("timm:resnet10t", channels=3, size=32, classes=5, seed=0)
