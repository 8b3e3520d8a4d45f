"""The two ways to a gradient give one number, in float64: double backward, and two passes over classes and batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dist_condense import networks
from dist_condense.core import augmentation, randomness
from dist_condense.core.augmentation import OPERATIONS, Strategy
from dist_condense.core.distance import DISTANCES
from dist_condense.core.objective import Examples, Objective
from dist_condense.core.statistic import PARAMETERS, Embedding, Gradient, Statistic

STATISTICS: dict[str, Statistic] = {name: Gradient(selected) for name, selected in PARAMETERS.items()}
STATISTICS["embedding"] = Embedding()
CLASSES = 3


def theta(dtype: torch.dtype = torch.float64) -> nn.Module:
    network = networks.build(
        "convnet", channels=1, size=8, classes=CLASSES, seed=3, width=6, depth=2, activation="swish"
    )
    return network.to(dtype).eval()


def examples(count: int, c: int, what: str, dtype: torch.dtype = torch.float64) -> Examples:
    keyed = randomness.generator(0, what, c)
    drawn = torch.randn(count, 1, 8, 8, generator=keyed, dtype=torch.float64).to(dtype)
    return {"images": drawn, "labels": torch.full((count,), c)}


def matched(objective: Objective, network: nn.Module, real: Examples, synthetic: Examples) -> tuple[Tensor, Tensor]:
    """Return the loss and the gradient of the images."""
    loss, gradient = objective.match(network, synthetic, objective.statistic(network, real))
    return loss, gradient["images"]


def two_passes(objective: Objective, network: nn.Module, c: int) -> tuple[Tensor, Tensor]:
    real, synthetic = examples(9, c, "real"), examples(5, c, "synthetic")
    loss, v = objective.cotangent(objective.statistic(network, synthetic), objective.statistic(network, real))
    return loss, objective.pull_back(network, synthetic, v)["images"]


@pytest.mark.parametrize("microbatch", [0, 2, 4])
@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_two_passes_equal_double_backward(distance: str, statistic: str, microbatch: int) -> None:
    if (statistic, distance) == ("embedding", "layerwise_cosine"):
        pytest.skip("the layerwise cosine ignores layers of one dimension")
    phi, D, network = STATISTICS[statistic], DISTANCES[distance], theta()
    whole = Objective(phi, D)
    expected_loss, expected = matched(whole, network, examples(9, 1, "real"), examples(5, 1, "synthetic"))
    loss, gradient = two_passes(Objective(phi, D, microbatch=microbatch), network, 1)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-10 * float(expected.abs().max()))
    assert expected.abs().max() > 0
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("distance", DISTANCES)
def test_pooled_two_passes_equal_one_graph(distance: str) -> None:
    phi, D, network = STATISTICS["matrices"], DISTANCES[distance], theta()
    leaves = [examples(5, c, "synthetic")["images"].requires_grad_() for c in range(CLASSES)]
    selected = [p for name, p in network.named_parameters() if PARAMETERS["matrices"](name, p)]

    def mean_gradient(batches: list[Examples], graph: bool) -> list[Tensor]:
        losses = [nn.functional.cross_entropy(network(x["images"]), x["labels"]) for x in batches]
        each = [torch.autograd.grad(loss, selected, create_graph=graph) for loss in losses]
        return [torch.stack(layer).mean(0) for layer in zip(*each, strict=True)]

    real = mean_gradient([examples(9, c, "real") for c in range(CLASSES)], graph=False)
    synthetic = mean_gradient([examples(5, c, "synthetic") | {"images": x} for c, x in enumerate(leaves)], graph=True)
    expected_loss = D(synthetic, real)
    expected = torch.autograd.grad(expected_loss, leaves)

    objective = Objective(phi, D, microbatch=2)
    a, b = (
        [
            torch.stack(layer).sum(0) / CLASSES
            for layer in zip(*(objective.statistic(network, examples(n, c, what)) for c in range(CLASSES)), strict=True)
        ]
        for what, n in (("synthetic", 5), ("real", 9))
    )
    loss, v = objective.cotangent(a, b)
    torch.testing.assert_close(loss, expected_loss.detach(), rtol=1e-10, atol=1e-12)
    for c in range(CLASSES):
        gradient = objective.pull_back(network, examples(5, c, "synthetic"), [x / CLASSES for x in v])["images"]
        torch.testing.assert_close(gradient, expected[c], rtol=1e-8, atol=1e-10 * float(expected[c].abs().max()))


def test_a_gradient_by_differences() -> None:
    """Compare with differences of the loss along a direction, independent of autograd."""
    objective, network = Objective(STATISTICS["convolutions"], DISTANCES["sum_squared"]), theta()
    real, synthetic = examples(9, 1, "real"), examples(5, 1, "synthetic")
    _, gradient = matched(objective, network, real, synthetic)
    direction, h = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 1e-5
    moved = [synthetic | {"images": synthetic["images"] + s * h * direction} for s in (1, -1)]
    ahead, behind = (matched(objective, network, real, x)[0] for x in moved)
    torch.testing.assert_close((ahead - behind) / (2 * h), (gradient * direction).sum(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("microbatch", [0, 2])
def test_a_gradient_of_labels_by_differences(microbatch: int) -> None:
    """With class probabilities as labels: both gradients along a direction, by either way."""
    objective, network = Objective(STATISTICS["matrices"], DISTANCES["sum_squared"], microbatch=microbatch), theta()
    real, h, b = examples(9, 1, "real"), 1e-5, None
    soft = examples(5, 1, "synthetic") | {"labels": torch.eye(CLASSES, dtype=torch.float64)[[0, 1, 1, 2, 1]] * 0.9}
    b = objective.statistic(network, real)
    loss, v = objective.cotangent(objective.statistic(network, soft), b)
    expected, gradient = objective.match(network, soft, b)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(objective.pull_back(network, soft, v), gradient, rtol=1e-8, atol=1e-12)
    for name in ("images", "labels"):
        direction = torch.randn(soft[name].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        moved = [soft | {name: soft[name] + s * h * direction} for s in (1, -1)]
        ahead, behind = (objective.match(network, x, b)[0] for x in moved)
        torch.testing.assert_close((ahead - behind) / (2 * h), (gradient[name] * direction).sum(), rtol=1e-6, atol=0)


def test_one_hot_weights_are_numbers() -> None:
    objective, network = Objective(STATISTICS["matrices"], DISTANCES["layerwise_cosine"]), theta()
    hard, b = examples(5, 1, "synthetic"), objective.statistic(network, examples(9, 1, "real"))
    soft = hard | {"labels": torch.eye(CLASSES, dtype=torch.float64)[hard["labels"]]}
    (loss, gradient), (expected, by_numbers) = (objective.match(network, x, b) for x in (soft, hard))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient["images"], by_numbers["images"], rtol=1e-9, atol=1e-12)
    assert gradient["labels"].abs().max() > 0 and "labels" not in by_numbers


@pytest.mark.slow
@pytest.mark.parametrize("microbatch", [0, 4])
def test_compiled_equals_eager(microbatch: int) -> None:
    network = theta(torch.float32)
    real, synthetic = examples(8, 1, "real", torch.float32), examples(4, 1, "synthetic", torch.float32)
    results = []
    for compiled in (False, True):
        objective = Objective(
            STATISTICS["matrices"], DISTANCES["layerwise_cosine"], microbatch=microbatch, compiled=compiled
        )
        loss, v = objective.cotangent(objective.statistic(network, synthetic), objective.statistic(network, real))
        results.append((loss, objective.pull_back(network, synthetic, v)["images"]))
        results.append(matched(objective, network, real, synthetic))
    (loss, gradient), *others = results
    for other_loss, other in others:
        torch.testing.assert_close(other_loss, loss, rtol=1e-4, atol=0)
        assert (other - gradient).norm() <= 1e-4 * gradient.norm()


# --- augmentation -------------------------------------------------------------------------------------------------

EVERYTHING = Strategy(always=("flip", "color", "cutout"), one_of=("crop", "scale", "rotate"))


@pytest.mark.parametrize("name", [*OPERATIONS, "all"])
def test_one_draw_is_one_function(name: str) -> None:
    """An image is changed in the same way alone and at every position in a batch."""
    strategy = EVERYTHING if name == "all" else Strategy((name,))
    drawn = strategy.draw(1, (8, 8), randomness.generator(0, "test", 1)).to(torch.device("cpu"), torch.float64)
    real, synthetic = examples(6, 0, "real")["images"], examples(3, 0, "synthetic")["images"]
    together = augmentation.apply(torch.cat([real, synthetic]), drawn)
    torch.testing.assert_close(together[:6], augmentation.apply(real, drawn), rtol=0, atol=1e-14)
    torch.testing.assert_close(together[6:], augmentation.apply(synthetic, drawn), rtol=0, atol=1e-14)
    torch.testing.assert_close(together[6:7], augmentation.apply(synthetic[:1], drawn), rtol=0, atol=1e-14)


def same(a: augmentation.Draw, b: augmentation.Draw) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)


def test_draws_are_reproducible_and_keyed() -> None:
    def drawn(*key: int) -> augmentation.Draw:
        return EVERYTHING.draw(4, (8, 8), randomness.generator(0, "test", *key))

    torch.manual_seed(1)
    first = drawn(1, 2)
    torch.manual_seed(2)
    assert same(first, drawn(1, 2))
    assert not same(first, drawn(1, 3)) and not same(first, drawn(2, 2))


def test_without_leaves_operations_out() -> None:
    assert EVERYTHING.without("cutout", "rotate") == Strategy(("flip", "color"), ("crop", "scale"))
    assert not Strategy(("flip",)).without("flip")
    drawn = Strategy(("cutout",)).without("cutout").draw(2, (8, 8), randomness.generator(0, "test"))
    assert same(drawn, augmentation.neutral(2))


def test_one_of_draws_each_of_its_list_and_one_at_a_time() -> None:
    identity, seen = torch.eye(3, dtype=torch.float64)[:2], set()
    for i in range(60):
        drawn = Strategy(one_of=("color", "rotate", "cutout")).draw(1, (8, 8), randomness.generator(0, "test", i))
        changed = ("color" * bool(drawn.saturation != 1), "rotate" * (not torch.equal(drawn.warp[0], identity)))
        names = [*filter(None, (*changed, "cutout" * bool(drawn.cut.any())))]
        assert len(names) == 1
        seen.update(names)
    assert seen == {"color", "rotate", "cutout"}
