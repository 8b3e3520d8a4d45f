"""Choice of the microbatch (``compute.microbatch=null``): all images of a class at once if they fit, else fewer.

If a rough upper bound fits, which takes no time, all images are taken. Else the peak of a step is counted on tensors
without data, which takes seconds, for two small numbers of images, and extrapolated. A double backward is counted,
which needs more than two passes, so the choice is cautious. The number of images is halved until they fit and is not
the largest possible, so that equal machines usually choose equally although their free memory differs: always on CPUs,
where a share of the whole memory counts, but not on a GPU whose free memory happens to be on either side of a bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dist_condense import networks
from dist_condense.core.objective import Objective
from dist_condense.data.reading.read_ahead import HELD
from dist_condense.data.reading.tiers import DECODED
from dist_condense.settings import assembly, images_per_class, matching, needs
from dist_condense.settings.needs import FLOAT
from dist_condense.settings.schema import CPU, CUDA, RunConfig
from dist_condense.system.memory import machine_memory
from dist_condense.system.peak_bytes import PeakBytes

SHARE = 0.8
"""Share of :attr:`Room.bytes` that is used; the rest is left for workspaces of kernels and the gaps of an allocator."""
PROCESS = {CPU: 2**30, CUDA: 3 * 2**29}
"""Bytes that a process needs besides its tensors, by device. Measured on a CPU (Python, torch, Ray, MLflow); assumed on
a GPU (its context, workspaces of kernels)."""
COPIES = 8
"""Bound of the peak of a step in outputs of all layers and weights; at most 4 and 6.4 of them were counted."""
COUNTS = 2, 4
"""Two numbers of images whose memory is counted."""


@dataclass(frozen=True)
class Room:
    """Memory of a worker for its tensors, in bytes."""

    bytes: int
    images: int = 0
    """Bytes of the real images that the worker keeps in it."""
    on_gpu: bool = False
    """Whether it is a GPU's, on which the steps of ``compute.cuda_graphs`` classes are captured and exist at once."""

    @classmethod
    def here(cls, device: torch.device, workers: int, images: int = 0) -> Room:
        """Return the free memory of a GPU, or a worker's share of this machine's memory, which ``workers`` share."""
        if device.type == CUDA:
            return cls(torch.cuda.mem_get_info(device)[0], images, True)
        return cls(machine_memory() // workers - PROCESS[CPU], images)


def keeps_decoded(tier: str, device: str) -> bool:
    """Return whether a worker keeps its real images, decoded, in the memory of its device.

    :param tier: a definite tier; on a GPU, those of the machine's memory do not count.
    """
    return tier == "gpu" if device == CUDA else tier in DECODED


def fitting(config: RunConfig, dataset: Any, classes: int, room: Room) -> int:
    """Return the largest microbatch, halved from all images of a class, with which a matching step fits; 0: all.

    If not even one image fits, the result is 1.

    :param classes: number of classes of the worker.
    :raises ConfigError: the network cannot be built.
    """
    method = config.method
    real = min(method.real_batch, max(dataset.counts))
    synthetic = min(assembly.parameterisation_of(config).count(images_per_class.most(config)), method.synthetic_limit)
    free = SHARE * room.bytes - room.images - _beside(config, dataset, classes)
    text, shape = assembly.network_text(config.network), assembly.network_shape(dataset)
    objective = replace(assembly.objective_of(config), microbatch=0, compiled=False)
    every, steps = max(real, synthetic), captured(config, classes, room)
    if steps * bound(text, every, **shape) <= free:
        return 0
    images, (of_real, of_synthetic) = every, _peaks(text, objective, **shape)

    def fits(images: int) -> bool:
        return steps * max(_at(of_real, min(images, real)), _at(of_synthetic, min(images, synthetic))) <= free

    while images > 1 and not fits(images):
        images //= 2
    return 0 if images == every else images


def captured(config: RunConfig, classes: int, room: Room) -> int:
    """Return the number of classes, of ``classes`` of a worker, whose images are in the network at once."""
    return max(1, min(config.compute.cuda_graphs, classes)) if room.on_gpu else 1


def reason(config: RunConfig, dataset: Any, classes: int, room: Room) -> str:
    """Return why :func:`fitting` chooses a microbatch; the arguments are those of it."""
    steps = captured(config, classes, room)
    for fewer in (steps >> n for n in range(1, steps.bit_length())):
        less = replace(config, compute=replace(config.compute, cuda_graphs=fewer))
        if fitting(less, dataset, classes, room) == 0:
            return (
                f"all images of {steps} classes in a CUDA graph do not fit, those of {fewer} would "
                f"(compute.cuda_graphs={fewer})"
            )
    return "all images of a class at once do not fit"


def learnt(config: RunConfig, dataset: Any) -> list[int]:
    """Return the number of learnt values of each class. Its momentum, and in its step its gradient, have as many."""
    return [sum(map(prod, shapes.values())) for shapes in assembly.learnt_shapes(config, dataset)]


def bound(text: str, images: int, *, channels: int, size: networks.Size, classes: int) -> int:
    """Return more bytes than the peak of a step with this number of images in the network at once."""
    shape: Any = {"channels": channels, "size": size, "classes": classes}
    theta, _ = needs.sizes(text, **shape)
    each = channels * prod(networks.sides(size)) + needs.output_sum(text, **shape)
    return COPIES * (theta + FLOAT * images * each)


def _beside(config: RunConfig, dataset: Any, classes: int) -> int:
    """Return the bytes of the classes' state, a class's gradient, theta's state, statistics, and minibatches."""
    image, own = prod(dataset.shape), learnt(config, dataset)
    state = FLOAT * (2 * sum(own) * classes // len(own) + max(own))
    text, shape = assembly.network_text(config.network), assembly.network_shape(dataset)
    theta, _ = needs.sizes(text, **shape)
    groups, statistics = matching.pooled_groups(config, len(dataset.classes)), 0
    if groups:
        values = _values(text, assembly.objective_of(config), **shape)
        statistics = needs.of_statistics(values, groups=groups, classes=classes)
    read = min(config.method.real_batch, max(dataset.counts)) * image * (HELD + 2 * FLOAT)
    return state + 3 * theta + statistics + read


@lru_cache(maxsize=64)
def _values(text: str, objective: Objective, *, channels: int, size: networks.Size, classes: int) -> int:
    """Return the number of values of the statistic of a class."""
    with FakeTensorMode():
        network = networks.build(text, seed=0, channels=channels, size=size, classes=classes).eval()
        blank = torch.zeros(1, channels, *networks.sides(size))
        return sum(x.numel() for x in objective.phi.value(network, blank, torch.zeros(1, dtype=torch.int64)))


Line = Sequence[int]
"""Peak bytes at both numbers of images in :data:`COUNTS`."""


def _at(line: Line, images: int) -> float:
    few, many = COUNTS
    return line[1] + (images - many) * (line[1] - line[0]) / (many - few)


@lru_cache(maxsize=64)
def _peaks(text: str, objective: Objective, *, channels: int, size: networks.Size, classes: int) -> tuple[Line, Line]:
    """Return the peak bytes of the statistic of real images, and of the gradient of synthetic images."""
    real, synthetic = list[int](), list[int]()
    with FakeTensorMode():
        network = networks.build(text, seed=0, channels=channels, size=size, classes=classes).eval()
        for images in COUNTS:
            examples = {
                "images": torch.empty(images, channels, *networks.sides(size)),
                "labels": torch.zeros(images, dtype=torch.int64),
            }
            with PeakBytes() as of_real:
                b = objective.statistic(network, examples)
            with PeakBytes() as of_synthetic:
                objective.match(network, examples, b)
            real.append(of_real.most)
            synthetic.append(of_synthetic.most)
    return real, synthetic
