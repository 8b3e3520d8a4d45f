"""Differentiable siamese augmentation (DSA, Zhao and Bilen 2021) as one colour map, one affine warp and one mask.

A :class:`Draw` holds every random parameter as a tensor; operations that were not drawn have neutral parameters, so
applying a draw needs no branch and no host synchronisation. Applying one draw to real and synthetic images makes the
augmentation siamese by construction. All operations act in normalised space, where padding and masks are 0.

Strengths are those of the authors' programs: brightness 1, saturation 2, contrast 0.5, crop 1/8, cutout 1/2, scale 1.2,
rotation 15 degrees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from dist_condense.core import sampling

CROP, CUTOUT, SCALE, DEGREES = 0.125, 0.5, 1.2, 15.0


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Parameters of n augmentations, one for each image, or one for the whole batch (n = 1)."""

    brightness: Tensor
    """Offsets ``[n]`` that are added to all values."""
    saturation: Tensor
    """Factors ``[n]`` around the mean over channels."""
    contrast: Tensor
    """Factors ``[n]`` around the mean over the image."""
    warp: Tensor
    """Maps ``[n, 2, 3]`` from output to input coordinates, both in [-1, 1], as in
    :func:`torch.nn.functional.affine_grid`.
    """
    cut: Tensor
    """Rectangles ``[n, 2, 2]`` int64 that are set to 0: (rows, columns) x (from, to); empty where from == to."""

    def to(
        self, device: torch.device, dtype: torch.dtype, move: Callable[[Tensor, torch.device], Tensor] = Tensor.to
    ) -> Draw:
        """Copy the draw to a device and convert its floating-point tensors; ``move`` copies each tensor."""
        return self.mapped(lambda x: move(x.to(dtype) if x.is_floating_point() else x, device))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Draw:
        """Return the draw with ``change`` applied to each tensor."""
        return Draw(**{f.name: change(getattr(self, f.name)) for f in fields(self)})

    def split(self, counts: Sequence[int]) -> list[Draw]:
        """Return the draws of ``counts[i]`` augmentations each, one after the other; the tensors are views."""
        parts = zip(*(getattr(self, f.name).split(list(counts)) for f in fields(self)), strict=True)
        return [Draw(**{f.name: x for f, x in zip(fields(self), part, strict=True)}) for part in parts]


def joined(draws: Sequence[Draw]) -> Draw:
    """Return the augmentations of several draws, one draw after the other."""
    return Draw(**{f.name: torch.cat([getattr(x, f.name) for x in draws]) for f in fields(Draw)})


pytree.register_dataclass(Draw)


def neutral(n: int) -> Draw:
    """Return the draw of n augmentations that change nothing."""
    zero, one = torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64)
    return Draw(
        brightness=zero,
        saturation=one,
        contrast=one,
        warp=torch.eye(3, dtype=torch.float64)[:2].repeat(n, 1, 1),
        cut=torch.zeros(n, 2, 2).long(),
    )


def apply(images: Tensor, draw: Draw) -> Tensor:
    """Augment images ``[N, C, h, w]`` by a draw of n = 1 or n = N augmentations: colour, then warp, then mask."""
    return mask(warp(colour(images, draw), draw), draw)


def colour(images: Tensor, draw: Draw) -> Tensor:
    """Change the brightness, then the saturation, then the contrast of images."""
    brightness, saturation, contrast = (x.view(-1, 1, 1, 1) for x in (draw.brightness, draw.saturation, draw.contrast))
    images = images + brightness
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * saturation + grey
    level = images.mean((1, 2, 3), keepdim=True)
    return (images - level) * contrast + level


def warp(images: Tensor, draw: Draw) -> Tensor:
    """Apply the draw's affine maps to images by one bilinear sampling, with zeros outside.

    Flips and shifts by whole pixels are exact up to rounding.
    """
    if torch.are_deterministic_algorithms_enabled():
        return sampling.warped(images, draw.warp)
    matrices = draw.warp.expand(len(images), 2, 3)
    if images.device.type == "cpu":
        grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    else:  # no product, which TF32 would round
        grid = sampling.affine_grid(matrices, (images.shape[-2], images.shape[-1]))
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def mask(images: Tensor, draw: Draw) -> Tensor:
    """Set the pixels in each image's cut rectangle to 0."""
    height, width = images.shape[-2:]
    rows = _inside(torch.arange(height, device=images.device), draw.cut[:, 0])
    columns = _inside(torch.arange(width, device=images.device), draw.cut[:, 1])
    keep = ~(rows[:, None, :, None] & columns[:, None, None, :])
    return images * keep.to(images.dtype)


def _inside(position: Tensor, interval: Tensor) -> Tensor:
    return (position >= interval[:, :1]) & (position < interval[:, 1:])


# --- operations: each replaces its own parameters of a draw -------------------------------------------------------


def set_colour(draw: Draw, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Draw:
    """Set brightness to u - 0.5, saturation to 2u and contrast to u + 0.5.

    Each argument is its own u in [0, 1), ``[n]``.
    """
    return replace(draw, brightness=brightness - 0.5, saturation=saturation * 2, contrast=contrast + 0.5)


def set_flip(draw: Draw, flipped: Tensor) -> Draw:
    """Mirror images left to right where ``flipped`` (bool ``[n]``) is true, before any other warp."""
    mirror = torch.diag(torch.tensor([-1.0, 1.0], dtype=draw.warp.dtype))
    return replace(draw, warp=torch.where(flipped.view(-1, 1, 1), mirror @ draw.warp, draw.warp))


def set_crop(draw: Draw, shift: Tensor, size: tuple[int, int]) -> Draw:
    """Shift images by whole pixels: out[i, j] = x[i + shift[0], j + shift[1]].

    :param shift: rows and columns of each shift, int ``[n, 2]``.
    :param size: height and width of the images.
    """
    columns = shift[:, 1].to(draw.warp.dtype) * 2 / size[1]
    rows = shift[:, 0].to(draw.warp.dtype) * 2 / size[0]
    identity = torch.eye(2, dtype=draw.warp.dtype).expand(len(shift), 2, 2)
    return replace(draw, warp=torch.cat([identity, torch.stack([columns, rows], 1)[..., None]], 2))


def set_scale(draw: Draw, factors: Tensor) -> Draw:
    """Set the warp to a scaling by ``factors`` ``[n, 2]`` = (sx, sy); factors above 1 shrink the image."""
    return replace(draw, warp=torch.cat([torch.diag_embed(factors), torch.zeros(len(factors), 2, 1)], 2))


def set_rotation(draw: Draw, radians: Tensor) -> Draw:
    """Rotate images by ``radians`` ``[n]``."""
    cos, sin, zero = radians.cos(), radians.sin(), torch.zeros_like(radians)
    rows = torch.stack([cos, -sin, zero, sin, cos, zero], 1)
    return replace(draw, warp=rows.view(-1, 2, 3))


def set_cutout(draw: Draw, offset: Tensor, size: tuple[int, int]) -> Draw:
    """Cut out a rectangle of half the height and half the width, clipped at the border.

    :param offset: row and column of each rectangle's centre, int ``[n, 2]``.
    :param size: height and width of the images.
    """
    side = torch.tensor([int(s * CUTOUT + 0.5) for s in size])
    start = offset - side // 2
    limit = torch.tensor(size)
    return replace(draw, cut=torch.stack([start.clamp(min=0), torch.minimum(start + side, limit)], 2))


class Sampler:
    """Source of uniform random numbers for n augmentations of images of ``size`` = (rows, columns)."""

    def __init__(self, n: int, size: tuple[int, int], generator: torch.Generator) -> None:
        self.n, self.size, self.generator = n, size, generator

    def uniform(self, *shape: int) -> Tensor:
        """Draw numbers in [0, 1), float64 ``[n, *shape]``."""
        return torch.rand(self.n, *shape, generator=self.generator, dtype=torch.float64)

    def integers(self, low: int, high: int) -> Tensor:
        """Draw n integers in [low, high), int64 ``[n]``."""
        return torch.randint(low, high, (self.n,), generator=self.generator)


class Samplers(Sampler):
    """Source of the random numbers of several samplers for images of one size, one sampler after the other."""

    def __init__(self, samplers: Sequence[Sampler]) -> None:
        self.n, self.size, self.samplers = sum(x.n for x in samplers), samplers[0].size, samplers

    def uniform(self, *shape: int) -> Tensor:
        return torch.cat([x.uniform(*shape) for x in self.samplers])

    def integers(self, low: int, high: int) -> Tensor:
        return torch.cat([x.integers(low, high) for x in self.samplers])


def draw_colour(draw: Draw, sampler: Sampler) -> Draw:
    """Change brightness, saturation and contrast, each by a random factor."""
    return set_colour(draw, sampler.uniform(), sampler.uniform(), sampler.uniform())


def draw_flip(draw: Draw, sampler: Sampler) -> Draw:
    """Flip left and right with probability 1/2."""
    return set_flip(draw, sampler.uniform() < 0.5)


def draw_crop(draw: Draw, sampler: Sampler) -> Draw:
    """Shift by up to an eighth of the sides; what is outside becomes 0."""
    reach = [int(s * CROP + 0.5) for s in sampler.size]
    shift = torch.stack([sampler.integers(-r, r + 1) for r in reach], 1)
    return _after(draw, set_crop(draw, shift, sampler.size))


def draw_scale(draw: Draw, sampler: Sampler) -> Draw:
    """Scale each side by a factor from 1/1.2 to 1.2."""
    return _after(draw, set_scale(draw, sampler.uniform(2) * (SCALE - 1 / SCALE) + 1 / SCALE))


def draw_rotate(draw: Draw, sampler: Sampler) -> Draw:
    """Rotate by up to 15 degrees."""
    return _after(draw, set_rotation(draw, (sampler.uniform() - 0.5) * 2 * math.radians(DEGREES)))


def draw_cutout(draw: Draw, sampler: Sampler) -> Draw:
    """Set a square of half the sides at a random place to 0."""
    side = [int(s * CUTOUT + 0.5) for s in sampler.size]
    pairs = zip(sampler.size, side, strict=True)
    return set_cutout(draw, torch.stack([sampler.integers(0, s + (1 - c % 2)) for s, c in pairs], 1), sampler.size)


def _after(earlier: Draw, later: Draw) -> Draw:
    """Compose the warp of ``later`` with that of ``earlier``: output -> image after the earlier warp -> image."""
    linear, shift = earlier.warp.split([2, 1], -1)
    return replace(later, warp=linear @ later.warp + F.pad(shift, (2, 0)))


Operation = Callable[[Draw, Sampler], Draw]

OPERATIONS: dict[str, Operation] = {
    "flip": draw_flip,
    "color": draw_colour,
    "crop": draw_crop,
    "scale": draw_scale,
    "rotate": draw_rotate,
    "cutout": draw_cutout,
}


@dataclass(frozen=True)
class Strategy:
    """Operations that are always applied, and operations of which one is drawn per batch, in the order of OPERATIONS.

    DSA: ``one_of`` contains all operations. IDC: ``always`` contains color, cutout and, optionally, flip; ``one_of``
    contains the listed ones of crop, scale and rotate. Other pairs of lists give combinations that are not published.
    Several warps are composed to one map, which samples the image once: pixels that one warp moves out of the image can
    return by the next.
    """

    always: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.always or self.one_of)

    def without(self, *names: str) -> Strategy:
        """Return the strategy without the operations ``names``.

        For example, flip is removed where it changes the label, and cutout where CutMix is used.
        """
        return Strategy(
            tuple(x for x in self.always if x not in names), tuple(x for x in self.one_of if x not in names)
        )

    def draw(self, n: int, size: tuple[int, int], generator: torch.Generator) -> Draw:
        """Draw n augmentations of images of ``size``; the operation of ``one_of`` is the same for all n."""
        return self.draw_each([n], size, [generator])

    def draw_each(self, counts: Sequence[int], size: tuple[int, int], generators: Sequence[torch.Generator]) -> Draw:
        """Draw augmentations for several batches, one after the other: each as :meth:`draw` with its own generator.

        Batches with the same operation of ``one_of`` are computed together.
        """
        samplers = [Sampler(n, size, generator) for n, generator in zip(counts, generators, strict=True)]
        choices, number = range(len(samplers)), len(self.one_of)
        which = [int(torch.randint(number, (), generator=x)) if number else 0 for x in generators]
        groups = [[i for i in choices if which[i] == w] for w in dict.fromkeys(which)]
        drawn = [self._drawn(which[group[0]], Samplers([samplers[i] for i in group])) for group in groups]
        if len(drawn) == 1:
            return drawn[0]
        parts = (zip(i, x.split([counts[j] for j in i]), strict=True) for i, x in zip(groups, drawn, strict=True))
        by_batch = {i: part for group in parts for i, part in group}
        return joined([by_batch[i] for i in choices])

    def _drawn(self, which: int, sampler: Sampler) -> Draw:
        """Draw augmentations with the operations ``always`` and ``one_of[which]``."""
        names = (*self.always, *self.one_of[which : which + 1])
        draw = neutral(sampler.n)
        for name in (name for name in OPERATIONS if name in names):
            draw = OPERATIONS[name](draw, sampler)
        return draw
