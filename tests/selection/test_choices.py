"""Images that each selection selects from a class."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from dist_condense.core import randomness
from dist_condense.selection.candidates import Candidates
from dist_condense.selection.herding import BLOCK, herding
from dist_condense.selection.table import SELECTIONS


def candidates(features: Tensor, ipc: int = 3, *, label: int = 0, draw: int = 0) -> Candidates:
    return Candidates(label, features=features, ipc=ipc, seed=7, draw=draw)


def by_definition(features: Tensor, ipc: int) -> list[int]:
    """Compute herding by its formula, one image at a time, in Python floats."""
    rows = features.tolist()
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    selected: list[int] = []
    for k in range(ipc):
        target = [(k + 1) * m - sum(rows[i][j] for i in selected) for j, m in enumerate(mean)]
        left = [i for i in range(len(rows)) if i not in selected]
        selected.append(min(left, key=lambda i: sum((t - x) ** 2 for t, x in zip(target, rows[i], strict=True))))
    return selected


@pytest.mark.parametrize("seed", range(4))
def test_herding_is_its_definition(seed: int) -> None:
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(seed)).relu()
    assert herding(candidates(features, 12)).tolist() == by_definition(features, 12)


def test_herding_takes_the_nearest_and_not_the_farthest() -> None:
    features = torch.tensor([[0.0], [10.0], [4.0], [100.0], [5.0]])  # mean 23.8
    assert herding(candidates(features, 1)).tolist() == [1]
    assert (features - features.mean()).abs().argmax() == 3  # DeepCore's first


def test_the_mean_of_all_is_reached_and_each_image_is_chosen_once() -> None:
    features = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    assert sorted(herding(candidates(features, 9)).tolist()) == list(range(9))


def test_of_equal_images_the_first_is_chosen_also_across_blocks() -> None:
    """Equal rows have equal distances at every position, for any block size and row length."""
    row = torch.randn(1, 37, generator=torch.Generator().manual_seed(1))
    features = row.expand(2 * BLOCK + 1, 37).clone()
    features[:5] += 3
    assert herding(candidates(features, 4)).tolist() == [5, 6, 7, 8]


def test_a_greedy_choice_begins_with_the_smaller_one() -> None:
    features = torch.randn(60, 3, generator=torch.Generator().manual_seed(2))
    small, large = (herding(candidates(features, ipc)).tolist() for ipc in (4, 20))
    assert small == large[:4]


def test_random_is_keyed_by_draw_and_class_as_the_published_rows_here_were() -> None:
    none = torch.empty(50, 0)
    select = SELECTIONS["random"].select
    draws = {(c, d): select(candidates(none, 5, label=c, draw=d)).tolist() for c in (0, 1) for d in (0, 1)}
    key = randomness.key(7, "random baseline", 1)
    assert draws[0, 1] == randomness.permutation(50, key, "random set", 0)[:5].tolist()
    assert all(a != b for a, b in itertools.combinations(draws.values(), 2))
    assert all(len(set(positions)) == 5 for positions in draws.values())
