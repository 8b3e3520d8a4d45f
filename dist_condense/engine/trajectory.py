"""The trajectory of theta: how the K networks start and how each moves between matching steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dist_condense.core import randomness
from dist_condense.engine.batches import Batches, RealBatches
from dist_condense.engine.training import NetworkTrainer

Build = Callable[[int], nn.Module]
"""Seed to a network with freshly drawn weights."""


class Start(Protocol):
    """What theta is when network k begins."""

    def __call__(self, trajectory: Trajectory, k: int) -> None: ...


@dataclass
class Trajectory:
    """theta on this worker, the same on all.

    One module is kept and re-filled, so that compiled code and allocated memory serve all K networks.
    """

    build: Build
    trainer: NetworkTrainer
    batches: Batches
    start: Start
    seed: int
    network: nn.Module = field(init=False)
    optimiser: torch.optim.SGD = field(init=False)

    def __post_init__(self) -> None:
        place = self.trainer.placement
        self.network = self.build(0).to(place.device, place.dtype).eval()
        self.optimiser = self.trainer.optimiser(self.network)

    def begin(self, k: int) -> None:
        """Draw theta of network k."""
        self.start(self, k)
        self.network.eval()

    def advance(self, k: int, t: int) -> None:
        """Train theta after matching step t of network k."""
        self.trainer.train(self.network, self.optimiser, self.batches.stretch(k, t), k, t)

    def fresh(self, purpose: str, number: int) -> None:
        """Newly drawn weights and a new optimiser."""
        self.network.load_state_dict(self.build(randomness.key(self.seed, purpose, number)).state_dict())
        self.optimiser = self.trainer.optimiser(self.network)

    def state_dict(self) -> dict[str, Tensor]:
        """Weights, running statistics and momentum, on the CPU."""
        state = {f"network.{name}": x.cpu().contiguous() for name, x in self.network.state_dict().items()}
        momentum = self.optimiser.state_dict()["state"]
        buffers = {f"momentum.{i}": s.get("momentum_buffer") for i, s in momentum.items()}
        return state | {name: x.cpu().contiguous() for name, x in buffers.items() if x is not None}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The counterpart of :meth:`state_dict`."""
        self.network.load_state_dict(_below("network.", state))
        self.optimiser = self.trainer.optimiser(self.network)
        place = self.trainer.placement
        for i, x in _below("momentum.", state).items():
            parameter = self.optimiser.param_groups[0]["params"][int(i)]
            self.optimiser.state[parameter]["momentum_buffer"] = x.to(place.device, place.dtype)

    def checksum(self) -> int:
        """An integer that differs between workers whose theta differ in a bit."""
        floats = [x for x in self.network.state_dict().values() if x.is_floating_point()]
        bits = torch.cat([x.flatten() for x in floats]).contiguous().view(torch.int32).to(torch.int64)
        weights = torch.arange(1, len(bits) + 1, device=bits.device)
        return int((bits * weights).sum())


class Fresh:
    """A newly drawn network (DC, DSA, DCC, DM)."""

    def __call__(self, trajectory: Trajectory, k: int) -> None:
        trajectory.fresh("network", k)


@dataclass(frozen=True)
class Pretrained:
    """A newly drawn network, trained for ``epochs`` on the real data; its momentum is kept (IDC, ImageNet-10)."""

    epochs: int
    real: RealBatches

    def __call__(self, trajectory: Trajectory, k: int) -> None:
        trajectory.fresh("network", k)
        batches = self.real.passes(self.epochs, k)
        trajectory.trainer.train(trajectory.network, trajectory.optimiser, batches, k, -1)


@dataclass(frozen=True)
class Pool:
    """One of ``size`` networks that were trained for ``epochs`` on the real data, with a fresh optimiser (IDC,
    ImageNet-100). A network is trained when it is first drawn and kept in ``folder``.
    """

    size: int
    epochs: int
    real: RealBatches
    folder: Path

    def __call__(self, trajectory: Trajectory, k: int) -> None:
        member = randomness.key(trajectory.seed, "pool", k) % self.size
        path = self.folder / f"network_{member}.safetensors"
        coordinator = trajectory.trainer.coordinator
        if not coordinator.gather(path.exists())[0]:
            self._train(trajectory, member)
            if coordinator.rank == 0:
                self._keep(trajectory, path)
            coordinator.gather(None)
        trajectory.network.load_state_dict(load_file(path))
        trajectory.optimiser = trajectory.trainer.optimiser(trajectory.network)

    def _train(self, trajectory: Trajectory, member: int) -> None:
        trajectory.fresh("pool network", member)
        batches = self.real.passes(self.epochs, -1, member)
        trajectory.trainer.train(trajectory.network, trajectory.optimiser, batches, -1, member)

    def _keep(self, trajectory: Trajectory, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        writing = path.with_suffix(".writing")
        save_file({name: x.cpu().contiguous() for name, x in trajectory.network.state_dict().items()}, writing)
        writing.replace(path)


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
