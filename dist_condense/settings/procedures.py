"""Table of procedures, and functions that return the parts of a run's procedure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any, Protocol

from dist_condense.core.parameterisation import MultiFormation
from dist_condense.data import ImageSet
from dist_condense.data.space import Space
from dist_condense.engine.coordinator import Coordinator, Placement
from dist_condense.engine.procedure import Outline, Procedure
from dist_condense.networks import Network
from dist_condense.settings import assembly, matching, microbatch, selecting
from dist_condense.settings.assembly import Pass
from dist_condense.settings.config import RunConfig
from dist_condense.settings.microbatch import Room
from dist_condense.settings.needs import Needs


class Worker(Protocol):
    """Function that makes one worker's part of a procedure; ``labels`` are the classes that the worker owns."""

    def __call__(
        self, config: RunConfig, dataset: ImageSet, labels: list[int], coordinator: Coordinator, placement: Placement
    ) -> Procedure: ...


Lines = Callable[[RunConfig, ImageSet], Iterator[str]]


@dataclass(frozen=True)
class Maker:
    """Functions that construct a procedure from a config, and that check the config."""

    outline: Callable[[RunConfig, ImageSet], Outline]
    worker: Worker
    _: KW_ONLY
    batches: Callable[[RunConfig], tuple[int, int]] = lambda config: (config.method.real_batch, config.training.batch)
    """Function that returns the largest numbers of real images that are read at a time: of one class, and of all."""
    form: Callable[[RunConfig, ImageSet], tuple[Space, MultiFormation]] = assembly.learnt_form
    """Function that returns the value space of the stored images, and the parameterisation that decodes them."""
    problems: Callable[[RunConfig], Iterator[str]] = lambda config: iter(())
    """Function that yields an error message for each reason why the procedure cannot run on any data set."""
    data_problems: Lines = lambda config, dataset: iter(())
    """Function that yields an error message for each reason why the procedure cannot run on this data set."""
    network_problems: Callable[[RunConfig, Network], Iterator[str]] = lambda config, theta: iter(())
    """Function that yields an error message for each reason why the procedure cannot use the network theta."""
    passes: Callable[[RunConfig, ImageSet], Iterator[Pass]] = lambda config, dataset: iter(())
    """Function that yields the passes over images in which theta is trained."""
    needed: Callable[[RunConfig, Any, int], Needs] = lambda config, dataset, classes: Needs([])
    """Function that returns the memory that a worker of this number of classes needs at least on its device."""
    microbatch: Callable[[RunConfig, Any, int, Room], int] = lambda config, dataset, classes, room: 0
    """Function that returns the microbatch with which a worker of this number of classes fits in its memory."""
    remarks: Lines = lambda config, dataset: iter(())
    """Function that yields remarks about the config, which do not stop the run."""
    learns: bool = False
    """Whether the state of a class has pixels that change from unit to unit, of which the report shows pictures."""
    ignores: tuple[str, ...] = ()
    """Names of keys, and of sections with a dot at the end, that the procedure does not read."""


PROCEDURES = {
    "matching": Maker(
        matching.outline,
        matching.matching,
        problems=matching.problems,
        data_problems=matching.data_problems,
        network_problems=matching.network_problems,
        passes=matching.passes,
        needed=matching.needed,
        microbatch=microbatch.fitting,
        remarks=matching.remarks,
        learns=True,
        ignores=("method.selection.",),
    ),
    "selecting": Maker(
        selecting.outline,
        selecting.selecting,
        batches=selecting.batches,
        form=selecting.form,
        problems=selecting.problems,
        data_problems=selecting.data_problems,
        passes=selecting.passes,
        needed=selecting.needed,
        remarks=selecting.remarks,
        ignores=selecting.IGNORED,
    ),
}


def outline_of(config: RunConfig, dataset: ImageSet) -> Outline:
    """Return the outline of a run's procedure; no worker is needed."""
    return PROCEDURES[config.method.procedure].outline(config, dataset)


def procedure_of(
    config: RunConfig, dataset: ImageSet, labels: list[int], coordinator: Coordinator, placement: Placement
) -> Procedure:
    """Return one worker's part of a run's procedure; ``labels`` are the classes that the worker owns."""
    maker = PROCEDURES[config.method.procedure]
    return maker.worker(config, dataset, labels, coordinator=coordinator, placement=placement)


def form_of(config: RunConfig, dataset: ImageSet) -> tuple[Space, MultiFormation]:
    """Return the value space of a run's stored images, and the parameterisation that decodes them."""
    return PROCEDURES[config.method.procedure].form(config, dataset)
