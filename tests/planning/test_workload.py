"""Counted work of the shipped configs."""

from dataclasses import replace

import pytest

from dist_condense.planning.images import assumed, like
from dist_condense.planning.workload import decoded, workload_of
from dist_condense.settings.config import ConfigError, load


def counted(name, *keys, classes=None, images=None):
    config = load(f"configs/{name}.yaml", keys)
    return workload_of(config, assumed(config, classes, images))


def test_dc_with_one_step_never_trains_theta():
    found = counted("cifar10_dc")
    assert (found.classes, found.networks, found.steps, found.real, found.synthetic) == (10, 1000, 1000, 256, 1)
    assert (found.image, found.decoded, found.counts) == (3 * 32 * 32, 0, (5000,) * 10)
    assert (found.pixels, found.gradient) == (2 * 3 * 32 * 32, 3 * 32 * 32)  # with momentum; of one class at a time
    assert counted("cifar10_dc", "method.label_lr=0.1").pixels == 2 * (3 * 32 * 32 + 10)
    assert (found.updates, found.shared_steps, found.groups, found.slices) == ({}, 0, 0, 4)
    assert found.parameters == 320010 and found.statistic == 320010 - 6 * 128 - 10 - 3 * 128  # no bias, no norm


def test_dc_with_ten_steps_trains_on_the_set():
    found = counted("cifar10_dc", "ipc=30", "trajectory.matching_steps=10", "training.epochs=50")
    assert found.updates == {256: 1000 * 9 * 50, 44: 1000 * 9 * 50}  # 300 images: a batch and a rest
    assert not found.real_updates and found.decoded == 30 * 3 * 32 * 32 and found.segments == 1000 * 9


def test_a_frozen_theta_is_never_updated():
    found = counted("cifar10_dm", "trajectory.matching_steps=3", "training.images=100", "training.epochs=1")
    assert (found.updates, found.segments, found.real_updates, found.decoded) == ({}, 0, True, 0)


def test_dcc_shares_its_steps_after_the_warm_up():
    found = counted("cifar10_dcc")
    assert (found.steps, found.shared_steps, found.groups) == (10000, 10000 - 250 * 10, 1)
    assert counted("cifar10_dcc", "method.grouping.warmup_networks=0").shared_steps == 10000


@pytest.mark.parametrize("name", ["kmeans", "random"])
def test_groups_whose_members_are_not_known(name):
    found = counted("cifar10_dcc", f"method.grouping.name={name}", "method.grouping.number=3")
    assert found.groups == 3


def test_idc_on_imagenet_trains_on_real_images_and_a_pool():
    found = counted("imagenet100_idc")
    assert (found.classes, found.counts[0], found.synthetic, found.pixels) == (100, 1281, 90, 2 * 10 * 3 * 224**2)
    whole, rest = divmod(128100, 128)
    assert found.updates == {128: 500 * 99 * 4 + 10 * 5 * whole, rest: 10 * 5} and found.real_updates
    assert found.segments == 500 * 99 + 10
    assert counted("imagenet100_idc", "ipc=20").synthetic == 128  # of 180
    assert counted("imagenet1k_idc").classes == 1000
    (passes,) = {found.updates[64] for found in [counted("imagenet10_idc", images=640)]}
    assert passes == 500 * 99 * 8 + 500 * 10 * 100


def test_small_classes_give_each_image_once():
    assert counted("cifar10_dc", images=20).real == 20 and counted("cifar10_dc", images=300).real == 256
    few = counted("cifar10_idc", images=5)
    assert few.updates == {50: 2000 * 99 * 32}  # a batch of 64 from 50 images


def test_images_that_are_embedded_to_choose_minibatches():
    chosen = "method.real_draw=representative"
    assert counted("cifar10_idc", "method.representatives.images=64").embedded == 0
    assert counted("cifar10_idc", chosen).embedded == 2000 * 100 / 10 * 5000
    keys = chosen, "method.representatives.images=640", "method.representatives.interval=7"
    assert counted("cifar10_idc", *keys).embedded == 28572 * 640
    assert counted("cifar10_idc", *keys, images=30).embedded == 28572 * 30


def test_early_networks_are_trained_once():
    schedule = ["trajectory.start=early", "trajectory.pool_size=5", "trajectory.pretrain_epochs=2"]
    found = counted("cifar10_idc", *schedule)
    assert found.segments == 2000 * 99 + 5
    assert found.updates == {64: 2000 * 99 * 32 + 5 * 2 * 781, 16: 5 * 2}


def test_batchnorm_keeps_a_batch_whole():
    found = counted("cifar10_dc", "network.norm=batch", "compute.slices=4")
    assert found.slices == 1 and found.coupled
    assert counted("cifar10_dc", "compute.slices=6").slices == 6


def test_a_network_that_cannot_be_built_is_refused():
    with pytest.raises(ConfigError, match="network: "):
        counted("digits", "network.depth=9")


@pytest.mark.parametrize(("decoding", "images"), [("uniform", 45), ("multi", 70), ("bounded", 45)])
def test_decoded_images(decoding, images):
    keys = ["method=idc", "method.parameterisation.factor=3", f"method.parameterisation.decoding={decoding}"]
    assert decoded(load("configs/digits.yaml", keys), 5) == images


def test_a_selection_with_features_trains_one_network_and_reads_all_images():
    found = counted("cifar10_dc", "method=herding", "ipc=50")
    assert (found.networks, found.steps, found.real, found.segments) == (1, 0, 0, 1)
    assert found.updates == {256: 20 * 195, 80: 20} and found.real_updates  # 50,000 images: 195 batches and 80
    assert (found.parameters, found.pixels, found.unestimated) == (320010, 50 * 3 * 32 * 32, 50_000 + 500)


def test_a_selection_without_features_computes_nothing():
    found = counted("cifar10_dc", "method=random", "ipc=50")
    assert not found.computes and (found.updates, found.parameters, found.networks) == ({}, 0, 0)
    assert found.unestimated == 500


def test_what_nobody_knows_of_the_data_is_asked_for():
    config = load("configs/imagenette224_idc.yaml")
    with pytest.raises(ConfigError, match="--classes N --images-per-class M"):
        assumed(config, 10, None)
    told = assumed(config, 10, 947)
    assert (len(told.classes), told.counts, told.size, told.channels) == (10, (947,) * 10, 224, 3)
    listed = replace(config, dataset=replace(config.dataset, classes=["a", "b"]))
    assert len(assumed(listed, None, 5).classes) == 2
    assert like(told, 7).counts == (7,) * 10 and like(told, 7).train([3], None).images[3].shape[0] == 7
