"""Every network of the catalogue builds, is drawn from its seed alone, and treats images as its norm requires."""

import re
import sys
from typing import Any

import pytest
import torch
from torch import nn

from dist_condense import networks
from dist_condense.networks import base, catalogue
from dist_condense.networks.base import SizeError, check_size

TINY: dict[str, dict[str, object]] = {
    "convnet": {"width": 8},
    "resnet10_ap": {"width": 4},
    "resnet18_ap": {"width": 4},
    "resnet10": {"width": 4},
    "resnet18": {"width": 4},
    "resnet10_cifar": {"width": 4},
    "resnet18_cifar": {"width": 4},
    "mlp": {"width": 8},
    "lenet": {},
    "alexnet": {"width": 8},
    "vgg11": {"width": 4},
    "densenet121": {"growth": 4},
    "efficientnet_b0": {},
    "torchvision_resnet18": {},
    "torchvision_densenet121": {},
    "torchvision_efficientnet_b0": {},
}
EFFICIENT = ["efficientnet_b0", "torchvision_efficientnet_b0"]
"""Networks that are random in training, and whose last maps have too few pixels to normalise an image alone."""
IMAGES = [(1, 28), (3, 32), (3, 64)]
SMALLEST = {"torchvision_densenet121": 32}
OF_TORCHVISION = [*EFFICIENT, "torchvision_resnet18", "torchvision_densenet121"]
WITH_NORM = [name for name in TINY if "norm" in networks.options(name)]


def tiny(name: str, channels: int = 3, size: int = 32, seed: int = 0, **options: object) -> networks.Network:
    return networks.build(name, channels=channels, size=size, classes=5, seed=seed, **{**TINY[name], **options})


def per_image(name: str) -> dict[str, Any]:
    """Return the option for a norm of each image alone, where the network has norms."""
    return {"norm": "instance"} if name in WITH_NORM else {}


def images(count: int, channels: int = 3, size: int = 32) -> torch.Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def test_every_network_is_tested() -> None:
    assert networks.names() == list(TINY)


@pytest.mark.parametrize("name", networks.names())
@pytest.mark.parametrize(("channels", "size"), IMAGES)
def test_forward_is_classifier_of_embed(name: str, channels: int, size: int) -> None:
    size = max(size, SMALLEST.get(name, 0))
    network = tiny(name, channels, size).eval()
    x = images(2, channels, size)
    with torch.no_grad():
        features = network.embed(x)
        assert features.dim() == 2
        assert network(x).shape == (2, 5)
        assert torch.equal(network(x), network.classifier(features))


@pytest.mark.parametrize(("name", "options"), [("resnet10_ap", {"width": 4}), ("torchvision_resnet18", {})])
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


def test_a_network_is_checked_once_for_each_shape_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[tuple[object, ...]] = []
    monkeypatch.setattr(catalogue, "check_size", lambda network, *images: checked.append(images))
    monkeypatch.setattr(catalogue, "_SUITABLE", set())
    for text, size in [("mlp", 8), ("mlp", 8), ("mlp", 9), ("mlp:width=5", 8), ("mlp:width=5", 8)]:
        networks.build(text, channels=1, size=size, classes=2, seed=0)
    assert checked == [(1, 8), (1, 9), (1, 8)]


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seed_out_of_range(seed: int) -> None:
    with pytest.raises(ValueError, match="less than 2"):
        tiny("mlp", seed=seed)


@pytest.mark.parametrize("name", [name for name in networks.names() if name not in OF_TORCHVISION])
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
    network = tiny(name, size=64, **(per_image(name) if name not in EFFICIENT else {}))
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


def test_options_of_a_network() -> None:
    assert networks.options("resnet10_ap") == {"width", "norm"}
    assert networks.options("lenet") == set()


def test_convnet_too_deep() -> None:
    with pytest.raises(ValueError, match=r"depth to 4 or less, or dataset.size to 64 or more"):
        tiny("convnet", size=16, depth=6)


@pytest.mark.parametrize("name", ["lenet", "alexnet", "vgg11", "resnet10_ap", "densenet121"])
def test_too_small_an_image_is_refused_with_ways_out_that_work(name: str) -> None:
    """resnet10_ap halves 7 px to 1 x 1, whose normalised value is always 0."""
    with pytest.raises(ValueError, match=r"images of 3 x 7 x 7 do not suit it .*; use ") as refused:
        networks.build(name, channels=3, size=7, classes=5, seed=0)
    ways = re.search(r"use dataset.size=(\d+), or another network \((.*)\)$", str(refused.value))
    assert ways
    networks.build(name, channels=3, size=int(ways[1]), classes=5, seed=0)
    for other in ways[2].split(", "):
        networks.build(other, channels=3, size=7, classes=5, seed=0)


@pytest.mark.parametrize("most", [0, 10**18], ids=["inferred", "computed"])
@pytest.mark.parametrize("name", ["convnet", "resnet10_cifar", "densenet121", "torchvision_resnet18"])
def test_a_shape_is_inferred_or_computed_and_nothing_else_changes(
    name: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = tiny(name)
    before = {key: x.clone() for key, x in network.state_dict().items()}
    random, training = torch.random.get_rng_state(), network.training
    monkeypatch.setattr(base, "SMALL", most)
    assert base.output_shape(network, 3, 32) == network(torch.zeros(2, 3, 32, 32))[:1].shape
    assert training == network.training and torch.equal(random, torch.random.get_rng_state())
    network.load_state_dict(before)
    with torch.device("meta"):
        assert len(base.output_shape(network, 3, 32)) == 2
    assert all(torch.equal(x, before[key]) for key, x in network.state_dict().items())
    with pytest.raises(SizeError):
        check_size(network, 4, 32)


def test_any_error_of_a_network_becomes_one_line() -> None:
    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise IndexError("dimension\nout of range")

    with pytest.raises(SizeError, match=r"^images of 3 x 7 x 7 do not suit it \(dimension out of range\)$"):
        check_size(Odd(), 3, 7)


def test_group_norm_needs_a_multiple_of_its_groups() -> None:
    with pytest.raises(ValueError, match=r"set width to a multiple of 4"):
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


def test_timm_network_without_one_classifier() -> None:
    timm = pytest.importorskip("timm")
    if not timm.is_model("gemma4_vit_167m_enc"):
        pytest.skip("an older timm")
    with pytest.raises(ValueError, match="timm:gemma4_vit_167m_enc has no classifier, or more than one"):
        networks.sketch("timm:gemma4_vit_167m_enc", channels=3, size=224, classes=5)


def test_timm_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"pip install -c constraints.txt '.\[timm\]'"):
        networks.build("timm:resnet10t", channels=3, size=32, classes=5, seed=0)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# The columns of the papers' cross-architecture tables, at the size of their images. DC: table of networks, and its
# appendix on ConvNets; IDC: CIFAR, SVHN, ImageNet subsets.
CIFAR = {"channels": 3, "size": 32, "classes": 10}
MNIST = {"channels": 1, "size": 28, "classes": 10}
IMAGENET = {"channels": 3, "size": 224, "classes": 10}
OF_DC = ["mlp", "convnet", "lenet", "alexnet", "vgg11", "resnet18_cifar:norm=instance"]
COLUMNS = [
    *[(text, data) for text in OF_DC for data in (MNIST, CIFAR)],
    *[(f"convnet:width={width}", CIFAR) for width in (32, 64, 128, 256)],
    *[(f"convnet:depth={depth}", CIFAR) for depth in (1, 2, 3, 4)],
    *[(f"convnet:activation={name}", CIFAR) for name in ("sigmoid", "relu", "leaky", "swish")],
    *[(f"convnet:pooling={name}", CIFAR) for name in ("none", "max", "avg")],
    *[(f"convnet:norm={name}", CIFAR) for name in ("none", "batch", "layer", "instance", "group")],
    *[(text, CIFAR) for text in ("vgg11:norm=batch", "resnet18_cifar", "resnet10_cifar", "densenet121")],
    ("resnet10_cifar:width=64", CIFAR),
    *[(text, IMAGENET) for text in ("resnet10_ap", "resnet18", "efficientnet_b0")],
]


@pytest.mark.parametrize(("text", "data"), COLUMNS)
def test_every_column_of_the_papers_can_be_asked_for(text: str, data: dict[str, int]) -> None:
    networks.check(text)
    assert networks.sketch(text, **data).classifier is not None


@pytest.mark.parametrize(
    ("text", "data", "count"),
    [
        ("densenet121", CIFAR, 1_000_618),
        ("resnet10_cifar", CIFAR, 1_228_970),
        ("resnet10_cifar:width=64", CIFAR, 4_903_242),
        ("resnet18_cifar:norm=instance", CIFAR, 11_173_962),
        ("resnet18", IMAGENET, 11_181_642),
        ("resnet10_ap", IMAGENET, 4_910_922),
        ("efficientnet_b0", IMAGENET, 4_020_358),
        ("torchvision_densenet121", IMAGENET | {"classes": 1000}, 7_978_856),
        ("mlp", MNIST, 118_282),
        ("lenet", MNIST, 61_706),
        ("alexnet", CIFAR, 1_872_202),
        ("vgg11", CIFAR, 9_231_114),
    ],
)
def test_parameters_of_the_published_programs(text: str, data: dict[str, int], count: int) -> None:
    assert parameters(networks.sketch(text, **data)) == count


@pytest.mark.parametrize("text", [text for text, data in COLUMNS if data is CIFAR][:8])
def test_a_sketch_has_the_layers_of_the_network_and_no_weights(text: str) -> None:
    sketched, built = networks.sketch(text, **CIFAR), networks.build(text, **CIFAR, seed=0)
    assert {name: p.shape for name, p in sketched.named_parameters()} == {
        n: p.shape for n, p in built.named_parameters()
    }
    assert all(parameter.is_meta for parameter in sketched.parameters())


def test_options_in_the_text_are_the_options() -> None:
    given = networks.build("convnet", **CIFAR, seed=3, width=8, depth=2, norm="batch")
    written = networks.build("convnet:width=8:depth=2:norm=batch", **CIFAR, seed=3)
    mixed = networks.build("convnet:width=8", **CIFAR, seed=3, depth="2", norm="batch")
    for other in (written, mixed):
        assert all(torch.equal(a, b) for a, b in zip(given.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("text", ["convnet", "convnet:depth=4:width=64", "timm:vit_tiny_patch16_224:img_size=64"])
def test_a_text_is_split_and_joined(text: str) -> None:
    name, options = networks.split(text)
    assert networks.join(name, options) == text


def test_the_shortest_text_has_no_defaults() -> None:
    assert networks.shortest("convnet:width=128:depth=2:norm=instance") == "convnet:depth=2"
    assert networks.shortest("resnet18_cifar:norm=batch") == "resnet18_cifar"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("convnet:deep=4", r"convnet: it has no option 'deep' \(did you mean 'depth'\?\); its options are: activation"),
        ("convnet:depth=four", "convnet: depth is 'four'; give a whole number in the range 1 to 100"),
        ("convnet:depth=0", "depth is '0'; give a whole number in the range 1 to 100"),
        ("convnet:width=0:depth=x", "width is '0'.*; depth is 'x'"),
        ("resnet18:norm=layer", "resnet18: norm is 'layer'; set it to one of none, batch, instance, group"),
        ("lenet:width=3", "lenet: it has no option 'width'; its options are: none"),
        ("resnet18_cifar:instance", "'instance' in 'resnet18_cifar:instance' is not an option; options are NAME=VALUE"),
        ("convnet:depth=", "'depth=' in .* is not an option"),
        ("convnet:depth=2:depth=3", "gives depth twice"),
        ("resnet10ap", r"no network 'resnet10ap' \(did you mean 'resnet10_ap'\?\); there are convnet, resnet10_ap"),
        ("convnet:activation=gelu", "convnet: activation is 'gelu'.*set it to one of"),
        ("convnet:pooling=mean", "convnet: pooling is 'mean'.*set it to one of"),
        ("timm:resnet18:drop_rate=much", "drop_rate is 'much'; give a number"),
        ("timm:", "no network ''"),
    ],
)
def test_a_text_that_means_nothing_is_refused_without_data(text: str, message: str) -> None:
    if text.startswith("timm:"):
        pytest.importorskip("timm")
    with pytest.raises(ValueError, match=message):
        networks.check(text)


def test_timm_takes_its_size_as_an_option() -> None:
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match="img_size=64, or another network"):
        networks.sketch("timm:vit_tiny_patch16_224", channels=3, size=64, classes=5)
    assert networks.sketch("timm:vit_tiny_patch16_224:img_size=64", channels=3, size=64, classes=5).classifier
    with pytest.raises(ValueError, match=r"timm's resnet18 refuses an option: .*img_size"):
        networks.sketch("timm:resnet18:img_size=64", channels=3, size=64, classes=5)
