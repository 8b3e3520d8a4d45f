import base64
import io

import pytest
import torch
from PIL import Image

from dist_condense.result import gallery as module
from dist_condense.result.card import Card, CardClass
from dist_condense.result.gallery import BYTES, gallery
from dist_condense.result.synthetic_set import load_set, write_set


def set_of(folder, classes, ipc, channels=1, size=4, pixels=None):
    card = Card(
        method="dc", dataset="x", classes=tuple(CardClass(i, f"class {i}") for i in range(classes)), ipc=ipc,
        channels=channels, size=size, value_space="unit", mean=(0.5,) * channels, std=(0.5,) * channels, factor=1,
        seed=0, steps=1, complete=True,
    )  # fmt: skip
    pixels = torch.rand(classes * ipc, channels, size, size) if pixels is None else pixels
    write_set(folder / "set", pixels, torch.arange(classes * ipc) % classes, card)
    return load_set(folder / "set")


def opened(strip):
    return Image.open(io.BytesIO(base64.b64decode(strip.png)))


def test_each_class_has_its_images_whatever_their_order(tmp_path):
    pixels = (torch.arange(6.0) / 255)[:, None, None, None].expand(6, 1, 4, 4)
    drawn = gallery(set_of(tmp_path, 3, 2, pixels=pixels))
    ((first, second, third),) = drawn.groups
    assert [x.name for x in (first, second, third)] == ["class 0", "class 1", "class 2"] and drawn.omitted == ""
    for label, strip in enumerate((first, second, third)):
        image = opened(strip)
        assert image.size == (64 + 2 + 64, 64) and image.width == drawn.width
        assert (image.getpixel((0, 0)), image.getpixel((129, 63))) == (label, label + 3)


@pytest.mark.parametrize(("size", "side"), [(8, 64), (48, 48), (64, 64), (65, 32), (200, 50)])
def test_images_are_enlarged_or_reduced_by_an_integer_factor(tmp_path, size, side):
    ((strip,),) = gallery(set_of(tmp_path, 1, 1, 3, size)).groups
    assert opened(strip).size == (side, side) and opened(strip).mode == "RGB"


def test_many_classes_are_in_groups_and_their_pictures_in_a_budget(tmp_path, monkeypatch):
    dataset = set_of(tmp_path, 120, 3)
    drawn = gallery(dataset)
    assert [len(group) for group in drawn.groups] == [50, 50, 20] and drawn.groups[1][0].name == "class 50"
    assert opened(drawn.groups[0][0]).height == 32
    monkeypatch.setattr(module, "BYTES", 120 * 2 * 32**2)
    assert gallery(dataset).omitted == "first 2 of 3 images of each class"
    monkeypatch.setattr(module, "BYTES", 70 * 32**2)
    drawn = gallery(dataset)
    assert drawn.omitted == "first 70 of 120 classes, first 1 of 3 images of each class"
    assert sum(map(len, drawn.groups)) == 70
    assert BYTES >= 1000 * 3 * 32**2  # the classes of ImageNet
