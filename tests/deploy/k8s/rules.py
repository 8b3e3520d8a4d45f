"""Rules that no schema contains: those of KubeRay's controller (v1.7.0), and limits on access and duration."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any

from tests.deploy.k8s import pod_rules
from tests.deploy.k8s.manifests import ROOT, Manifest, pods

RAY = re.search(r"(?m)^ray==(\S+)$", (ROOT / "constraints.txt").read_text()).group(1)

GATED = {"deletionStrategy", "networkPolicy", "tlsOptions", "gcsFaultToleranceOptions", "historyServerOptions"}
GATED |= {"upgradeStrategy"}
"""Fields of a RayJob or its cluster that an operator with default settings refuses, or that are alpha."""
WORD = re.compile(r"[\w./:=,@+-]+")
"""Words that a shell does not change. KubeRay puts the entrypoint unquoted into a line for the submitter's bash."""

RESTRICTED = "pod-security.kubernetes.io"
POD_SECURITY = "v1.35"
"""The newest version that KubeRay 1.7.0 is tested on throughout; the schemas may be of a newer one."""
SHORTEST_PREFIX = {4: 12, 6: 32}
"""By version of IP. Clouds publish ranges of their stores with 15 bits and more."""
NODE_DNS = ipaddress.ip_network("169.254.20.10/32")
CREDENTIALS = [
    ipaddress.ip_network(block)
    for block in ("169.254.0.0/16", "fe80::/10", "fd00:ec2::/32", "168.63.129.16", "100.100.100.200", "fd20:ce::254")
]
"""Addresses that give out a node's credentials: link-local ones; AWS by IPv6; Azure; Alibaba; Google by IPv6."""
LIMITS = ("backoffLimit", "ttlSecondsAfterFinished", "activeDeadlineSeconds")
"""Keys that a Job and a RayJob need."""


def problems(manifests: list[Manifest]) -> Iterator[str]:
    """Yield a line for each broken rule, including those of pods."""
    for manifest in manifests:
        name = f"{manifest['kind']}/{manifest['metadata']['name']}"
        yield from (f"{name}: {problem}" for problem in KINDS.get(manifest["kind"], _unknown)(manifest))
        if manifest["kind"] != "Namespace" and manifest["metadata"].get("namespace") != "dist-condense":
            yield f"{name}: outside of the namespace"
    yield from pod_rules.problems(manifests)
    labels = [pod["metadata"]["labels"].items() for _, pod in pods(manifests)]
    for service in (m for m in manifests if m["kind"] == "Service"):
        if not any(service["spec"]["selector"].items() <= of_pod for of_pod in labels):
            yield f"Service/{service['metadata']['name']}: selects no pod"


def _rayjob(manifest: Manifest) -> Iterator[str]:
    spec, cluster = manifest["spec"], manifest["spec"]["rayClusterSpec"]
    yield from (f"{key}: a stock operator refuses it" for key in sorted(GATED & (spec.keys() | cluster.keys())))
    yield from _limits(spec, *LIMITS, "preRunningDeadlineSeconds")
    if not spec.get("shutdownAfterJobFinishes"):
        yield "shutdownAfterJobFinishes: true; ttlSecondsAfterFinished and suspend need it"
    if "submitterPodTemplate" not in spec:
        yield "submitterPodTemplate: the default one is not a restricted pod"
    if not all(WORD.fullmatch(word) for word in spec["entrypoint"].split()):
        yield "entrypoint: a shell would change it"
    yield from _cluster(cluster)


def _cluster(spec: dict[str, Any]) -> Iterator[str]:
    if spec.get("authOptions", {}).get("mode") != "token":
        yield "authOptions.mode: token, because the job API runs code"
    if spec.get("rayVersion") != RAY:
        yield f"rayVersion: the image has {RAY}"
    head = spec["headGroupSpec"]
    if head.get("serviceType") != "ClusterIP" or head.get("enableIngress"):
        yield "headGroupSpec: the dashboard is for ClusterIP only"
    if head.get("rayStartParams", {}).get("num-cpus") != "0":
        yield "headGroupSpec.rayStartParams: num-cpus '0' keeps work off the head"
    for group in spec["workerGroupSpecs"]:
        if not group.get("replicas") == group.get("minReplicas") == group.get("maxReplicas"):
            yield f"{group['groupName']}: replicas, minReplicas and maxReplicas differ"


def _limits(spec: dict[str, Any], *keys: str) -> Iterator[str]:
    yield from (f"{key}: give a positive number" for key in keys if spec.get(key, 0) <= 0)


def _job(manifest: Manifest) -> Iterator[str]:
    yield from _limits(manifest["spec"], *LIMITS)


def _server(manifest: Manifest) -> Iterator[str]:
    for container in manifest["spec"]["template"]["spec"]["containers"]:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe not in container:
                yield f"{container['name']}.{probe}: is missing"


def _service(manifest: Manifest) -> Iterator[str]:
    if manifest["spec"].get("type") != "ClusterIP":
        yield "type: ClusterIP; no Service is reachable from outside of the cluster"


def _namespace(manifest: Manifest) -> Iterator[str]:
    """Check the labels of pod security; a version that is not pinned would change with the cluster."""
    labels = manifest["metadata"].get("labels", {})
    for mode in ("enforce", "warn", "audit"):
        for label, value in ((f"{RESTRICTED}/{mode}", "restricted"), (f"{RESTRICTED}/{mode}-version", POD_SECURITY)):
            if labels.get(label) != value:
                yield f"labels: {label}={value}"


def _policy(manifest: Manifest) -> Iterator[str]:
    """Check ranges of addresses; test_network.py checks everything else that a policy opens."""
    spec = manifest["spec"]
    rules = [*spec.get("ingress", []), *spec.get("egress", [])]
    peers = [peer for rule in rules for peer in [*rule.get("from", []), *rule.get("to", [])]]
    yield from (problem for peer in peers if "ipBlock" in peer for problem in _block(peer["ipBlock"]))


def _block(peer: dict[str, Any]) -> Iterator[str]:
    block = ipaddress.ip_network(peer["cidr"])
    excluded = [ipaddress.ip_network(cidr) for cidr in peer.get("except", [])]
    if block.prefixlen < SHORTEST_PREFIX[block.version]:
        yield f"ipBlock {block}: too wide; name the addresses of the service"
    for place in CREDENTIALS if block != NODE_DNS else []:
        if block.overlaps(place) and not any(place.subnet_of(hole) for hole in excluded):
            yield f"ipBlock {block}: overlaps {place}, which gives out the node's credentials"


def _known(_: Manifest) -> Iterator[str]:
    return iter(())


def _unknown(manifest: Manifest) -> Iterator[str]:
    """Refuse any other kind, such as Secret, Ingress and roles."""
    yield "is not a kind that belongs here"


KINDS = {
    "ConfigMap": _known,
    "Deployment": _server,
    "Job": _job,
    "Namespace": _namespace,
    "NetworkPolicy": _policy,
    "PersistentVolumeClaim": _known,
    "RayJob": _rayjob,
    "Service": _service,
    "ServiceAccount": _known,
    "StatefulSet": _server,
}
