"""Draws for the training of theta: CutMix's boxes, and an augmentation for each image by one operation.

The expected frequencies are counted over all possible boxes; 4,000 draws are within four standard deviations of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dist_condense.core import augmentation, cutmix
from dist_condense.core.augmentation import Draw, Strategy

Plant = Callable[[pytest.MonkeyPatch], None]

SIDE, DRAWS = 8, 4000


def boxes() -> dict[tuple[int, int, int, int], float]:
    """Return the probability of every box of an 8 x 8 image: lam ~ U(0, 1), side int(8 sqrt(1 - lam)), any centre."""
    chances: dict[tuple[int, int, int, int], float] = {}
    for side in range(SIDE):
        # side <= 8 sqrt(1 - lam) < side + 1  <=>  lam is in an interval of length ((side + 1)^2 - side^2) / 64
        chance = ((side + 1) ** 2 - side**2) / SIDE**2
        for row in range(SIDE):
            for column in range(SIDE):
                edges = [c + sign * (side // 2) for c in (row, column) for sign in (-1, 1)]
                box = tuple(min(max(edge, 0), SIDE) for edge in edges)
                chances[box] = chances.get(box, 0) + chance / SIDE**2
    return chances


def compare_boxes(plant: Plant | None = None) -> None:
    """Compare the frequencies of properties of boxes, and the weight of an image's own label: 1 - the true area."""
    expected = boxes()
    assert sum(expected.values()) == pytest.approx(1)
    keyed, drawn = torch.Generator().manual_seed(1), []
    with pytest.MonkeyPatch.context() as patch:
        if plant:
            plant(patch)
        for _ in range(DRAWS):
            mix = cutmix.draw_cutmix(0.5, 6, (SIDE, SIDE), keyed)
            top, bottom, left, right = mix.box.flatten().tolist()
            assert float(mix.weight) == pytest.approx(1 - (bottom - top) * (right - left) / SIDE**2), (
                "weight by the true area"
            )
            assert sorted(mix.partner.tolist()) == list(range(6)), "partners are a permutation"
            drawn.append(((top, bottom, left, right), mix.partner))
    features: dict[str, Callable[[tuple[int, int, int, int]], float]] = {
        "area": lambda box: (box[1] - box[0]) * (box[3] - box[2]) / SIDE**2,
        "none": lambda box: float(box[0] == box[1] or box[2] == box[3]),
        "top border": lambda box: float(box[0] == 0 < box[1] and box[2] < box[3]),
        "left border": lambda box: float(box[2] == 0 < box[3] and box[0] < box[1]),
        "square": lambda box: float(box[1] - box[0] == box[3] - box[2] > 0),
    }
    for name, feature in features.items():
        # with probability 0.5 a box, else nothing
        chances = [(0.5 * chance, feature(box)) for box, chance in expected.items()]
        chances.append((0.5, feature((0, 0, 0, 0))))
        mean = sum(chance * x for chance, x in chances)
        deviation = math.sqrt(sum(chance * (x - mean) ** 2 for chance, x in chances) / DRAWS)
        measured = sum(feature(box) for box, _ in drawn) / DRAWS
        assert abs(measured - mean) < 4 * deviation, f"{name}: {measured:.3f}, not {mean:.3f}"
    own = sum(int((partner == torch.arange(6)).sum()) for _, partner in drawn) / DRAWS
    assert abs(own - 1) < 4 / math.sqrt(DRAWS), "a permutation leaves one place as it is, in the mean"


def test_boxes() -> None:
    compare_boxes()


def side_by(power: float) -> Plant:
    """Plant a side that is another power of 1 - lam."""
    whole = cutmix.cutmix_box
    return lambda patch: patch.setattr(
        cutmix, "cutmix_box", lambda lam, *rest: whole(1 - (1 - lam) ** (2 * power), *rest)
    )


def centre_inside(patch: pytest.MonkeyPatch) -> None:
    whole = cutmix.cutmix_box
    patch.setattr(cutmix, "cutmix_box", lambda lam, centre, size: whole(lam, (SIDE // 2, SIDE // 2), size))


def weight_is_lam(patch: pytest.MonkeyPatch) -> None:
    whole = cutmix.mix
    patch.setattr(cutmix, "mix", lambda *given: replace(whole(*given), weight=torch.tensor(0.5)))


def with_probability(p: float) -> Plant:
    whole = cutmix.draw_cutmix
    return lambda patch: patch.setattr(cutmix, "draw_cutmix", lambda _, *rest: whole(p, *rest))


def no_partners(patch: pytest.MonkeyPatch) -> None:
    whole = cutmix.mix
    patch.setattr(cutmix, "mix", lambda partner, *rest: whole(torch.arange(len(partner)), *rest))


BOX_PLANTS: dict[str, Plant] = {
    "side by 1 - lam": side_by(1.0),
    "centre in the middle": centre_inside,
    "weight is lam": weight_is_lam,
    "always": with_probability(1.0),
    "somewhat more often": with_probability(0.55),
    "each its own partner": no_partners,
}


@pytest.mark.parametrize("name", BOX_PLANTS)
def test_another_box_is_noticed(name: str) -> None:
    with pytest.raises(AssertionError):
        compare_boxes(BOX_PLANTS[name])


# --- augmentation -------------------------------------------------------------------------------------------------

TIMES, IMAGES = 600, 5
IDENTITY = torch.tensor([[1.0, 0, 0], [0, 1, 0]], dtype=torch.float64)


def operation(draw: Draw, i: int) -> str:
    """Return the operation of image i; DSA's operations are recognised by their parameters."""
    warp, cut = draw.warp[i], draw.cut[i]
    if (draw.brightness[i], draw.saturation[i], draw.contrast[i]) != (0, 1, 1):
        return "color"
    if bool((cut[:, 1] > cut[:, 0]).all()):
        return "cutout"
    if not torch.equal(warp[:, :2], IDENTITY[:, :2]):
        turned = float(warp[0, 1])
        return "rotate" if turned else "flip" if float(warp[0, 0]) == -1 else "scale"
    return "crop" if bool(warp[:, 2].any()) else "nothing"


def compare_draws(plant: Plant | None = None) -> None:
    """Check DSA's draws: one of six operations per batch, equally likely, its magnitudes drawn for every image."""
    keyed, seen = torch.Generator().manual_seed(2), {}
    strategy = Strategy(one_of=("color", "crop", "cutout", "flip", "scale", "rotate"))
    values: dict[str, list[Tensor]] = {"color": [], "crop": [], "scale": [], "rotate": []}
    with pytest.MonkeyPatch.context() as patch:
        if plant:
            plant(patch)
        for _ in range(TIMES):
            draw = strategy.draw(IMAGES, (SIDE, SIDE), keyed)
            kinds = {operation(draw, i) for i in range(IMAGES)} - {"nothing"}  # a flip or a crop may be none
            assert len(kinds) <= 1, f"several operations in a batch: {kinds}"
            for kind in kinds:
                seen[kind] = seen.get(kind, 0) + 1
                own = torch.cat([draw.brightness[:, None], draw.warp.flatten(1), draw.cut.flatten(1)], 1)
                if kind in ("color", "scale", "rotate"):
                    assert len(own.unique(dim=0)) == IMAGES, f"the same {kind} for several images"
                if kind in values:
                    values[kind].append(MAGNITUDES[kind](draw))
    for kind in ("color", "crop", "cutout", "flip", "scale", "rotate"):
        assert abs(seen.get(kind, 0) / TIMES - 1 / 6) < 4 * math.sqrt(5 / 36 / TIMES), f"{kind}: {seen.get(kind, 0)}"
    for kind, (low, high) in LIMITS.items():
        measured = torch.cat(values[kind])
        width = high - low
        assert low - 1e-9 <= measured.min() < low + width / 20, f"{kind} from {measured.min():.3f}"
        assert high - width / 20 < measured.max() <= high + 1e-9, f"{kind} to {measured.max():.3f}"
        assert abs(measured.mean() - (low + high) / 2) < 0.4 * width / math.sqrt(len(measured)) * 4, kind


MAGNITUDES: dict[str, Callable[[Draw], Tensor]] = {
    "color": lambda draw: draw.brightness,
    "crop": lambda draw: (draw.warp[:, :, 2] * SIDE / 2).flatten(),
    "scale": lambda draw: torch.stack([draw.warp[:, 0, 0], draw.warp[:, 1, 1]]).flatten(),
    "rotate": lambda draw: torch.rad2deg(torch.atan2(draw.warp[:, 1, 0], draw.warp[:, 0, 0])),
}
LIMITS = {"color": (-0.5, 0.5), "crop": (-1.0, 1.0), "scale": (1 / 1.2, 1.2), "rotate": (-15.0, 15.0)}


def test_draws() -> None:
    compare_draws()


def one_for_all(patch: pytest.MonkeyPatch) -> None:
    """Plant the first image's magnitudes for the whole batch."""
    whole = Strategy.draw

    def draw(self: Strategy, n: int, size: tuple[int, int], generator: torch.Generator) -> Draw:
        return whole(self, 1, size, generator).mapped(lambda x: x.repeat_interleave(n, 0))

    patch.setattr(Strategy, "draw", draw)


def one_for_each(patch: pytest.MonkeyPatch) -> None:
    """Plant a separate operation for every image."""
    whole = Strategy.draw
    fields = ("brightness", "saturation", "contrast", "warp", "cut")

    def draw(self: Strategy, n: int, size: tuple[int, int], generator: torch.Generator) -> Draw:
        each = [whole(self, 1, size, generator) for _ in range(n)]
        return Draw(**{f: torch.cat([getattr(one, f) for one in each]) for f in fields})

    patch.setattr(Strategy, "draw", draw)


DRAW_PLANTS: dict[str, Plant] = {
    "one for all": one_for_all,
    "one for each": one_for_each,
    "30 degrees": lambda patch: patch.setattr(augmentation, "DEGREES", 30.0),
    "scale of 1.3": lambda patch: patch.setattr(augmentation, "SCALE", 1.3),
    "crop of a quarter": lambda patch: patch.setattr(augmentation, "CROP", 0.25),
}


@pytest.mark.parametrize("name", DRAW_PLANTS)
def test_another_draw_is_noticed(name: str) -> None:
    with pytest.raises(AssertionError):
        compare_draws(DRAW_PLANTS[name])
