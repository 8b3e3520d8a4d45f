"""With deterministic kernels, no operation of a run adds in an order that differs from run to run on a GPU.

No GPU is needed: the operations are those that torch's documentation of ``use_deterministic_algorithms`` lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dist_condense import networks
from dist_condense.data import ChannelStatistics
from dist_condense.engine.coordinator import LocalCoordinator, Placement
from dist_condense.evaluation.evaluate import TrainingSet
from dist_condense.evaluation.protocols import PROTOCOLS, protocol
from dist_condense.evaluation.training import Course
from dist_condense.job.worker import assemble
from dist_condense.system.processor import deterministic_kernels
from tests.engine import cases, test_update
from tests.engine.test_program import METHODS, arguments, assert_equal, shard

REFUSED = (
    *("grid_sampler_2d_backward", "upsample_linear1d_backward", "upsample_bilinear2d_backward"),
    *("upsample_bicubic2d_backward", "upsample_trilinear3d_backward", "avg_pool3d_backward"),
    *("_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "adaptive_max_pool2d_backward"),
    *("fractional_max_pool2d_backward", "max_unpool2d", "reflection_pad2d_backward", "nll_loss2d_forward"),
    *("_ctc_loss_backward", "_embedding_bag_backward", "put_", "put", "histc", "median", "scatter_reduce"),
)
"""Operations without a deterministic form on GPUs, in torch's names of aten."""


class Operations(TorchDispatchMode):
    """Mode that collects the names of operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

    @property
    def refused(self) -> set[str]:
        """Names in :data:`REFUSED`."""
        return self.names & set(REFUSED)


def step(method: str, *keys: str) -> Operations:
    made, network = shard(method, *keys)
    given = arguments(made, network)
    with Operations() as seen:
        made.steps(*given)
    return seen


def update() -> Operations:
    engine = test_update.trainer()
    [batch] = test_update.batches(engine, [6])
    theta = test_update.network()
    with Operations() as seen:
        engine.update(theta, engine.optimiser(theta), batch, engine.gradient)
    return seen


def evaluation(name: str) -> Operations:
    labels, statistics = torch.arange(4) % 2, ChannelStatistics((0.5,) * 3, (0.2,) * 3)
    course = Course(
        network=networks.build("convnet:width=4:depth=1", channels=3, size=8, classes=2, seed=0),
        protocol=protocol(name),
        images=TrainingSet(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), labels).batches(statistics, "cpu"),
        labels=labels,
        statistics=statistics,
        seed=0,
        device=torch.device("cpu"),
    )
    with Operations() as seen:
        course.run_epoch(0, 1.0)
    return seen


@pytest.mark.parametrize("keys", [(), ("compute.microbatch=2",)], ids=["whole", "two passes"])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_has_only_deterministic_operations(method: str, keys: tuple[str, ...]) -> None:
    with deterministic_kernels():
        seen = step(method, *keys)
    assert not seen.refused and "_unsafe_index_put" in seen.names


def test_a_step_of_pooled_classes_has_only_deterministic_operations(tmp_path: Path) -> None:
    """Tiles of several factors, in microbatches of two passes."""
    run = cases.load("idc_pooled_by_kmeans", f"output={tmp_path}", "trajectory.start=fresh")
    procedure = assemble(run, LocalCoordinator(), Placement()).procedure
    with deterministic_kernels(), Operations() as seen:
        procedure.shard.match(procedure.trajectory.network, 0, 0, 0)
    assert not seen.refused and "_unsafe_index_put" in seen.names


@pytest.mark.parametrize("keys", [(), ("compute.microbatch=2",)], ids=["whole", "two passes"])
@pytest.mark.parametrize("method", METHODS)
def test_no_pull_back_looks_whether_an_index_is_in_range(method: str, keys: tuple[str, ...]) -> None:
    """That of plain indexing does, so the host would wait for the device."""
    assert not step(method, "method.label_lr=0.1", *keys).names & {"index_put", "index_put_", "_index_put_impl_"}


def test_the_other_form_of_a_step_is_noticed() -> None:
    assert step("idc").refused == {"grid_sampler_2d_backward", "upsample_bilinear2d_backward"}


def test_an_update_of_theta_has_only_deterministic_operations() -> None:
    for context in (deterministic_kernels(), nullcontext()):  # no image is learnt through an augmentation
        with context:
            seen = update()
        assert not seen.refused and "convolution_backward" in seen.names


@pytest.mark.parametrize("name", PROTOCOLS)
def test_an_evaluation_has_only_deterministic_operations(name: str) -> None:
    assert not evaluation(name).refused


@pytest.mark.parametrize("name", networks.names())
def test_networks_have_only_deterministic_operations(name: str) -> None:
    network = networks.build(name, channels=3, size=64, classes=5, seed=1).to("meta")
    with Operations() as seen:
        network(torch.zeros(2, 3, 64, 64, device="meta")).sum().backward()
    assert not seen.refused and len(seen.names) > 5


@pytest.mark.parametrize("pooling", ["avg", "max"])
@pytest.mark.parametrize("method", METHODS)
def test_a_deterministic_step_equals_another(method: str, pooling: str) -> None:
    keys = [] if method == "resnet" else [f"network.pooling={pooling}"]
    made, network = shard(method, "method.parameterisation.factor=3", *keys)
    given = arguments(made, network)
    expected = made.steps(*given)
    with deterministic_kernels():
        assert_equal(made.steps(*given), expected)
