"""Augmentations of an evaluation: shapes, neutral draws, keyed draws, and the effect of each operation."""

import math

import pytest
import torch
from torchvision.transforms import functional as tv

from dist_condense.core.augmentation import Sampler, neutral
from dist_condense.data.normalise import ChannelStatistics
from dist_condense.evaluation import dc_augmentation as dc
from dist_condense.evaluation import imagenet_augmentation as imagenet
from dist_condense.evaluation.protocols import PROTOCOLS

RGB = ChannelStatistics((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    return torch.rand(6, 3, 16, 16, generator=generator(9))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_shape_and_repeatability(name, images):
    augment, before = PROTOCOLS[name].augmentation, images.clone()
    once = augment(images, generator(1), RGB)
    assert once.shape == images.shape
    assert once.dtype == images.dtype
    assert torch.equal(once, augment(images, generator(1), RGB))
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", [n for n in PROTOCOLS if n not in ("dc", "idc_speech")])
def test_another_key_is_another_draw(name, images):
    augment = PROTOCOLS[name].augmentation
    assert not torch.equal(augment(images, generator(1), RGB), augment(images, generator(2), RGB))


# --- DC -------------------------------------------------------------------------------------------------------------


def test_dc_neutral_warp_is_the_identity(images):
    fill = torch.full((6, 3, 1, 1), 0.7)
    torch.testing.assert_close(dc.warped(images, neutral(6).warp, fill), images)


def test_dc_crop_is_a_window_of_the_image_padded_with_the_mean_of_the_batch(images):
    change = dc.crop(Sampler(6, (16, 16), generator(3)))
    mean = images.mean((0, 2, 3), keepdim=True).expand(6, 3, 1, 1)
    cropped = dc.warped(images, change.warp, mean)
    padded = mean.expand(6, 3, 24, 24).clone()
    padded[:, :, 4:20, 4:20] = images
    windows = [padded[:, :, r : r + 16, c : c + 16] for r in range(8) for c in range(8)]
    for i in range(6):
        assert any(torch.allclose(cropped[i], window[i], atol=1e-5) for window in windows)


def test_dc_scale_and_rotation_stay_in_range():
    sampler = Sampler(500, (28, 28), generator(4))
    factors = 1 / dc.scale(sampler).warp[:, [0, 1], [0, 1]] * 28
    torch.testing.assert_close(factors, factors.round(), rtol=0, atol=1e-9)
    assert factors.min() == 22
    assert factors.max() == 33
    warp = dc.rotate(sampler).warp
    degrees = torch.atan2(warp[:, 1, 0], warp[:, 0, 0]) * (180 / math.pi)
    assert -45.001 < degrees.min() < -43
    assert 42 < degrees.max() < 44.001


@pytest.mark.parametrize(("name", "filled"), [("crop", 1), ("scale", 0), ("rotate", 1)])
def test_dc_fills_what_is_uncovered(name, filled):
    """The fill is the mean of the batch, or 0 for a scaling."""
    white = torch.ones(200, 1, 28, 28)
    corners = dc.OnePerImage((name,))(white, generator(2), None)[:, 0, 0, 0]
    assert corners.min() == pytest.approx(filled, abs=1e-5)


def test_dc_every_image_gets_one_operation(images):
    many = images.repeat(20, 1, 1, 1)
    moved = dc.OnePerImage(("crop", "noise"))(many, generator(5), RGB) - many
    size = moved.abs().amax((1, 2, 3))
    noisy = size < 0.01
    assert 40 < noisy.sum() < 80
    assert moved[noisy].std() == pytest.approx(0.001, rel=0.05)


# --- ImageNet -------------------------------------------------------------------------------------------------------


def test_imagenet_neutral_draws_are_the_identity(images):
    whole = torch.tensor([0, 0, 16, 16]).double().repeat(6, 1)
    one = torch.ones(6, 1, 1, 1)
    same = imagenet.crop_and_flip(images, whole, torch.zeros(6, dtype=torch.bool))
    for change in imagenet.JITTERS:
        same = change(same, one)
    torch.testing.assert_close(imagenet.light(same, torch.zeros(6, 3)), images)


def test_imagenet_flip_mirrors_the_crop(images):
    boxes = torch.tensor([2, 3, 12, 10]).double().repeat(6, 1)
    plain = imagenet.crop_and_flip(images, boxes, torch.zeros(6, dtype=torch.bool))
    mirrored = imagenet.crop_and_flip(images, boxes, torch.ones(6, dtype=torch.bool))
    torch.testing.assert_close(mirrored, plain.flip(3), rtol=0, atol=1e-5)


def test_imagenet_crop_is_torchvisions_inside_its_border(images):
    top, left, height, width = 2, 3, 12, 10
    ours = imagenet.crop_and_flip(
        images, torch.tensor([[top, left, height, width]]).double().repeat(6, 1), torch.zeros(6).bool()
    )
    theirs = tv.resized_crop(images, top, left, height, width, [16, 16], antialias=False)
    torch.testing.assert_close(ours[..., 1:-1, 1:-1], theirs[..., 1:-1, 1:-1], rtol=0, atol=1e-5)


def test_imagenet_colour_maps_are_torchvisions_before_it_clamps(images):
    images = images / 2 + 0.25
    factor = torch.full((6, 1, 1, 1), 1.2)
    close = {"rtol": 0, "atol": 2e-4}  # torchvision's luma has 0.2989, 0.587, 0.114
    torch.testing.assert_close(imagenet.brighten(images, factor), tv.adjust_brightness(images, 1.2), **close)
    torch.testing.assert_close(imagenet.contrast(images, factor), tv.adjust_contrast(images, 1.2), **close)
    torch.testing.assert_close(imagenet.saturate(images, factor), tv.adjust_saturation(images, 1.2), **close)


def test_imagenet_boxes_lie_in_the_image_with_the_published_areas():
    boxes = imagenet.ImagenetAugmentation().boxes(2000, (224, 224), generator(6))
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= 224).all()
    assert torch.equal(boxes, boxes.round())
    area, ratio = boxes[:, 2] * boxes[:, 3] / 224**2, boxes[:, 3] / boxes[:, 2]
    assert 0.49 < area.min() < 0.51
    assert 0.97 < area.max() <= 1
    assert ratio.min() > 0.74
    assert ratio.max() < 1.35


def test_imagenet_lighting_adds_one_colour_per_image(images):
    added = imagenet.light(images, torch.eye(3).repeat(2, 1)) - images
    torch.testing.assert_close(added.std((2, 3)), torch.zeros(6, 3), rtol=0, atol=1e-6)
    first = torch.tensor([-0.5675, -0.5808, -0.5836]) * 0.2175
    torch.testing.assert_close(added[0, :, 0, 0], first, rtol=0, atol=1e-6)
