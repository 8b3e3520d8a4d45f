"""Computation of one worker, identical in a Ray worker and in the driver's own process."""

from __future__ import annotations

import logging
from contextlib import closing, suppress
from pathlib import Path

import torch

from dist_condense.core.program import CannotCapture, CannotCompile
from dist_condense.data import DataError, ImageSet
from dist_condense.engine.coordinator import Coordinator, Placement
from dist_condense.engine.errors import RunFailed
from dist_condense.engine.observer import Observer, unobserved
from dist_condense.engine.ownership import assign
from dist_condense.job import logs
from dist_condense.job.agreed import with_microbatch
from dist_condense.job.checkpoint_writer import CheckpointWriter
from dist_condense.job.claim import Claim
from dist_condense.job.journal import Intervals, Journal, Stopped
from dist_condense.result.stages import Stages, steps_of
from dist_condense.settings import assembly, procedures
from dist_condense.settings.config import RunConfig
from dist_condense.settings.numerics import numerics
from dist_condense.system.memory import keep_freed_memory

log = logging.getLogger(__name__)
GRACE = 30.0
"""Seconds that a failing worker waits for its last checkpoint, which cannot complete without the other workers."""


def work(
    config: RunConfig,
    coordinator: Coordinator,
    device: torch.device,
    observe: Observer = unobserved,
    *,
    claim: Claim | None = None,
) -> None:
    """Run the procedure on this worker's classes, from the newest checkpoint to the end or to a requested stop.

    :param observe: called with the measurements of each entry of metrics.jsonl.
    :param claim: claim to the run's folder; by default, that of the folder's current owner.
    :raises RunFailed: the run failed, for example because data are missing or a disk is full or read-only.
    """
    claim = claim or Claim.present(Path(config.output))
    try:
        kept, printed = logs.kept(claim.folder, claim.start, coordinator), logs.printed(coordinator.is_first_here)
        with kept, printed, numerics(config.compute):
            _work(config, coordinator, device, observe=observe, claim=claim)
    except DataError as error:
        raise RunFailed("; ".join(error.problems)) from error
    except (OSError, CannotCompile, CannotCapture) as error:
        raise RunFailed(str(error)) from error


def _work(
    config: RunConfig, coordinator: Coordinator, device: torch.device, *, observe: Observer, claim: Claim
) -> None:
    keep_freed_memory()
    journal = assemble(config, coordinator, Placement(device), observe=observe, claim=claim)
    log.info("one of %d, on %s, owns classes %s", coordinator.size, device, journal.procedure.labels)
    with closing(journal.procedure), suppress(Stopped):
        try:
            journal.procedure.run(journal)
        except BaseException:
            journal.writer.wait(GRACE)  # the checkpoint in progress is the last good one
            raise


def assemble(
    config: RunConfig,
    coordinator: Coordinator,
    placement: Placement,
    *,
    observe: Observer = unobserved,
    claim: Claim | None = None,
) -> Journal:
    """Build the procedure and the journal of one worker; return the journal, which contains the procedure."""
    dataset = assembly.dataset_of(config)
    costs = [1.0] * len(dataset.classes)  # every class has the same batch in every step
    labels = list(assign(costs, coordinator.size)[coordinator.rank])
    claim = claim or Claim.present(Path(config.output))
    config = with_microbatch(config, dataset, labels, coordinator=coordinator, device=placement.device, claim=claim)
    procedure = procedures.procedure_of(config, dataset, labels, coordinator=coordinator, placement=placement)
    tracking, store = config.tracking, assembly.storage_of(config)
    return Journal(
        claim=claim,
        procedure=procedure,
        identity=assembly.identity_of(config, dataset),
        coordinator=coordinator,
        group=coordinator.beside(),
        writer=CheckpointWriter(store, coordinator.beside(), kept=tracking.checkpoints_kept, writing=claim.writing),
        intervals=Intervals(tracking.log_every, tracking.checkpoint_steps, tracking.checkpoint_minutes),
        device=placement.device.type,
        stages=_stages(config, dataset, procedure.outline.units.total, claim),
        observe=observe,
    )


def _stages(config: RunConfig, dataset: ImageSet, total: int, claim: Claim) -> Stages | None:
    """Return the writer of pictures of a run of ``total`` units; None if the run learns no images."""
    if not procedures.PROCEDURES[config.method.procedure].learns:
        return None
    space, _ = procedures.form_of(config, dataset)
    return Stages(claim.folder, steps_of(total), space.shown, claim.writing)
