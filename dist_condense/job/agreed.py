"""Agreement of the workers on the microbatch of a run, which each of them chooses by its own memory."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from dist_condense.data import ImageSet
from dist_condense.data.reading.tiers import gib
from dist_condense.engine.coordinator import Coordinator
from dist_condense.engine.errors import RunFailed
from dist_condense.job.claim import Claim
from dist_condense.settings import microbatch
from dist_condense.settings.config import RunConfig, read, to_yaml
from dist_condense.settings.microbatch import Room, keeps_decoded
from dist_condense.settings.procedures import PROCEDURES
from dist_condense.settings.run_folder import RunFolder
from dist_condense.settings.schema import CPU
from dist_condense.system.files import write_atomically

log = logging.getLogger(__name__)
Measure = Callable[[torch.device, int, int], Room]
"""Function like :meth:`dist_condense.settings.microbatch.Room.here`."""


def with_microbatch(
    config: RunConfig,
    dataset: ImageSet,
    labels: Sequence[int],
    *,
    coordinator: Coordinator,
    device: torch.device,
    claim: Claim,
    room: Measure = Room.here,
) -> RunConfig:
    """Return the config with a definite ``compute.microbatch``; all workers must call this.

    If it is null, it is that of an earlier start of the workers, else the least that any of them chooses. The first
    worker adds it to the config in the run's folder, from which later starts take it.

    :param labels: classes that this worker owns.
    """
    if config.compute.microbatch is not None:
        return config
    found = coordinator.gather(_stored(claim) if coordinator.rank == 0 else None)[0]
    stored = _chosen(config, dataset, labels, coordinator, device, room) if found is None else _number(found)
    config = replace(config, compute=replace(config.compute, microbatch=stored))
    if coordinator.rank == 0 and (file := RunFolder(claim.folder).config).exists():
        with claim.writing():
            write_atomically(file, to_yaml(config).encode())
    return config


def _stored(claim: Claim) -> int | None:
    file = RunFolder(claim.folder).config
    return read(file).compute.microbatch if file.exists() else None


def _number(sent: object) -> int:
    """Return a microbatch that a worker has sent. Raises RunFailed if it is none."""
    if isinstance(sent, int) and sent >= 0:
        return sent
    raise RunFailed(f"a worker sent {sent!r} as compute.microbatch; give all workers the same version of dist_condense")


def _chosen(
    config: RunConfig,
    dataset: ImageSet,
    labels: Sequence[int],
    coordinator: Coordinator,
    device: torch.device,
    room: Measure,
) -> int:
    """Return the least microbatch that a worker chooses; log it unless it is 0."""
    hosts = coordinator.gather(socket.gethostname())
    here = room(device, hosts.count(socket.gethostname()), _kept(config.data.tier, dataset, labels, device))
    own = PROCEDURES[config.method.procedure].microbatch(config, dataset, len(labels), here)
    chosen = [_number(x) for x in coordinator.gather(own)]
    least = min((x for x in chosen if x), default=0)
    if least:
        why = microbatch.reason(config, dataset, len(labels), here)
        log.info("compute.microbatch=%d is chosen: %s; this worker has %s", least, why, gib(max(0, here.bytes)))
    return least


def _kept(tier: str, dataset: ImageSet, labels: Sequence[int], device: torch.device) -> int:
    """Return the bytes of the worker's real images, decoded or encoded, in the memory of its device."""
    if keeps_decoded(tier, device.type):
        return sum(dataset.decoded_bytes([dataset.counts[c] for c in labels]))
    if tier == "encoded" and device.type == CPU:
        each = dataset.train_split.encoded_bytes()
        return sum(each[c] for c in labels)
    return 0
