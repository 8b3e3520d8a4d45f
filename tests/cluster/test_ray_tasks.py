"""Tasks and actors on a Ray that this process starts: trials of the evaluation, preparing, memory of workers."""

from __future__ import annotations

import functools
import resource
import secrets
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray._private.state import state

from dist_condense.commands import cli
from dist_condense.engine.ray.group import PROCESS
from dist_condense.evaluation.evaluate import Trial, evaluate, run_trial
from dist_condense.evaluation.rows import Row, read_csv
from dist_condense.evaluation.sweep import TrialFailed, sweep
from dist_condense.system.memory import keep_freed_memory
from tests.data.shards.shard_cases import prepared, tree, write_folder
from tests.evaluation.toy import evaluation

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.daemon("a Ray runtime of one core")]

PLANTED = f"planted-{secrets.token_hex(16)}"
"""A key in the environment of the driver, and so of the node that it starts."""


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[Path]:
    """The folder of a Ray of one core, with the processes of every run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("AWS_SECRET_ACCESS_KEY", PLANTED)
        ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, runtime_env=PROCESS)
        yield Path(ray._private.worker.global_worker.node.get_session_dir_path())
        ray.shutdown()


# --- trials ---------------------------------------------------------------------------------------------------------


def holding(key: str, *folders: Path) -> list[str]:
    """Return the places where other users could read a key: reports on actors, command lines, files."""
    text = key.encode()
    records = state._connect_and_get_accessor().get_actor_table(None, None)
    places = [f"actor {number} of {len(records)}" for number, record in enumerate(records) if text in record]
    for file in [*Path("/proc").glob("[0-9]*/cmdline"), *(path for folder in folders for path in folder.rglob("*"))]:
        with suppress(OSError):  # it has ended, or is a socket
            places += [str(file)] if file.is_file() and text in file.read_bytes() else []
    return places


def test_a_failed_trial_is_named_after_the_others_were_delivered_and_no_key_is_written_down(
    tmp_path: Path, session: Path
) -> None:
    shared, lock = evaluation(), threading.Lock()
    heard: list[Row] = []
    shown: list[str] = []

    def hear(row: Row) -> None:
        with lock:  # its content cannot be pickled, and need not be
            heard.append(row)
        shown.extend(holding(PLANTED, tmp_path, session))  # while the trials' processes are there

    wanted = [Trial("bytes", "lenet:wings=2", 7), Trial("bytes", "mlp", 0), Trial("bytes", "mlp", 2)]
    path = tmp_path / "evaluation.csv"
    runner = functools.partial(sweep, folder=tmp_path / "tune")
    with pytest.raises(TrialFailed, match=r"1 of 3 .*\nbytes / lenet:wings=2 / seed 7: .*no option 'wings'"):
        evaluate(wanted, shared, path, on_result=hear, runner=runner)
    assert shown + holding(PLANTED, tmp_path, session) == []
    assert heard == read_csv(path) == [run_trial(trial, shared) for trial in wanted[1:]]


# --- preparing ------------------------------------------------------------------------------------------------------


def test_tasks_make_the_same_shards(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source")
    assert cli.main(["prepare", str(source), str(tmp_path / "ray"), "--size", "16", "--ray", "--workers", "2"]) == 0
    prepared(source, tmp_path / "here", size=16)
    assert tree(tmp_path / "ray") == tree(tmp_path / "here")
    (source / "val" / "zebra" / "e.png").write_bytes(b"")
    assert cli.main(["prepare", str(source), str(tmp_path / "bad"), "--ray"]) == 1


# --- memory ---------------------------------------------------------------------------------------------------------

PAGES = 2**25 * 4 // 4096
"""Of a block of 128 MiB."""


def faults_in_a_thread() -> int:
    """Count the page faults of ten blocks in a thread, as Ray Train and Tune run a worker."""
    counts: list[Any] = []

    def count() -> None:
        keep_freed_memory()
        for i in range(12):
            torch.zeros(2**25)
            if i in (1, 11):
                counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)

    thread = threading.Thread(target=count)
    thread.start()
    thread.join()
    return counts[1] - counts[0]


def test_a_thread_of_a_worker_keeps_freed_memory() -> None:
    faults = ray.get(ray.remote(num_cpus=1)(faults_in_a_thread).remote())
    assert faults < 2 * PAGES  # of ten blocks; the heap may still grow once
