"""A class that is decoded, augmented and pulled back by microbatches: the same bits, in memory that does not grow."""

from __future__ import annotations

from contextlib import closing, nullcontext

import pytest
import torch
from torch import Tensor, nn

from dist_condense.core.image_rule import ImageRule, Learnt, update_, updated
from dist_condense.core.objective import Examples
from dist_condense.data.image_set import ClassName
from dist_condense.engine.coordinator import LocalCoordinator, Placement
from dist_condense.engine.matching.draws import Drawn
from dist_condense.engine.matching.two_passes import TwoPasses
from dist_condense.engine.shard import ClassShard
from dist_condense.planning.images import RandomImages
from dist_condense.settings import assembly
from dist_condense.settings.config import load
from dist_condense.system.peak_bytes import PeakBytes

IPC = 5
FORMS = {
    "pixels": [],
    "uniform": ["method.parameterisation.factor=2"],
    "padded": ["method.parameterisation.factor=3"],
    "multi": ["method.parameterisation.factor=2", "method.parameterisation.decoding=multi"],
    "bounded": [
        "method.parameterisation.factor=3",
        "method.parameterisation.decoding=bounded",
        "method.synthetic_limit=22",
    ],
    "subset": ["method.parameterisation.factor=2", "method.synthetic_limit=9"],
    "subset of multi": [
        "method.parameterisation.factor=2",
        "method.parameterisation.decoding=multi",
        "method.synthetic_limit=17",
    ],
    "height": ["method.parameterisation.factor=2", "method.parameterisation.axes=height"],
}


def shard(microbatch: int, *keys: str) -> tuple[ClassShard, nn.Module]:
    """Return a shard of one class of random images, and a network, in float32."""
    small = ["network.width=6", "network.depth=2", f"ipc={IPC}", "method.real_batch=7", "cluster.device=cpu"]
    config = load("configs/digits.yaml", ["method=idc", *small, f"compute.microbatch={microbatch}", *keys])
    data = RandomImages(classes=(ClassName("0"), ClassName("1")), size=16, per_class=60)
    made = assembly.shard_of(config, data, [0], coordinator=LocalCoordinator(), placement=Placement())  # type: ignore[arg-type]
    return made, assembly.network_builder(config, data)(1).eval()  # type: ignore[arg-type]


def _rows(examples: Examples, rows: slice) -> Examples:
    return {name: x[rows] for name, x in examples.items()}


def decoded_at_once(
    made: ClassShard, network: nn.Module, learnt: Learnt, stored: Tensor, drawn: Drawn
) -> tuple[list[Tensor], list[Tensor], Learnt]:
    """Return the statistics and the gradient of a class that is decoded and pulled back as a whole."""
    objective = made.recipe.objective
    examples, back = made.view.synthetic(learnt, drawn)
    a, b = objective.statistic(network, examples), objective.statistic(network, made.view.real(stored, drawn))
    _, v = objective.cotangent(a, b)
    parts = [
        {name: weight * x for name, x in objective.pull_back(network, _rows(examples, rows), v).items()}
        for weight, rows in objective.microbatches(len(examples["images"]))
    ]
    return a, b, back({name: torch.cat([x[name] for x in parts]) for name in parts[0]})


@pytest.mark.parametrize(
    ("form", "microbatch", "labels"),
    [
        *((form, microbatch, ()) for form in FORMS for microbatch in (4, 64)),
        *((form, 3, ("method.label_lr=0.1",)) for form in ("uniform", "subset of multi")),
        ("uniform", 1, ()),
    ],
)
def test_parts_have_the_bits_of_the_whole(form: str, microbatch: int, labels: tuple[str, ...]) -> None:
    made, network = shard(microbatch, *FORMS[form], *labels)
    learnt, drawn = made.learnt_of(0), made.draws.of(3)[0]
    stored = made.source.redeem(made.source.announce(0, torch.arange(7)))
    made.source.close()
    a, b, gradient = decoded_at_once(made, network, learnt, stored, drawn)
    passes = TwoPasses(made.recipe.objective, made.view)
    result = passes(network, learnt, stored, drawn)
    found = passes.statistics(network, learnt, stored, drawn)
    for x, y in zip([*found[0], *found[1]], [*a, *b], strict=True):
        assert torch.equal(x, y)
    assert {name: x.shape for name, x in gradient.items()} == {name: x.shape for name, x in learnt.items()}
    for name, x in gradient.items():
        assert x.abs().max() > 0 and torch.equal(result.gradient[name], x)


@pytest.mark.parametrize(("broken", "is_made"), [(None, True), ("pixels", False), ("labels", False)])
def test_an_update_in_parts_is_the_update(broken: str | None, is_made: bool) -> None:
    rules = {"pixels": ImageRule(0.3, 0.5, 4), "labels": ImageRule(0.7, 0.9)}
    keyed = torch.Generator().manual_seed(0)
    learnt, momentum, gradients = (
        {"pixels": torch.randn(5, 2, 3, 3, generator=keyed), "labels": torch.randn(5, 4, generator=keyed)}
        for _ in range(3)
    )
    if broken:
        gradients[broken][4, 1] = torch.inf
    *expected, made = updated(rules, learnt, momentum, gradients=gradients, finite=torch.tensor(True))
    assert bool(made) == is_made
    assert torch.equal(update_(rules, learnt, momentum, gradients=gradients, finite=torch.tensor(True), images=2), made)
    for found, tensors in zip((learnt, momentum), expected, strict=True):
        assert all(torch.equal(found[name], x) for name, x in tensors.items())


# --- memory -------------------------------------------------------------------------------------------------------

METHODS = {"dc": ["method=dc"], "dcc": ["method=dcc"], "idc": ["method=idc"]}


def peak(method: str, ipc: int, monkeypatch: pytest.MonkeyPatch, *, owned: int = 1, classes: int = 10) -> int:
    """Count the bytes that a step of a worker of some classes needs besides its state, on tensors without values."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # there is none for this device
    keys = ["network.width=64", "network.depth=1", "method.start=noise", "compute.microbatch=10"]
    config = load("configs/digits.yaml", [*METHODS[method], *keys, "method.real_batch=10", f"ipc={ipc}"])
    names = tuple(ClassName(str(c)) for c in range(classes))
    data, place = RandomImages(classes=names, size=32, per_class=10), Placement(torch.device("meta"))
    one = LocalCoordinator(reproducible=False)
    made = assembly.shard_of(config, data, list(range(owned)), coordinator=one, placement=place)  # type: ignore[arg-type]
    network = assembly.network_builder(config, data)(0).to("meta").eval()  # type: ignore[arg-type]
    with closing(made.source):
        made.shared.shapes(network)
        with PeakBytes([*made.learnt.values(), *made.momentum.values(), *network.parameters()]) as counted:
            made.match(network, 250, 0, 1)
    return counted.most


@pytest.mark.parametrize("method", METHODS)
def test_memory_does_not_grow_with_ipc(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = (peak(method, ipc, monkeypatch) for ipc in (10, 100))
    assert many <= 1.1 * few, (few, many)


@pytest.mark.parametrize("method", METHODS)
def test_memory_does_not_grow_with_the_classes_of_a_worker(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What 8 more classes add, 990 add 124 times: less than a tenth."""
    few, more = (peak(method, 10, monkeypatch, owned=owned, classes=1000) for owned in (10, 18))
    assert (more - few) / 8 * 990 <= 0.1 * few, (few, more)
