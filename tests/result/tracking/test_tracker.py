import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, astuple, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import isnan
from pathlib import Path

import pytest

from dist_condense.evaluation.rows import COLUMNS, Row
from dist_condense.result.tracking import server
from dist_condense.result.tracking import tracker as trackers
from dist_condense.result.tracking.replay import replay
from dist_condense.result.tracking.server import TrackingError
from dist_condense.result.tracking.tracker import Tracker
from dist_condense.settings import config
from dist_condense.settings.config import ConfigError
from dist_condense.settings.tracking_address import problems, resolve_uri
from tests.result.test_synthetic_set import a_card

CONFIG = {"seed": 0, "method": {"name": "dc", "images": {"lr": 0.1}}, "cluster": {"workers": 2}}
ROWS = [
    Row(set=s, protocol="dc", architecture="convnet3", seed=i, epochs=3, top1_last=x, top1_best=x + 1, balanced=x)
    for s, x in (("random", 60.0), ("condensed", 80.5))
    for i in range(2)
]


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    """Database with tables and no rows, which MLflow takes 3 seconds to create."""
    folder = tmp_path_factory.mktemp("empty")
    tracker = start(folder, uri=f"sqlite:///{folder}/mlflow.db")
    tracker.finish()
    with sqlite3.connect(folder / "mlflow.db") as db:
        for table in ("params", "tags", "runs", "experiment_tags", "experiments"):
            db.execute(f"DELETE FROM {table}")
    db.close()
    return folder / "mlflow.db"


@pytest.fixture
def out(tmp_path, empty_database):
    (tmp_path / "out").mkdir()
    shutil.copy(empty_database, tmp_path / "out" / "mlflow.db")
    return tmp_path / "out"


def entries(*steps):
    return [
        {"step": s, "network": 0, "matching_step": s - 1, "loss": 100.0 / s, "steps_per_second": 2.0} for s in steps
    ]


def start(folder, uri=None, **change):
    given = {"experiment": "x", "params": CONFIG, "tags": {"kind": "condensation"}, **change}
    return Tracker.start(uri or resolve_uri(None, folder), folder=folder, **given)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.fixture
def client(tmp_path):
    def make():
        from mlflow import MlflowClient

        return MlflowClient(resolve_uri(None, tmp_path / "out"))

    return make


def history(client, run, key="loss"):
    return [(m.step, m.value) for m in client.get_metric_history(run, key)]


def test_a_run_and_its_children_are_in_the_database_beside_the_output(tmp_path, client, capfd):
    out = tmp_path / "out"
    (out / "synthetic_set").mkdir(parents=True)
    (out / "synthetic_set" / "card.json").write_text("{}")
    started = time.monotonic()
    tracker = start(out)
    tracker.log_metrics(entries(10, 20))
    tracker.log_artifacts(out / "synthetic_set")
    (out / "synthetic_set" / "README.md").write_text("scores")
    tracker.log_artifacts(out / "synthetic_set" / "README.md")
    tracker.log_evaluations(ROWS)
    assert time.monotonic() - started < 0.5
    tracker.finish()
    assert tracker.offline is None

    run = client().get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "out"
    assert run.data.params["method.images.lr"] == "0.1"
    assert run.data.tags["kind"] == "condensation"
    assert run.data.metrics["condensed/convnet3/dc_3_epochs/top1"] == 80.5
    assert history(client(), tracker.run_id) == [(10, 10.0), (20, 5.0)]
    artifacts = tmp_path / "mlartifacts" / tracker.run_id / "artifacts"
    assert not (out / "mlflow.db").exists() and (tmp_path / "mlflow.db").exists()
    assert [path.name for path in artifacts.iterdir()] == ["synthetic_set"]
    assert sorted(path.name for path in (artifacts / "synthetic_set").iterdir()) == ["README.md", "card.json"]
    children = client().search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{tracker.run_id}'")
    assert sorted(x.data.metrics["top1_last"] for x in children) == [60.0, 60.0, 80.5, 80.5]
    assert {x.info.run_name for x in children} >= {"condensed, convnet3, dc, 3 epochs, seed 1"}
    assert {x.info.status for x in children} == {"FINISHED"}
    assert list(Path.cwd().iterdir()) == []  # no mlruns where the command was given
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_a_resumed_run_continues_and_sends_nothing_twice(tmp_path, out, client):
    first = start(out)
    first.log_metrics(entries(10, 20))
    first.log_evaluations(ROWS[:1])
    first.finish("KILLED")
    second = start(out, params={**CONFIG, "cluster": {"workers": 1}, "later": 1})
    second.log_metrics(entries(10, 20, 30))
    second.log_evaluations(ROWS)
    second.finish()
    assert (first.offline, second.offline) == (None, None)
    assert second.run_id == first.run_id == json.loads((out / "tracking.json").read_text())["run_id"]
    assert [step for step, _ in history(client(), second.run_id)] == [10, 20, 30]
    run = client().get_run(second.run_id)
    assert run.info.status == "FINISHED"
    assert (run.data.params["cluster.workers"], run.data.params["later"]) == ("2", "1")
    children = client().search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{second.run_id}'")
    assert len(children) == 4


def test_the_main_result_and_the_data_are_those_of_the_config(tmp_path, out, client):
    own = config.from_dict({"output": str(out), "evaluation": {"architectures": ["mlp", "convnet3"]}})
    (out / "config.yaml").write_text(config.to_yaml(own))
    (out / "environment.json").write_text(json.dumps({"data": "ab" * 32}))
    rows = [replace(row, architecture=name) for name in ("convnet3", "mlp") for row in ROWS]
    rows = [replace(row, top1_last=row.top1_last - 10 * row.seed) if row.architecture == "mlp" else row for row in rows]
    for _ in range(2):
        tracker = start(out)
        tracker.log_evaluations(rows)
        tracker.finish()
    assert tracker.offline is None
    run = client().get_run(tracker.run_id)
    named = [run.data.metrics[f"condensed/mlp/dc_3_epochs/top1{suffix}"] for suffix in ("", "_std")]
    assert [run.data.metrics["top1"], run.data.metrics["top1_std"]] == named == [75.5, pytest.approx(50**0.5)]
    [data] = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("digits", "ab" * 18)
    assert json.loads(data.dataset.source) == {"uri": "digits"}
    assert {tag.key: tag.value for tag in data.tags} == {"mlflow.data.context": "training"}


def test_the_latest_top1_is_that_of_the_latest_evaluation(out, client):
    """An evaluation of fewer networks than an earlier one; MLflow's latest value is that of the highest step."""
    own = config.from_dict({"output": str(out), "evaluation": {"architectures": ["convnet3"]}})
    (out / "config.yaml").write_text(config.to_yaml(own))
    rows = [replace(ROWS[2], seed=seed, top1_last=50.0 + seed, correct=(1, 2)) for seed in range(4)]
    later = [replace(ROWS[2], epochs=200, top1_last=12.0), replace(ROWS[2], epochs=300, top1_last=13.0)]
    for count in range(3):
        tracker = start(out)
        tracker.log_evaluations([*rows, *later[:count]])
        tracker.finish()
    assert tracker.offline is None
    assert [value for _, value in history(client(), tracker.run_id, "top1")] == [51.5, 12.0, 13.0]
    run = client().get_run(tracker.run_id)
    assert run.data.metrics["top1"] == 13.0 and isnan(run.data.metrics["top1_std"])
    [child, *_] = client().search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{tracker.run_id}'")
    assert set(child.data.params) == {"set", "protocol", "architecture", "seed", "epochs"}


SHARING = """
import sys
from pathlib import Path
from dist_condense.result.tracking.tracker import Tracker
from dist_condense.settings.tracking_address import resolve_uri
folder = Path(sys.argv[1])
uri = resolve_uri(None, folder)
tracker = Tracker.start(uri, folder=folder, experiment="x", params={"a": 1}, tags={})
for step in range(1, 31):
    tracker.log_metrics([{"step": step, "loss": float(step), "steps_per_second": 2.0}])
tracker.finish(timeout=120)
sys.exit(tracker.offline)
"""


@pytest.mark.slow
def test_runs_at_the_same_time_share_a_new_database(tmp_path):
    from mlflow import MlflowClient

    outputs = tmp_path / "outputs"
    runs = [
        subprocess.Popen([sys.executable, "-c", SHARING, str(outputs / name)], stderr=subprocess.PIPE, text=True)
        for name in ("a", "b")
    ]
    assert [(run.communicate(timeout=300)[1], run.returncode) for run in runs] == [("", 0)] * 2
    client = MlflowClient(f"sqlite:///{outputs}/mlflow.db")
    [experiment] = client.search_experiments(filter_string="name = 'x'")
    found = client.search_runs([experiment.experiment_id])
    assert {run.info.run_name for run in found} == {"a", "b"}
    assert {run.info.status for run in found} == {"FINISHED"}
    assert all([step for step, _ in history(client, run.info.run_id)] == list(range(1, 31)) for run in found)


def test_other_epochs_and_protocols_are_kept_apart(out, client):
    first = start(out)
    first.log_evaluations(ROWS)
    first.finish()
    other = [replace(ROWS[2], epochs=30, top1_last=90.0), replace(ROWS[2], protocol="idc", top1_last=70.0)]
    other += [replace(ROWS[2], architecture="convnet:depth=4:norm=batch", top1_last=65.0)]
    second = start(out)
    second.log_evaluations([*ROWS, *other])
    second.finish()
    assert (first.offline, second.offline) == (None, None)
    run = client().get_run(second.run_id)
    assert run.data.metrics == {
        "random/convnet3/dc_3_epochs/top1": 60.0,
        "random/convnet3/dc_3_epochs/top1_std": 0.0,
        "condensed/convnet3/dc_3_epochs/top1": 80.5,
        "condensed/convnet3/dc_3_epochs/top1_std": 0.0,
        "condensed/convnet3/dc_30_epochs/top1": 90.0,
        "condensed/convnet3/idc_3_epochs/top1": 70.0,
        "condensed/convnet:depth_4:norm_batch/dc_3_epochs/top1": 65.0,
    }
    children = client().search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{second.run_id}'")
    assert len({x.info.run_name for x in children}) == len(children) == len(ROWS) + 3
    assert "convnet:depth=4:norm=batch" in {x.data.params["architecture"] for x in children}


def test_a_mean_has_its_standard_deviation_beside_it(out, client):
    tracker = start(out)
    tracker.log_evaluations([replace(ROWS[0], seed=seed, top1_last=x) for seed, x in enumerate((70.0, 72.0, 77.0))])
    tracker.finish()
    assert history(client(), tracker.run_id, "random/convnet3/dc_3_epochs/top1") == [(3, 73.0)]
    assert history(client(), tracker.run_id, "random/convnet3/dc_3_epochs/top1_std") == [(3, 13**0.5)]


def test_params_are_what_two_runs_are_compared_by(out, client):
    always_other = {"output": "/a", "tracking": {"uri": "x"}}
    given = {"evaluation": {"sets": ["random", "full"]}, "dataset": {"root": None, "classes": []}, "training": {}}
    tracker = start(out, params={**always_other, **given, **CONFIG})
    tracker.finish()
    assert client().get_run(tracker.run_id).data.params == {
        "evaluation.sets": "random, full",
        "seed": "0",
        "method.name": "dc",
        "method.images.lr": "0.1",
        "cluster.workers": "2",
    }


def test_params_that_are_known_later_are_added(out, client):
    tracker = start(out, params={"output": "/a", "seed": 1, "compute": {"microbatch": None}})
    tracker.log_params({"output": "/a", "seed": 2, "compute": {"microbatch": 0}})
    tracker.finish()
    assert client().get_run(tracker.run_id).data.params == {"seed": "1", "compute.microbatch": "0"}


def test_the_step_of_a_metric_is_not_sent_as_a_metric(out, client):
    tracker = start(out)
    tracker.log_metrics(entries(10))
    tracker.finish()
    assert set(client().get_run(tracker.run_id).data.metrics) == {"loss", "steps_per_second"}


def test_another_server_or_a_lost_database_gets_everything(tmp_path, out, client):
    from mlflow import MlflowClient

    first = start(out)
    first.log_metrics(entries(10))
    first.finish()
    other = start(out, uri=f"sqlite:///{tmp_path}/other/mlflow.db")
    other.log_metrics(entries(10, 20))
    other.finish()
    assert other.offline is None
    assert other.run_id != first.run_id
    state = json.loads((out / "tracking.json").read_text())
    (out / "tracking.json").write_text(json.dumps({**state, "run_id": "0" * 32, "folder": "another"}))
    again = start(out, uri=f"sqlite:///{tmp_path}/other/mlflow.db")
    again.log_metrics(entries(10, 20))
    again.finish()
    assert again.offline is None
    assert again.run_id not in (None, first.run_id, other.run_id, "0" * 32)
    there = MlflowClient(f"sqlite:///{tmp_path}/other/mlflow.db")
    assert [step for step, _ in history(there, again.run_id)] == [10, 20]


def test_an_unreachable_server_costs_one_line_and_no_time(tmp_path, capfd):
    started = time.monotonic()
    tracker = start(tmp_path / "out", uri="http://user:secret@127.0.0.1:9")
    for step in range(3):
        tracker.log_metrics(entries(step + 1))
    tracker.log_evaluations(ROWS)
    tracker.log_artifacts(tmp_path)
    assert time.monotonic() - started < 0.5
    tracker.finish()
    assert time.monotonic() - started < 25
    assert "refused" in tracker.offline
    captured = capfd.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1
    assert "MLflow at http://***@127.0.0.1:9 is not reachable" in lines[0]
    assert f"dist-condense replay {tmp_path / 'out'} (and MLFLOW_TRACKING_URI, set to the whole address)" in lines[0]
    assert "secret" not in (tmp_path / "out" / "tracking.json").read_text()
    assert captured.out == ""


def test_a_slow_server_takes_the_tracker_offline_and_delays_its_end_only_by_the_timeout(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(trackers, "QUEUE_LENGTH", 3)
    monkeypatch.setattr(server, "connect", lambda uri: time.sleep(2))
    tracker = start(tmp_path / "out")
    for _ in range(9):
        tracker.log_metrics(entries(1))
    assert "wait" in tracker.offline
    started = time.monotonic()
    tracker.finish(timeout=0.2)
    assert time.monotonic() - started < 1
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_a_folder_is_replayed_once(tmp_path, out, client):
    (out / "synthetic_set").mkdir(parents=True)
    (out / "synthetic_set" / "card.json").write_text("{}")
    (out / "config.yaml").write_text("seed: 3\nmethod: {name: dc}\ntracking: {uri: null, experiment: digits}\n")
    (out / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in entries(10, 20)) + '{"step": 3')
    (out / "evaluation.csv").write_text(
        "set,protocol,architecture,seed,epochs,top1_last,top1_best\nrandom,dc,mlp,0,3,60.5,\n"
    )
    run = replay(out)
    assert replay(out) == run
    sent = client().get_run(run)
    assert sent.data.params["seed"] == "3"
    assert (sent.data.tags["method"], sent.data.tags["dist_condense.replayed"]) == ("dc", "true")
    assert client().get_experiment(sent.info.experiment_id).name == "digits"
    assert history(client(), run) == [(10, 10.0), (20, 5.0)]
    children = client().search_runs([sent.info.experiment_id], f"tags.mlflow.parentRunId = '{run}'")
    assert [x.data.metrics for x in children] == [{"top1_last": 60.5}]


def test_a_failed_replay_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.yaml is missing"):
        replay(tmp_path)
    (tmp_path / "config.yaml").write_text("seed: 3\n")
    with pytest.raises(TrackingError, match="refused"):
        replay(tmp_path, uri="http://127.0.0.1:9")


def test_a_return_to_the_first_server_makes_no_second_run(tmp_path, out, client):
    (out / "config.yaml").write_text("tracking: {experiment: digits}\n")
    (out / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in entries(10, 20)))
    shutil.copy(out / "mlflow.db", tmp_path / "other.db")
    run = replay(out)
    assert replay(out, uri=f"sqlite:///{tmp_path}/other.db") != run
    assert replay(out) == run
    assert history(client(), run) == [(10, 10.0), (20, 5.0)]


def fail(monkeypatch, method, at, before):
    """Let call number `at` of a client's method fail before the server acts, or after, so that its answer is lost."""
    from mlflow import MlflowClient

    real, calls = getattr(MlflowClient, method), []

    def call(self, *given, **named):
        calls.append(given)
        if len(calls) == at and before:
            raise ConnectionError("gone")
        answer = real(self, *given, **named)
        if len(calls) == at:
            raise ConnectionError("gone")
        return answer

    monkeypatch.setattr(MlflowClient, method, call)


LOST = [
    (method, at, before)
    for method, at in (
        ("create_run", 1),  # the run
        ("create_run", 3),  # the second child
        ("log_batch", 1),  # params
        ("log_batch", 2),  # metrics
        ("log_batch", 4),  # results of the first child
        ("log_batch", 11),  # means
        ("set_terminated", 2),  # the second child
        ("log_artifacts", 1),
    )
    for before in (True, False)
]


@pytest.mark.parametrize(("method", "at", "before"), LOST)
def test_a_server_that_fails_at_any_call_gets_each_thing_once(out, client, monkeypatch, method, at, before):
    (out / "synthetic_set").mkdir()
    (out / "synthetic_set" / "card.json").write_text(json.dumps(asdict(replace(a_card(), complete=True))))
    (out / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in entries(10, 20)))
    header = ",".join(COLUMNS)
    rows = "".join(",".join(map(str, astuple(row)[: len(COLUMNS)])) + "\n" for row in ROWS)
    (out / "evaluation.csv").write_text(f"{header}\n{rows}")
    (out / "config.yaml").write_text("tracking: {experiment: x}\n")

    with monkeypatch.context() as patch:
        fail(patch, method, at, before)
        patch.setattr(trackers, "PAUSE", 0.0)
        tracker = start(out)
        tracker.log_metrics(entries(10, 20))
        tracker.log_evaluations(ROWS)
        tracker.log_artifacts(out / "synthetic_set")
        tracker.finish()
    assert tracker.offline is None
    everything_is_sent_once(client(), tracker.run_id)
    assert replay(out) == tracker.run_id
    everything_is_sent_once(client(), tracker.run_id)


def everything_is_sent_once(client, run):
    runs = client.search_runs([client.get_run(run).info.experiment_id])
    assert len(runs) == 1 + len(ROWS)
    assert {x.info.status for x in runs} == {"FINISHED"}
    assert history(client, run) == [(10, 10.0), (20, 5.0)]
    for key in ("random/convnet3/dc_3_epochs/top1", "condensed/convnet3/dc_3_epochs/top1_std"):
        assert len(history(client, run, key)) == 1
    children = {x.info.run_name: x for x in runs if x.info.run_id != run}
    for row in ROWS:
        child = children[f"{row.set}, convnet3, dc, 3 epochs, seed {row.seed}"]
        assert history(client, child.info.run_id, "top1_last") == [(0, row.top1_last)]
        assert child.data.params["seed"] == str(row.seed)
    assert [x.path for x in client.list_artifacts(run, "synthetic_set")] == ["synthetic_set/card.json"]


def test_an_unavailable_server_is_not_asked_again_at_once(tmp_path, monkeypatch, capfd):
    asked = []
    monkeypatch.setattr(server, "connect", lambda uri: asked.append(uri) or 1 / 0)
    tracker = start(tmp_path / "out")
    for step in range(50):
        tracker.log_metrics(entries(step + 1))
    tracker.finish()
    assert len(asked) == 1
    assert "ZeroDivisionError" in tracker.offline
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_times_of_metrics_are_those_of_their_lines(out, client):
    tracker = start(out)
    tracker.log_metrics([{**entry, "time": 1e9 + entry["step"]} for entry in entries(10, 20)])
    tracker.finish()
    metrics = client().get_metric_history(tracker.run_id, "loss")
    assert [(m.step, m.timestamp) for m in metrics] == [(10, 1_000_000_010_000), (20, 1_000_000_020_000)]
    assert client().get_metric_history(tracker.run_id, "time") == []


def test_a_missing_file_is_reported_and_the_run_stays_online(tmp_path, out, capfd):
    tracker = start(out)
    tracker.log_artifacts(tmp_path / "nothing")
    tracker.finish()
    assert tracker.offline is None
    assert "nothing does not exist" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["a b", "q?x", "50%20", "e#f"])
def test_a_folder_of_any_name_contains_its_database_and_nothing_is_beside_it(tmp_path, out, name):
    from mlflow import MlflowClient

    folder = out.rename(tmp_path / name)
    tracker = start(folder)
    tracker.log_metrics(entries(10))
    tracker.log_evaluations([])
    tracker.finish()
    assert tracker.offline is None
    assert history(MlflowClient(resolve_uri(None, folder)), tracker.run_id) == [(10, 10.0)]
    assert {path.name for path in tmp_path.iterdir()} == {"cwd", name}


def test_a_deleted_experiment_is_no_outage(out, client, capfd):
    number = client().create_experiment("x", artifact_location=(out / "mlartifacts").as_uri())
    client().delete_experiment(number)
    (line,) = problems(None, out, "x")
    assert f"restore --experiment-id {number}" in line
    tracker = start(out)
    tracker.finish()
    assert tracker.refused and tracker.run_id is None
    message = capfd.readouterr().err
    assert "refuses the run, which continues: the experiment 'x' is deleted there; restore it" in message
    assert "not reachable" not in message and len(message.splitlines()) == 1
    assert "give tracking.experiment another" in tracker.remedy and "then bring it up to date" in tracker.remedy
    (out / "config.yaml").write_text("tracking: {experiment: x}\n")
    with pytest.raises(ConfigError, match=r"experiment 'x' is deleted there; restore it \(`MLFLOW_TRACKING_URI="):
        replay(out)
    client().restore_experiment(number)
    assert client().get_run(replay(out)).info.experiment_id == number


@contextmanager
def web_server(status, body):
    """Serve one answer to all requests; yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *given):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


DELETED = {"experiment": {"experiment_id": "7", "name": "x", "lifecycle_stage": "deleted"}}


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        (200, DELETED, "the experiment 'x' is deleted there; restore it (`MLFLOW_TRACKING_URI=http://"),
        (200, {"experiment": {**DELETED["experiment"], "lifecycle_stage": "active"}}, None),
        (401, {"error_code": "UNAUTHENTICATED", "message": "who are you"}, "who are you"),
        (404, "another program's page", "404"),
        (404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such experiment"}, None),
        (503, "busy", None),
    ],
)
def test_a_refusal_is_known_before_the_run(monkeypatch, status, answer, expected):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    body = answer if isinstance(answer, str) else json.dumps(answer)
    with web_server(status, body.encode()) as uri:
        refusal = server.refusal(uri, "x")
    assert refusal is None if expected is None else expected in refusal


def test_an_unavailable_server_does_not_delay_the_start(monkeypatch):
    monkeypatch.setattr(server, "connect", lambda uri: pytest.fail("asked"))
    assert server.refusal("http://127.0.0.1:9", "x") is None
    assert server.refusal("sqlite:////tmp/x.db", "x") is None


def test_damaged_rows_are_named_before_the_server_is_asked(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 3\n")
    (tmp_path / "evaluation.csv").write_text("set,accuracy\na,1\n")
    with pytest.raises(ConfigError, match=r"evaluation\.csv, line 1: has the columns set, accuracy"):
        replay(tmp_path, uri="http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"localhost:5000: has no scheme; give http://localhost:5000"):
        replay(tmp_path, uri="localhost:5000")
