"""Cases of the benchmarks: the engine's matching step and training on random images, and plain loops of both."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dist_condense.core import augmentation, cutmix
from dist_condense.core.augmentation import Draw
from dist_condense.core.distance import DISTANCES
from dist_condense.data import ClassName, MemorySource, Reading
from dist_condense.engine.coordinator import Coordinator, LocalCoordinator, Placement
from dist_condense.engine.ownership import assign
from dist_condense.engine.shard import ClassShard
from dist_condense.engine.slices import SLICES
from dist_condense.engine.trajectory import Trajectory
from dist_condense.planning.images import RandomImages
from dist_condense.settings import assembly
from dist_condense.settings.config import RunConfig, load


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of one benchmark run."""

    method: str = "dc"
    real: int = 256
    classes: int = 10
    size: int = 32
    width: int = 128
    depth: int = 3
    ipc: int = 1
    per_class: int = 1000
    product: int = 2048
    repeat: int = 3
    threads: int = 0
    """Number of CPU threads; 0: torch's default."""
    device: str = "cpu"
    overrides: tuple[str, ...] = ()

    def config(self) -> RunConfig:
        """Compose the run's configuration."""
        keys = [f"method={self.method}", f"ipc={self.ipc}", "trajectory.matching_steps=10", f"compute.slices={SLICES}"]
        keys += (
            ["training=real", "training.images=2000", "training.cutmix=0.5"]  # as in configs/cifar10_idc.yaml
            if self.method.startswith("idc")
            else ["training=synthetic"]
        )
        keys += [f"network.width={self.width}", f"network.depth={self.depth}", f"method.real_batch={self.real}"]
        return load("configs/digits.yaml", [*keys, *self.overrides])

    def updates(self) -> int:
        """Return the number of updates of theta after a matching step."""
        training, images = self.config().training, self.classes * self.ipc
        if training.source == "real":
            return -(-training.images // training.batch)
        return training.epochs * -(-images // training.batch)


@dataclass
class Engine:
    """A worker's shard and network."""

    shard: ClassShard
    trajectory: Trajectory
    visit: int = 0

    def match(self) -> None:
        """Take one matching step, outside DCC's warm-up."""
        self.shard.match(self.trajectory.network, 250, 0, self.visit)
        self.visit += 1

    def train(self) -> None:
        """Train the network as after a matching step."""
        self.trajectory.reach(0, self.visit)

    def train_on(self) -> None:
        """Train as after another matching step at each call, with images that were announced before it."""
        self.visit += 1
        self.train()


def engine(settings: Settings, coordinator: Coordinator | None = None, dtype: torch.dtype = torch.float32) -> Engine:
    """Assemble the engine of this process for its own classes."""
    data = random_images(settings.classes, settings.size, settings.per_class)
    return assembled(settings.config(), data, Placement(torch.device(settings.device), dtype), coordinator)


def assembled(
    config: RunConfig, data: RandomImages, placement: Placement, coordinator: Coordinator | None = None
) -> Engine:
    """Assemble the engine of this process for its own classes of random images, as a run does."""
    coordinator = coordinator or LocalCoordinator()
    labels = list(assign([1.0] * len(data.classes), coordinator.size)[coordinator.rank])
    shard = assembly.shard_of(config, data, labels, coordinator=coordinator, placement=placement)  # type: ignore[arg-type]
    trajectory = assembly.trajectory_of(config, data, shard)  # type: ignore[arg-type]
    return Engine(shard, trajectory)


@dataclass(frozen=True, kw_only=True)
class ImagesOnDevice(RandomImages):
    """Random images on the device of the worker, as ``data.tier=gpu`` keeps those of a data set."""

    def train(self, labels: Sequence[int], reading: Reading) -> MemorySource:  # type: ignore[override]
        """Return a source of random bytes on the device of ``reading``."""
        return MemorySource({c: x.to(reading.device) for c, x in super().train(labels, reading).images.items()})


def random_images(classes: int, size: int, per_class: int) -> ImagesOnDevice:
    """Return random colour images, ``per_class`` of each class."""
    names = tuple(ClassName(f"class {c}") for c in range(classes))
    return ImagesOnDevice(classes=names, size=size, per_class=per_class)


@dataclass(kw_only=True)
class PlainLoop:
    """Loop of DC's and DCC's programs: autograd over all parameters, and one backward pass for all classes.

    Real images are normalised float tensors, indexed at each step, as in these programs. Learnt images are plain
    pixels, without parameterisation or augmentation.
    """

    network: nn.Module
    images: dict[int, Tensor]
    pixels: Tensor
    real: int
    pooled: bool
    lr: float = 0.1
    momentum: float = 0.5

    def __post_init__(self) -> None:
        self.pixels = self.pixels.clone().requires_grad_()
        self.optimiser = torch.optim.SGD([self.pixels], self.lr, momentum=self.momentum)

    def match(self) -> None:
        """Take one matching step."""
        pairs = [self._gradients(c) for c in self.images]
        if self.pooled:
            sides = [[side[i] for side in pairs] for i in range(2)]
            pairs = [tuple([sum(layer) / len(pairs) for layer in zip(*side, strict=True)] for side in sides)]
        loss = sum(_matching_loss(synthetic, real) for synthetic, real in pairs)
        self.optimiser.zero_grad()
        loss.backward(inputs=[self.pixels])  # type: ignore[union-attr]
        self.optimiser.step()

    def _gradients(self, c: int) -> tuple[list[Tensor], list[Tensor]]:
        parameters = list(self.network.parameters())
        own, ipc = self.images[c], len(self.pixels) // len(self.images)
        real = own[torch.randperm(len(own))[: self.real].to(own.device)]
        loss = F.cross_entropy(self.network(real), torch.full((len(real),), c, device=real.device))
        b = [g.detach().clone() for g in torch.autograd.grad(loss, parameters)]
        synthetic = self.pixels[c * ipc : (c + 1) * ipc]
        loss = F.cross_entropy(self.network(synthetic), torch.full((ipc,), c, device=real.device))
        return list(torch.autograd.grad(loss, parameters, create_graph=True)), b


def plain_loop(settings: Settings, like: Engine) -> PlainLoop:
    """Make a plain loop with the network and images of an engine that owns all classes."""
    shard = like.shard
    every = torch.arange(settings.per_class)
    images = {c: shard.source.source.get(c, every).to(settings.device) / 255 for c in shard.labels}
    normalised = {c: shard.space.statistics.normalise(x) for c, x in images.items()}
    pixels = torch.cat([shard.pixels[c] for c in shard.labels])
    return PlainLoop(
        network=like.trajectory.network,
        images=normalised,
        pixels=pixels,
        real=settings.real,
        pooled=settings.method == "dcc",
    )


def plain_training(settings: Settings, like: Engine, updates: int, autocast: bool) -> Callable[[], None]:
    """Return a function that trains a copy of an engine's network on real images, by SGD and autograd alone.

    The augmentation, CutMix and hyperparameters are those of the engine.
    """
    recipe, images, labels = like.trajectory.trainer.recipe, *_normalised(settings, like)
    network, keyed = deepcopy(like.trajectory.network).train(), torch.Generator()
    batch_size = settings.config().training.batch
    optimiser = torch.optim.SGD(
        network.parameters(), recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )

    def update() -> None:
        rows = torch.randperm(len(labels))[:batch_size].to(labels.device)
        batch, own = images[rows], labels[rows]
        size = (batch.shape[-2], batch.shape[-1])
        if recipe.strategy:
            draw = recipe.strategy.draw(len(rows), size, keyed)
            batch = augmentation.apply(batch, draw.to(batch.device, batch.dtype))
        mix = cutmix.draw_cutmix(recipe.cutmix, len(rows), size, keyed)
        (top, bottom), (left, right) = mix.box.tolist()
        batch[:, :, top:bottom, left:right] = batch[mix.partner, :, top:bottom, left:right]
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=autocast):
            logits = network(batch)
        loss, weight = F.cross_entropy(logits.float(), own), float(mix.weight)
        if weight < 1:
            loss = weight * loss + (1 - weight) * F.cross_entropy(logits.float(), own[mix.partner])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def train() -> None:
        for _ in range(updates):
            update()

    return train


def _normalised(settings: Settings, like: Engine) -> tuple[Tensor, Tensor]:
    """Return all real images in normalised space, and their labels, on the device."""
    shard, every = like.shard, torch.arange(settings.per_class)
    images = torch.cat([shard.source.source.get(c, every) for c in shard.labels]).to(settings.device) / 255
    labels = torch.tensor(shard.labels).repeat_interleave(settings.per_class).to(settings.device)
    return shard.space.statistics.normalise(images), labels


@dataclass(kw_only=True)
class PlainIDC:
    """Loop of IDC's program: class after class, autograd over all parameters, and one update of the pixels per class.

    The minibatch and the images decoded from the class get one draw of the augmentation; the distance compares the
    gradients of the convolutions. Decoding, augmentation and distance are those of this package, which launch fewer
    kernels than the program's own.
    """

    config: RunConfig
    data: RandomImages
    network: nn.Module
    images: dict[int, Tensor]
    """Real images of each class as floats in [0, 1], on the device."""
    pixels: Tensor
    """Learnt pixels of all classes, class after class."""
    lr: float = 5e-3
    momentum: float = 0.5

    def __post_init__(self) -> None:
        self.pixels = self.pixels.clone().requires_grad_()
        self.optimiser = torch.optim.SGD([self.pixels], self.lr, momentum=self.momentum)
        self.form = assembly.parameterisation_of(self.config)
        self.strategy = assembly.strategy_of(self.config.method.augmentation, self.data)  # type: ignore[arg-type]
        self.distance = DISTANCES[self.config.method.distance]
        constants = (self.data.mean, self.data.std)
        self.mean, self.std = (self.pixels.new_tensor(x)[:, None, None] for x in constants)

    def match(self) -> None:
        """Take one matching step."""
        for c, own in self.images.items():
            real = own[torch.randperm(len(own))[: self.config.method.real_batch].to(own.device)]
            synthetic = self.form.decode(self.pixels[c * self.config.ipc : (c + 1) * self.config.ipc])
            drawn = self.strategy.draw(1, self.data.shape[1:], torch.default_generator)
            drawn = drawn.to(own.device, own.dtype)
            b = self._gradients(self._seen(real, drawn), c, create_graph=False)
            a = self._gradients(self._seen(synthetic, drawn), c, create_graph=True)
            loss = self.distance(a, [g.detach() for g in b])
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()

    def _seen(self, images: Tensor, drawn: Draw) -> Tensor:
        return augmentation.apply((images - self.mean) / self.std, drawn)

    def _gradients(self, images: Tensor, c: int, create_graph: bool) -> list[Tensor]:
        labels = torch.full((len(images),), c, device=images.device)
        loss = F.cross_entropy(self.network(images), labels)
        every = torch.autograd.grad(loss, list(self.network.parameters()), create_graph=create_graph)
        return [g for g in every if g.ndim == 4]


def plain_idc(config: RunConfig, data: RandomImages, like: Engine) -> PlainIDC:
    """Make IDC's plain loop with the network, images and pixels of an engine that owns all classes."""
    shard, every = like.shard, torch.arange(data.per_class)
    return PlainIDC(
        config=config,
        data=data,
        network=like.trajectory.network,
        images={c: shard.source.source.get(c, every).to(shard.placement.dtype) / 255 for c in shard.labels},
        pixels=torch.cat([shard.pixels[c] for c in shard.labels]),
    )


def _matching_loss(a: list[Tensor], b: list[Tensor]) -> Tensor:
    distance = torch.zeros((), device=a[0].device)
    for x, y in zip(a, b, strict=True):
        if x.ndim >= 2:
            x, y = x.flatten(1), y.flatten(1)
            distance = distance + (1 - (x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1) + 1e-6)).sum()
    return distance


def seconds(functions: Mapping[str, Callable[[], object]], settings: Settings, warm: int = 1) -> dict[str, list[float]]:
    """Measure the seconds of each function, `settings.repeat` times; they alternate, to share disturbances."""
    for function in functions.values():
        for _ in range(warm):
            function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(settings.repeat):
        for name, function in functions.items():
            times[name].append(_once(function, settings.device))
    return times


def _once(function: Callable[[], object], device: str) -> float:
    synchronise = torch.cuda.synchronize if device == "cuda" else _nothing
    synchronise()
    start = time.perf_counter()
    function()
    synchronise()
    return time.perf_counter() - start


def _nothing() -> None:
    pass


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    """Return the median time of each function."""
    return {name: median(x) for name, x in times.items()}


def with_overrides(settings: Settings, *overrides: str) -> Settings:
    """Return the settings with further configuration keys."""
    return replace(settings, overrides=(*settings.overrides, *overrides))
