"""The passes over real images that the segments of training reach, and what torch cannot differentiate."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice, product
from types import SimpleNamespace

import pytest
from torch import nn

from dist_condense.core import randomness
from dist_condense.settings import matching
from dist_condense.settings.assembly import Pass
from dist_condense.settings.config import RunConfig, load


@pytest.fixture(scope="module")
def config() -> RunConfig:
    keys = ["training.source=real", "training.batch=4", "trajectory.start=fresh"]
    return load("configs/digits.yaml", keys)


def pass_of(config: RunConfig, *, networks: int, steps: int, amount: int, count: int) -> Pass:
    """Return the pass over ``count`` real images in batches of 4."""
    trajectory = replace(config.trajectory, networks=networks, matching_steps=steps)
    config = replace(config, trajectory=trajectory, training=replace(config.training, images=amount))
    [found] = matching.passes(config, SimpleNamespace(counts=[count], classes=["a"]))  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(("networks", "steps"), [(1, 2), (1, 5), (2, 2), (3, 2), (3, 4)])
def test_a_pass_has_an_incomplete_batch_where_a_segment_of_training_has(
    networks: int, steps: int, config: RunConfig
) -> None:
    found = set()
    for count, amount in product((7, 11, 22), (0, 1, 4, 8, 12)):
        each, length = pass_of(config, networks=networks, steps=steps, amount=amount, count=count), -(-amount // 4)
        sizes = [
            len(batch)
            for k, t in product(range(networks), range(steps - 1))  # the segment after the last step is skipped
            for batch in islice(randomness.endless_batches(count, 4, (k * steps + t) * length, 0, "any"), length)
        ]
        assert (each.images % each.batch != 0) == any(size < 4 for size in sizes)
        found.add(each.images % each.batch != 0)
    assert found == {False, True}


def test_many_networks_take_no_time(config: RunConfig) -> None:
    found = pass_of(config, networks=1_000_000, steps=2, amount=4, count=7)  # every end is in a skipped segment
    assert found.images == 4


FORWARD = ("compute.second_derivative=forward", "compute.autocast=true")


@pytest.mark.parametrize(
    ("keys", "norm", "is_refused"),
    [
        (FORWARD, nn.Identity(), True),
        ((*FORWARD, "compute.compile=true"), nn.Identity(), False),
        ((*FORWARD, "compute.compile=true"), nn.GroupNorm(1, 1), True),
        (FORWARD[:1], nn.GroupNorm(1, 1), False),
        (FORWARD[1:], nn.GroupNorm(1, 1), False),
    ],
)
def test_forward_differentiation_in_bfloat16(keys: tuple[str, ...], norm: nn.Module, is_refused: bool) -> None:
    config, theta = load("configs/digits.yaml", keys), nn.Sequential(nn.Conv2d(1, 1, 3), norm)
    found = [*matching.problems(config), *matching.network_problems(config, theta)]  # type: ignore[arg-type]
    assert [line.split(":")[0] for line in found] == ["compute.second_derivative"] * is_refused
