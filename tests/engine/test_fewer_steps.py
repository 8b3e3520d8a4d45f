"""Representative minibatches equal k-means of scikit-learn; the filters of a network are perturbed by equal shares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from dist_condense.core import randomness
from dist_condense.core.clustering import ITERATIONS, nearest_to_centres
from dist_condense.data.normalise import ChannelStatistics, to_values
from dist_condense.data.reading.read_ahead import ReadAhead
from dist_condense.data.reading.source import MemorySource
from dist_condense.engine.coordinator import LocalCoordinator, Placement
from dist_condense.engine.errors import RunFailed
from dist_condense.engine.matching.minibatches import Minibatches
from dist_condense.engine.matching.recipe import Representatives, fresh_draw
from dist_condense.engine.training import NetworkTrainer, TrainingRecipe
from dist_condense.engine.trajectory import MAGNITUDES, Early, Pool, Trajectory, perturb
from dist_condense.system.storage import Folder
from tests.golden.toys import MEAN, STD, Given, network, photographs

COUNTS, BATCH = [40, 3, 25], 6
FLOAT64 = Placement(dtype=torch.float64)


class Embedding(nn.Module):
    """Features of an image: its pixels multiplied by a matrix that a seed determines."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        keyed = torch.Generator().manual_seed(seed)
        self.matrix = torch.randn(3 * 8 * 8, 16, generator=keyed, dtype=torch.float64)

    def embed(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.matrix


@pytest.fixture
def source() -> Iterator[ReadAhead]:
    with ReadAhead(MemorySource({c: photographs(n, c) for c, n in enumerate(COUNTS)})) as made:
        yield made


def minibatches(source: ReadAhead, labels: Sequence[int] = (0, 1, 2), images: int | None = None) -> Minibatches:
    """Return minibatches that are chosen at every third step."""
    options = Representatives(interval=3, images=images)
    recipe = SimpleNamespace(
        real_batch=BATCH, real_draw=fresh_draw, representatives=options, objective=SimpleNamespace(autocast=False)
    )
    return Minibatches(
        source=source,
        recipe=recipe,  # type: ignore[arg-type]
        seed=5,
        counts=COUNTS,
        labels=labels,
        statistics=ChannelStatistics(MEAN, STD),
        placement=FLOAT64,
    )


def positions(made: Minibatches, visit: int, theta: nn.Module) -> dict[int, list[int]]:
    """Return the positions that are read at a matching step, by class."""
    reads = made.of(visit, theta)
    for ticket in reads.real.values():
        made.source.redeem(ticket)
    return {c: ticket.indices.tolist() for c, ticket in reads.real.items()}


def features(seed: int, label: int) -> Tensor:
    values = to_values(photographs(COUNTS[label], label), torch.float64)
    return Embedding(seed).embed(ChannelStatistics(MEAN, STD).normalise(values))


def by_scikit_learn(rows: Tensor, number: int, keyed: torch.Generator) -> Tensor:
    first = torch.randperm(len(rows), generator=keyed)[:number]
    fitted = KMeans(number, init=rows[first].numpy(), n_init=1, max_iter=ITERATIONS, tol=0).fit(rows.numpy())
    return torch.cdist(torch.from_numpy(fitted.cluster_centers_), rows).argmin(1)


@pytest.mark.parametrize("number", [2, 5, 12])
def test_rows_nearest_to_the_centres_of_scikit_learn(number: int) -> None:
    rows = torch.randn(60, 4, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
    expected = by_scikit_learn(rows, number, torch.Generator().manual_seed(1))
    assert torch.equal(nearest_to_centres(rows, number, torch.Generator().manual_seed(1)), expected)


def test_a_cluster_without_rows_keeps_its_centre() -> None:
    rows = torch.tensor([-5.0, -5.0, -5.0, 0.5, 0.5])[:, None]

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in range(20)]

    firsts = [rows[torch.randperm(5, generator=each)[:3]].flatten().sort().values for each in generators()]
    ends = [rows[nearest_to_centres(rows, 3, each)].flatten().sort().values for each in generators()]
    pairs = [(first, end) for first, end in zip(firsts, ends, strict=True) if first[-1] > 0]
    assert len(pairs) > 10 and all(torch.equal(*pair) for pair in pairs)  # of two equal centres, one has no rows


def test_minibatches_are_nearest_to_the_centres_by_theta(source: ReadAhead) -> None:
    found = positions(minibatches(source), 0, Embedding(1))
    assert sorted(found[1]) == [0, 1, 2]  # fewer images than clusters: each once
    for label in (0, 2):
        candidates = fresh_draw(COUNTS[label], COUNTS[label], seed=5, label=label, visit=0)
        keyed = randomness.generator(5, "representative minibatch", 0, label)
        rows = by_scikit_learn(features(1, label)[candidates], BATCH, keyed)
        assert found[label] == candidates[rows].tolist()


def test_minibatches_are_kept_between_choices_and_depend_on_theta_at_their_choice(source: ReadAhead) -> None:
    made = minibatches(source)
    seen = [positions(made, visit, Embedding(visit)) for visit in range(6)]
    assert seen[0] == seen[1] == seen[2] != seen[3] == seen[4] == seen[5]
    other = minibatches(source)
    assert [positions(other, 0, Embedding(0)), *(positions(other, v, Embedding(9)) for v in (1, 2))] == seen[:3]
    assert positions(other, 3, Embedding(9)) != seen[3]


def test_a_choice_depends_on_the_class_alone(source: ReadAhead) -> None:
    every = positions(minibatches(source), 3, Embedding(1))
    assert positions(minibatches(source, labels=[2]), 3, Embedding(1)) == {2: every[2]}


def test_a_part_of_a_class_is_drawn_at_each_choice(source: ReadAhead) -> None:
    made = minibatches(source, images=8)
    choices = [set(positions(made, visit, Embedding(1))[0]) for visit in (0, 3)]
    for visit, found in zip((0, 3), choices, strict=True):
        assert found <= set(fresh_draw(40, 8, seed=5, label=0, visit=visit).tolist())
    assert choices[0] != choices[1]


def test_a_run_continues_between_two_choices(source: ReadAhead) -> None:
    made, resumed = minibatches(source), minibatches(source)
    expected = [positions(made, visit, Embedding(visit)) for visit in range(2)][1]
    for name, x in resumed.state.items():
        x.copy_(made.state[name])
    resumed.check()
    assert positions(resumed, 1, Embedding(7)) == expected


@pytest.mark.parametrize("value", [-2, COUNTS[1]])
def test_positions_that_no_image_has_are_refused(value: int, source: ReadAhead) -> None:
    made = minibatches(source)
    made.state["real_positions.1"][0] = value
    with pytest.raises(RunFailed, match="class 1: real_positions of the checkpoint are not positions of its 3 images"):
        made.check()


# --- perturbed networks ---------------------------------------------------------------------------------------------


def moved(before: nn.Module, after: nn.Module) -> list[Tensor]:
    """Return the distance that each filter moved, relative to its norm; 1-D tensors must not have moved."""
    result = []
    for x, y in zip(before.parameters(), after.parameters(), strict=True):
        if x.ndim == 1:
            assert torch.equal(x, y)
        else:
            result.append(((y - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)).detach())
    return result


def test_every_filter_moves_by_one_share_of_its_norm() -> None:
    shares = []
    for seed in range(40):
        theta = network(3)
        perturb(theta, torch.Generator().manual_seed(seed))
        every = torch.cat(moved(network(3), theta))
        torch.testing.assert_close(every, every[:1].expand_as(every), rtol=1e-6, atol=0)
        shares.append(float(every[0]))
    least, most = MAGNITUDES
    assert least < min(shares) < least + 0.02 and most - 0.02 < max(shares) < most


def test_members_of_the_pool_are_stored_as_trained_and_perturbed_by_k(tmp_path: Path) -> None:
    def trajectory() -> Trajectory:
        trainer = NetworkTrainer(TrainingRecipe(lr=0.1), LocalCoordinator(), FLOAT64, seed=5, slices=1)
        start = Early(Pool(1, 1, Given(), Folder(tmp_path), networks=3))  # type: ignore[arg-type]
        return Trajectory(network, trainer, Given(), start, seed=5, matching_steps=1)

    def theta(made: Trajectory, k: int) -> list[Tensor]:
        made.reach(k, 0)
        return [p.detach().clone() for p in made.network.parameters()]

    first = trajectory()
    seen = [theta(first, k) for k in range(3)]
    again = [theta(trajectory(), k) for k in range(3)]  # each from the stored member
    assert all(torch.equal(a, b) for x, y in zip(seen, again, strict=True) for a, b in zip(x, y, strict=True))
    member = network(0)
    Pool(1, 1, Given(), Folder(tmp_path), networks=3)(first, 0)  # type: ignore[arg-type]
    for found in seen:
        for p, x in zip(member.parameters(), found, strict=True):
            p.data = x
        share = torch.cat(moved(first.network, member))
        assert MAGNITUDES[0] < share.min() and share.max() < MAGNITUDES[1]
    assert not torch.equal(seen[0][0], seen[1][0])
