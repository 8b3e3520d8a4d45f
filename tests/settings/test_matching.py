"""The passes over real images that the segments of training reach."""

from __future__ import annotations

from itertools import islice, product
from types import SimpleNamespace

import pytest

from dist_condense.core import randomness
from dist_condense.settings import matching
from dist_condense.settings.config import load


@pytest.mark.parametrize(("networks", "steps"), [(1, 2), (1, 5), (2, 2), (3, 2), (3, 4)])
def test_a_pass_has_an_incomplete_batch_where_a_segment_of_training_has(networks: int, steps: int) -> None:
    keys = [f"trajectory.networks={networks}", f"trajectory.matching_steps={steps}"]
    found = set()
    for count, amount in product((7, 11, 22), (0, 1, 4, 8, 12)):
        given = ["training.source=real", "training.batch=4", f"training.images={amount}", "trajectory.start=fresh"]
        config = load("configs/digits.yaml", [*keys, *given])
        [each] = matching.passes(config, SimpleNamespace(counts=[count], classes=["a"]))
        length = -(-amount // 4)
        sizes = [
            len(batch)
            for k, t in product(range(networks), range(steps - 1))  # the segment after the last step is skipped
            for batch in islice(randomness.endless_batches(count, 4, (k * steps + t) * length, 0, "any"), length)
        ]
        assert (each.images % each.batch != 0) == any(size < 4 for size in sizes)
        found.add(each.images % each.batch != 0)
    assert found == {False, True}


def test_many_networks_take_no_time() -> None:
    keys = ["trajectory.networks=1000000", "trajectory.matching_steps=2", "training.images=4", "training.batch=4"]
    config = load("configs/digits.yaml", [*keys, "training.source=real", "trajectory.start=fresh"])
    [each] = matching.passes(config, SimpleNamespace(counts=[7], classes=["a"]))  # every end is in a skipped segment
    assert each.images == 4
