"""Every rendered manifest, checked by its closed schema and the rules, without a cluster."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from dist_condense.settings import config
from tests.deploy.k8s import pod_rules, rules, schemas
from tests.deploy.k8s.manifests import K8S, OVERLAYS, ROOT, config_map, head, only, pods, rendered

RUNS = sorted(set(OVERLAYS) - {"prepare"})


@pytest.mark.parametrize("name", ["base", *OVERLAYS])
def test_every_manifest_is_valid(name: str, crds_dir: Path) -> None:
    manifests = rendered(name)
    assert len(manifests) > 10
    assert [problem for manifest in manifests for problem in schemas.problems(manifest, crds_dir)] == []
    assert list(rules.problems(manifests)) == []


def test_the_overlays_are_those_of_the_readme() -> None:
    readme = (K8S / "README.md").read_text()
    assert sorted(set(re.findall(r"overlays/([a-z0-9-]+)", readme))) == OVERLAYS


# --- the run --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_the_workers_of_the_command_are_those_of_the_cluster(name: str) -> None:
    spec = only(rendered(name), "RayJob")["spec"]
    given = dict(word.split("=", 1) for word in spec["entrypoint"].split() if "=" in word)
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    per_pod = int(limits.get("nvidia.com/gpu", 1))
    assert int(given["cluster.workers"]) == group["replicas"] * per_pod
    assert int(given.get("compute.threads", 1)) * per_pod <= int(limits["cpu"])


@pytest.mark.parametrize(("name", "workers"), [("gpu", 8), ("kueue", 8), ("s3", 8), ("multinode-gpu", 64)])
def test_gpu_overlays_have_what_they_promise(name: str, workers: int) -> None:
    (group,) = only(rendered(name), "RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    spec = group["template"]["spec"]
    gpus = int(spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
    assert group["replicas"] * gpus == workers
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"]


@pytest.mark.parametrize("name", RUNS)
def test_the_config_and_its_overrides_are_accepted(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The config of the ConfigMap, as the head reads it, has only known keys."""
    manifests = rendered(name)
    entrypoint = only(manifests, "RayJob")["spec"]["entrypoint"].split()
    assert entrypoint[:3] == ["python", "-m", "dist_condense.run"]
    path, folder = Path(entrypoint[3]), _mount(manifests, "configs")
    assert str(path.parent) == folder
    (tmp_path / path.name).write_text(config_map(manifests, "configs")["data"][path.name])
    for entry in head(manifests)["env"]:
        monkeypatch.setenv(entry["name"], entry["value"])
    loaded = config.load(str(tmp_path / path.name), entrypoint[4:])
    assert loaded.output == f"{_mount(manifests, 'output')}/{Path(loaded.output).name}"
    assert loaded.tracking.uri is None  # MLFLOW_TRACKING_URI has the address


def _mount(manifests: list, volume: str) -> str:
    (path,) = (mount["mountPath"] for mount in head(manifests)["volumeMounts"] if mount["name"] == volume)
    return path


def test_the_config_map_is_the_folder_configs() -> None:
    configs = config_map(rendered("base"), "configs")
    assert configs["data"] == {file.name: file.read_text() for file in (ROOT / "configs").glob("*.yaml")}
    volumes = only(rendered("base"), "RayJob")["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"]
    assert {"name": "configs", "configMap": {"name": configs["metadata"]["name"]}} in volumes


def test_what_is_prepared_is_what_is_read() -> None:
    command = only(rendered("prepare"), "Job")["spec"]["template"]["spec"]["containers"][0]["command"]
    read = {entry["name"]: entry["value"] for entry in head(rendered("gpu"))["env"]}
    assert command[3] == read["IMAGENET_ROOT"]
    given = yaml.safe_load((ROOT / "configs" / "imagenet100_idc.yaml").read_text())["dataset"]
    assert f"--size={given['size']}" in command and f"--classes={given['classes']}" in command


# --- storage, secrets, images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["base", *OVERLAYS])
def test_every_node_can_write_the_output(name: str) -> None:
    """Exception: kind has one node, and its storage one mode."""
    modes = only(rendered(name), "PersistentVolumeClaim", "output")["spec"]["accessModes"]
    assert modes == (["ReadWriteOnce"] if name == "cpu-smoke" else ["ReadWriteMany"])
    if name in RUNS:
        for _, pod in list(pods([only(rendered(name), "RayJob")]))[:2]:
            assert {"name": "output", "mountPath": "/output"} in pod["spec"]["containers"][0]["volumeMounts"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_another_image_replaces_every_one_of_ours(name: str) -> None:
    images = {c["image"] for _, pod in pods(rendered(name)) for c in pod["spec"]["containers"]}
    assert {image.split(":")[0] for image in images} == {"dist-condense", "postgres"}


def test_the_secrets_that_the_readme_asks_for_are_all() -> None:
    named = set()
    for name in OVERLAYS:
        named |= set(re.findall(r"'secret(?:KeyRef|Ref)': \{[^}]*'name': '([^']+)'", str(rendered(name))))
    documented = set(re.findall(r"create secret generic (\S+)", (K8S / "README.md").read_text()))
    assert named == documented == set().union(*pod_rules.SECRETS.values())
