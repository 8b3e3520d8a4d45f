"""Faults planted in valid manifests: each must be reported."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.k8s import rules, schemas
from tests.deploy.k8s.manifests import Manifest, config_map, head, only, rendered

FREE = {"data", "labels", "matchLabels", "selector", "requests", "limits", "annotations", "rayStartParams", "drop"}
"""Maps with free keys."""


def every_kind() -> dict[str, Manifest]:
    return {manifest["kind"]: manifest for manifest in [*rendered("prepare"), *rendered("s3")]}


def keys(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield the path of every key that a schema names."""
    if isinstance(value, list):
        for i, entry in enumerate(value):
            yield from keys(entry, (*path, i))
    if isinstance(value, dict):
        for key, below in value.items():
            yield (*path, key)
            if key not in FREE or "matchLabels" in below:
                yield from keys(below, (*path, key))


def misspelt(manifest: Manifest, path: tuple) -> Manifest:
    copied = copy.deepcopy(manifest)
    parent = copied
    for key in path[:-1]:
        parent = parent[key]
    parent[f"{path[-1]}s"] = parent.pop(path[-1])
    return copied


@pytest.mark.parametrize("kind", sorted(rules.KINDS))
def test_every_misspelt_key_is_reported(kind: str, crds_dir: Path) -> None:
    manifest = every_kind()[kind]
    paths = {path[-1]: path for path in keys(manifest)}
    assert {"kind", "metadata", "name"} <= set(paths)
    unseen = [path for path in paths.values() if not list(schemas.problems(misspelt(manifest, path), crds_dir))]
    assert unseen == []


def test_a_value_of_another_type_is_reported(crds_dir: Path) -> None:
    job = only(rendered("gpu"), "RayJob")
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] = "8"
    job["spec"]["rayClusterSpec"]["authOptions"]["mode"] = "tokens"
    problems = list(schemas.problems(job, crds_dir))
    assert len(problems) == 2 and "replicas: '8' is not of type 'integer'" in "".join(problems)


# --- rules ----------------------------------------------------------------------------------------------------------


def job(manifests: list[Manifest]) -> dict[str, Any]:
    return only(manifests, "RayJob")["spec"]


def cluster(manifests: list[Manifest]) -> dict[str, Any]:
    return job(manifests)["rayClusterSpec"]


def group(manifests: list[Manifest]) -> dict[str, Any]:
    return cluster(manifests)["workerGroupSpecs"][0]


def server(manifests: list[Manifest]) -> dict[str, Any]:
    return only(manifests, "Deployment")["spec"]["template"]["spec"]


def submitter(manifests: list[Manifest]) -> dict[str, Any]:
    return job(manifests)["submitterPodTemplate"]["spec"]["containers"][0]


def address(manifests: list[Manifest], cidr: str) -> None:
    """Allow a range of addresses to the policy of names."""
    policy(manifests, "names")["egress"][0]["to"][-1]["ipBlock"].update(cidr=cidr)


def tmp(manifests: list[Manifest]) -> dict[str, Any]:
    (volume,) = (volume["emptyDir"] for volume in server(manifests)["volumes"] if volume["name"] == "tmp")
    return volume


def policy(manifests: list[Manifest], name: str) -> dict[str, Any]:
    return only(manifests, "NetworkPolicy", name)["spec"]


PLANTS: dict[str, Callable[[list[Manifest]], object]] = {
    "shutdownAfterJobFinishes: true": lambda m: job(m).pop("shutdownAfterJobFinishes"),
    "rayVersion: the image has": lambda m: cluster(m).update(rayVersion="2.59.0"),
    "authOptions.mode": lambda m: cluster(m).pop("authOptions"),
    "networkPolicy: a stock operator refuses it": lambda m: cluster(m).update(networkPolicy={}),
    "deletionStrategy: a stock operator refuses it": lambda m: job(m).update(deletionStrategy={}),
    "replicas, minReplicas and maxReplicas differ": lambda m: group(m).update(maxReplicas=9),
    "num-cpus '0'": lambda m: cluster(m)["headGroupSpec"].update(rayStartParams={}),
    "backoffLimit: give a positive number": lambda m: job(m).pop("backoffLimit"),
    "preRunningDeadlineSeconds: give a positive number": lambda m: job(m).pop("preRunningDeadlineSeconds"),
    "submitterPodTemplate: the default one": lambda m: job(m).pop("submitterPodTemplate"),
    "entrypoint: a shell would change it": lambda m: job(m).update(entrypoint="python -m x; y=$HOME"),
    "the dashboard is for ClusterIP only": lambda m: cluster(m)["headGroupSpec"].update(serviceType="NodePort"),
    "image dist-condense:latest: neither": lambda m: head(m).update(image="dist-condense:latest"),
    "image postgres:17.6-bookworm: neither": lambda m: head(m).update(image="postgres:17.6-bookworm"),
    "image dist-condense:0.0.9: neither": lambda m: head(m).update(image="dist-condense:0.0.9"),
    "env.AWS_SECRET_ACCESS_KEY: a secret in plain text": lambda m: head(m)["env"].append(
        {"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}
    ),
    "env.URI: a secret in plain text": lambda m: head(m)["env"].append(
        {"name": "URI", "value": "postgres://me:x@db/a"}
    ),
    "requests and limits differ": lambda m: head(m)["resources"]["requests"].update(cpu="1"),
    "resources.requests: cpu, memory and ephemeral-storage": lambda m: head(m).pop("resources"),
    "give emptyDir.sizeLimit": lambda m: tmp(m).pop("sizeLimit"),
    "ephemeral-storage: 6Gi has no room for volumes of 6Gi": lambda m: tmp(m).update(sizeLimit="6Gi"),
    "runAsNonRoot and runAsUser": lambda m: server(m)["securityContext"].pop("runAsNonRoot"),
    "seccompProfile: RuntimeDefault": lambda m: server(m)["securityContext"].pop("seccompProfile"),
    "hostNetwork: shares the node's": lambda m: server(m).update(hostNetwork=True),
    "Deployment/mlflow: automountServiceAccountToken: false": lambda m: server(m).pop("automountServiceAccountToken"),
    "serviceAccountName: mlflow, one for each role": lambda m: server(m).update(serviceAccountName="default"),
    "there is no ServiceAccount mlflow": lambda m: m.remove(only(m, "ServiceAccount", "mlflow")),
    "enableServiceLinks: false": lambda m: server(m).pop("enableServiceLinks"),
    "there is no volume cache": lambda m: head(m)["volumeMounts"].append({"name": "cache", "mountPath": "/cache"}),
    "there is no PersistentVolumeClaim output": lambda m: m.remove(only(m, "PersistentVolumeClaim", "output")),
    "volume token: only": lambda m: server(m)["volumes"].append(
        {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
    ),
    "volume driver: only": lambda m: server(m)["volumes"].append(
        {"name": "driver", "csi": {"driver": "secrets-store.csi.k8s.io"}}
    ),
    "volume tmp: emptyDir.medium": lambda m: tmp(m).update(medium="Memory"),
    "late: securityContext": lambda m: server(m).update(
        initContainers=[{"name": "late", "image": "postgres:17.6-bookworm"}]
    ),
    "there is no ConfigMap": lambda m: m.remove(config_map(m, "configs")),
    "livenessProbe: is missing": lambda m: server(m)["containers"][0].pop("livenessProbe"),
    "type: ClusterIP": lambda m: only(m, "Service", "mlflow")["spec"].update(type="LoadBalancer"),
    "Service/mlflow: selects no pod": lambda m: m.remove(only(m, "Deployment")),
    "pod-security.kubernetes.io/enforce=restricted": lambda m: only(m, "Namespace")["metadata"].pop("labels"),
    "pod-security.kubernetes.io/enforce-version=v": lambda m: only(m, "Namespace")["metadata"]["labels"].update(
        {"pod-security.kubernetes.io/enforce-version": "latest"}
    ),
    "ipBlock 0.0.0.0/0: too wide": lambda m: address(m, "0.0.0.0/0"),
    "ipBlock 128.0.0.0/1: too wide": lambda m: address(m, "128.0.0.0/1"),
    "ipBlock ::/0: too wide": lambda m: address(m, "::/0"),
    "ipBlock 169.254.0.0/16: overlaps 169.254.0.0/16": lambda m: address(m, "169.254.0.0/16"),
    "ipBlock 169.254.170.23/32: overlaps 169.254.0.0/16": lambda m: address(m, "169.254.170.23/32"),
    "ipBlock 169.254.20.0/24: overlaps 169.254.0.0/16": lambda m: address(m, "169.254.20.0/24"),
    "ipBlock 169.240.0.0/12: overlaps 169.254.0.0/16": lambda m: address(m, "169.240.0.0/12"),
    "ipBlock fe80::1/128: overlaps fe80::/10": lambda m: address(m, "fe80::1/128"),
    "ipBlock fd00:ec2::23/128: overlaps fd00:ec2::/32": lambda m: address(m, "fd00:ec2::23/128"),
    "ipBlock 100.100.0.0/16: overlaps 100.100.100.200": lambda m: address(m, "100.100.0.0/16"),
    "Secret s3-worker: not for head": lambda m: head(m).update(envFrom=[{"secretRef": {"name": "s3-worker"}}]),
    "Secret mlflow-database: not for submitter": lambda m: submitter(m)["env"].append(
        {"name": "X", "valueFrom": {"secretKeyRef": {"name": "mlflow-database", "key": "password"}}}
    ),
    "outside of the namespace": lambda m: only(m, "Deployment")["metadata"].update(namespace="default"),
    "is not a kind that belongs here": lambda m: m.append(
        {"kind": "Secret", "metadata": {"name": "x", "namespace": "dist-condense"}}
    ),
}


@pytest.mark.parametrize("message", PLANTS)
def test_a_broken_rule_is_reported(message: str) -> None:
    manifests = rendered("gpu")
    PLANTS[message](manifests)
    assert [problem for problem in rules.problems(manifests) if message in problem]


CONTAINER: dict[str, Callable[[Manifest], object]] = {
    "no emptyDir on /tmp": lambda c: c["volumeMounts"].pop(),
    "another HOME": lambda c: c["env"][-2].update(value="/home/condense"),
    "no TMPDIR": lambda c: c["env"].pop(),
    "escalation": lambda c: c["securityContext"].pop("allowPrivilegeEscalation"),
    "privileged": lambda c: c["securityContext"].update(privileged=True),
    "capabilities": lambda c: c["securityContext"].pop("capabilities"),
    "a root that can be written": lambda c: c["securityContext"].pop("readOnlyRootFilesystem"),
}


@pytest.mark.parametrize("fault", CONTAINER)
def test_a_container_that_may_do_more_or_cannot_write_is_reported(fault: str) -> None:
    manifests = rendered("gpu")
    CONTAINER[fault](head(manifests))
    (problem,) = rules.problems(manifests)
    assert problem.startswith("RayJob/dist-condense head: ray: ")


@pytest.mark.parametrize(("holes", "count"), [(["168.63.129.16/32"], 0), (["168.63.130.0/24"], 1)])
def test_a_range_may_exclude_the_addresses_of_credentials(holes: list[str], count: int) -> None:
    """As published ranges of Azure's stores need it."""
    manifests = rendered("gpu")
    policy(manifests, "names")["egress"][0]["to"][-1]["ipBlock"].update({"cidr": "168.63.0.0/16", "except": holes})
    assert len(list(rules.problems(manifests))) == count


def test_a_job_without_an_end_is_reported() -> None:
    manifests = rendered("prepare")
    only(manifests, "Job")["spec"].pop("activeDeadlineSeconds")
    assert list(rules.problems(manifests)) == ["Job/prepare: activeDeadlineSeconds: give a positive number"]
