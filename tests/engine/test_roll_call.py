"""A worker that does not answer is named, with its host, the step and the key to change."""

from __future__ import annotations

import os
import pickle
import signal
import tempfile
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from dist_condense.engine import roll_call
from dist_condense.engine.coordinator import ProcessGroupCoordinator
from dist_condense.engine.errors import RunFailed
from dist_condense.engine.exchange import LONGEST
from dist_condense.engine.roll_call import RollCall, WorkerLost

HOSTS = ["a (10.0.0.1)", "b (10.0.0.2)", "c (10.0.0.3)"]
GLOO = "[/somewhere/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 40000ms for recv operation to complete"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> dist.Store:
    made = dist.HashStore()
    monkeypatch.setattr(roll_call, "_get_default_store", lambda: made)
    return made


def come(store: dist.Store, rank: int) -> None:
    dist.PrefixStore("roll_call", store).set(str(rank), "here")


def message(call: RollCall, error: RuntimeError) -> str:
    with pytest.raises(WorkerLost) as lost, call.watching():
        raise error
    return str(lost.value)


def test_who_does_not_come_is_named(store: dist.Store) -> None:
    come(store, 0)
    text = message(RollCall(HOSTS, 1, timeout=40, step=12), RuntimeError(GLOO))
    assert text.startswith("worker 2 on c (10.0.0.3) was lost after step 12: no answer")
    assert "raise cluster.timeout=40 " in text
    assert text.endswith("(worker 1 on b (10.0.0.2) saw: Timed out waiting 40000ms for recv operation to complete)")


def test_several_are_named(store: dist.Store) -> None:
    text = message(RollCall(HOSTS, 2, timeout=40), dist.DistNetworkError("no words that are known"))
    assert text.startswith(f"worker 0 on {HOSTS[0]}, worker 1 on {HOSTS[1]} were lost: no answer")


def test_who_comes_late_is_waited_for(store: dist.Store) -> None:
    come(store, 0)
    late = threading.Timer(0.5, come, (store, 2))
    late.start()
    started = time.monotonic()
    assert "although all of them still answer" in message(
        RollCall(HOSTS, 1, timeout=1000), RuntimeError("Connection closed")
    )
    assert time.monotonic() - started < 20  # of the 30 s for those who never come


def test_the_call_is_made_once(store: dist.Store) -> None:
    """All process groups share one roll call, and their threads may fail at the same time."""
    call, missing = RollCall(HOSTS, 0, timeout=40), []
    threads = [threading.Thread(target=lambda: missing.append(call.missing())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    come(store, 1)
    assert [*missing, call.missing()] == [[1, 2]] * 4


def test_a_store_that_hangs_is_in_the_process_of_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    class Hanging(dist.HashStore):
        def check(self, keys: list[str]) -> bool:
            release.wait()
            return False

    monkeypatch.setattr(roll_call, "_get_default_store", Hanging)
    monkeypatch.setattr(dist, "PrefixStore", lambda prefix, store: store)
    assert RollCall(HOSTS, 1, timeout=1).missing() == [0]
    release.set()


def test_other_errors_stay_as_they_are(store: dist.Store) -> None:
    with pytest.raises(RuntimeError, match="shapes differ") as error, RollCall(HOSTS, 0).watching():
        raise RuntimeError("shapes differ")
    assert type(error.value) is RuntimeError


# --- a process that hangs -----------------------------------------------------------------------------------------

TIMEOUT = 6.0


def _exchange_values(line: ProcessGroupCoordinator, rank: int, folder: Path) -> None:
    """JSON values arrive unchanged; a pickle sent by rank 1, as torch's all_gather_object would, is not unpickled."""
    floats, texts = [0.1 + 0.2, 5e-324, float("inf")], ["", "ü" * 1000]
    assert line.gather({"floats": floats, "text": texts[rank]}) == [{"floats": floats, "text": x} for x in texts]
    with pytest.raises(RunFailed, match=f"worker 1 sent a message of {LONGEST + 3} bytes"):
        line.gather("x" * (LONGEST + 1) if rank else None)
    if rank == 0:
        with pytest.raises(RunFailed, match="worker 1 sent a message that is not JSON"):
            line.gather("x" * 100)
    else:
        data = pickle.dumps(Command(folder / "mark"))
        sent = torch.frombuffer(bytearray(data.ljust(102)), dtype=torch.uint8)
        for tensor in (torch.tensor([len(data)]), sent):
            dist.all_gather([torch.empty_like(tensor) for _ in range(2)], tensor, group=line.group)
    assert not (folder / "mark").exists()


class Command:
    """Creates a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def _enter(rank: int, address: str, folder: Path) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    coordinator = ProcessGroupCoordinator(peers=RollCall.create(TIMEOUT, f"host {rank}"))
    beside = coordinator.beside()
    coordinator.reached(3)
    assert beside.gather(rank) == [0, 1]
    _exchange_values(beside, rank, folder)
    if rank == 1:
        (folder / "pid").write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)
    started = time.monotonic()
    try:
        beside.reduce(torch.ones(3), dist.ReduceOp.SUM)
    except WorkerLost as lost:
        (folder / "message").write_text(f"{time.monotonic() - started} {lost}")
    os.kill(int((folder / "pid").read_text()), signal.SIGKILL)


def test_a_process_that_hangs_is_found_in_time(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as rendezvous, pytest.raises(mp.ProcessExitedException, match="SIGKILL"):
        mp.spawn(_enter, (f"file://{rendezvous}/group", tmp_path), nprocs=2)
    seconds, text = (tmp_path / "message").read_text().split(" ", 1)
    assert text.startswith("worker 1 on host 1 was lost after step 3: no answer")
    assert TIMEOUT <= float(seconds) < 60  # of the group's own timeout
