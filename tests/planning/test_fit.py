"""For work that does not fit, a key is named, and with its new value the work fits."""

import re
from dataclasses import replace

import pytest

from dist_condense.planning.fit import remedies
from dist_condense.planning.forecast import PIXELS, memory
from tests.planning.cases import CLUSTER, LOAD, RATES

TRAINED = replace(LOAD, updates={128: 10}, slices=1)


def room(load, extra):
    """Return the bytes of everything but the images in the network, plus ``extra`` bytes for these."""
    held = memory(load, RATES, CLUSTER, 2)
    return sum(held.values()) - held["images in the network at once"] + extra


def test_what_fits_needs_nothing():
    assert remedies(TRAINED, RATES, CLUSTER, 2, room(TRAINED, 2000 + 128 * 20)) == []


@pytest.mark.parametrize("free", [1100, 1400, 1599])
def test_the_microbatch_that_is_told_fits(free):
    (said,) = remedies(LOAD, RATES, CLUSTER, 2, room(LOAD, free))
    value = int(re.search(r"compute.microbatch=(\d+)", said)[1])
    assert remedies(replace(LOAD, microbatch=value), RATES, CLUSTER, 2, room(LOAD, free)) == []
    assert remedies(replace(LOAD, microbatch=2 * value), RATES, CLUSTER, 2, room(LOAD, free)) != []


def test_the_captured_classes_that_are_told_fit():
    several, free = replace(LOAD, captured=8), 3 * (500 + 16 * 100)
    (said,) = remedies(several, RATES, CLUSTER, 2, room(LOAD, free))
    assert said.endswith("set compute.cuda_graphs=2")
    assert remedies(replace(LOAD, captured=2), RATES, CLUSTER, 2, room(LOAD, free)) == []


def test_the_slices_that_are_told_fit():
    (said,) = remedies(TRAINED, RATES, CLUSTER, 2, room(TRAINED, 3000))
    value = int(re.search(r"compute.slices=(\d+)", said)[1])
    assert value == 4 and "training theta" in said
    assert remedies(replace(TRAINED, slices=value), RATES, CLUSTER, 2, room(TRAINED, 3000)) == []


def test_a_batch_that_batchnorm_couples_is_made_smaller():
    (said,) = remedies(replace(TRAINED, coupled=True), RATES, CLUSTER, 2, room(TRAINED, 3000))
    assert "training.batch=32" in said


def test_not_even_one_image():
    said = remedies(TRAINED, RATES, CLUSTER, 2, room(TRAINED, 900))
    assert len(said) == 2 and all("even one by one" in line and "compute.autocast" in line for line in said)


def test_what_is_held_anyway_is_too_much():
    large = replace(LOAD, pixels=2**30)
    (said,) = remedies(large, RATES, CLUSTER, 2, 2**31)
    assert PIXELS in said and "ipc" in said
    (said,) = remedies(LOAD, RATES, CLUSTER, 2, 2**20)
    assert "the process" in said and "more memory" in said
