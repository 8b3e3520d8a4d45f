"""Export of the newest checkpoint of a run as its synthetic set, and the set's description for people."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from dist_condense.data import ImageSet
from dist_condense.engine.errors import RunFailed
from dist_condense.engine.procedure import Outline
from dist_condense.evaluation.rows import Row
from dist_condense.job import checkpoint, contents
from dist_condense.job.claim import Claim
from dist_condense.result import readme
from dist_condense.result.card import (
    PROTOCOL,
    TEST_IMAGES,
    TRAINING_IMAGES,
    Card,
    CardClass,
    SyntheticSetError,
    common,
    form_of,
    read_card,
)
from dist_condense.result.synthetic_set import README, load_set, write_set
from dist_condense.settings import assembly, images_per_class, procedures
from dist_condense.settings.config import RunConfig
from dist_condense.settings.run_folder import RunFolder
from dist_condense.settings.values import some
from dist_condense.system.files import write_atomically


def export(config: RunConfig, dataset: ImageSet, outline: Outline, claim: Claim) -> int:
    """Write the synthetic set of the newest intact checkpoint to the run's folder.

    Returns the number of completed units of the checkpoint, or 0 if there is no checkpoint yet. If an error is raised,
    an existing set is kept.

    :raises SyntheticSetError: the set cannot be written.
    :raises RunFailed: checkpoints exist, but none is intact; or another start of the run owns the folder.
    """
    store = assembly.storage_of(config)

    def load(name: str) -> tuple[int, dict[str, Tensor]]:
        stored = checkpoint.opened(store, name)
        return stored.steps, contents.classes(stored, outline, len(dataset.classes))

    try:
        loaded = checkpoint.furthest(store, load)
    except checkpoint.Damaged as error:
        raise RunFailed(str(error)) from error
    if loaded is None:
        return 0
    steps, state = loaded
    images, labels = outline.synthetic_set(state)
    described = partial(readme.text_of, config=config, dataset=dataset, units=outline.units, rows=())
    with claim.writing():
        folder = RunFolder(claim.folder).synthetic_set
        write_set(folder, images, labels, card(config, dataset, outline, steps), described)
    return steps


def describe(config: RunConfig, dataset: ImageSet, outline: Outline, claim: Claim, rows: Sequence[Row]) -> Path | None:
    """Write README.md of the run's synthetic set again, with the scores in ``rows``, and return its path.

    Returns None, and writes nothing, if the set has no README.md: it was written by an earlier version, or there is
    none.
    """
    folder = RunFolder(claim.folder).synthetic_set
    try:
        card = read_card(folder)
    except SyntheticSetError:
        return None
    if not (folder / README).is_file():
        return None
    text = readme.text_of(card, config, dataset, outline.units, rows)
    with claim.writing():
        write_atomically(folder / README, text.encode())
    return folder / README


def card(config: RunConfig, dataset: ImageSet, outline: Outline, done: int) -> Card:
    """Return the card of a run's synthetic set after ``done`` units."""
    space, parameterisation = procedures.form_of(config, dataset)
    return Card(
        method=config.method.name,
        dataset=dataset.facts.family,
        classes=[CardClass(label, c.name, c.wnid) for label, c in enumerate(dataset.classes)],
        ipc=common(images_per_class.numbers(config, dataset)),
        **form_of(space, dataset.shape, parameterisation),
        seed=config.seed,
        steps=done,
        complete=done == outline.units.total,
        facts={**_counts(dataset), **outline.facts(done), PROTOCOL: config.evaluation.protocol},
    )


def _counts(dataset: ImageSet) -> dict[str, int]:
    """Return the numbers of real images; without test images, that of training images alone."""
    counts = {TRAINING_IMAGES: sum(dataset.counts), TEST_IMAGES: sum(dataset.test_split.counts)}
    return {name: count for name, count in counts.items() if count}


def set_problem(config: RunConfig, dataset: ImageSet, verify: bool = True) -> str | None:
    """Return the reason why the run's folder has no complete and intact set of this run; None if it has one.

    :param verify: whether all pixels are read, too, see :func:`dist_condense.result.synthetic_set.load_set`.
    """
    folder = RunFolder(Path(config.output)).synthetic_set
    try:
        card = load_set(folder, verify=verify).card
    except SyntheticSetError as error:
        return str(error)
    if not card.complete:
        return f"{folder} is incomplete (step {card.steps})"
    found, expected = (card.counts, card.shape), (images_per_class.numbers(config, dataset), dataset.shape)
    return None if found == expected else f"{folder} has {_form(*found)}, the run has {_form(*expected)}"


def _form(counts: Sequence[int], shape: Sequence[int]) -> str:
    return f"{len(counts)} classes of {some([*map(str, counts)])} images, {' x '.join(map(str, shape))}"
