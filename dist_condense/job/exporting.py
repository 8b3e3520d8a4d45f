"""From the newest checkpoint of a run to its synthetic set."""

from __future__ import annotations

from pathlib import Path

from dist_condense.data import ImageSet
from dist_condense.engine.procedure import Outline
from dist_condense.job import checkpoint
from dist_condense.job.claim import Claim
from dist_condense.result.synthetic_set import Card, CardClass, SyntheticSetError, form_of, read_card, write_set
from dist_condense.settings import assembly
from dist_condense.settings.config import RunConfig
from dist_condense.settings.run_folder import RunFolder


def export(config: RunConfig, dataset: ImageSet, outline: Outline, claim: Claim) -> int:
    """Write the set of the newest checkpoint; the number of its units (0: no checkpoint yet, nothing is written).

    :raises SyntheticSetError: the set cannot be written; one that was there is kept.
    """
    found = checkpoint.newest(assembly.storage_of(config))
    if found is None:
        return 0
    images, labels = outline.synthetic_set(found.classes())
    with claim.writing():
        write_set(RunFolder(claim.folder).synthetic_set, images, labels, card(config, dataset, outline, found.steps))
    return found.steps


def card(config: RunConfig, dataset: ImageSet, outline: Outline, done: int) -> Card:
    """The card of the set after ``done`` units."""
    return Card(
        method=config.method.name,
        dataset=dataset.family,
        classes=[CardClass(label, c.name, c.wnid) for label, c in enumerate(dataset.classes)],
        ipc=config.ipc,
        **form_of(assembly.space_of(config, dataset), dataset.shape, assembly.parameterisation_of(config)),
        seed=config.seed,
        steps=done,
        complete=done == outline.units.total,
        facts=outline.facts(done),
    )


def has_complete_set(folder: Path) -> bool:
    """Whether the run in a folder has ended with its set."""
    try:
        return read_card(RunFolder(folder).synthetic_set).complete
    except SyntheticSetError:
        return False
