"""Trajectory of theta: initialisation of the K networks, and their training between matching steps."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property, partial
from hashlib import sha256
from typing import Protocol

import torch
from safetensors.torch import save
from torch import Tensor, nn

from dist_condense.core import randomness
from dist_condense.engine.batches import Batches, RealBatches
from dist_condense.engine.coordinator import LocalCoordinator
from dist_condense.engine.errors import RunFailed
from dist_condense.engine.finite import all_finite, of_pool
from dist_condense.engine.own_passes import OwnPasses
from dist_condense.engine.procedure import Kind, kind_of
from dist_condense.engine.training import NetworkTrainer
from dist_condense.engine.update import Batch
from dist_condense.system import safetensors_header
from dist_condense.system.records import BYTES, Unreadable
from dist_condense.system.remote import Unreachable
from dist_condense.system.storage import Storage

Build = Callable[[int], nn.Module]
"""Function from a seed to a network with newly drawn weights."""
MAGNITUDES = 0.01, 0.09
"""Least and largest length of a perturbation, relative to each filter (Acc-DD)."""
NETWORK = re.compile(r"network_(0|[1-9][0-9]*)\.safetensors(\.sha256)?")
"""Pattern of the names of the files in a pool, see :class:`Pool`."""


class NetworkStart(Protocol):
    """Function that initialises theta for network k."""

    def __call__(self, trajectory: Trajectory, k: int) -> None: ...


@dataclass
class Trajectory:
    """The current network theta and its optimiser, equal on all workers.

    One module is kept and re-filled, so that compiled code and allocated memory serve all K networks.
    """

    build: Build
    trainer: NetworkTrainer
    batches: Batches
    start: NetworkStart
    _: KW_ONLY
    seed: int
    matching_steps: int
    """Number T of matching steps per network."""
    memory_format: torch.memory_format = torch.contiguous_format
    """Memory format of the network's weights, which its feature maps take over."""
    updates: int = 0
    """Number of updates of training or pre-training since the last matching step."""
    after_update: Callable[[], None] = field(default=lambda: None)
    """Callback after each update."""
    member: int | None = field(default=None, init=False)
    """Network of a pool that this worker trains while others train other ones; None: all train theta together."""
    network: nn.Module = field(init=False)
    _optimiser: torch.optim.SGD | None = field(default=None, init=False)

    @cached_property
    def alone(self) -> NetworkTrainer:
        """Trainer of theta on this worker alone, built once, because it compiles and records its updates."""
        return replace(self.trainer, coordinator=LocalCoordinator(self.trainer.coordinator.reproducible))

    def __post_init__(self) -> None:
        place = self.trainer.placement
        self.network = self.build(0).to(place.device, place.dtype).to(memory_format=self.memory_format).eval()

    @property
    def optimiser(self) -> torch.optim.SGD:
        """Optimiser of theta, created for the first training: torch then imports its compiler, for over a second."""
        if self._optimiser is None:
            self._optimiser = self.trainer.optimiser(self.network)
        return self._optimiser

    def forget_momentum(self) -> None:
        """Make the next training start with a new optimiser."""
        self._optimiser = None

    def reach(self, k: int, t: int) -> None:
        """Bring theta to matching step t of network k: initialise it for t = 0, else train it after step t - 1.

        If the run continues from a checkpoint inside this training, the training continues with the update after it.
        """
        if t == 0:
            self.start(self, k)
        else:
            self.train(partial(self.batches.segment, k, t - 1), k, t - 1)
        self.network.eval()
        if t + 1 < self.matching_steps:
            self.batches.announce(k, t, self.trainer.draws(k, t))

    def train(self, batches: Callable[..., Generator[Batch]], *key: int) -> None:
        """Train theta on ``batches(first=n, draws=d)``, where n updates of this training are already complete.

        :param batches: function that returns the batches after the first n, with the draws that ``d`` makes.
        :param key: integers that, with the seed and the update, determine the random numbers.
        """
        first = self.updates
        with closing(batches(first=first, draws=self.trainer.draws(*key))) as drawn:
            self.count(self.trainer.train(self.network, self.optimiser, drawn, *key, first=first))

    def count(self, done: Iterable[int]) -> None:
        """Make the updates of a training, which yields the number of complete ones after each."""
        for self.updates in done:
            self.after_update()
        self.updates = 0

    def draw(self, purpose: str, number: int) -> None:
        """Draw new weights, keyed by (purpose, number), with a new optimiser, unless training has already started."""
        if self.updates:
            return
        self.network.load_state_dict(self.build(randomness.key(self.seed, purpose, number)).state_dict())
        self.forget_momentum()

    def state_dict(self) -> dict[str, Tensor]:
        """Return weights, running statistics and momentum by name, copied to the CPU."""
        state = {f"network.{name}": x for name, x in self.network.state_dict().items()}
        momentum = self._optimiser.state_dict()["state"] if self._optimiser else {}
        buffers = {f"momentum.{i}": s.get("momentum_buffer") for i, s in momentum.items()}
        state |= {name: x for name, x in buffers.items() if x is not None}
        return {name: x.detach().to("cpu", copy=True).contiguous() for name, x in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the result of :meth:`state_dict`."""
        fill(self.network, _below("network.", state))
        self.forget_momentum()
        place = self.trainer.placement
        for i, x in _below("momentum.", state).items():
            parameter = self.optimiser.param_groups[0]["params"][int(i)]
            self.optimiser.state[parameter]["momentum_buffer"] = x.to(place.device, place.dtype)

    def checksum(self) -> int:
        """Return an integer that differs between workers whose theta differs in a bit."""
        floats = [x for x in self.network.state_dict().values() if x.is_floating_point()]
        bits = torch.cat([x.flatten() for x in floats]).contiguous().view(torch.int32).to(torch.int64)
        weights = torch.arange(1, len(bits) + 1, device=bits.device)
        return int((bits * weights).sum())


class Fresh:
    """Initialisation with newly drawn weights (DC, DSA, DCC, DM)."""

    def __call__(self, trajectory: Trajectory, k: int) -> None:
        trajectory.draw("network", k)


@dataclass(frozen=True)
class Pretrained:
    """Initialisation with new weights, trained for ``epochs`` epochs on the real data (IDC, ImageNet-10).

    The optimiser keeps its momentum after this training.
    """

    epochs: int
    real: RealBatches

    def __call__(self, trajectory: Trajectory, k: int) -> None:
        trajectory.draw("network", k)
        trajectory.train(partial(self.real.passes, self.epochs, k), k, -1)


@dataclass(frozen=True)
class Pool:
    """Initialisation with one of ``size`` networks trained for ``epochs`` epochs on real data (IDC, ImageNet-100).

    The optimiser is new. A network is trained when it is first drawn and then kept in ``store``; if its file is damaged
    or missing, it is trained again, to the same bits. Several workers train the networks that are drawn next at the
    same time, one each, where that is faster than dividing the slices of one network after the other. A checkpoint
    contains the network that is drawn now, with which the run continues; the others start again.

    :param networks: number K of networks of the run.
    :param check_finite: whether a trained network that is not finite ends the run by RunFailed and is not stored.
    """

    size: int
    epochs: int
    real: RealBatches
    store: Storage
    _: KW_ONLY
    networks: int
    check_finite: bool = True

    def __call__(self, trajectory: Trajectory, k: int) -> None:
        member = self._member(trajectory, k)
        weights = self._kept(trajectory, member)
        if weights is None:
            self._train(trajectory, k, member)
        else:
            trajectory.updates = 0  # another launch has completed the training since the checkpoint
            fill(trajectory.network, weights)
        trajectory.forget_momentum()

    def _member(self, trajectory: Trajectory, k: int) -> int:
        return randomness.key(trajectory.seed, "pool", k) % self.size

    def _train(self, trajectory: Trajectory, k: int, member: int) -> None:
        """Train a member and keep it; workers that would divide its slices train the next members instead."""
        trainer, is_resumed = trajectory.trainer, trajectory.updates > 0
        members = [member] if is_resumed else self._next(trajectory, k, member)
        if faster_at_once(len(members), trainer.coordinator.size, trainer.slices):
            self._train_at_once(trajectory, members)
            return
        trajectory.draw("pool network", member)
        trajectory.train(partial(self.real.passes, self.epochs, -1, member), -1, member)
        self._keep(trajectory, [member])

    def _next(self, trajectory: Trajectory, k: int, member: int) -> list[int]:
        """Return ``member``, that of network k, and those drawn later that are not kept, at most one per worker."""
        members, workers = [member], trajectory.trainer.coordinator.size
        if workers == 1:
            return members
        for later in dict.fromkeys(self._member(trajectory, i) for i in range(k + 1, self.networks)):
            if len(members) < workers and later not in members and self._kept(trajectory, later) is None:
                members.append(later)
        return members

    def _train_at_once(self, trajectory: Trajectory, members: list[int]) -> None:
        """Train one member on each of the first workers, keep all, and copy the first member to all workers."""
        coordinator, trainer = trajectory.trainer.coordinator, trajectory.alone
        trajectory.member = own = members[min(coordinator.rank, len(members) - 1)]
        trajectory.draw("pool network", own)
        passes = OwnPasses(self.real, [(-1, member) for member in members])
        with closing(passes.batches(self.epochs, trainer.draws(-1, own))) as drawn:
            if coordinator.rank < len(members):
                trajectory.count(trainer.train(trajectory.network, trajectory.optimiser, drawn, -1, own))
            else:
                trajectory.count(u for u, _ in enumerate(drawn, 1))
        trajectory.member = None
        self._keep(trajectory, members)
        coordinator.spread(list(trajectory.network.state_dict().values()))

    def _kept(self, trajectory: Trajectory, member: int) -> dict[str, Tensor] | None:
        """Return the stored weights if all workers read them without error, else None."""
        weights = self._stored(f"network_{member}.safetensors", trajectory.network.state_dict())
        is_everywhere = all(trajectory.trainer.coordinator.gather(weights is not None))
        return weights if is_everywhere else None

    def _stored(self, name: str, like: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Return the tensors in a file; None if it is missing or damaged, or contains other tensors than ``like``."""
        try:
            data = self.store.read(name, sum(x.nbytes for x in like.values()) + BYTES)
            if sha256(data).hexdigest().encode() != self.store.read(f"{name}.sha256", 64):
                return None
            weights = safetensors_header.tensors(data, name)
        except Unreachable:  # training the network again would cost more than a restart
            raise
        except (OSError, Unreadable):
            return None
        kinds, expected = ({key: kind_of(x) for key, x in some.items()} for some in (weights, like))
        return weights if kinds == expected else None

    def _keep(self, trajectory: Trajectory, members: Sequence[int]) -> None:
        """Store the networks of the first workers, by rank. Raises RunFailed if one of them is not finite."""
        coordinator, network = trajectory.trainer.coordinator, trajectory.network
        if self.check_finite:
            finite = coordinator.gather(bool(all_finite(network.state_dict().values())))
            if broken := [of_pool(member) for member, is_finite in zip(members, finite, strict=False) if not is_finite]:
                raise RunFailed(broken[0])
        if coordinator.rank < len(members):
            data = save({name: x.cpu().contiguous() for name, x in network.state_dict().items()})
            name = f"network_{members[coordinator.rank]}.safetensors"
            self.store.write(name, data)
            self.store.write(f"{name}.sha256", sha256(data).hexdigest().encode())
        coordinator.gather(None)


def faster_at_once(networks: int, workers: int, slices: int) -> bool:
    """Return whether to train several networks at the same time, one per worker, rather than one after the other.

    That is at least as fast if there are at least as many networks as dividing the slices among the workers saves time
    by a factor. It depends on no timing, so all workers decide equally.
    """
    return networks > 1 and networks * -(-slices // workers) >= slices


@dataclass(frozen=True)
class Early:
    """Initialisation with a network of a pool, perturbed anew for each k (Acc-DD, Zhang et al. 2023, arXiv 2212.06152).

    The paper's pool has 5 networks at an early stage of training, after 2 epochs (CIFAR) or 10 (ImageNet). The stored
    networks are not perturbed, and the optimiser is new.

    Deviations from the authors' program:

    * theta moves along one direction, as the paper states; the program can add a second one.
    * Networks are pretrained at a constant learning rate; the program multiplies it by 0.2 after 2/3 and 5/6 of the
      epochs, which changes nothing for 2 epochs.
    """

    pool: Pool

    def __call__(self, trajectory: Trajectory, k: int) -> None:
        self.pool(trajectory, k)
        perturb(trajectory.network, randomness.generator(trajectory.seed, "perturbation", k))


@torch.no_grad()
def perturb(network: nn.Module, generator: torch.Generator) -> None:
    """Move the weights along a filter-normalised random direction d:  theta <- theta + alpha d  (Acc-DD).

    alpha is uniform in :data:`MAGNITUDES`. d is Gaussian, and each filter of d is scaled to the norm of the filter of
    theta that it is added to (Li et al. 2018, arXiv 1712.09913). Tensors of one dimension (biases, norms) do not move.
    """
    least, most = MAGNITUDES
    alpha = least + (most - least) * float(torch.rand((), generator=generator, dtype=torch.float64))
    for weights in network.parameters():
        if weights.ndim > 1:
            direction = torch.randn(weights.shape, generator=generator).to(weights.device, weights.dtype)
            norms = (x.flatten(1).norm(dim=1) for x in (weights, direction))
            scale = next(norms) / (next(norms) + 1e-10)
            weights.add_(alpha * direction * scale.view(-1, *[1] * (weights.ndim - 1)))


def fill(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load stored weights into the network.

    Raises RunFailed if they do not fit the network, because another version of this package stored them.
    """
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise RunFailed(
            f"the stored weights of theta are not those of this network ({reason}): another version of this package "
            "started the run; finish it with that version, or give another output"
        ) from error


def theta_tensors(network: nn.Module) -> tuple[dict[str, Kind], dict[str, Kind]]:
    """Return the dtypes and shapes of the tensors of :meth:`Trajectory.state_dict`, by name: (theta, momentum).

    Momentum exists after the first update.
    """
    theta = {f"network.{name}": kind_of(x) for name, x in network.state_dict().items()}
    return theta, {f"momentum.{i}": kind_of(x) for i, x in enumerate(network.parameters())}


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
