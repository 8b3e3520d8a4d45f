"""The sweep over a Ray cluster: the rows of the in-process evaluation, and what happens when a trial fails."""

import contextlib
import functools
import secrets
import threading
from pathlib import Path

import pytest

from dist_condense.evaluation.evaluate import Trial, evaluate, run_trial
from dist_condense.evaluation.rows import read_csv

from .toy import evaluation

pytestmark = pytest.mark.ray
PLANTED = f"planted-{secrets.token_hex(16)}"
"""A key in the environment of the driver, and so of the node that it starts."""


@pytest.fixture
def one_core(monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PLANTED)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def holding(key: str, *folders: Path) -> list[str]:
    """Where others than the owner of the processes could read a key: reports on actors, command lines, files."""
    from ray._private.state import state

    key = key.encode()
    records = state._connect_and_get_accessor().get_actor_table(None, None)
    found = [f"actor {number} of {len(records)}" for number, record in enumerate(records) if key in record]
    for file in [*Path("/proc").glob("[0-9]*/cmdline"), *(path for folder in folders for path in folder.rglob("*"))]:
        with contextlib.suppress(OSError):  # it has ended, or is a socket
            found += [str(file)] if file.is_file() and key in file.read_bytes() else []
    return found


def test_a_failed_trial_is_named_after_the_others_were_delivered_and_no_key_is_written_down(tmp_path, one_core):
    from dist_condense.evaluation.sweep import TrialFailed, sweep

    shared, lock, heard, shown = evaluation(), threading.Lock(), [], []
    session = Path(one_core._private.worker.global_worker.node.get_session_dir_path())

    def hear(row):
        with lock:  # what it holds cannot be pickled, and need not be
            heard.append(row)
        shown.extend(holding(PLANTED, tmp_path, session))  # while the trials' processes are there

    wanted = [Trial("bytes", "lenet:wings=2", 7), Trial("bytes", "mlp", 0), Trial("bytes", "mlp", 2)]
    path = tmp_path / "evaluation.csv"
    runner = functools.partial(sweep, folder=tmp_path / "tune")
    with pytest.raises(TrialFailed, match=r"1 of 3 .*\nbytes / lenet:wings=2 / seed 7: .*no option 'wings'"):
        evaluate(wanted, shared, path, hear, runner)
    assert shown + holding(PLANTED, tmp_path, session) == []
    assert heard == read_csv(path) == [run_trial(trial, shared) for trial in wanted[1:]]


def test_a_row_that_nobody_could_keep_is_missing():
    """Tune takes an error of its callbacks for one of the trial and goes on."""
    from types import SimpleNamespace

    from dist_condense.evaluation.sweep import Delivery

    row = {"set": "a", "protocol": "dc", "architecture": "mlp", "seed": 0, "epochs": 1, "top1_last": 1, "top1_best": 1}
    delivery = Delivery(lambda row: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        delivery.on_trial_result(1, [], SimpleNamespace(config={"trial": 0}), {"row": row})
    assert delivery.rows == {}
