"""Time, bytes and memory follow from work and rates exactly."""

from dataclasses import replace

import pytest

from dist_condense.engine.ownership import assign
from dist_condense.planning.cluster import Traffic, traffic
from dist_condense.planning.forecast import (
    AT_ONCE,
    ENOUGH,
    MINIBATCHES,
    NETWORK,
    PIXELS,
    REAL,
    STATISTICS,
    StepEfficiency,
    best,
    bounds,
    efficiency,
    forecast,
    memory,
)
from dist_condense.planning.rates import Launching
from dist_condense.planning.workload import Trials
from dist_condense.settings.microbatch import PROCESS
from tests.planning.cases import CLUSTER, LOAD, RATES

CLASS = 2 + 64 * 0.25 + 16 * 0.5
SHARED = replace(LOAD, shared_steps=15, groups=2)
TRAINED = replace(LOAD, updates={32: 6, 8: 2}, segments=2)
QUICK = replace(CLUSTER, bandwidth=1e6, latency=1e-3)
"""Cluster on which dividing the slices is cheaper than computing all of them."""


@pytest.mark.parametrize(("workers", "most", "least"), [(1, 10, 10), (3, 4, 3), (8, 2, 1), (10, 1, 1), (12, 1, 0)])
def test_the_worker_with_most_classes_sets_the_pace(workers, most, least):
    found = forecast(LOAD, RATES, CLUSTER, workers)
    owned = [len(labels) for labels in assign([1.0] * LOAD.classes, workers)]
    assert (found.most, found.least) == (most, least) == (max(owned), min(owned))
    assert found.matching == 20 * (1 + most * CLASS) and found.drawing == 5 * 3
    assert found.training == found.talking == 0
    assert found.seconds == found.matching + 15 and found.device_hours == workers * found.seconds / 3600


def test_features_of_representative_minibatches_take_a_forward_pass_of_every_class():
    plain = forecast(LOAD, RATES, CLUSTER, 3).matching
    assert forecast(replace(LOAD, embedded=600), RATES, CLUSTER, 3).matching == plain + 600 * 4 * 0.25 / 3


def test_shared_steps_have_rates_and_a_sum_of_their_own():
    found = forecast(SHARED, RATES, CLUSTER, 2)
    assert found.matching == 5 * (1 + 5 * CLASS) + 15 * (2 + 5 * (4 + 64 * 0.25 + 16 * 1.0))
    size = 2 * 8 + 2 * 2 * 900 * 8  # the maximum of each group; statistics of real and synthetic as 64-bit integers
    assert found.traffic.shared_step == size and found.talking == 15 * (0.5 + size / 1000)
    one = forecast(replace(SHARED, updates={32: 6}), RATES, CLUSTER, 1)
    assert one.talking == 0 and one.traffic == Traffic()
    assert traffic(SHARED, replace(CLUSTER, exact=False), 2).shared_step == 2 * 2 * 900 * 4


@pytest.mark.parametrize(
    ("slices", "workers", "share", "images"), [(1, 1, 1, 32), (4, 4, 1, 8), (4, 1, 4, 32), (4, 3, 2, 16)]
)
def test_an_update_costs_the_batch_and_the_slices_of_a_worker(slices, workers, share, images):
    load = replace(LOAD, updates={32: 1}, slices=slices)
    assert forecast(load, RATES, QUICK, workers).training == 1 + 2 * share + 0.5 * 32 + 0.25 * images


def test_each_piece_takes_the_longer_of_arithmetic_and_launches():
    load = replace(LOAD, updates={32: 3, 1: 1}, slices=4)
    of = forecast(load, RATES, QUICK, 3)
    large, small = (RATES.updating.seconds(n, 4, 1) for n in (32, 1))
    least = Launching(kernel=1.0, step=1000.0, update=6.0, slice=3.0)  # an update of 32 images takes longer
    assert small < 6 + 4 * 3 < large and bounds(load, RATES, QUICK, of) == {}
    rates = replace(RATES, launching=least)
    found = forecast(load, rates, replace(QUICK, bandwidth=1.0), 3)  # all slices on every worker
    assert found.matching == 20 * 4 * 1000 and found.training == 3 * large + 18
    bound = bounds(load, rates, replace(QUICK, bandwidth=1.0), found)
    assert bound == {"matching": "launches", "training": "arithmetic", "evaluating": "arithmetic"}
    rates = replace(RATES, launching=replace(least, step=1e-3))
    assert forecast(load, rates, QUICK, 3).matching == of.matching


def test_launches_of_networks_that_are_pretrained_at_the_same_time_are_not_added_up():
    load = replace(LOAD, updates={32: 16}, pretraining={32: 16}, segments=8, pretrained=8, pooled=True)
    trial = Trials(set="", architecture="", seeds=1, updates={32: 1}, training=1.0, tested=0.0, launches=1)
    load, (trained, tested) = replace(load, trials=(trial,)), (RATES.updating.seconds(32, n, 1) for n in (4, 1))
    for share, said in ((0.5, "arithmetic"), (1.05, "arithmetic"), (1.5, "launches")):
        rates = replace(RATES, launching=Launching(kernel=share * tested, update=share * trained))
        found = bounds(load, rates, QUICK, forecast(load, rates, QUICK, 8))
        assert (found["training"], found["evaluating"]) == (said, said)
    rates = replace(rates, updating=None)
    assert bounds(load, rates, QUICK, forecast(load, rates, QUICK, 8))["evaluating"] == "arithmetic"


def test_slices_are_shared_out_only_where_this_is_cheaper():
    """On two workers: half of the slices and a sum, or all slices (and on GPUs theta once per segment of training)."""
    own, every = 1 + 2 * 2 + 0.5 * 32 + 0.25 * 16, 1 + 2 * 4 + 0.5 * 32 + 0.25 * 32
    load = replace(TRAINED, updates={32: 8})
    for bandwidth, shares in ((1000.0, False), (2000.0, True)):
        found = forecast(load, RATES, replace(CLUSTER, bandwidth=bandwidth), 2)
        shared, everywhere = (8 * own, 8 * (0.5 + 8008 / bandwidth)), (8 * every, 0.0)
        assert (found.shared, found.everywhere) == pytest.approx((sum(shared), sum(everywhere)))
        assert (found.training, found.talking) == pytest.approx(shared if shares else everywhere)
    on_gpus = forecast(load, RATES, replace(CLUSTER, device="cuda"), 2)
    assert on_gpus.everywhere == pytest.approx(8 * every + 2 * (0.5 + 2 * 4 * 1000 / 1000))


def test_gradients_are_summed_and_synthetic_images_waited_for():
    real, on_set = TRAINED, replace(TRAINED, real_updates=False)
    assert traffic(real, CLUSTER, 2).update == 8 + 8 * 1000 and traffic(real, CLUSTER, 2).batch == 32 * 100
    assert traffic(on_set, CLUSTER, 2).batch == 4 * 32 * 100
    gradient, images = 1e-3 + 8008 / 1e6, 1e-3 + 4 * 32 * 100 / 1e6
    assert forecast(real, RATES, QUICK, 2).talking == pytest.approx(8 * gradient)
    assert forecast(on_set, RATES, QUICK, 2).talking == pytest.approx(8 * (gradient + images))


def test_memory_of_a_worker():
    held = memory(replace(SHARED, updates={32: 1}, decoded=800, gradient=600), RATES, CLUSTER, 3)
    assert held.pop("the process") == PROCESS["cpu"]
    assert held == {
        NETWORK: 3 * 4 * 1000,
        PIXELS: 4 * (4 * (1200 + 800) + 600),  # four classes, one gradient
        STATISTICS: 2 * 900 * 4 * (4 + 2) + 2 * 2 * 900 * (4 + 8),  # four stored and one that passes; two groups
        MINIBATCHES: 64 * 100 * (4 + 4 + 7),
        REAL: 0,
        AT_ONCE: 2000 + 8 * 20,  # a fourth of the batch, more than 64 real or 16 synthetic images
    }
    assert memory(LOAD, RATES, replace(CLUSTER, resident=True), 3)[REAL] == 4 * 50 * 100
    assert memory(LOAD, RATES, CLUSTER, 3)[AT_ONCE] == 500 + 16 * 100
    assert memory(replace(LOAD, captured=3), RATES, CLUSTER, 3)[AT_ONCE] == 3 * (500 + 16 * 100)
    assert memory(replace(LOAD, microbatch=4), RATES, CLUSTER, 3)[AT_ONCE] == 1000 + 4 * 10


def test_statistics_are_stored_by_group():
    def held(classes, exact=True):
        return memory(replace(SHARED, classes=classes), RATES, replace(CLUSTER, exact=exact), 1)[STATISTICS]

    assert held(9) < held(10) == held(1000) == 2 * 900 * 4 * (10 + 2) + 2 * 2 * 900 * (4 + 8)
    assert held(3, exact=False) == held(1000, exact=False) == 2 * 900 * 4 * 2 + 2 * 900 * 4 * (2 + 1)
    assert memory(LOAD, RATES, CLUSTER, 1)[STATISTICS] == 0


def test_a_run_without_matching_takes_the_time_of_its_updates_alone():
    load = replace(TRAINED, networks=1, steps=0, real=0, synthetic=0)
    found = forecast(load, replace(RATES, alone=None, shared=None, real=None, synthetic=None), QUICK, 2)
    assert (found.matching, found.drawing) == (0, 3)
    assert found == forecast(load, RATES, QUICK, 2)  # rates of matching change nothing
    assert found.training == forecast(TRAINED, RATES, QUICK, 2).training > 0
    nothing = replace(load, networks=0, updates={}, segments=0)
    assert forecast(nothing, RATES, QUICK, 2).seconds == 0 and memory(nothing, RATES, QUICK, 2)[AT_ONCE] == 0


def test_the_best_number_of_workers_is_the_largest_that_is_efficient():
    found = best(LOAD, RATES, CLUSTER)
    told = {n: efficiency(LOAD, RATES, CLUSTER, forecast(LOAD, RATES, CLUSTER, n)) for n in range(1, 11)}
    assert told[1] == 1 and told[found.workers] >= ENOUGH
    assert all(told[n] < ENOUGH for n in range(found.workers + 1, 11))
    free = replace(RATES, draw=0.0, alone=replace(RATES.alone, step=0.0))
    assert best(LOAD, free, CLUSTER).workers == 10  # nothing but classes: one each
    assert efficiency(LOAD, free, CLUSTER, forecast(LOAD, free, CLUSTER, 8)) == 10 / 16  # two on one, one on six
    slow = replace(CLUSTER, bandwidth=1.0)
    assert best(replace(TRAINED, real_updates=False), RATES, slow).workers == 1
    assert best(TRAINED, RATES, slow).workers == 5  # nothing is said: every worker computes all slices


def test_the_evaluation_is_in_the_total_and_not_in_the_efficiency():
    trials = (Trials(set="", architecture="", seeds=3, updates={}, training=1.0, tested=8.0),)  # 6 s each
    with_it, without = (forecast(replace(LOAD, trials=x), RATES, CLUSTER, 2) for x in (trials, ()))
    assert (with_it.evaluating, without.evaluating) == (12, 0) and with_it.seconds == without.seconds
    assert with_it.total == without.total + 12 and with_it.device_hours == 2 * with_it.total / 3600
    tested = replace(LOAD, trials=trials)
    assert efficiency(tested, RATES, CLUSTER, with_it) == efficiency(LOAD, RATES, CLUSTER, without)
    assert best(tested, RATES, CLUSTER).workers == best(LOAD, RATES, CLUSTER).workers
    unknown = forecast(tested, replace(RATES, updating=None), CLUSTER, 2)
    assert unknown.evaluating is None and unknown.total == unknown.seconds


def test_pretraining_is_the_part_of_the_updates_before_the_steps():
    load = replace(TRAINED, pretraining={32: 2}, pretrained=1)
    assert load.steps_only == replace(TRAINED, updates={32: 4, 8: 2}, segments=1)
    found, steps = (forecast(x, RATES, QUICK, 2) for x in (load, load.steps_only))
    assert found.pretraining == pytest.approx(found.seconds - steps.seconds) and steps.pretraining == 0
    assert found.seconds == forecast(TRAINED, RATES, QUICK, 2).seconds
    steady = StepEfficiency.of(load, RATES, QUICK, 2)
    assert steady == StepEfficiency.of(load.steps_only, RATES, QUICK, 2)
    assert steady.divided == pytest.approx(efficiency(load.steps_only, RATES, QUICK, steps))


@pytest.mark.parametrize(
    ("networks", "workers", "turns", "divided"),
    [
        (6, 1, 0, 6),  # one process trains one after the other
        (6, 2, 3, 0),
        (6, 4, 1, 2),  # two remain, whose slices four workers divide at the same speed or faster
        (6, 8, 1, 0),
        (3, 8, 0, 3),  # a slice on each of four workers, for one network after the other
        (10, 6, 2, 0),
    ],
)
def test_networks_of_a_pool_are_pretrained_at_the_same_time(networks, workers, turns, divided):
    """A turn costs what the updates of one network cost on one worker, and no collective."""
    load = replace(LOAD, updates={32: networks * 2}, pretraining={32: networks * 2}, segments=networks)
    load = replace(load, pretrained=networks, pooled=True)
    share = -(-4 // workers)
    alone, own = (2 * (1 + 2 * n + 0.5 * 32 + 0.25 * 8 * n) for n in (4, share))
    sums = 2 * QUICK.all_reduce(8008, workers)
    found = forecast(load, RATES, QUICK, workers)
    assert found.training == pytest.approx(turns * alone + divided * own)
    assert found.talking == pytest.approx(divided * sums)
    assert found.pretraining == pytest.approx(found.training + found.talking)
    one_by_one = forecast(replace(load, pooled=False), RATES, QUICK, workers)
    assert one_by_one.pretraining == pytest.approx(networks * (own + sums))
    assert found.pretraining <= one_by_one.pretraining


def test_a_node_has_a_bandwidth_of_its_own():
    nodes = replace(CLUSTER, inside=8000.0, node=4)
    assert nodes.all_reduce(800, 4) == 0.5 + 2 * 3 / 4 * 800 / 8000
    assert nodes.all_reduce(800, 5) == CLUSTER.all_reduce(800, 5) == 0.5 + 2 * 4 / 5 * 800 / 1000


def test_sums_overlap_only_as_much_as_is_stated():
    load = replace(LOAD, updates={32: 8}, segments=2)
    own, sums = 8 * (1 + 2 * 2 + 0.5 * 32 + 0.25 * 16), 8 * (1e-3 + 8008 / 1e6)
    for overlap, waited in ((0.0, sums), (1e-4, sums - 1e-4 * own), (0.5, 0.0)):
        found = forecast(load, RATES, replace(QUICK, overlap=overlap), 2)
        assert found.talking == pytest.approx(waited) and found.training == own
    steady = StepEfficiency.of(load, RATES, QUICK, 2)
    assert steady.overlapped > steady.divided > steady.everywhere
