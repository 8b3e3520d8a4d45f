"""The networks of an evaluation, counted as job/comparing.py trains them, and their time on several workers."""

from dataclasses import replace

import pytest
import torch

from dist_condense.evaluation.protocols import protocol
from dist_condense.evaluation.training import Course
from dist_condense.planning.forecast import evaluating
from dist_condense.planning.images import assumed
from dist_condense.planning.operations import OperationCount
from dist_condense.planning.rates import Updating
from dist_condense.planning.trials import trials_of
from dist_condense.planning.workload import Trials
from dist_condense.settings import assembly
from dist_condense.settings.config import ConfigError, load

UPDATING = Updating(update=1.0, slice=2.0, batch=0.5, own=0.25)


def counted(name, *keys):
    config = load(f"configs/{name}.yaml", keys)
    return trials_of(config, assumed(config, None, None))


def one(seconds, seeds):
    """Return trials of so many seconds each with UPDATING: tests only."""
    return Trials(set="", architecture="", seeds=seeds, updates={}, training=1.0, tested=seconds / 0.75)


def test_the_sets_and_epochs_are_those_of_the_protocol():
    random, condensed = counted("cifar10_idc")
    assert (random.set, condensed.set, random.architecture) == ("random", "condensed", "convnet")
    assert random.updates == {64: 1000, 36: 1000}  # 100 images: a batch and a rest, 1,000 epochs
    assert condensed.updates == {64: 1000 * 6, 16: 1000}  # 400 decoded images
    assert (random.seeds, random.training) == (3, 1.0)
    assert random.tested == pytest.approx(4 * 10_000 / 3, rel=0.03)  # a test is a third of a training pass
    (dc,) = counted("cifar10_dc", "evaluation.sets=[condensed]")
    assert dc.updates == {10: 301}  # DC's program runs an epoch more


@pytest.mark.parametrize("name", ["cifar10_idc", "cifar10_dsa"])
def test_an_update_launches_its_augmentation_and_sgd_as_well(name):
    config = load(f"configs/{name}.yaml", ["network.width=4", "evaluation.sets=[condensed]"])
    data = assumed(config, None, None)
    rule = replace(protocol(config.evaluation.protocol), batch=4)
    images = torch.zeros(4, *data.shape)
    course = Course(
        network=assembly.network_builder(config, data)(0),
        protocol=rule,
        images=lambda positions: images[positions],
        labels=torch.zeros(4, dtype=torch.int64),
        statistics=data.space.statistics,
        seed=0,
        device=torch.device("cpu"),
    )
    course.optimiser.param_groups[0]["foreach"] = True
    for epoch in range(2):
        with OperationCount() as run:
            course.run_epoch(epoch, 1.0)
    (trial,) = trials_of(config, data)
    assert 0.8 * run.launches < trial.launches < run.launches  # order, seeds and copies are not counted


def test_imagenet_100_has_fewer_epochs_and_three_architectures():
    found = counted("imagenet100_idc")
    assert [(x.set, x.architecture) for x in found][2:4] == [
        ("random", "efficientnet_b0"),
        ("condensed", "resnet10_ap"),
    ]
    assert sum(b * n for b, n in found[3].updates.items()) == 600 * 9000
    assert sum(b * n for b, n in found[0].updates.items()) == 1300 * 1000
    assert found[3].training == 1.0 and 0.2 < found[5].training < 0.25


def test_epochs_of_the_config_go_first():
    keys = ["evaluation.sets=[full,condensed]", "evaluation.epochs=2"]
    whole, condensed = counted("cifar10_idc", *keys)
    assert whole.updates == {64: 2 * 781, 16: 2} and condensed.updates == {64: 12, 16: 2}
    whole, _ = counted("cifar10_idc", "evaluation.sets=[full,condensed]")
    assert whole.updates[64] == 300 * 781
    whole, _ = counted("cifar10_idc", *keys, "evaluation.full_epochs=7")
    assert whole.updates[64] == 7 * 781
    assert counted("cifar10_idc", "evaluation.epochs=0") == ()
    (herding,) = counted("cifar10_dc", "method=herding", "ipc=50", "evaluation.sets=[condensed]")
    assert sum(b * n for b, n in herding.updates.items()) == 301 * 500


def test_a_network_that_cannot_be_built_is_refused_with_its_key():
    with pytest.raises(ConfigError, match=r"evaluation\.architectures: convnet:depth=9: "):
        counted("digits", "evaluation.architectures=['convnet:depth=9']")


def test_each_worker_takes_the_next_trial_in_order():
    todo = [one(4.0, 1), one(3.0, 3), one(5.0, 1)]
    assert evaluating(todo, UPDATING, 1) == pytest.approx(18)
    assert evaluating(todo, UPDATING, 2) == pytest.approx(3 + 3 + 5)  # the other: 4, then 3
    assert evaluating(todo, UPDATING, 9) == pytest.approx(5)
    assert evaluating([], UPDATING, 2) == evaluating([], None, 2) == 0
    assert evaluating(todo, None, 2) is None


def test_a_trial_takes_its_updates_in_one_slice_and_its_tests():
    trial = Trials(set="", architecture="", seeds=1, updates={8: 10}, training=2.0, tested=100.0)
    assert evaluating([trial], UPDATING, 1) == 2 * 10 * (1 + 2 + 0.75 * 8) + 100 * 0.75


def test_an_update_of_a_trial_takes_at_least_its_launches():
    trial = Trials(set="", architecture="", seeds=1, updates={8: 10, 1: 1}, training=2.0, tested=0.0, launches=4)
    assert evaluating([trial], UPDATING, 1, kernel=4.0) == 10 * 2 * (1 + 2 + 0.75 * 8) + 4 * 4
