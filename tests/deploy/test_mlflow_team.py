"""A team's server by launch/mlflow.sh, on a real PostgreSQL; two methods compared by REST and in a browser."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest

from dist_condense.commands import cli
from tests.conftest import ROOT, absent
from tests.engine import cases

pytestmark = [pytest.mark.slow, pytest.mark.daemon("an MLflow server on PostgreSQL, and Chromium")]

SEEDS = 2
TOP1 = "condensed/convnet:width_8:depth_2/dc_1_epochs/top1"
METHODS = {"dcc": [*cases.CASES["dcc"], "method.name=dcc"], "dm": ["method=dm", *cases.ON_S, "method.name=dm"]}
DIFFER = {
    "method.augmentation.one_of": {"dm": "color, crop, cutout, flip, scale, rotate"},
    "method.distance": {"dcc": "layerwise_cosine", "dm": "sum_squared"},
    "method.grouping.name": {"dcc": "pooled", "dm": "per_class"},
    "method.grouping.warmup_networks": {"dcc": "1", "dm": "0"},
    "method.grouping.warmup_steps": {"dcc": "1", "dm": "0"},
    "method.images.lr": {"dcc": "0.1", "dm": "1.0"},
    "method.name": {"dcc": "dcc", "dm": "dm"},
    "method.statistic.name": {"dcc": "gradient", "dm": "embedding"},
}


class Team:
    """launch/mlflow.sh on one folder and port, which can be started repeatedly."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"

    def script(self) -> subprocess.Popen[str]:
        """Start the script in its own process group, as a shell does, with SIGINT enabled."""
        command = ["env", "--default-signal=INT", str(ROOT / "launch" / "mlflow.sh"), str(self.folder)]
        command += ["--port", str(self.port), "--workers", "1"]
        own = {**os.environ, "PYTHON": sys.executable}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=own, stdout=pipe, stderr=pipe, text=True, start_new_session=True)

    def start(self) -> None:
        self.process = self.script()
        first = self.process.stdout.readline()
        assert first == f"tracking.uri={self.uri}\n", self.process.communicate()

    def stop(self) -> int:
        """Stop the script as Ctrl-C does and return the exit code."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        self.process.communicate()
        return self.process.returncode

    def rest(self, call: str, **body: Any) -> dict[str, Any]:
        header = {"Content-Type": "application/json"}
        request = Request(f"{self.uri}/api/2.0/mlflow/{call}", json.dumps(body).encode(), header)
        return dict(json.loads(fetched(request)))

    def runs(self, query: str) -> list[dict[str, Any]]:
        ids = [x["experiment_id"] for x in self.rest("experiments/search", max_results=10)["experiments"]]
        return list(self.rest("runs/search", experiment_ids=ids, filter=query).get("runs", []))


def fetched(what: Request | str) -> bytes:
    with urlopen(what, timeout=60) as answer:
        return bytes(answer.read())


@pytest.fixture(scope="module")
def team() -> Iterator[Team]:
    if not (shutil.which("initdb") or any(Path("/usr/lib/postgresql").glob("*/bin/initdb"))):
        absent("no PostgreSQL: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="mlflow-"))
    folder.chmod(0o755)  # root's PostgreSQL runs as another user, who may not enter pytest's own folders
    made = Team(folder)
    made.start()
    yield made
    made.stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def compared(team: Team, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The run folders of two methods."""
    folders = {}
    for method, own in METHODS.items():
        folders[method] = tmp_path_factory.mktemp("runs") / f"digits_{method}"
        given = [*cases.TINY, *own, "cluster.workers=0", f"output={folders[method]}", f"tracking.uri={team.uri}"]
        evaluation = ["evaluation.epochs=1", f"evaluation.seeds={SEEDS}", "evaluation.sets=[random,condensed]"]
        assert cli.main(["run", "configs/digits.yaml", *given, *evaluation]) == 0
    return folders


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        absent("no Chromium: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in ("headless", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "window-size=1800,1900"):
        options.add_argument(f"--{option}")
    made = webdriver.Chrome(options=options, service=Service(driver))
    yield made
    made.quit()


def pairs(run: dict[str, Any], kind: str) -> dict[str, Any]:
    return {x["key"]: x["value"] for x in run["data"].get(kind, [])}


def by_method(team: Team) -> dict[str, dict[str, Any]]:
    runs = team.runs("tags.dataset = 'digits' AND tags.ipc = '2'")
    assert len(runs) == len(METHODS)  # the children below them have no such tags
    return {pairs(run, "tags")["method"]: run for run in runs}


def test_a_search_by_tags_finds_both_and_they_differ_by_the_parts_of_their_methods(
    team: Team, compared: dict[str, Path]
) -> None:
    runs = by_method(team)
    assert {method: run["info"]["run_name"] for method, run in runs.items()} == {x: f"digits_{x}" for x in METHODS}
    params = {method: pairs(run, "params") for method, run in runs.items()}
    keys = params["dcc"].keys() | params["dm"].keys()
    differ = {key for key in keys if params["dcc"].get(key) != params["dm"].get(key)}
    assert {key: {m: params[m][key] for m in METHODS if key in params[m]} for key in differ} == DIFFER
    for run in runs.values():
        tags = pairs(run, "tags")
        assert (tags["workers"], tags["device"]) == ("0", "cpu") and " x " in tags["host"] and len(tags["commit"]) == 12
        top1, metrics = seeds(team, run), pairs(run, "metrics")
        assert metrics[TOP1] == pytest.approx(mean(top1)) and metrics[f"{TOP1}_std"] == pytest.approx(stdev(top1))


def seeds(team: Team, run: dict[str, Any]) -> list[float]:
    below = team.runs(f"tags.mlflow.parentRunId = '{run['info']['run_id']}' AND params.set = 'condensed'")
    assert sorted(pairs(child, "params")["seed"] for child in below) == [str(seed) for seed in range(SEEDS)]
    return [pairs(child, "metrics")["top1_last"] for child in below]


def test_the_comparison_page_says_it_without_editing(team: Team, compared: dict[str, Path], browser: Any) -> None:
    """The page shows the params that differ and the top-1 of both runs without an edit; one click hides equal rows."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    runs = by_method(team)
    ids, experiments = [x["info"]["run_id"] for x in runs.values()], [runs["dm"]["info"]["experiment_id"]]
    browser.get(f"{team.uri}/#/compare-runs?runs={quote(json.dumps(ids))}&experiments={quote(json.dumps(experiments))}")

    def shown(*texts: str, without: str = "no such text") -> None:
        def there(page: Any) -> bool:
            text = page.find_element(By.TAG_NAME, "body").text
            return without not in text and all(x in text for x in texts)

        WebDriverWait(browser, 180).until(there)

    top1 = [f"{pairs(run, 'metrics')[TOP1]:.4g}" for run in runs.values()]
    shown(*(run["info"]["run_name"] for run in runs.values()), *top1, TOP1, f"{TOP1}_std", "network.width")
    plot = browser.find_element(By.CSS_SELECTOR, ".js-plotly-plot").text
    assert all(name in plot for name in list(DIFFER)[:3]), plot
    drawn = {name for run in runs.values() for name in pairs(run, "metrics")}
    assert any(name in plot for name in drawn), plot  # which of them follows the order of the server's rows
    browser.find_element(By.CSS_SELECTOR, "[aria-label='Parameters - Show diff only']").click()
    shown(*DIFFER, without="network.width")
    (ROOT / ".cache").mkdir(exist_ok=True)
    browser.save_screenshot(str(ROOT / ".cache" / "mlflow_comparison.png"))


def test_the_view_of_the_experiment_and_its_charts_begin_with_top_1(
    team: Team, compared: dict[str, Path], browser: Any
) -> None:
    """MLflow sorts its charts by name, and the run's own set is before others."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    runs = by_method(team)
    experiment = runs["dm"]["info"]["experiment_id"]
    names = {name for run in runs.values() for name in pairs(run, "metrics")}

    def opened(page: str, *texts: str) -> str:
        def text(of: Any) -> str:
            return str(of.find_element(By.TAG_NAME, "body").text)

        browser.get("about:blank")  # a change behind the # alone would load no page
        browser.get(f"{team.uri}/#/{page}")
        WebDriverWait(browser, 180).until(lambda of: all(x in text(of) for x in texts))
        return text(browser)

    text = opened(f"experiments/{experiment}/runs?compareRunsMode=CHART", TOP1, *compared)
    assert min((name for name in names if name in text), key=text.index) == TOP1, text
    (ROOT / ".cache").mkdir(exist_ok=True)
    browser.save_screenshot(str(ROOT / ".cache" / "mlflow_charts.png"))

    scores = {name: str(pairs(run, "metrics")["top1"])[:5] for name, run in runs.items()}
    text = opened(
        f"experiments/{experiment}/runs?viewStateShareKey=top1", "2 matching runs", "top1_std", *scores.values()
    )
    table = text[text.index("Run Name") :]
    heads = [table.index(word) for word in ("Duration", "top1", "top1_std", "ipc", "method.name")]
    assert heads == sorted(heads), text
    best, other = sorted(runs, key=lambda name: -pairs(runs[name], "metrics")["top1"])
    assert table.index(compared[best].name) < table.index(compared[other].name), text
    browser.save_screenshot(str(ROOT / ".cache" / "mlflow_top1.png"))


def test_a_folder_or_a_port_in_use_is_refused(team: Team, tmp_path: Path) -> None:
    other = Team(tmp_path)
    other.port = team.port
    for second, message in (
        (team.script(), f"{team.folder} is in use"),
        (other.script(), f"port {team.port} is in use"),
    ):
        assert message in second.communicate()[1]
        assert second.returncode == 2


def test_a_restart_keeps_all(team: Team, compared: dict[str, Path]) -> None:
    before = team.runs("")
    assert team.stop() == 130
    assert not (team.folder / "postgres" / "postmaster.pid").exists()
    with socket.socket() as asked:
        assert asked.connect_ex(("127.0.0.1", team.port)) != 0
    team.start()
    assert team.runs("") == before and len(before) == len(METHODS) * (1 + 2 * SEEDS)
    for method, run in by_method(team).items():
        page = fetched(f"{team.uri}/get-artifact?run_uuid={run['info']['run_id']}&path=report.html")
        assert page == (compared[method] / "report.html").read_bytes()
