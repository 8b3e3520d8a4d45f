"""Commands of the rendered manifests, executed here with folders of this machine as mounted volumes."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from dist_condense import load_set
from dist_condense.data.sets.subsets import SUBSETS
from tests.deploy.k8s.manifests import Manifest, config_map, head, only, rendered

pytestmark = [pytest.mark.slow, pytest.mark.daemon("a Ray worker group, and an MLflow server")]


class Pod:
    """A container whose volumes are sub-folders of one folder."""

    def __init__(self, container: Manifest, folder: Path) -> None:
        self.container, self.folder = container, folder
        for mount in container["volumeMounts"]:
            (folder / mount["name"]).mkdir()

    def here(self, words: str) -> str:
        """Replace paths in the container by paths on this machine."""
        places = {mount["mountPath"]: str(self.folder / mount["name"]) for mount in self.container["volumeMounts"]}
        paths = "|".join(map(re.escape, sorted(places, key=len, reverse=True)))
        return re.sub(rf"({paths})(?![\w.-])", lambda match: places[match[0]], words)  # one of them is /tmp

    def start(self, words: str, **instead: str) -> subprocess.Popen[str]:
        """Start a command with the environment of the manifest, except MLflow's address."""
        given = {
            entry["name"]: self.here(entry["value"]) for entry in self.container.get("env", []) if "value" in entry
        }
        given.pop("MLFLOW_TRACKING_URI", None)
        given |= instead
        quiet = {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true", "RAY_AUTH_MODE": "disabled"}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"}
        command = ["sh", "-c", f"exec {self.here(words)}"]
        return subprocess.Popen(command, env=kept | given | quiet | path, stderr=subprocess.PIPE, text=True)


def test_a_path_that_only_begins_like_a_mount_stays(tmp_path: Path) -> None:
    pod = Pod(
        {"volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "data", "mountPath": "/data"}]}, tmp_path
    )
    assert pod.here("/tmpfs /data-2 /data/x") == f"/tmpfs /data-2 {tmp_path}/data/x"


@pytest.fixture
def smoke(tmp_path: Path) -> Pod:
    """The head of overlays/cpu-smoke, with its ConfigMap."""
    manifests = rendered("cpu-smoke")
    pod = Pod(head(manifests), tmp_path)
    for name, text in config_map(manifests, "configs")["data"].items():
        (tmp_path / "configs" / name).write_text(text)
    return pod


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are killed after the test, together with the Ray that they started."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        with process:
            process.kill()


@pytest.mark.ray
def test_the_same_words_again_find_the_finished_run(smoke: Pod, started: list[subprocess.Popen[str]]) -> None:
    """tests/cluster/test_ray_deaths.py continues after kills."""
    words = only(rendered("cpu-smoke"), "RayJob")["spec"]["entrypoint"]
    output = smoke.folder / "output" / "digits"
    started.append(smoke.start(words))
    finish(started[-1])
    card = json.loads((output / "synthetic_set" / "card.json").read_text())
    assert card["complete"] and card["steps"] == 20 and len(load_set(output / "synthetic_set")) == 10
    assert [json.loads(line)["step"] for line in (output / "metrics.jsonl").read_text().splitlines()] == list(
        range(1, 21)
    )
    rows, image = (output / "evaluation.csv").read_text(), next((output / "synthetic_set").glob("*.safetensors"))
    pixels = image.read_bytes()

    started.append(smoke.start(words))
    assert "the set is complete after matching step 20" in finish(started[-1])
    assert (output / "evaluation.csv").read_text() == rows and image.read_bytes() == pixels


def finish(process: subprocess.Popen[str]) -> str:
    _, log = process.communicate(timeout=400)
    assert process.returncode == 0, log
    return log


def test_prepare_makes_what_the_gpu_overlay_reads(tmp_path: Path, started: list[subprocess.Popen[str]]) -> None:
    container = only(rendered("prepare"), "Job")["spec"]["template"]["spec"]["containers"][0]
    pod = Pod(container, tmp_path)
    for split in ("train", "val"):
        for wnid in SUBSETS["imagenet100_idc"]:
            (tmp_path / "raw" / split / wnid).mkdir(parents=True)
            Image.new("RGB", (9, 7), "red").save(tmp_path / "raw" / split / wnid / "one.JPEG")
    words = shlex.join(container["command"]).replace("--workers=16", "--workers=2")  # the machine's, not the pod's
    assert "--workers=2" in words
    for _ in range(2):  # the second time it is there
        process = pod.start(words)
        started.append(process)
        finish(process)
    read = {entry["name"]: entry["value"] for entry in head(rendered("gpu"))["env"]}["IMAGENET_ROOT"]
    manifest = json.loads(Path(pod.here(f"{read}/manifest.json")).read_text())
    assert len(manifest["classes"]) == 100 and manifest["size"] == 224


def test_mlflow_answers_the_kubelet_and_those_it_knows(tmp_path: Path, started: list[subprocess.Popen[str]]) -> None:
    """The server of the Deployment, on sqlite instead of PostgreSQL."""
    container = only(rendered("gpu"), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = shlex.join(container["command"]).replace("--host=0.0.0.0 --port=5000", f"--host=127.0.0.1 --port={port}")
    assert str(port) in words
    database = f"sqlite:///{tmp_path}/mlflow.db"
    started.append(Pod(container, tmp_path).start(words, MLFLOW_BACKEND_STORE_URI=database))
    probe = container["readinessProbe"]["httpGet"]["path"]
    deadline = time.monotonic() + 180
    while answer(port, probe, "10.1.2.3:5000") != 200:  # a kubelet names the pod by its address
        assert started[0].poll() is None and time.monotonic() < deadline, "no answer"
        time.sleep(0.2)
    experiments = "/api/2.0/mlflow/experiments/search?max_results=1"
    given = [answer(port, experiments, host) for host in ("mlflow:5000", "localhost:5000", "evil.example:5000")]
    assert given == [200, 200, 403]


def answer(port: int, path: str, host: str) -> int | None:
    """Return the HTTP status, or None before the server listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path, headers={"Host": host})
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()
