"""Work of a run's evaluation: the networks that are trained on its sets, counted from the config."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from dist_condense.core.cutmix import draw_cutmix
from dist_condense.evaluation.protocols import Protocol, protocol
from dist_condense.planning.images import test_images
from dist_condense.planning.operations import OperationCount, launches_of_network, of_network
from dist_condense.planning.rates import Operations
from dist_condense.planning.workload import Trials, passes
from dist_condense.settings import architectures, assembly, images_per_class
from dist_condense.settings.config import ConfigError, RunConfig
from dist_condense.settings.procedures import form_of
from dist_condense.settings.schema import CONDENSED, FULL


def trials_of(config: RunConfig, dataset: Any) -> tuple[Trials, ...]:
    """Count the trials of the config's evaluation, in the order in which they start.

    The time of selecting a set with a trained network, such as herding, is not included.

    :raises ConfigError: a network cannot be built.
    """
    options = config.evaluation
    if options.epochs == 0:
        return ()
    rule, tests = protocol(options.protocol), test_images(dataset)
    theta = _operations(config, dataset, assembly.SAME_NETWORK).training
    named = dict.fromkeys(assembly.architecture(config, text) for text in architectures.entries(config))
    counted = {name: _operations(config, dataset, name) for name in named}
    shape, prepared = assembly.network_shape(dataset), _preparing(rule, dataset)
    return tuple(
        Trials(
            set=each.name,
            architecture=text,
            seeds=options.seeds,
            updates=dict(passes(each.images, rule.batch, _epochs(config, rule, each, text) + rule.extra_epochs)),
            training=work.training / theta,
            tested=rule.evaluations * tests * work.forward / theta,
            launches=prepared + launches_of_network(text, **shape),
        )
        for each in _sets(config, dataset)
        for text, work in counted.items()
    )


def _preparing(rule: Protocol, dataset: Any) -> int:
    """Count the kernels of drawing and computing the augmentation and CutMix of a batch, here of two black images."""
    images, generator = torch.zeros(2, *dataset.shape), torch.Generator().manual_seed(0)
    with OperationCount() as counted:
        images = rule.augmentation(images, generator, dataset.space.statistics)
        if rule.cutmix:
            draw_cutmix(rule.cutmix, len(images), (images.shape[-2], images.shape[-1]), generator).images(images)
    return counted.launches


@dataclass(frozen=True)
class _Set:
    """Size of a training set: its decoded images, of all classes, and the decoded images per stored image."""

    name: str
    images: int
    classes: int
    tiles: int = 1


def _sets(config: RunConfig, dataset: Any) -> Iterator[_Set]:
    classes, tiles = len(dataset.classes), form_of(config, dataset)[1].tiles
    images = images_per_class.total(config, dataset)
    sizes = {FULL: (sum(dataset.counts), classes), CONDENSED: (images * tiles, classes, tiles)}
    for name in dict.fromkeys(config.evaluation.sets):
        yield _Set(name, *sizes.get(name, (images, classes)))


def _epochs(config: RunConfig, rule: Protocol, of: _Set, architecture: str) -> int:
    """Return the number of epochs E of a trial, as :mod:`dist_condense.job.comparing` determines it."""
    options, labels = config.evaluation, torch.empty(()).expand(of.images, of.classes)
    given = (options.full_epochs, options.epochs, rule.full_epochs) if of.name == FULL else (options.epochs,)
    stated = next((epochs for epochs in given if epochs), None)
    return rule.epochs_for(labels, architecture, of.tiles) if stated is None else stated


def _operations(config: RunConfig, dataset: Any, text: str) -> Operations:
    try:
        return of_network(assembly.architecture(config, text), **assembly.network_shape(dataset))
    except (ValueError, ImportError) as error:
        raise ConfigError([f"evaluation.architectures: {text}: {error}"]) from error
