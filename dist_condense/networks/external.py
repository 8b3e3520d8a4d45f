"""Evaluation networks of torchvision, and of timm where installed, cut into `embed` and `classifier`."""

import difflib
from types import ModuleType

from torch import Tensor, nn
from torchvision import models

from dist_condense.networks.base import Network
from dist_condense.networks.norms import choose_norm

RGB = 3


class ExternalNetwork(Network):
    """A network of another library: `backbone` gives the features [N, F], `classifier` is its own last layer.

    Operations in place are switched off, because gradients of gradients are taken through the network.
    """

    def __init__(self, backbone: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier
        for module in self.modules():
            if getattr(module, "inplace", False):
                setattr(module, "inplace", False)  # noqa: B010 (mypy knows no such attribute of a Module)

    def embed(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W] to features [N, F]."""
        features: Tensor = self.backbone(x)
        return features


def resnet18(channels: int, size: int, classes: int, norm: str = "batch") -> ExternalNetwork:
    """torchvision's ResNet-18 (7x7 stem of stride 2 with pooling: made for 224 px), random weights."""
    backbone = models.resnet18(weights=None, num_classes=classes, norm_layer=choose_norm(norm))
    backbone.conv1 = _with_channels(backbone.conv1, channels)
    classifier, backbone.fc = backbone.fc, nn.Identity()
    return ExternalNetwork(backbone, classifier)


def efficientnet_b0(channels: int, size: int, classes: int, norm: str = "batch") -> ExternalNetwork:
    """torchvision's EfficientNet-B0, random weights; its classifier begins with dropout 0.2 in training."""
    backbone = models.efficientnet_b0(weights=None, num_classes=classes, norm_layer=choose_norm(norm))
    stem = backbone.features[0]
    assert isinstance(stem, nn.Sequential) and isinstance(stem[0], nn.Conv2d)
    stem[0] = _with_channels(stem[0], channels)
    classifier, backbone.classifier = backbone.classifier, nn.Identity()
    return ExternalNetwork(backbone, classifier)


def _with_channels(conv: nn.Conv2d, channels: int) -> nn.Conv2d:
    """The first convolution for other input channels, started as torchvision starts it (He, fan out)."""
    if channels == RGB:
        return conv
    kernel, stride, padding = conv.kernel_size[0], conv.stride[0], conv.padding[0]
    assert isinstance(padding, int)
    new = nn.Conv2d(channels, conv.out_channels, kernel, stride, padding, bias=conv.bias is not None)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    return new


def timm_network(
    name: str,
    channels: int,
    size: int,
    classes: int,
    img_size: int | None = None,
    drop_rate: float | None = None,
    drop_path_rate: float | None = None,
) -> ExternalNetwork:
    """The network `name` of timm with random weights.

    `img_size` is for those built for one size (vision transformers); options left None are timm's defaults.
    """
    timm = _timm(name)
    options = {"img_size": img_size, "drop_rate": drop_rate, "drop_path_rate": drop_path_rate}
    model = timm.create_model(name, pretrained=False, in_chans=channels, num_classes=classes, **options)
    classifier = model.get_classifier()
    if not isinstance(classifier, nn.Module):
        raise ValueError(f"timm:{name} has more than one classifier: choose a timm network with a single one.")
    model.reset_classifier(0)
    return ExternalNetwork(model, classifier)


def _timm(name: str) -> ModuleType:
    """timm, which must be installed and know `name`."""
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            f"The network timm:{name} needs timm, which is not installed: pip install 'dist-condense[timm]'."
        ) from error
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise ValueError(f"timm {timm.__version__} has no network {name!r}; close to it: {', '.join(close) or 'none'}.")
    return timm
