"""Rules for every pod: restricted security, explicit resources, pinned images, existing references, hidden secrets."""

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
"""Secrets that a component may read; commands of k8s/README.md make them."""
YOURS = ("PersistentVolumeClaim", "raw")
"""The claim that the user provides."""

SECURITY = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
"""The security context of every container."""
VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim"}
"""Other kinds show a path of the node, a secret or a token as a file, or depend on a driver of the node."""


def problems(manifests: list[Manifest]) -> Iterator[str]:
    """Yield a line for each broken rule."""
    existing = {(m["kind"], m["metadata"]["name"]) for m in manifests} | {YOURS}
    for manifest in manifests:
        claims = manifest.get("spec", {}).get("volumeClaimTemplates", [])
        templates = {claim["metadata"]["name"] for claim in claims}
        for name, pod in pods([manifest]):
            checks = (_pod(pod), _secrets(pod), _written(pod["spec"]), _references(pod["spec"], existing, templates))
            yield from (f"{name}: {problem}" for check in checks for problem in check)


def _containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [*spec["containers"], *spec.get("initContainers", [])]


def _pod(pod: Manifest) -> Iterator[str]:
    spec, component = pod["spec"], pod["metadata"]["labels"][COMPONENT]
    if spec.get("serviceAccountName") != component:
        yield f"serviceAccountName: {component}, one for each role"
    if spec.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken: false; no pod here uses the API server"
    if spec.get("enableServiceLinks") is not False:
        yield "enableServiceLinks: false; links of the Service `mlflow` would set MLFLOW_PORT"
    security = spec.get("securityContext", {})
    if not (security.get("runAsNonRoot") and security.get("runAsUser")):
        yield "securityContext: runAsNonRoot and runAsUser"
    if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "securityContext.seccompProfile: RuntimeDefault"
    yield from (f"{key}: shares the node's" for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key))
    for container in _containers(spec):
        yield from (f"{container['name']}: {problem}" for problem in _container(container))


def _container(container: dict[str, Any]) -> Iterator[str]:
    resources, image = container.get("resources", {}), container["image"]
    if container.get("securityContext") != SECURITY:
        yield f"securityContext: {SECURITY}"
    if not {"cpu", "memory", "ephemeral-storage"} <= set(resources.get("requests", {})):
        yield "resources.requests: cpu, memory and ephemeral-storage"
    if resources.get("requests") != resources.get("limits"):
        yield "resources: requests and limits differ"
    if image not in OURS and "@sha256:" not in image:
        yield f"image {image}: neither version {VERSION} of the package nor pinned by digest"
    for entry in container.get("env", []):
        if "value" in entry and (SECRET.search(entry["name"]) or re.search(r"://[^/]*:[^/]*@", entry["value"])):
            yield f"env.{entry['name']}: a secret in plain text; use secretKeyRef"


def _secrets(pod: Manifest) -> Iterator[str]:
    component, containers = pod["metadata"]["labels"][COMPONENT], _containers(pod["spec"])
    names = {entry["secretRef"]["name"] for c in containers for entry in c.get("envFrom", []) if "secretRef" in entry}
    sources = [entry.get("valueFrom", {}) for c in containers for entry in c.get("env", [])]
    names |= {source["secretKeyRef"]["name"] for source in sources if "secretKeyRef" in source}
    yield from (f"Secret {name}: not for {component}" for name in sorted(names - SECRETS.get(component, set())))


def _written(spec: dict[str, Any]) -> Iterator[str]:
    """Check that emptyDirs are bounded, fit the pod's ephemeral storage, and include /tmp as HOME and TMPDIR."""
    folders = {volume["name"]: volume["emptyDir"] for volume in spec.get("volumes", []) if "emptyDir" in volume}
    yield from (f"volume {name}: give emptyDir.sizeLimit" for name, of in folders.items() if "sizeLimit" not in of)
    yield from (
        f"volume {name}: emptyDir.medium takes the container's memory" for name, of in folders.items() if "medium" in of
    )
    limits = [c.get("resources", {}).get("limits", {}).get("ephemeral-storage", "0") for c in spec["containers"]]
    sizes = [of.get("sizeLimit", "0") for of in folders.values()]
    if sum(map(_bytes, sizes)) >= sum(map(_bytes, limits)):
        yield f"ephemeral-storage: {' + '.join(limits)} has no room for volumes of {' + '.join(sizes)} and the logs"
    for container in _containers(spec):
        mounted = {m["mountPath"] for m in container.get("volumeMounts", []) if m["name"] in folders}
        variables = {entry["name"]: entry.get("value") for entry in container.get("env", [])}
        if "/tmp" not in mounted or not variables.get("HOME") == variables.get("TMPDIR") == "/tmp":
            yield f"{container['name']}: HOME and TMPDIR are /tmp, an emptyDir; the root file system is read-only"


def _bytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)?", quantity).groups()
    return int(number) * {None: 1, "Mi": 2**20, "Gi": 2**30}[unit]


def _references(spec: dict[str, Any], existing: set[tuple[str, str]], templates: set[str]) -> Iterator[str]:
    """Check that accounts, claims, ConfigMaps and volumes exist, and that volumes are of an allowed kind."""
    volumes = spec.get("volumes", [])
    names = [("ServiceAccount", spec.get("serviceAccountName"))]
    names += [
        ("PersistentVolumeClaim", v["persistentVolumeClaim"]["claimName"])
        for v in volumes
        if "persistentVolumeClaim" in v
    ]
    names += [("ConfigMap", v["configMap"]["name"]) for v in volumes if "configMap" in v]
    yield from (f"there is no {kind} {name}" for kind, name in names if (kind, name) not in existing)
    known = {volume["name"] for volume in volumes} | templates
    mounts = [mount["name"] for container in _containers(spec) for mount in container.get("volumeMounts", [])]
    yield from (f"there is no volume {mount}" for mount in mounts if mount not in known)
    for volume in volumes:
        if not set(volume) - {"name"} <= VOLUMES:
            yield f"volume {volume['name']}: only {', '.join(sorted(VOLUMES))}"
