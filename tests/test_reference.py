"""Our numbers equal those of the published programs, for every array of the reference folder (REFERENCE_DIR).

Networks, objectives, decoding, augmentations, CutMix, the image update. Shapes and parameters are read from the arrays,
the kinds of norm, activation and pooling from the files' names, so a folder of the same form with other numbers is
checked too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dist_condense import networks
from dist_condense.core import augmentation, cutmix, grouping
from dist_condense.core.distance import DISTANCES
from dist_condense.core.grouping import Grouping
from dist_condense.core.image_rule import ImageRule, updated
from dist_condense.core.objective import Objective
from dist_condense.core.parameterisation import DECODINGS, MultiFormation
from dist_condense.core.statistic import PARAMETERS, Embedding, Gradient, Statistic
from dist_condense.data.normalise import ChannelStatistics
from dist_condense.data.reading.read_ahead import ReadAhead
from dist_condense.data.space import Space
from dist_condense.engine.coordinator import LocalCoordinator, Placement
from dist_condense.engine.matching.recipe import MatchingRecipe
from dist_condense.engine.shard import ClassShard

Arrays = dict[str, np.ndarray]

OBJECTIVES: dict[str, tuple[Statistic, str, bool]] = {
    "dc_layerwise": (Gradient(PARAMETERS["matrices"]), "layerwise_cosine", False),
    "dc_sum_squared_all_parameters": (Gradient(PARAMETERS["all"]), "sum_squared", False),
    "dc_flat_cosine_all_parameters": (Gradient(PARAMETERS["all"]), "flat_cosine", False),
    "dcc": (Gradient(PARAMETERS["matrices"]), "layerwise_cosine", True),
    "dm": (Embedding(), "sum_squared", False),
    "idc_l1": (Gradient(PARAMETERS["convolutions"]), "sum_absolute", False),
    "idc_mse": (Gradient(PARAMETERS["convolutions"]), "sum_squared", False),
    "idc_l1_mean": (Gradient(PARAMETERS["convolutions"]), "mean_absolute", False),
    "idc_cos": (Gradient(PARAMETERS["convolutions"]), "layerwise_cosine", False),
    "idc_l1_bias_fc": (Gradient(PARAMETERS["all"]), "sum_absolute", False),
}
DECODING_OF = {"single": "uniform", "multi": "multi", "bound": "bounded"}


def arrays(folder: Path, name: str) -> Arrays:
    with np.load(folder / name) as file:
        return {key: file[key] for key in file.files}


def tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def close_by_image(ours: Tensor, theirs: np.ndarray) -> None:
    """Check that images agree to 5e-4 of their norm, except one in ten where a ReLU on zero may flip.

    Measured: 1e-6.
    """
    a, b = ours.double().flatten(0, 1).flatten(1), tensor(theirs).double().flatten(0, 1).flatten(1)
    error = (a - b).norm(dim=1) / b.norm(dim=1)
    assert error.quantile(0.9) <= 5e-4, error
    assert error.max() <= 5e-2, error


def test_every_file_is_checked(reference_dir: Path) -> None:
    known = {"objective", "multi_formation", "augmentation", "cutmix", "idc_image_update"}
    names = {path.stem for path in reference_dir.glob("*.npz")}
    assert known <= names
    assert {name for name in names - known if not name.startswith("network_")} == set()


CATALOGUE = {"convnet": "convnet", "resnet10ap": "resnet10_ap", "resnet18ap": "resnet18_ap"}
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
    """Return the catalogue's name and the options of the network in the file `stem`."""
    _, kind, *words = stem.split("_")
    options: dict[str, object] = {"width": parameters[0].shape[0]}
    for word in words:
        options |= WORDS.get(word, {})
    name = CATALOGUE[kind]
    if "depth" in networks.options(name):
        options["depth"] = sum(parameter.dim() == 4 for parameter in parameters)
    return name, options


def load_parameters(network: networks.Network, parameters: list[Tensor]) -> None:
    """Copy the stored parameters in their order."""
    own = list(network.parameters())
    assert [p.shape for p in own] == [p.shape for p in parameters]
    with torch.no_grad():
        for mine, stored in zip(own, parameters, strict=True):
            mine.copy_(stored)


def test_networks(reference_dir: Path) -> None:
    files = sorted(reference_dir.glob("network_*.npz"))
    assert files
    for file in files:
        stored = {key: tensor(array) for key, array in arrays(reference_dir, file.name).items()}
        parameters = [stored[key] for key in sorted(stored) if key.startswith("param_")]
        x, logits = stored["x"], stored["logits"]
        name, options = described_by(file.stem, parameters)
        shape = {"channels": x.shape[1], "size": x.shape[-1], "classes": logits.shape[1]}
        network = networks.build(name, **shape, seed=0, **options)
        load_parameters(network, parameters)
        with torch.no_grad():
            np.testing.assert_allclose(network(x), logits, rtol=1e-4, atol=1e-5, err_msg=file.stem)
            if "embed" in stored:
                np.testing.assert_allclose(network.embed(x), stored["embed"], rtol=1e-4, atol=1e-5, err_msg=file.stem)


class Recorded:
    """A shard whose augmentation, decoding and normalisation are the identity, over recorded real images."""

    def __init__(self, data: Arrays, objective: Objective, pooled: bool, dtype: torch.dtype) -> None:
        self.real, self.synthetic = tensor(data["real"]), tensor(data["syn"])
        classes, _, channels, size = self.real.shape[:4]
        self.network = networks.build(
            "convnet",
            channels=channels,
            size=size,
            classes=classes,
            seed=0,
            width=data["param_000__features.0.weight"].shape[0],
            depth=sum(array.ndim == 4 for name, array in data.items() if name.startswith("param_")),
        ).to(dtype)
        load_parameters(self.network, [tensor(data[name]) for name in sorted(data) if name.startswith("param_")])
        partition = grouping.pooled(classes) if pooled else grouping.per_class(classes)
        recipe = MatchingRecipe(objective, Grouping(partition), {"pixels": ImageRule(lr=1.0, momentum=0.0)})
        self.shard = ClassShard(
            recipe,
            ReadAhead(self),
            LocalCoordinator(),
            Placement(dtype=dtype),
            seed=0,
            counts=[self.real.shape[1]] * classes,
            space=Space(ChannelStatistics((0.0,) * channels, (1.0,) * channels), normalised=True),
            shape=(channels, size, size),
            start={c: {"pixels": self.synthetic[c]} for c in range(classes)},
        )
        object.__setattr__(self.shard.view, "normalised", lambda stored: stored.to(dtype))

    def get(self, label: int, indices: Tensor) -> Tensor:
        """Return real images as they were recorded."""
        return self.real[label][indices]

    def step(self) -> tuple[float, Tensor]:
        """Return the loss and image gradient of one matching step with lr 1."""
        self.shard.match(self.network, 0, 0, 0)
        after = torch.stack(list(self.shard.pixels.values()))
        return float(sum(self.shard.losses.values())), self.synthetic.to(after.dtype) - after


@pytest.mark.parametrize("microbatch", [0, 2])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective(reference_dir: Path, name: str, microbatch: int) -> None:
    data = arrays(reference_dir, "objective.npz")
    assert {key.removeprefix("loss__") for key in data if key.startswith("loss__")} == set(OBJECTIVES)
    statistic, distance, pooled = OBJECTIVES[name]
    loss, gradient = Recorded(
        data, Objective(statistic, DISTANCES[distance], microbatch=microbatch), pooled, torch.float64
    ).step()
    assert loss == pytest.approx(float(data[f"loss__{name}"]), rel=1e-5)
    close_by_image(gradient, data[f"grad__{name}"])


def test_multi_formation(reference_dir: Path) -> None:
    data = arrays(reference_dir, "multi_formation.npz")
    seen = 0
    for name in data:
        if match := re.fullmatch(r"images_(\d+)_factor(\d+)_(\w+)", name):
            size, factor, kind = int(match[1]), int(match[2]), match[3]
            decode = DECODINGS[DECODING_OF[kind]]
            form = MultiFormation(factor, decode, budget=int(data["bound"]), padding=(0.5,))
            images, sources = form.decode(tensor(data[f"x_{size}"])), form.origins(len(data[f"x_{size}"])).source
            np.testing.assert_array_equal(sources, data[name.replace("images", "source")])
            np.testing.assert_allclose(images, data[name], rtol=0, atol=2e-6)
            seen += 1
    assert seen > 0


def _scale(draw: augmentation.Draw, value: np.ndarray, size: tuple[int, int]) -> augmentation.Draw:
    return augmentation.set_scale(draw, tensor(value)[None])


def _colour(position: int) -> Callable[..., augmentation.Draw]:
    neutral = (0.5, 0.5, 0.5)  # u of brightness, saturation, contrast that change nothing

    def draw(before: augmentation.Draw, value: np.ndarray, size: tuple[int, int]) -> augmentation.Draw:
        u = [float(value) if i == position else x for i, x in enumerate(neutral)]
        return augmentation.set_colour(before, *(torch.tensor([x], dtype=torch.float64) for x in u))

    return draw


AUGMENTATIONS: dict[str, tuple[str, Callable[[Any, np.ndarray, tuple[int, int]], augmentation.Draw]]] = {
    "scale": ("sx_sy", _scale),
    "rotate": ("theta_radians", lambda d, v, s: augmentation.set_rotation(d, tensor(v.reshape(1)))),
    "flip": ("flipped", lambda d, v, s: augmentation.set_flip(d, tensor(v.reshape(1)))),
    "brightness": ("u", _colour(0)),
    "saturation": ("u", _colour(1)),
    "contrast": ("u", _colour(2)),
    "crop": ("shift_rows_cols", lambda d, v, s: augmentation.set_crop(d, tensor(v)[None], s)),
    "cutout": ("offset_rows_cols", lambda d, v, s: augmentation.set_cutout(d, tensor(v)[None], s)),
}


def test_augmentation(reference_dir: Path) -> None:
    data = arrays(reference_dir, "augmentation.npz")
    x = tensor(data["x"])
    size, seen = (x.shape[-2], x.shape[-1]), set()
    for name in data:
        if match := re.fullmatch(r"([a-z]+)_(\d+)", name):
            suffix, change = AUGMENTATIONS[match[1]]
            draw = change(augmentation.neutral(1), data[f"{name}_{suffix}"], size)
            ours = augmentation.apply(x, draw.to(x.device, x.dtype))
            np.testing.assert_allclose(ours, data[name], rtol=0, atol=3e-5, err_msg=name)
            seen.add(match[1])
    assert seen == set(AUGMENTATIONS)


def test_cutmix(reference_dir: Path) -> None:
    data = arrays(reference_dir, "cutmix.npz")
    x = tensor(data["x"])
    size, cases = (x.shape[-2], x.shape[-1]), [name for name in data if name.startswith("mixed_")]
    assert cases
    for name in cases:
        i = name.removeprefix("mixed_")
        box, lam = tuple(data[f"box_{i}_rows_cols"].tolist()), float(data[f"lam_{i}"])
        mix = cutmix.mix(tensor(data[f"partner_{i}"]), box, size)
        np.testing.assert_array_equal(mix.images(x), data[name])
        assert float(mix.weight) == pytest.approx(float(data[f"weight_of_own_label_{i}"]))
        boxes = [cutmix.cutmix_box(lam, (row, col), size) for row in range(size[0]) for col in range(size[1])]
        assert box in boxes


def test_idc_image_update(reference_dir: Path) -> None:
    data = arrays(reference_dir, "idc_image_update.npz")
    gradients, seen = tensor(data["gradients"]).double(), data["seen_at_match"]
    classes = gradients.shape[1]
    rule = ImageRule(float(data["lr"]), float(data["momentum"]), shared_buffer=classes)
    pixels = tensor(seen[0]).double()
    buffer = torch.zeros_like(pixels)
    for step, gradient in enumerate(gradients):
        np.testing.assert_allclose(pixels, seen[step], rtol=1e-5, atol=2e-6)
        for c in range(classes):  # every class has a buffer of its own
            learnt, buffers, gradients_of_c = ({"pixels": x[c]} for x in (pixels, buffer, gradient))
            true = torch.tensor(True)
            new, kept, _ = updated({"pixels": rule}, learnt, buffers, gradients=gradients_of_c, finite=true)
            pixels[c], buffer[c] = new["pixels"], kept["pixels"]
