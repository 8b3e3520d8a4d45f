"""Computation on another device than the host's neither mixes tensors of the two nor copies between them unseen.

The device is torch's ``meta``, whose tensors have no values: whatever would make the host wait for them fails.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dist_condense import networks
from dist_condense.data import ChannelStatistics
from dist_condense.engine.coordinator import LocalCoordinator, Placement
from dist_condense.evaluation.evaluate import TrainingSet
from dist_condense.evaluation.protocols import protocol
from dist_condense.evaluation.training import Course
from dist_condense.job.worker import assemble
from dist_condense.procedures.matching import Matching
from dist_condense.system import transfer
from tests.engine import cases

META = torch.device("meta")
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
MAKERS = ("tensor", "as_tensor")
"""Functions of torch that copy values to a device while the host waits."""


class OneDevice(TorchDispatchMode):
    """Mode that refuses operations on tensors of two devices, and copies that ``system.transfer`` does not make.

    Scalars in tensors of the host may be arguments everywhere, as they may on a GPU.
    """

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        devices = {x.device.type for x in tensors if x.ndim or func in COPIES}
        if device := (kwargs or {}).get("device"):
            devices.add(torch.device(device).type)
        if len(devices) > 1 and not (func in COPIES and by_transfer()):
            raise AssertionError(f"{func} of {sorted(devices)}")
        return func(*args, **(kwargs or {}))


def by_transfer() -> bool:
    """Return whether a function of ``system.transfer`` is being executed."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename != transfer.__file__:
        frame = frame.f_back
    return frame is not None


def refusing(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def made(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        assert device is None or torch.device(device) != META, "a tensor is made on the host and copied"
        return make(*args, device=device, **kwargs)

    return made


@contextmanager
def one_device(patch: pytest.MonkeyPatch) -> Iterator[None]:
    with patch.context() as patched, OneDevice():
        for name in MAKERS:
            patched.setattr(torch, name, refusing(getattr(torch, name)))
        yield


def procedure(case: str, folder: Path, *keys: str) -> Matching:
    run = cases.load(case, f"output={folder}", "trajectory.start=fresh", "dataset.classes=['3','8']", *keys)
    made = assemble(run, LocalCoordinator(reproducible=False), Placement(META)).procedure
    assert isinstance(made, Matching)
    return made


@pytest.mark.filterwarnings("ignore:.*no-op:UserWarning")  # weights that are loaded into a network without values
@pytest.mark.parametrize(
    ("case", "keys"),
    [
        ("idc", ["method.parameterisation.factor=3", "training.images=60", "training.batch=30"]),  # tiles with padding
        ("dsa", []),
        ("dcc", []),
        ("dm", ["trajectory.matching_steps=2"]),
        ("soft_labels", []),
    ],
)
def test_a_step_uses_one_device(case: str, keys: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # there is none for this device
    made = procedure(case, tmp_path, *keys)
    shard, trajectory = made.shard, made.trajectory
    trajectory.reach(0, 0)
    with one_device(monkeypatch):
        shard.begin_network()
        for t in range(2):
            shard.match(trajectory.network, 0, t, t)
            trajectory.reach(0, t + 1)
    made.close()


def test_an_update_of_the_evaluation_uses_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, statistics = torch.arange(20) % 4, ChannelStatistics((0.5,) * 3, (0.2,) * 3)
    course = Course(
        network=networks.build("convnet:width=4:depth=1", channels=3, size=8, classes=4, seed=0).to(META),
        protocol=replace(protocol("idc"), cutmix=1.0),
        images=TrainingSet(torch.zeros(20, 3, 8, 8, dtype=torch.uint8), labels).batches(statistics, "meta"),
        labels=labels,
        statistics=statistics,
        seed=0,
        device=META,
    )
    with one_device(monkeypatch):
        course.run_epoch(0, 1.0)


@pytest.mark.parametrize(
    "fault",
    [
        lambda x: x + torch.ones(3),
        lambda x: x[torch.tensor([0, 1])],
        lambda x: x.copy_(torch.ones(3)),
        lambda x: torch.ones(3).to(META),
        lambda x: torch.tensor([1.0], device=META),
        lambda x: x.sum().item(),
        lambda x: x.cpu(),
    ],
)
def test_faults_are_noticed(fault: Callable[[Tensor], object], monkeypatch: pytest.MonkeyPatch) -> None:
    with one_device(monkeypatch), pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
        fault(torch.ones(3, device=META))
    with one_device(monkeypatch):
        transfer.to_device(torch.ones(3), META)
