"""A real MLflow server that starts late, is killed during a run and is restarted; on loopback, with sqlite."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from dist_condense.commands import cli
from dist_condense.job.journal import Journal
from dist_condense.result.tracking import tracker
from dist_condense.settings.run_folder import RunFolder
from tests.engine import cases

METRICS = RunFolder.metrics.name

pytestmark = [pytest.mark.slow, pytest.mark.daemon("an MLflow server that is killed and comes back")]

STEPS, SEEDS = 6, 2


class Server:
    """`mlflow server` on one port and one database, which can be started repeatedly."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server if it does not run; a start takes 10 s."""
        if self.process is not None:
            return
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/server.db", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        wait(self.answers, (self.folder / "server.log").read_text)

    def kill(self) -> None:
        """Kill the server and its child processes, as a power cut would."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def answers(self) -> bool:
        try:
            with urlopen(f"{self.uri}/health", timeout=5) as answer:
                return answer.status == 200
        except (URLError, OSError):
            return False


def wait(condition: Callable[[], bool], message: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, message()
        time.sleep(0.1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server, not started yet. Each test leaves it to the next in its state."""
    made = Server(tmp_path_factory.mktemp("server"))
    yield made
    made.kill()


def client(server: Server):
    from mlflow import MlflowClient

    return MlflowClient(server.uri)


def command(folder: Path, server: Server) -> int:
    """Condense and evaluate in this process."""
    own = ("cluster.workers=0", f"output={folder}", f"tracking.uri={server.uri}", "tracking.log_every=1")
    own += (f"tracking.experiment={folder}",)
    evaluation = ("evaluation.epochs=1", f"evaluation.seeds={SEEDS}", "evaluation.sets=[condensed]")
    return cli.main(["run", "configs/digits.yaml", *cases.TINY, *cases.CASES["dc"], *own, *evaluation])


def between_steps(monkeypatch: pytest.MonkeyPatch, at: dict[int, Callable[[], None]]) -> None:
    whole = Journal.after_step

    def after_step(self: Journal, done: int) -> None:
        whole(self, done)
        at.get(done, lambda: None)()

    monkeypatch.setattr(Journal, "after_step", after_step)


def kill_when_delivered(folder: Path, server: Server, step: int) -> Callable[[], None]:
    def delivered() -> bool:
        state = folder / "tracking.json"
        run = json.loads(state.read_text())["run_id"] if state.exists() else None
        return run is not None and step in steps(server, run)

    def act() -> None:
        wait(delivered)
        server.kill()

    return act


def steps(server: Server, run: str, key: str = "loss") -> list[int]:
    return [metric.step for metric in client(server).get_metric_history(run, key)]


def lines(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / METRICS).read_text().splitlines()]


def everything_is_there_once(server: Server, folder: Path) -> None:
    run = json.loads((folder / "tracking.json").read_text())["run_id"]
    stored = client(server).get_run(run)
    runs = client(server).search_runs([stored.info.experiment_id])
    assert {x.info.status for x in runs} == {"FINISHED"} and len(runs) == 1 + SEEDS
    for key in ("loss", "steps_per_second", "waiting"):
        assert steps(server, run, key) == list(range(1, STEPS + 1)), key
    losses = [json.loads(line)["loss"] for line in (folder / METRICS).read_text().splitlines()]
    assert [metric.value for metric in client(server).get_metric_history(run, "loss")] == losses
    assert steps(server, run, "condensed/convnet:width_8:depth_2/dc_1_epochs/top1") == [SEEDS]
    children = [x for x in runs if x.info.run_id != run]
    assert sorted(x.data.params["seed"] for x in children) == [str(seed) for seed in range(SEEDS)]
    assert all(x.data.tags["mlflow.parentRunId"] == run for x in children)
    assert [steps(server, x.info.run_id, "top1_last") for x in children] == [[0]] * SEEDS
    assert stored.data.params["method.name"] == "dc"
    artifacts = [x.path for x in client(server).list_artifacts(run)]
    assert {"report.html", "synthetic_set"} <= set(artifacts) and len(artifacts) == len(set(artifacts))
    image = next((server.folder / "artifacts").rglob(f"{run}/artifacts/**/synthetic_set.safetensors"))
    assert image.read_bytes() == (folder / "synthetic_set" / image.name).read_bytes()


def replay_twice(server: Server, folder: Path) -> None:
    for _ in range(2):
        assert cli.main(["replay", str(folder)]) == 0
        everything_is_there_once(server, folder)


def test_down_from_the_start(tmp_path: Path, server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    server.kill()
    assert command(folder, server) == 0
    log = capfd.readouterr().err
    assert log.count(f"dist-condense replay {folder}") == 2  # when it was noticed, and at the end
    assert lines(folder) == list(range(1, STEPS + 1))
    assert cli.main(["replay", str(folder)]) == cli.FAILED
    assert "Connection refused" in capfd.readouterr().err
    server.start()
    replay_twice(server, folder)
    run = json.loads((folder / "tracking.json").read_text())["run_id"]
    assert capfd.readouterr().out.split() == [run, run]  # and nothing of MLflow's


def test_down_in_the_middle(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    server.start()
    between_steps(monkeypatch, {2: kill_when_delivered(folder, server, 2)})
    assert command(folder, server) == 0
    assert f"bring it up to date with: dist-condense replay {folder}" in capfd.readouterr().err
    assert lines(folder) == list(range(1, STEPS + 1))
    server.start()
    replay_twice(server, folder)


def test_down_in_the_middle_and_back_again(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    monkeypatch.setattr(tracker, "PAUSE", 0.5)
    server.start()
    noticed, give_up = threading.Event(), tracker.Tracker._go_offline

    def noticing(self: tracker.Tracker, error: Exception) -> None:
        give_up(self, error)
        noticed.set()

    def back() -> None:  # not sooner: MLflow itself asks again for some seconds, in which a server may have come back
        wait(noticed.is_set)
        server.start()

    monkeypatch.setattr(tracker.Tracker, "_go_offline", noticing)
    between_steps(monkeypatch, {2: kill_when_delivered(folder, server, 2), 4: back})
    assert command(folder, server) == 0
    log = capfd.readouterr().err
    assert "answers again and has what it missed" in log and "bring it up to date" not in log
    assert lines(folder) == list(range(1, STEPS + 1))
    everything_is_there_once(server, folder)
    replay_twice(server, folder)
