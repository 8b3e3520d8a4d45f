"""Known GPUs: rates from an assumed share, or from what was measured on them, without timing anything."""

from dataclasses import asdict, replace

import pytest

from dist_condense.planning import devices, floors, launches
from dist_condense.planning.calibrate import compared
from dist_condense.planning.devices import FILE, Measured, Table
from dist_condense.planning.images import assumed
from dist_condense.planning.launches import CAPTURED, LAUNCH, SLICE_COMPILED, STEP_COMPILED, Launches
from dist_condense.planning.operations import Counted
from dist_condense.planning.rates import Launching, Matching, Operations, Peak, Updating
from dist_condense.planning.workload import workload_of
from dist_condense.settings.config import load
from dist_condense.system import records
from tests.planning.cases import RATES

H100 = devices.known()["h100"]
OPERATIONS = Operations(forward=1e8, training=3e8, real=3e8, synthetic=8e8)
COUNTED = Counted(operations=OPERATIONS, real=Peak(1, 10), synthetic=Peak(2, 40), training=Peak(3, 10))
TWICE = Operations(**{name: 2 * x for name, x in asdict(OPERATIONS).items()})
SECONDS = {"alone": Matching(0.0, 1e-3, 3e-6, 1e-5), "updating": Updating(1e-3, 0.0, 1e-6, 2e-6)}


@pytest.fixture(autouse=True)
def counted(monkeypatch):
    """Count OPERATIONS for every network, or other operations; returns the function that sets them."""

    def count(operations):
        monkeypatch.setattr(floors, "of_run", lambda *given, **matches: replace(COUNTED, operations=operations))

    count(OPERATIONS)
    monkeypatch.setattr(launches, "of_run", lambda *given: Launches(step=100, update=20, slice=10, draw=8))
    return count


def case(name="cifar10_idc", *keys):
    config = load(f"configs/{name}.yaml", keys)
    data = assumed(config, None, None)
    return config, data, workload_of(config, data)


def measured_with(*given):
    """Return an H100 on which the rates SECONDS were measured with the network of a config."""
    config, data, work = case(*given)
    rates = replace(RATES, kind="cuda", compared=compared(config, data, work), operations=OPERATIONS, **SECONDS)
    return replace(H100, measured=[Measured(commit="abc", date="2026-12-01", calibration=rates)])


def test_the_table_is_valid_and_claims_no_measurement():
    assert {device.name for device in records.read(Table, FILE).devices} == {"h100", "h200"}
    assert H100.matrix_rate == 7.98e14 and H100.measured == []


def test_an_assumed_share_is_operations_divided_by_it():
    found = floors.of_device(H100, *case(), share=0.25)
    rate = 0.25 * 7.98e14
    assert found.alone.synthetic * rate == pytest.approx(found.operations.synthetic)
    assert (found.alone.real * rate, found.updating.own * rate) == pytest.approx(
        (found.operations.real, found.operations.training)
    )
    assert (found.alone.each, found.alone.step, found.updating.update) == (0, 0, 0)
    assert found.share == 0.25 and not found.is_measured and "assumed, not measured: 25%" in found.device
    assert found.on_gpu and found.shared is None and found.synthetic == COUNTED.synthetic
    assert floors.of_device(H100, *case(), share=None).share == floors.SHARE


def test_launches_are_assumed_on_a_gpu_whose_rates_are_not_measured():
    eager = case("cifar10_idc", "compute.compile=false")
    found = floors.of_device(H100, *eager, share=0.25)
    plain = Launching(kernel=LAUNCH, step=100 * LAUNCH, update=20 * LAUNCH, slice=10 * LAUNCH)
    assert found.launching == plain and found.draw == 8 * LAUNCH
    assert floors.of_rate(1.0, "cuda", *eager).launching == plain
    compiled = floors.of_device(H100, *case("cifar10_idc", "compute.compile=true"), share=None).launching
    shares = {"step": STEP_COMPILED, "slice": SLICE_COMPILED}
    assert asdict(compiled) == pytest.approx({name: shares.get(name, 1) * x for name, x in asdict(plain).items()})
    keys = "compute.compile=false", "compute.cuda_graphs=2"
    captured = floors.of_device(H100, *case("cifar10_idc", *keys), share=None).launching
    assert asdict(replace(captured, kernel=CAPTURED * LAUNCH)) == pytest.approx(
        {name: CAPTURED * x for name, x in asdict(plain).items()}
    )
    for none in (floors.of_rate(1.0, "cpu", *case()), floors.of_device(measured_with(), *case(), share=None)):
        assert none.launching == Launching()


def test_groups_and_microbatches_take_two_passes():
    once = floors.of_device(H100, *case(), share=1.0).alone
    twice = floors.of_device(H100, *case("cifar10_idc", "compute.microbatch=8"), share=1.0).alone
    assert twice.synthetic == pytest.approx(once.synthetic + once.real) and twice.real == once.real
    pooled = floors.of_device(H100, *case("cifar10_dcc"), share=1.0)
    assert pooled.shared.synthetic == pytest.approx(pooled.alone.synthetic + pooled.alone.real)


def test_a_stated_rate_is_that_of_real_images():
    found = floors.of_rate(1000.0, "cpu", *case())
    assert found.alone.real == pytest.approx(1e-3) and found.stated == 1000 and found.share is None
    assert found.alone.synthetic == pytest.approx(1e-3 * 8 / 3)
    herding = floors.of_rate(1000.0, "cpu", *case("cifar10_dc", "method=herding"))
    assert herding.alone is None and herding.updating.own == pytest.approx(1e-3)


def test_what_was_measured_with_this_network_is_taken_as_it_is():
    found = floors.of_device(measured_with(), *case("cifar10_idc", "ipc=1"), share=None)
    assert (found.alone, found.updating, found.share) == (SECONDS["alone"], SECONDS["updating"], None)
    assert found.is_measured and "convnet at 32 px, commit abc, 2026-12-01" in found.device
    assert found.synthetic == COUNTED.synthetic != RATES.synthetic  # memory is that of this config
    assert found.shares() == pytest.approx(
        {"statistic": 1e14 / 7.98e14, "double backward": 8e13 / 7.98e14, "training": 1e14 / 7.98e14}
    )
    assert floors.of_device(measured_with(), *case(), share=0.3).share == 0.3


def test_the_measured_shares_of_another_network_are_taken_over(counted):
    there, shares = measured_with(), floors.of_device(measured_with(), *case(), share=None).shares()
    counted(TWICE)
    found = floors.of_device(there, *case("cifar10_idc", "network.width=64"), share=None)
    assert found.shares() == pytest.approx(shares) and found.alone.real == 2 * SECONDS["alone"].real
    assert found.alone.each == SECONDS["alone"].each and "scaled by operations" in found.device


def test_the_most_similar_size_is_taken_in_the_same_precision():
    other = case("cifar10_idc", "compute.autocast=false")
    assert floors.of_device(measured_with(), *other, share=None).share == floors.SHARE
    near, far = measured_with("cifar10_idc", "network.width=32"), measured_with("imagenet10_idc")
    both = replace(H100, measured=[*far.measured, *near.measured])
    assert "at 32 px" in floors.of_device(both, *case(), share=None).device
