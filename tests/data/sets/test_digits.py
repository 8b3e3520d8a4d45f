"""The digits, a data set that needs no download."""

import pickle

import pytest
import torch
from sklearn.datasets import load_digits

from dist_condense.data import DataError, names, open_dataset


def test_constants_are_those_of_the_training_images() -> None:
    digits = open_dataset("digits", None)
    source = digits.train()
    unit = torch.cat([source.images[label] for label in source.labels]).double() / 255
    assert (digits.mean[0], digits.std[0]) == pytest.approx((unit.mean().item(), unit.std().item()), abs=5e-4)


def test_split_shapes_and_counts() -> None:
    digits = open_dataset("digits", None)
    source, test = digits.train(), digits.test()
    assert (digits.channels, digits.size, digits.flip) == (1, 8, False)
    assert digits.counts == tuple(len(source.images[label]) for label in range(10))
    assert sum(digits.counts) + len(test.labels) == 1797
    assert test.images.shape[1:] == (1, 8, 8)
    assert test.images.dtype is torch.uint8
    assert test.labels.bincount().tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]
    assert test.images.max() == 255


def test_images_are_those_of_scikit_learn() -> None:
    expected = load_digits()
    images = torch.from_numpy(expected.images * 255 / 16).round().to(torch.uint8)[:, None]
    held_out = torch.zeros(len(images), dtype=torch.bool)
    for label in range(10):
        held_out[(torch.from_numpy(expected.target) == label).nonzero().flatten()[4::5]] = True
    digits = open_dataset("digits", None)
    for label, of_class in digits.train().images.items():
        assert torch.equal(of_class, images[(torch.from_numpy(expected.target) == label) & ~held_out])


def test_selected_classes_are_labelled_in_the_given_order() -> None:
    every, some = open_dataset("digits", None), open_dataset("digits", None, classes=["7", "2"])
    assert [entry.name for entry in some.classes] == ["7", "2"]
    assert some.counts == (every.counts[7], every.counts[2])
    assert torch.equal(some.train([1]).images[1], every.train([2]).images[2])
    expected = every.test()
    assert torch.equal(some.test().images[some.test().labels == 0], expected.images[expected.labels == 7])


def test_only_the_requested_classes_are_opened() -> None:
    source = open_dataset("digits", None).train([3])
    picked = source.get(3, torch.tensor([5, 0]))
    assert torch.equal(picked, source.images[3][[5, 0]])
    with pytest.raises(KeyError, match="class 4 was not opened"):
        source.get(4, torch.tensor([0]))
    with pytest.raises(ValueError, match=r"labels 0\.\.9"):
        open_dataset("digits", None).train([10])


def test_resized_only_on_request() -> None:
    larger = open_dataset("digits", None, size=16)
    assert larger.size == 16
    pixels = larger.train([0]).images[0]
    assert pixels.shape[1:] == (1, 16, 16)
    assert pixels.dtype is torch.uint8
    native = open_dataset("digits", None).train([0]).images[0]
    assert pixels.float().mean().item() == pytest.approx(native.float().mean().item(), abs=3)


def test_all_problems_at_once() -> None:
    with pytest.raises(DataError) as caught:
        open_dataset("digits", None, size=0, classes=["1", "1", "ten"])
    assert len(caught.value.problems) == 3
    for part in ("dataset.size is 0", "more than once: 1", "do not exist: ten"):
        assert part in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match="digits, mnist"):
        open_dataset("digitz", None)
    assert {"digits", "svhn", "cifar100", "imagenet", "image_folder"} <= set(names())
