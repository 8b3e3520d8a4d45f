"""Small images, networks and batches, equal for the engine and for the loop by hand."""

from __future__ import annotations

from collections.abc import Generator

import torch
from torch import Tensor, nn

from dist_condense.engine.update import Batch, DrawUpdates, with_draws
from tests.golden.by_hand import Theta, normalise

CLASSES, CHANNELS, SIZE, WIDTH = 3, 3, 8, 4
MEAN, STD = (0.5, 0.4, 0.6), (0.25, 0.3, 0.2)


def drawn(*key: int) -> torch.Generator:
    """Return a generator of the tests' own."""
    number = 7
    for part in key:
        number = (number * 1009 + part + 3) % 2**31
    return torch.Generator().manual_seed(number)


def photographs(count: int, *key: int) -> Tensor:
    """Return uint8 ``[count, 3, 8, 8]``, black and white among the values."""
    return torch.randint(-40, 296, (count, CHANNELS, SIZE, SIZE), generator=drawn(*key)).clamp(0, 255).to(torch.uint8)


def seen(images: Tensor) -> Tensor:
    """Return bytes as a network sees them, float64."""
    return normalise(images.double() / 255, MEAN, STD)


def batch(count: int, *key: int) -> tuple[Tensor, Tensor]:
    """Return images in normalised space, and labels."""
    return seen(photographs(count, *key)), torch.randint(CLASSES, (count,), generator=drawn(*key, 1))


def segment(*key: int) -> list[tuple[Tensor, Tensor]]:
    """Return the two batches after a matching step."""
    return [batch(7, *key, 0), batch(5, *key, 1)]


def passes(epochs: int, *key: int) -> list[tuple[Tensor, Tensor]]:
    """Return two batches an epoch."""
    return [batch(n, *key, e, n) for e in range(epochs) for n in (7, 4)]


class Given:
    """Batches of real images for theta: of sizes that slices do not divide, the last one smaller."""

    waited = 0.0

    def announce(self, *key: object) -> None:
        """Nothing to read."""

    def close(self) -> None:
        """Nothing to end."""

    def segment(self, *key: int, first: int = 0, draws: DrawUpdates) -> Generator[Batch]:
        """Yield two batches after a matching step."""
        return with_draws(segment(*key)[first:], draws, first)

    def passes(self, epochs: int, *key: int, first: int = 0, draws: DrawUpdates) -> Generator[Batch]:
        """Yield two batches an epoch."""
        return with_draws(passes(epochs, *key)[first:], draws, first)


def network(seed: int) -> nn.Module:
    """Build a ConvNet of two blocks with instance norm, sigmoid and average pooling, float64."""
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**31)
        for channels in (CHANNELS, WIDTH):
            layers += [nn.Conv2d(channels, WIDTH, 3, padding=1), nn.GroupNorm(WIDTH, WIDTH)]
            layers += [nn.Sigmoid(), nn.AvgPool2d(2)]
        made = nn.Sequential(*layers, nn.Flatten(), nn.Linear(WIDTH * (SIZE // 4) ** 2, CLASSES))
    return made.double()


def theta_of(module: nn.Module) -> Theta:
    """Return a copy of the parameters, float64."""
    return [p.detach().double().clone() for p in module.parameters()]


def flat(theta: Theta) -> Tensor:
    """Concatenate to one vector."""
    return torch.cat([p.flatten() for p in theta])
