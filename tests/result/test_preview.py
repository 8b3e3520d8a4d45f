import pytest
import torch

from dist_condense.result.preview import ASPECTS, blocks_of, left_out, sheet


def drawn(images):
    return sheet(images.__getitem__, [images.shape[1]] * len(images))


@pytest.mark.parametrize(
    ("classes", "ipc", "blocks"),
    [(1, 1, 1), (2, 1, 2), (3, 1, 3), (10, 1, 5), (100, 1, 10), (10, 2, 1), (20, 10, 1), (50, 10, 2), (100, 10, 4)],
)
def test_how_many_classes_stand_side_by_side(classes, ipc, blocks):
    assert blocks_of(classes, ipc) == blocks


def test_no_sheet_of_single_images_or_of_many_classes_is_a_strip():
    for ipc in range(1, 11):
        for classes in range(1 if ipc == 1 else 21, 101):
            blocks = blocks_of(classes, ipc)
            assert ASPECTS[0] <= ipc * blocks / -(-classes // blocks) <= ASPECTS[1]


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((10, 1, 1, 8, 8), (5 * 130 - 2, 2 * 130 - 2)),  # 16 times
        ((100, 1, 3, 32, 32), (10 * 98 - 2, 10 * 98 - 2)),
        ((10, 10, 3, 32, 32), (10 * 98 - 2, 10 * 98 - 2)),
        ((100, 10, 3, 32, 32), (4 * (10 * 66 + 10) - 12, 25 * 66 - 2)),
        (
            (200, 20, 1, 112, 112),
            (4 * (10 * 58 + 10) - 12, 25 * 58 - 2 + 32),
        ),  # 112 px reduced to a half, and a caption
        ((3, 2, 3, 224, 224), (2 * 226 - 2, 3 * 226 - 2)),
    ],
)
def test_the_sheet_is_neither_tiny_nor_huge(shape, size):
    assert drawn(torch.zeros(1, 1, 1, 1, 1).expand(shape)).size == size


def test_images_stand_in_label_order_and_a_missing_one_is_white():
    images = (torch.arange(22.0) / 255)[:, None, None, None, None].expand(22, 2, 1, 64, 64)
    picture = drawn(images)
    blocks = blocks_of(22, 2)
    across, down = 2 * 66 + 10, 66
    shown = [picture.getpixel((i % blocks * across, i // blocks * down)) for i in range(22)]
    assert shown == list(range(22))
    assert picture.getpixel((66, 0)) == 0 and picture.getpixel((64, 0)) == picture.getpixel((131, 0)) == 255
    uneven = drawn(torch.zeros(5, 1, 1, 64, 64))
    assert uneven.getpixel((uneven.width - 1, 0)) == 0 and uneven.getpixel((uneven.width - 1, uneven.height - 1)) == 255


def test_a_class_with_fewer_images_has_white_cells():
    numbers = [3, 1, 2]
    whole = sheet(lambda c: torch.zeros(numbers[c], 1, 64, 64), numbers)
    cells = [[whole.getpixel((130 * i, 130 * c)) == 0 for i in range(3)] for c in range(3)]
    assert cells == [[i < n for i in range(3)] for n in numbers]
    assert left_out([12, 3]) == "first 10 of 12 images of a class"


@pytest.mark.parametrize(
    ("classes", "ipc", "caption"),
    [
        (100, 10, ""),
        (1000, 1, "first 100 of 1,000 classes"),
        (10, 50, "first 10 of 50 images of each class"),
        (1000, 50, "first 100 of 1,000 classes, first 10 of 50 images of each class"),
    ],
)
def test_a_caption_states_what_is_omitted(classes, ipc, caption):
    assert left_out([ipc] * classes) == caption
    picture = drawn(torch.ones(1, 1, 1, 1, 1).expand(classes, ipc, 1, 8, 8))
    assert (picture.getextrema()[0] < 128) == bool(caption)  # dark letters on a white sheet
