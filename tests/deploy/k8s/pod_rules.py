"""What is asked of every pod: restricted pod security, stated resources, a versioned image, no secret in the open."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

from tests.deploy.k8s.manifests import ROOT, Manifest, pods

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
OURS = {f"dist-condense:{VERSION}", f"dist-condense:{VERSION}-cpu"}

COMPONENT = "app.kubernetes.io/component"
SECRET = re.compile(r"PASSWORD|TOKEN|SECRET|ACCESS_KEY|CREDENTIAL")
SECRETS = {
    "head": {"s3-head"},
    "worker": {"s3-worker"},
    "mlflow": {"mlflow-database", "s3-mlflow"},
    "postgres": {"mlflow-database"},
}
"""By component: what its pod may see, each made by the README's commands."""
YOURS = {"raw"}
"""Claims that are not made here."""

VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim"}
"""The others show a path of the node, a secret or a token as a file, or what a driver of the node likes."""


def problems(manifests: list[Manifest]) -> Iterator[str]:
    """One line for each rule that is broken."""
    made = {(m["kind"], m["metadata"]["name"]) for m in manifests}
    made |= {("volume", v["metadata"]["name"]) for m in manifests for v in _of(m, "volumeClaimTemplates")}
    for name, pod in pods(manifests):
        spec = pod["spec"]
        if spec.get("serviceAccountName") != pod["metadata"]["labels"][COMPONENT]:
            yield f"{name}: serviceAccountName: one for each role, named like its component"
        yield from (f"{name}: {told}" for told in [*_secrets(pod), *_pod(spec), *_written(spec), *_made(spec, made)])


def _of(manifest: Manifest, key: str) -> list[Any]:
    return manifest.get("spec", {}).get(key, [])


def _containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [*spec["containers"], *spec.get("initContainers", [])]


def _pod(spec: dict[str, Any]) -> Iterator[str]:
    if spec.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken: false, nobody here talks to the API server"
    if spec.get("enableServiceLinks") is not False:
        yield "enableServiceLinks: false; a Service `mlflow` would set MLFLOW_PORT"
    security = spec.get("securityContext", {})
    if not (security.get("runAsNonRoot") and security.get("runAsUser")):
        yield "securityContext: runAsNonRoot and runAsUser"
    if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "securityContext.seccompProfile: RuntimeDefault"
    yield from (f"{key}: shares the node's" for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key))
    for container in _containers(spec):
        yield from (f"{container['name']}: {told}" for told in _container(container))


def _container(container: dict[str, Any]) -> Iterator[str]:
    security, resources = container.get("securityContext", {}), container.get("resources", {})
    if security.get("allowPrivilegeEscalation") is not False or security.get("privileged"):
        yield "securityContext.allowPrivilegeEscalation: false"
    if security.get("capabilities") != {"drop": ["ALL"]}:
        yield "securityContext.capabilities: drop ALL, add none"
    if security.get("readOnlyRootFilesystem") is not True:
        yield "securityContext.readOnlyRootFilesystem: true; what is written has a volume"
    if not {"cpu", "memory", "ephemeral-storage"} <= set(resources.get("requests", {})):
        yield "resources.requests: cpu, memory and ephemeral-storage"
    if resources.get("requests") != resources.get("limits"):
        yield "resources: requests and limits differ"
    yield from _image(container["image"])
    for entry in container.get("env", []):
        if "value" in entry and (SECRET.search(entry["name"]) or re.search(r"://[^/]*:[^/]*@", entry["value"])):
            yield f"env.{entry['name']}: a secret in the open; use secretKeyRef"


def _secrets(pod: Manifest) -> Iterator[str]:
    component, containers = pod["metadata"]["labels"][COMPONENT], _containers(pod["spec"])
    seen = {entry["secretRef"]["name"] for c in containers for entry in c.get("envFrom", []) if "secretRef" in entry}
    sources = [entry.get("valueFrom", {}) for c in containers for entry in c.get("env", [])]
    seen |= {source["secretKeyRef"]["name"] for source in sources if "secretKeyRef" in source}
    yield from (f"Secret {name}: not for {component}" for name in sorted(seen - SECRETS.get(component, set())))


def _written(spec: dict[str, Any]) -> Iterator[str]:
    """Folders of the node's disk: bounded, together within what the pod asks for, and where programs write."""
    folders = {volume["name"]: volume["emptyDir"] for volume in spec.get("volumes", []) if "emptyDir" in volume}
    yield from (f"volume {name}: give emptyDir.sizeLimit" for name, of in folders.items() if "sizeLimit" not in of)
    asked = [c.get("resources", {}).get("limits", {}).get("ephemeral-storage", "0") for c in spec["containers"]]
    held = [of.get("sizeLimit", "0") for of in folders.values()]
    if sum(map(_bytes, held)) >= sum(map(_bytes, asked)):
        yield f"ephemeral-storage: {' + '.join(asked)} has no room for volumes of {' + '.join(held)} and the logs"
    for container in _containers(spec):
        mounted = {m["mountPath"] for m in container.get("volumeMounts", []) if m["name"] in folders}
        given = {entry["name"]: entry.get("value") for entry in container.get("env", [])}
        yield from (
            f"{container['name']}: {name} is {given.get(name)}: name an emptyDir that is mounted"
            for name in ("HOME", "TMPDIR")
            if given.get(name) not in mounted
        )
        if "/tmp" not in mounted:
            yield f"{container['name']}: mount an emptyDir on /tmp"


def _bytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)?", quantity).groups()
    return int(number) * {None: 1, "Mi": 2**20, "Gi": 2**30}[unit]


def _image(image: str) -> Iterator[str]:
    name, _, tag = image.rpartition("/")[2].partition(":")
    if "@sha256:" in image:
        return
    if not re.search(r"\d", tag):
        yield f"image {image}: name a version"
    if name == "dist-condense" and image not in OURS:
        yield f"image {image}: the package is {VERSION}"


def _made(spec: dict[str, Any], made: set[tuple[str, str]]) -> Iterator[str]:
    account, volumes = spec.get("serviceAccountName"), spec.get("volumes", [])
    if ("ServiceAccount", account) not in made:
        yield f"there is no ServiceAccount {account}"
    names = {volume["name"] for volume in volumes} | {name for kind, name in made if kind == "volume"}
    for volume in volumes:
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        if claim and claim not in YOURS and ("PersistentVolumeClaim", claim) not in made:
            yield f"volume {volume['name']}: there is no claim {claim}"
        config = volume.get("configMap", {}).get("name")
        if config and ("ConfigMap", config) not in made:
            yield f"volume {volume['name']}: there is no ConfigMap {config}"
        if not set(volume) - {"name"} <= VOLUMES:
            yield f"volume {volume['name']}: not of a kind that belongs here ({', '.join(sorted(VOLUMES))})"
        if "medium" in volume.get("emptyDir", {}):
            yield f"volume {volume['name']}: emptyDir.medium takes the container's memory"
    for container in _containers(spec):
        mounts = [mount["name"] for mount in container.get("volumeMounts", [])]
        yield from (f"{container['name']}: there is no volume {mount}" for mount in mounts if mount not in names)
