import io
import itertools
import json
import threading
import time

import pytest
from rich.console import Console

from dist_condense.engine.procedure import Units
from dist_condense.result.progress import Follower, Notes, ProgressDisplay, duration, line, speed
from dist_condense.system import terminal


def an_entry(step, matching_steps=10, rate=2.0, loss=81.25):
    k, t = divmod(step - 1, matching_steps)
    return {"step": step, "network": k, "matching_step": t, "loss": loss, "steps_per_second": rate}


def text(*entries):
    return "".join(json.dumps(x) + "\n" for x in entries)


class Watch:
    """A follower that is polled by hand."""

    def __init__(self, file):
        self.steps = []
        self.follower = Follower(file, lambda entries: self.steps.extend(x["step"] for x in entries))

    def poll(self):
        before = len(self.steps)
        self.follower._poll()
        return self.steps[before:]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "metrics.jsonl"


def test_lines_are_handed_over_once_and_the_last_only_when_whole(file):
    watch = Watch(file)
    assert watch.poll() == []  # not there yet
    file.write_text(text(an_entry(10)) + '{"step": 2')
    assert watch.poll() == [10]
    assert watch.poll() == []
    file.write_text(text(an_entry(10), an_entry(20)) + "not json\n")
    assert watch.poll() == [20]
    with file.open("a") as stream:
        stream.write(text(an_entry(30)))
    assert watch.poll() == [30]


def test_notes_are_told_from_now_on(tmp_path):
    file, reported = tmp_path / "notes", []
    file.write_text("before\n")
    notes = Notes(file, reported.append)
    notes._poll()
    with file.open("a") as stream:
        stream.write("first\nsecond\nunfin")
    notes._poll()
    assert reported == ["first", "second"]


def test_what_an_earlier_start_left_is_skipped_and_handed_over_once_done_again(file):
    steps = []
    file.write_text(text(an_entry(10), an_entry(20)))
    follower = Follower(file, lambda entries: steps.extend(x["step"] for x in entries), skip=True)
    follower._poll()
    assert steps == []
    file.write_text(text(an_entry(10)))  # cut back to the checkpoint
    follower._poll()
    assert steps == []
    with file.open("a") as stream:
        stream.write(text(an_entry(20, rate=3.125), an_entry(30)))
    follower._poll()
    assert steps == [20, 30]


@pytest.mark.parametrize("seen", [True, False])
def test_a_file_cut_back_by_a_resume_is_read_again(file, seen):
    """Also when it grew beyond its old length before anybody looked."""
    watch = Watch(file)
    file.write_text(text(*map(an_entry, (10, 20, 30))))
    assert watch.poll() == [10, 20, 30]
    file.write_text(text(an_entry(10)))
    if seen:
        assert watch.poll() == []
    file.write_text(text(an_entry(10), *(an_entry(s, rate=3.125) for s in (20, 30, 40))))
    assert watch.poll() == [20, 30, 40]
    file.write_text("")
    assert watch.poll() == []


def test_the_thread_follows_and_stop_hands_over_the_rest(file):
    steps = []
    follower = Follower(file, lambda entries: steps.extend(x["step"] for x in entries), interval=0.02)
    follower.start()
    file.write_text(text(an_entry(10)))
    deadline = time.monotonic() + 5
    while not steps and time.monotonic() < deadline:
        time.sleep(0.01)
    assert steps == [10]
    follower.interval = 60
    with file.open("a") as stream:
        stream.write(text(an_entry(20), an_entry(30)))
    follower.stop()
    assert steps == [10, 20, 30]
    assert not follower.is_alive()


def test_a_callback_that_fails_does_not_stop_the_others(file, capsys):
    steps = []
    follower = Follower(file, lambda entries: 1 / 0, lambda entries: steps.extend(x["step"] for x in entries))
    for step in (10, 20):
        with file.open("a") as stream:
            stream.write(text(an_entry(step)))
        follower._poll()
    assert steps == [10, 20]
    assert capsys.readouterr().err.count("ZeroDivisionError") == 1


UNITS = Units({"network": 20, "matching step": 10})


def test_the_line():
    assert (
        line(an_entry(24), UNITS, 2.5) == "network 3/20, matching step 4/10, 2.5 steps/s, 1 min 10 s left, loss 81.25"
    )
    assert line(an_entry(200), UNITS, 2.5).endswith("network 20/20, matching step 10/10, 2.5 steps/s, done, loss 81.25")
    assert "0 steps/s, time left unknown, " in line(an_entry(1), UNITS, 0.0)
    assert line(an_entry(1) | {"gradient_norm": 0.5}, UNITS, 0.0).endswith("loss 81.25, gradient norm 0.5")


def test_the_first_rate_of_a_start_includes_compiling_and_is_used_until_there_is_another():
    out = io.StringIO()
    now = itertools.count(step=20.0)
    with ProgressDisplay(UNITS, Console(file=out, width=200), clock=lambda: next(now)) as progress:
        for entry in (an_entry(1, rate=0.01), an_entry(10, rate=2.0), an_entry(20, rate=4.0)):
            progress([entry])
    ends = [text.split(", ")[3] for text in out.getvalue().splitlines()]
    assert ends == ["at most 5 h 31 min left", "1 min 35 s left", "1 min left"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59, "59 s"), (59.6, "1 min"), (185, "3 min 5 s"), (7500, "2 h 5 min"), (273600, "3 d 4 h")],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_slow_steps_are_told_in_seconds():
    assert [speed(x) for x in (12.34, 1.0, 0.24, 0.0)] == ["12.3 steps/s", "1 steps/s", "4.17 s/step", "0 steps/s"]
    assert "matching step 4/10, 50 s/step, 2 h 26 min left, loss 81.25" in line(an_entry(24), UNITS, 0.02)


def test_the_first_entry_is_a_line_at_once_with_the_time_of_day(file, monkeypatch):
    """The journal writes an entry after the first step, and the follower looks each half second."""
    monkeypatch.setattr(terminal, "clock", lambda: "14:03:59")
    out, printed = io.StringIO(), threading.Event()
    display = ProgressDisplay(UNITS, Console(file=out, width=200))
    follower = Follower(file, display, lambda entries: printed.set())
    follower.start()
    file.write_text(text(an_entry(1)))
    assert printed.wait(5)
    assert out.getvalue().startswith("14:03:59 network 1/20, matching step 1/10, ")
    follower.stop()


def test_plain_lines_come_at_most_every_ten_seconds_and_the_last_always():
    now, out = [0.0], io.StringIO()
    with ProgressDisplay(
        Units({"network": 2, "matching step": 10}), Console(file=out, width=20, soft_wrap=True), clock=lambda: now[0]
    ) as progress:
        for step in range(1, 21):
            progress([an_entry(step)])
            now[0] += 1.5
    steps = [x.split(",")[1] for x in out.getvalue().splitlines()]
    assert steps == [f" matching step {t}/10" for t in (1, 8, 5, 10)]
    assert ", done, " in out.getvalue().splitlines()[-1]
    assert "\x1b" not in out.getvalue()


def test_nothing_is_printed_twice_or_without_entries():
    out = io.StringIO()
    with ProgressDisplay(Units({"class": 10}), Console(file=out)) as progress:
        progress([])
        progress([an_entry(10)])
    assert len(out.getvalue().splitlines()) == 1


def test_a_terminal_gets_a_bar():
    out = io.StringIO()
    with ProgressDisplay(
        Units({"network": 2, "matching step": 10}), Console(file=out, force_terminal=True, width=120)
    ) as progress:
        progress([an_entry(15)])
    assert "network 2/2, matching step 5/10" in out.getvalue()
    assert "━" in out.getvalue()
