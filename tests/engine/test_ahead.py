"""Items made in the background, and errors, arrive in order."""

import subprocess
import sys
import threading

import pytest

from dist_condense.engine.ahead import Ahead


def test_items_come_in_order_from_another_thread():
    names = []
    items = ((i, names.append(threading.current_thread().name))[0] for i in range(20))
    assert list(Ahead(items)) == list(range(20))
    assert set(names) == {"ahead"}


def test_it_begins_by_itself_and_stops_at_its_depth():
    made, enough = [], threading.Event()

    def items():
        for i in range(10):
            made.append(i)
            if i == 2:
                enough.set()
            yield i

    ahead = Ahead(items(), depth=2)
    assert enough.wait(5)  # two in the queue, one in hand
    assert made == [0, 1, 2]
    assert list(ahead) == list(range(10))


def test_an_error_rises_after_the_items_before_it():
    def items():
        yield 1
        raise OSError("the disk is gone")

    ahead = iter(Ahead(items()))
    assert next(ahead) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)


@pytest.mark.parametrize(("together", "made_in_all"), [(False, 2), (True, 4)])
def test_closed_it_ends_after_the_item_in_work_or_where_it_ends_on_all_workers(together, made_in_all):
    """With one item taken of depth 2, two more are ready and one is in hand, unless the thread is slower."""
    made, gate = [], threading.Semaphore(1)

    def items():
        for i in range(10):
            gate.acquire()
            made.append(i)
            yield i

    ahead = Ahead(items(), depth=2)
    assert next(iter(ahead)) == 0
    end_with = ahead._end_with
    ahead._end_with = lambda last: (end_with(last), gate.release(10))
    ahead.close(together=together)
    assert not ahead._thread.is_alive()
    assert made == list(range(made_in_all))


def test_a_process_ends_with_items_that_nobody_took():
    program = """
import torch
from dist_condense.engine.ahead import Ahead
images = torch.zeros(900, 3, 64, 64)
Ahead(images.roll(i, 0) for i in range(10**6))
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
