"""ConvNet and ResNetAP give the numbers of the published programs for the same weights.

The folder is REFERENCE_DIR, or shared/reference beside the checkout. Shapes come from the arrays, the kinds
of norm, activation and pooling from the name of the file, so another folder of this form works as well.
"""

import os
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor

from dist_condense import networks

FOLDER = Path(os.environ.get("REFERENCE_DIR") or Path(__file__).parents[2].parent / "shared" / "reference")
FILES = sorted(FOLDER.glob("network_*.npz"))

CATALOGUE_NAMES = {"convnet": "convnet", "resnet10ap": "resnet10_ap", "resnet18ap": "resnet18_ap"}
WORDS = {
    "nonorm": {"norm": "none"},
    "batchnorm": {"norm": "batch"},
    "layernorm": {"norm": "layer"},
    "groupnorm": {"norm": "group"},
    "instancenorm": {"norm": "instance"},
    "sigmoid": {"activation": "sigmoid"},
    "relu": {"activation": "relu"},
    "leaky": {"activation": "leaky"},
    "swish": {"activation": "swish"},
    "nopool": {"pooling": "none"},
    "maxpool": {"pooling": "max"},
    "avgpool": {"pooling": "avg"},
}


def described_by(stem: str, parameters: list[Tensor]) -> tuple[str, dict[str, object]]:
    """The catalogue's name and the options of the network in the file `stem`."""
    _, kind, *words = stem.split("_")
    found: dict[str, object] = {"width": parameters[0].shape[0]}
    for word in words:
        found |= WORDS.get(word, {})
    name = CATALOGUE_NAMES[kind]
    if "depth" in networks.options(name):
        found["depth"] = sum(parameter.dim() == 4 for parameter in parameters)
    return name, found


def load_parameters(network: networks.Network, parameters: list[Tensor]) -> None:
    """Copies the stored parameters in their order."""
    own = list(network.parameters())
    assert [p.shape for p in own] == [p.shape for p in parameters]
    with torch.no_grad():
        for mine, stored in zip(own, parameters, strict=True):
            mine.copy_(stored)


def test_reference_folder_is_there() -> None:
    if not FILES and os.environ.get("CI") != "true":
        pytest.skip(f"no network_*.npz in {FOLDER}: set REFERENCE_DIR to the folder of reference numbers")
    assert FILES, f"no network_*.npz in {FOLDER}: set REFERENCE_DIR to the folder of reference numbers"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_equals_the_published_program(file: Path) -> None:
    stored = {key: torch.from_numpy(array) for key, array in numpy.load(file).items()}
    parameters = [stored[key] for key in sorted(stored) if key.startswith("param_")]
    x, logits = stored["x"], stored["logits"]
    name, options = described_by(file.stem, parameters)
    channels, size, classes = x.shape[1], x.shape[-1], logits.shape[1]
    network = networks.build(name, channels=channels, size=size, classes=classes, seed=0, **options)
    load_parameters(network, parameters)
    with torch.no_grad():
        torch.testing.assert_close(network(x), logits, rtol=1e-4, atol=1e-5)
        if "embed" in stored:
            torch.testing.assert_close(network.embed(x), stored["embed"], rtol=1e-4, atol=1e-5)
