"""What no schema holds: rules of KubeRay's controller (v1.7.0), and what must not be open or without an end."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any

from tests.deploy.k8s import pod_rules
from tests.deploy.k8s.manifests import ROOT, Manifest, pods

RAY = re.search(r"(?m)^ray==(\S+)$", (ROOT / "constraints.txt").read_text()).group(1)

REFUSED = ("networkPolicy", "tlsOptions", "gcsFaultToleranceOptions", "historyServerOptions", "upgradeStrategy")
"""Parts of a cluster that a stock operator refuses in a RayJob, or that are alpha."""
RESOURCES = ("num-cpus", "num-gpus", "memory", "resources")
WORD = re.compile(r"[\w./:=,@+-]+")
"""What a shell leaves alone. KubeRay puts the entrypoint unquoted into a line for the submitter's bash."""

RESTRICTED = "pod-security.kubernetes.io"
POD_SECURITY = "v1.35"
"""The newest that KubeRay 1.7.0 is tested on throughout; the schemas may be of a newer one."""
NAMESPACE = "kubernetes.io/metadata.name"
NARROW = {4: 12, 6: 32}
"""The shortest prefix by version of IP: clouds publish ranges of their stores of 15 bits and more."""
NODE = tuple(map(ipaddress.ip_network, ("169.254.0.0/16", "fe80::/10", "fd00:ec2::/32")))
"""Of the node's own link: what gives out credentials lives there, under more addresses than a list holds."""
NODE_DNS = ipaddress.ip_network("169.254.20.10/32")
METADATA = ("168.63.129.16", "100.100.100.200", "fd20:ce::254")
"""What is elsewhere: of Azure; Alibaba; Google by IPv6."""
POSITIVE = ("backoffLimit", "ttlSecondsAfterFinished", "activeDeadlineSeconds")
"""Asked of whatever ends."""


def problems(manifests: list[Manifest]) -> Iterator[str]:
    """One line for each rule that is broken, those of pods too."""
    for manifest in manifests:
        told = f"{manifest['kind']}/{manifest['metadata']['name']}"
        yield from (f"{told}: {problem}" for problem in KINDS.get(manifest["kind"], _unknown)(manifest))
        if manifest["kind"] != "Namespace" and manifest["metadata"].get("namespace") != "dist-condense":
            yield f"{told}: outside of the namespace"
    yield from pod_rules.problems(manifests)
    yield from _together(manifests)


def _together(manifests: list[Manifest]) -> Iterator[str]:
    labels = [pod["metadata"]["labels"].items() for _, pod in pods(manifests)]
    for service in (m for m in manifests if m["kind"] == "Service"):
        if not any(service["spec"]["selector"].items() <= of_pod for of_pod in labels):
            yield f"Service/{service['metadata']['name']}: selects no pod"
    denied = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    if not any(m["kind"] == "NetworkPolicy" and m["spec"] == denied for m in manifests):
        yield "NetworkPolicy: none that denies what no other allows"


# --- KubeRay --------------------------------------------------------------------------------------------------------


def _rayjob(manifest: Manifest) -> Iterator[str]:
    name, spec = manifest["metadata"]["name"], manifest["spec"]
    if len(name) > 47 or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield "name: at most 47 small letters, digits and '-', a letter first"
    for key in ("ttlSecondsAfterFinished", "suspend"):
        if spec.get(key) and not spec.get("shutdownAfterJobFinishes"):
            yield f"{key}: needs shutdownAfterJobFinishes"
    yield from _ends(spec, *POSITIVE, "preRunningDeadlineSeconds")
    if "deletionStrategy" in spec:
        yield "deletionStrategy: a stock operator refuses it"
    if "submitterPodTemplate" not in spec:
        yield "submitterPodTemplate: the default one is not a restricted pod"
    if not all(WORD.fullmatch(word) for word in spec["entrypoint"].split()):
        yield "entrypoint: a shell would change it"
    yield from _cluster(spec["rayClusterSpec"])


def _cluster(spec: dict[str, Any]) -> Iterator[str]:
    yield from (f"{key}: a stock operator refuses it" for key in REFUSED if key in spec)
    if spec.get("authOptions", {}).get("mode") != "token":
        yield "authOptions.mode: whoever reaches the job API runs code; set token"
    if tuple(map(int, spec.get("rayVersion", "0.0").split(".")[:2])) < (2, 52):
        yield "rayVersion: a token needs 2.52"
    if spec.get("rayVersion") != RAY:
        yield f"rayVersion: the image holds {RAY}"
    head = spec["headGroupSpec"]
    if head.get("serviceType") != "ClusterIP" or head.get("enableIngress"):
        yield "headGroupSpec: the dashboard is for ClusterIP only"
    if head.get("rayStartParams", {}).get("num-cpus") != "0":
        yield "headGroupSpec.rayStartParams: num-cpus '0' keeps work off the head"
    for group in [head, *spec["workerGroupSpecs"]]:
        if group.get("resources") and any(key in group.get("rayStartParams", {}) for key in RESOURCES):
            yield "resources: not together with those of rayStartParams"
    for group in spec["workerGroupSpecs"]:
        if not group.get("replicas") == group.get("minReplicas") == group.get("maxReplicas"):
            yield f"{group['groupName']}: replicas, minReplicas and maxReplicas differ"


# --- the other kinds ------------------------------------------------------------------------------------------------


def _ends(spec: dict[str, Any], *keys: str) -> Iterator[str]:
    yield from (f"{key}: give a positive number" for key in keys if spec.get(key, 0) <= 0)


def _job(manifest: Manifest) -> Iterator[str]:
    yield from _ends(manifest["spec"], *POSITIVE)


def _server(manifest: Manifest) -> Iterator[str]:
    for container in manifest["spec"]["template"]["spec"]["containers"]:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe not in container:
                yield f"{container['name']}.{probe}: is missing"


def _service(manifest: Manifest) -> Iterator[str]:
    if manifest["spec"].get("type") != "ClusterIP":
        yield "type: ClusterIP; nothing is reached from outside of the cluster"


def _account(manifest: Manifest) -> Iterator[str]:
    if manifest.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken: false, nobody here talks to the API server"


def _namespace(manifest: Manifest) -> Iterator[str]:
    """A version that is not pinned means another with each update of the cluster."""
    labels = manifest["metadata"].get("labels", {})
    for mode in ("enforce", "warn", "audit"):
        for label, value in ((f"{RESTRICTED}/{mode}", "restricted"), (f"{RESTRICTED}/{mode}-version", POD_SECURITY)):
            if labels.get(label) != value:
                yield f"labels: {label}={value}"


def _policy(manifest: Manifest) -> Iterator[str]:
    """What it opens is open to some, who are named: a label alone is anybody's to take in a namespace of theirs."""
    spec = manifest["spec"]
    for side, key in (("ingress", "from"), ("egress", "to")):
        for rule in spec.get(side, []):
            if not rule.get(key):
                yield f"{side}: open to everybody"
            yield from (f"{side}: {told}" for peer in rule.get(key, []) for told in _peer(peer))
            if not rule.get("ports") and any(peer.keys() != {"podSelector"} for peer in rule.get(key, [])):
                yield f"{side}: name the ports"


def _peer(peer: dict[str, Any]) -> Iterator[str]:
    if "namespaceSelector" in peer:
        if set(peer["namespaceSelector"].get("matchLabels", {})) != {NAMESPACE}:
            yield f"namespaceSelector: name one by {NAMESPACE}"
        if not peer.get("podSelector"):
            yield "namespaceSelector: name its pods by a podSelector"

    if "ipBlock" in peer:
        block = ipaddress.ip_network(peer["ipBlock"]["cidr"])
        but = [ipaddress.ip_network(cidr) for cidr in peer["ipBlock"].get("except", [])]
        if block.prefixlen < NARROW[block.version]:
            yield f"ipBlock {block}: half the world; name the addresses of whom it is for"
        for link in NODE if block != NODE_DNS else ():
            shared = link if link.prefixlen > block.prefixlen else block
            if block.overlaps(link) and not any(
                out.overlaps(shared) and out.prefixlen <= shared.prefixlen for out in but
            ):
                yield f"ipBlock {block}: overlaps {link}, which gives out the node's credentials"
        for address in map(ipaddress.ip_address, METADATA):
            if address in block and not any(address in out for out in but):
                yield f"ipBlock {block}: holds {address}, which gives out the node's credentials"


def _known(_: Manifest) -> Iterator[str]:
    return iter(())


def _unknown(manifest: Manifest) -> Iterator[str]:
    """Also Secret, Ingress and what gives rights."""
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
    "ServiceAccount": _account,
    "StatefulSet": _server,
}
