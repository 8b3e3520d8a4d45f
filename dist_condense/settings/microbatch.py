"""Choice of the microbatch (``compute.microbatch=null``): all images of a class at once if they fit, else fewer.

The peak of a step is counted on tensors without data, for two small numbers of images, and extrapolated. A double
backward is counted, which needs more than two passes, so the choice is cautious. The number of images is halved until
they fit and is not the largest possible, so that equal machines choose equally although their free memory differs.
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
from dist_condense.settings import assembly, needs
from dist_condense.settings.needs import FLOAT
from dist_condense.settings.schema import CPU, CUDA, RunConfig
from dist_condense.system.memory import machine_memory
from dist_condense.system.peak_bytes import PeakBytes

SHARE = 0.8
"""Share of the free memory that is used; the rest is left for workspaces of kernels and the gaps of an allocator."""
PROCESS = {CPU: 2**30, CUDA: 3 * 2**29}
"""Bytes that a process needs besides its tensors, by device. Measured on a CPU (Python, torch, Ray, MLflow); assumed on
a GPU (its context, workspaces of kernels)."""
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


def fitting(config: RunConfig, dataset: Any, classes: int, room: Room) -> int:
    """Return the largest microbatch, halved from all images of a class, with which a matching step fits; 0: all.

    If not even one image fits, the result is 1.

    :param classes: number of classes of the worker.
    :raises ConfigError: the network cannot be built.
    """
    method = config.method
    real = min(method.real_batch, max(dataset.counts))
    synthetic = min(assembly.parameterisation_of(config).count(config.ipc), method.synthetic_limit)
    free = SHARE * room.bytes - room.images - _beside(config, dataset, classes)
    text, shape = assembly.network_text(config.network), assembly.network_shape(dataset)
    objective = replace(assembly.objective_of(config), microbatch=0, compiled=False)
    of_real, of_synthetic = _peaks(text, objective, **shape)
    steps = captured(config, classes, room)

    def fits(images: int) -> bool:
        return steps * max(_at(of_real, min(images, real)), _at(of_synthetic, min(images, synthetic))) <= free

    every = images = max(real, synthetic)
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


def learnt(config: RunConfig, dataset: Any) -> int:
    """Return the number of learnt values of a class. Its momentum, and in its step its gradient, have as many."""
    return sum(map(prod, assembly.learnt_shapes(config, dataset).values()))


def _beside(config: RunConfig, dataset: Any, classes: int) -> int:
    """Return the bytes of the classes' state, a class's gradient, theta's state, and the minibatches read ahead."""
    image = prod(dataset.shape)
    state = FLOAT * (2 * classes + 1) * learnt(config, dataset)
    theta, _ = needs.sizes(assembly.network_text(config.network), **assembly.network_shape(dataset))
    read = min(config.method.real_batch, max(dataset.counts)) * image * (HELD + 2 * FLOAT)
    return state + 3 * theta + read


Line = Sequence[int]
"""Peak bytes at both numbers of images in :data:`COUNTS`."""


def _at(line: Line, images: int) -> float:
    few, many = COUNTS
    return line[1] + (images - many) * (line[1] - line[0]) / (many - few)


@lru_cache(maxsize=64)
def _peaks(text: str, objective: Objective, *, channels: int, size: networks.Size, classes: int) -> tuple[Line, Line]:
    """Return the peak bytes of the statistic of real images, and of the gradient of synthetic images."""
    height, width = (size, size) if isinstance(size, int) else size
    real, synthetic = list[int](), list[int]()
    with FakeTensorMode():
        network = networks.build(text, seed=0, channels=channels, size=size, classes=classes).eval()
        for images in COUNTS:
            examples = {
                "images": torch.empty(images, channels, height, width),
                "labels": torch.zeros(images, dtype=torch.int64),
            }
            with PeakBytes() as of_real:
                b = objective.statistic(network, examples)
            with PeakBytes() as of_synthetic:
                objective.match(network, examples, b)
            real.append(of_real.most)
            synthetic.append(of_synthetic.most)
    return real, synthetic
