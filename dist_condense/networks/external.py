"""Evaluation networks of torchvision, and of timm where installed, split into `embed` and `classifier`."""

import difflib
from types import ModuleType

from torch import Tensor, nn
from torch.nn import functional

from dist_condense.networks.base import Network, Size
from dist_condense.networks.norms import NORMS, Norm
from dist_condense.networks.text import SHOWN, Share, Side

RGB = 3


class ExternalNetwork(Network):
    """Network of another library: `backbone` returns the features [N, F], `classifier` is the network's own last layer.

    In-place operations are switched off, because gradients of gradients are taken through the network.
    """

    def __init__(self, backbone: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier
        for module in self.modules():
            if getattr(module, "inplace", False):
                setattr(module, "inplace", False)  # noqa: B010 (mypy knows no such attribute of a Module)

    def embed(self, x: Tensor) -> Tensor:
        features: Tensor = self.backbone(x)
        return features


def torchvision_resnet18(channels: int, size: Size, classes: int, norm: Norm = "batch") -> ExternalNetwork:
    """Build torchvision's ResNet-18 with random weights (7x7 stem of stride 2 with pooling, made for 224 px)."""
    from torchvision import models

    backbone = models.resnet18(weights=None, num_classes=classes, norm_layer=NORMS[norm])
    backbone.conv1 = _with_channels(backbone.conv1, channels)
    classifier, backbone.fc = backbone.fc, nn.Identity()
    return ExternalNetwork(backbone, classifier)


def torchvision_densenet121(channels: int, size: Size, classes: int) -> ExternalNetwork:
    """Build torchvision's DenseNet-121 with random weights (growth 32, 7x7 stem of stride 2 with pooling)."""
    from torchvision import models

    backbone = models.densenet121(weights=None, num_classes=classes)
    backbone.features.conv0 = _with_channels(backbone.features.conv0, channels)
    classifier, backbone.classifier = backbone.classifier, nn.Identity()
    return ExternalNetwork(backbone, classifier)


def torchvision_efficientnet_b0(channels: int, size: Size, classes: int, norm: Norm = "batch") -> ExternalNetwork:
    """Build torchvision's EfficientNet-B0 with random weights; its classifier has dropout 0.2 in training."""
    from torchvision import models

    backbone = models.efficientnet_b0(weights=None, num_classes=classes, norm_layer=NORMS[norm])
    stem = backbone.features[0]
    assert isinstance(stem, nn.Sequential)
    stem[0] = _with_channels(stem[0], channels)
    classifier, backbone.classifier = backbone.classifier, nn.Identity()
    return ExternalNetwork(backbone, classifier)


def efficientnet_b0(channels: int, size: Size, classes: int, norm: Norm = "batch") -> ExternalNetwork:
    """Build EfficientNet-B0 (Tan and Le 2019) as in efficientnet_pytorch 0.7, which IDC's ImageNet results use.

    It consists of torchvision's layers, except that BatchNorm has momentum 0.01 and epsilon 1e-3, strided convolutions
    are padded by `SamePadding`, and weights have torch's default initialisation. Dropout 0.2 precedes the last layer,
    and whole blocks are dropped with a probability that rises to 0.2. (efficientnet_pytorch fixes the padding for 224
    px; the paddings are equal from 32 px on where the side is a multiple of 32.)
    """
    from torchvision.ops import Conv2dNormActivation

    network = torchvision_efficientnet_b0(channels, size, classes, norm)
    for module in list(network.modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.momentum, module.eps = 0.01, 1e-3
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()
        if isinstance(module, Conv2dNormActivation):
            module[0] = _same_padding(module[0])
    return network


class SamePadding(nn.Module):
    """TensorFlow's "same" padding before a strided convolution, after which a side h becomes ceil(h / stride).

    Zeros are added on all sides; an odd row or column is added at the bottom or right.
    """

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        height, width = (max(self.kernel - (side - 1) % self.stride - 1, 0) for side in x.shape[-2:])
        return functional.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))


def _same_padding(conv: nn.Module) -> nn.Module:
    """Return the convolution; if it is strided, `SamePadding` replaces its own padding."""
    assert isinstance(conv, nn.Conv2d)
    if conv.stride[0] == 1:
        return conv
    conv.padding = (0, 0)
    return nn.Sequential(SamePadding(conv.kernel_size[0], conv.stride[0]), conv)


def _with_channels(conv: nn.Module, channels: int) -> nn.Conv2d:
    """Return the first convolution with `channels` inputs; a new one is initialised as in torchvision (He, fan out)."""
    assert isinstance(conv, nn.Conv2d)
    if channels == RGB:
        return conv
    kernel, stride, padding = conv.kernel_size[0], conv.stride[0], conv.padding[0]
    assert isinstance(padding, int)
    new = nn.Conv2d(channels, conv.out_channels, kernel, stride=stride, padding=padding, bias=conv.bias is not None)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    return new


def timm_network(
    name: str,
    channels: int,
    size: Size,
    classes: int,
    *,
    img_size: Side | None = None,
    drop_rate: Share | None = None,
    drop_path_rate: Share | None = None,
) -> ExternalNetwork:
    """Build timm's network `name` with random weights.

    `img_size` applies to networks that are built for one size (vision transformers); options that are None keep timm's
    defaults. Raises the errors of `known_timm`, and ValueError if timm's network does not accept an option.
    """
    timm = known_timm(name)
    options = {"img_size": img_size, "drop_rate": drop_rate, "drop_path_rate": drop_path_rate}
    try:
        model = timm.create_model(name, pretrained=False, in_chans=channels, num_classes=classes, **options)
    except RuntimeError:  # of the meta device, for networks that compute while they are built
        raise
    except Exception as error:  # each network of timm raises its own
        raise ValueError(f"timm's {name} refuses an option: {error}") from error
    classifier = getattr(model, "get_classifier", lambda: None)()
    if not isinstance(classifier, nn.Module):
        raise ValueError(f"timm:{name} has no classifier, or more than one: choose a timm network with a single one.")
    model.reset_classifier(0)
    return ExternalNetwork(model, classifier)


def known_timm(name: str) -> ModuleType:
    """Import timm and return it; raise ImportError if it is not installed, ValueError if it has no network `name`."""
    try:
        import timm
    except ImportError as error:
        install = "pip install -c constraints.txt '.[timm]'"
        raise ImportError(f"The network timm:{name} needs timm, which is not installed: {install}.") from error
    if not timm.is_model(name):
        close = difflib.get_close_matches(name[:SHOWN], timm.list_models(), n=3)
        raise ValueError(
            f"timm {timm.__version__} has no network {name!r:.{SHOWN}}; close to it: {', '.join(close) or 'none'}."
        )
    return timm
