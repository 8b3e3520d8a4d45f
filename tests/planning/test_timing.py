"""The least of repeated timings, the lines about progress, and the use of the machine by other processes."""

import itertools
from dataclasses import replace

import pytest
import torch

from dist_condense.planning import timing
from dist_condense.planning.timing import Stopwatch, Usage
from tests.planning.cases import RATES


@pytest.fixture
def clock(monkeypatch):
    """Clock that a test sets; a piece of work advances it by the next of its durations."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def piece(*durations):
        each = itertools.cycle(durations)

        def work():
            now[0] += next(each)

        return work

    return piece


def watch(said):
    return Stopwatch(torch.device("cpu"), 2, said.append)


def test_the_least_of_the_repeats_is_taken_and_their_spread_told(clock):
    found = watch([])
    assert found.least("work", {"a": clock(9.0, 2.0, 3.0, 4.0), "b": clock(1.0)}) == pytest.approx({"a": 2.0, "b": 1.0})
    assert found.spread == pytest.approx(3.0 / 2.0 - 1)


def test_nothing_is_silent_for_long(clock):
    said = []
    watch(said).least("work", {n: clock(1.5) for n in range(4)})
    assert (
        said[0] == "part 1 of 2, work: first steps" and said[-1] == "part 1 of 2, work: done, each piece timed 3 times"
    )
    assert len(said) >= 4 * 4 * 1.5 / (timing.SILENCE + 1.5) and "of 12 timings" in said[-2]
    quick = []
    watch(quick).least("work", {0: clock(0.01)})
    assert len(quick) == 1  # nothing but its end


def test_the_images_of_a_piece_are_doubled_until_a_second(clock):
    found, said = watch([]), []
    assert found.affordable("work", lambda images: clock(images / 10), 1000) == 16  # 1.6 s; with 8 it was 0.8 s
    assert found.affordable("work", lambda images: clock(images / 10), 3) == 3
    watch(said).affordable("work", lambda images: clock(5.0), 1000)
    assert said == []


def test_other_processes_are_what_is_busy_besides_this_one(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    start = Usage(10.0, 100.0, 5.0)
    assert start.others_until(Usage(20.0, 130.0, 15.0)) == 20 / 40
    assert start.others_until(Usage(20.0, 105.0, 15.0)) == 0
    assert start.others_until(Usage(20.0, None, 15.0)) is None


def test_the_use_of_the_cores_is_read(tmp_path, monkeypatch):
    file = tmp_path / "stat"
    file.write_text("cpu  100 20 30 4000 500 6 7 8 9 0\ncpu0 1 1 1 1\n")
    monkeypatch.setattr(timing, "STAT", file)
    monkeypatch.setattr("os.sysconf", lambda name: 10)
    assert Usage.read().busy == pytest.approx((100 + 20 + 30 + 6 + 7 + 8) / 10)
    for text in ("", "cpu x", "cpu 1 2"):
        file.write_text(text)
        assert Usage.read().busy is None
    monkeypatch.setattr(timing, "STAT", tmp_path / "none")
    assert Usage.read().busy is None


def test_a_disturbed_measurement_is_said_to_be_one():
    assert RATES.disturbance is None and replace(RATES, spread=0.05, others=0.02).disturbance is None
    assert "up to 30% above their least" in replace(RATES, spread=0.3).disturbance
    assert "other processes used 50% of the cores" in replace(RATES, spread=0.0, others=0.5).disturbance
