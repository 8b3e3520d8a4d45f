"""Mistakes that are planted in good manifests: each must be told."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.k8s import rules, schemas
from tests.deploy.k8s.manifests import Manifest, config_map, head, only, rendered

FREE = {"data", "labels", "matchLabels", "selector", "requests", "limits", "annotations", "rayStartParams", "drop"}
"""Maps whose keys are anybody's."""


def every_kind() -> dict[str, Manifest]:
    return {manifest["kind"]: manifest for manifest in [*rendered("prepare"), *rendered("s3")]}


def keys(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The place of every key that a schema names."""
    if isinstance(value, list):
        for i, entry in enumerate(value):
            yield from keys(entry, (*path, i))
    if isinstance(value, dict):
        for key, below in value.items():
            yield (*path, key)
            if key not in FREE or "matchLabels" in below:
                yield from keys(below, (*path, key))


def misspelt(manifest: Manifest, path: tuple) -> Manifest:
    made = copy.deepcopy(manifest)
    place = made
    for key in path[:-1]:
        place = place[key]
    place[f"{path[-1]}s"] = place.pop(path[-1])
    return made


@pytest.mark.parametrize("kind", sorted(rules.KINDS))
def test_every_misspelt_key_is_told(kind: str, crds_dir: Path) -> None:
    manifest = every_kind()[kind]
    places = {path[-1]: path for path in keys(manifest)}
    assert {"kind", "metadata", "name"} <= set(places)
    unseen = [path for path in places.values() if not list(schemas.problems(misspelt(manifest, path), crds_dir))]
    assert unseen == []


def test_a_value_of_another_type_is_told(crds_dir: Path) -> None:
    job = only(rendered("gpu"), "RayJob")
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] = "8"
    job["spec"]["rayClusterSpec"]["authOptions"]["mode"] = "tokens"
    told = list(schemas.problems(job, crds_dir))
    assert len(told) == 2 and "replicas: '8' is not of type 'integer'" in told[1] + told[0]


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
    """Whom everybody may ask for names."""
    policy(manifests, "names")["egress"][0]["to"][-1]["ipBlock"].update(cidr=cidr)


def tmp(manifests: list[Manifest]) -> dict[str, Any]:
    (found,) = (volume["emptyDir"] for volume in server(manifests)["volumes"] if volume["name"] == "tmp")
    return found


def policy(manifests: list[Manifest], name: str) -> dict[str, Any]:
    return only(manifests, "NetworkPolicy", name)["spec"]


def peer(manifests: list[Manifest], name: str) -> dict[str, Any]:
    """The last of those that it lets in."""
    return policy(manifests, name)["ingress"][0]["from"][-1]


PLANTS: dict[str, Callable[[list[Manifest]], object]] = {
    "ttlSecondsAfterFinished: needs shutdownAfterJobFinishes": lambda m: job(m).pop("shutdownAfterJobFinishes"),
    "name: at most 47": lambda m: only(m, "RayJob")["metadata"].update(name="a" * 48),
    "resources: not together with those of rayStartParams": lambda m: cluster(m)["headGroupSpec"].update(
        resources={"CPU": "0"}
    ),
    "rayVersion: a token needs 2.52": lambda m: cluster(m).update(rayVersion="2.51.0"),
    "rayVersion: the image holds": lambda m: cluster(m).update(rayVersion="2.59.0"),
    "authOptions.mode": lambda m: cluster(m).pop("authOptions"),
    "networkPolicy: a stock operator refuses it": lambda m: cluster(m).update(networkPolicy={}),
    "deletionStrategy: a stock operator refuses it": lambda m: job(m).update(deletionStrategy={}),
    "replicas, minReplicas and maxReplicas differ": lambda m: group(m).update(maxReplicas=9),
    "num-cpus '0'": lambda m: cluster(m)["headGroupSpec"].update(rayStartParams={}),
    "backoffLimit: give a positive number": lambda m: job(m).pop("backoffLimit"),
    "preRunningDeadlineSeconds: give a positive number": lambda m: job(m).update(preRunningDeadlineSeconds=0),
    "submitterPodTemplate: the default one": lambda m: job(m).pop("submitterPodTemplate"),
    "entrypoint: a shell would change it": lambda m: job(m).update(entrypoint="python -m x; y=$HOME"),
    "the dashboard is for ClusterIP only": lambda m: cluster(m)["headGroupSpec"].update(serviceType="NodePort"),
    "image dist-condense:latest: name a version": lambda m: head(m).update(image="dist-condense:latest"),
    "image dist-condense: name a version": lambda m: head(m).update(image="dist-condense"),
    "image dist-condense:0.0.9: the package is": lambda m: head(m).update(image="dist-condense:0.0.9"),
    "env.AWS_SECRET_ACCESS_KEY: a secret in the open": lambda m: head(m)["env"].append(
        {"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}
    ),
    "env.URI: a secret in the open": lambda m: head(m)["env"].append({"name": "URI", "value": "postgres://me:x@db/a"}),
    "requests and limits differ": lambda m: head(m)["resources"]["requests"].update(cpu="1"),
    "resources.requests: cpu, memory and ephemeral-storage": lambda m: head(m).pop("resources"),
    "readOnlyRootFilesystem: true": lambda m: head(m)["securityContext"].pop("readOnlyRootFilesystem"),
    "give emptyDir.sizeLimit": lambda m: tmp(m).pop("sizeLimit"),
    "ephemeral-storage: 6Gi has no room for volumes of 6Gi": lambda m: tmp(m).update(sizeLimit="6Gi"),
    "ray: mount an emptyDir on /tmp": lambda m: head(m)["volumeMounts"].pop(),
    "ray: HOME is /home/condense": lambda m: head(m)["env"][-2].update(value="/home/condense"),
    "ray: TMPDIR is None": lambda m: head(m)["env"].pop(),
    "allowPrivilegeEscalation: false": lambda m: head(m)["securityContext"].pop("allowPrivilegeEscalation"),
    "capabilities: drop ALL": lambda m: head(m)["securityContext"].pop("capabilities"),
    "runAsNonRoot and runAsUser": lambda m: server(m)["securityContext"].pop("runAsNonRoot"),
    "seccompProfile: RuntimeDefault": lambda m: server(m)["securityContext"].pop("seccompProfile"),
    "hostNetwork: shares the node's": lambda m: server(m).update(hostNetwork=True),
    "Deployment/mlflow: automountServiceAccountToken: false": lambda m: server(m).pop("automountServiceAccountToken"),
    "ServiceAccount/head: automountServiceAccountToken: false": lambda m: only(m, "ServiceAccount", "head").pop(
        "automountServiceAccountToken"
    ),
    "serviceAccountName: one for each role": lambda m: server(m).update(serviceAccountName="default"),
    "there is no ServiceAccount mlflow": lambda m: m.remove(only(m, "ServiceAccount", "mlflow")),
    "enableServiceLinks: false": lambda m: server(m).pop("enableServiceLinks"),
    "there is no volume cache": lambda m: head(m)["volumeMounts"].append({"name": "cache", "mountPath": "/cache"}),
    "there is no claim output": lambda m: m.remove(only(m, "PersistentVolumeClaim", "output")),
    "volume token: not of a kind that belongs here": lambda m: server(m)["volumes"].append(
        {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
    ),
    "volume driver: not of a kind that belongs here": lambda m: server(m)["volumes"].append(
        {"name": "driver", "csi": {"driver": "secrets-store.csi.k8s.io"}}
    ),
    "volume tmp: emptyDir.medium": lambda m: tmp(m).update(medium="Memory"),
    "late: securityContext.readOnlyRootFilesystem": lambda m: server(m).update(
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
    "none that denies what no other allows": lambda m: m.remove(only(m, "NetworkPolicy", "nothing-else")),
    "ingress: open to everybody": lambda m: policy(m, "job-api")["ingress"].append({"ports": [{"port": 8265}]}),
    "namespaceSelector: name one by": lambda m: peer(m, "job-api").update(namespaceSelector={}),
    "namespaceSelector: name its pods": lambda m: peer(m, "job-api").pop("podSelector"),
    "ingress: name the ports": lambda m: policy(m, "job-api")["ingress"][0].pop("ports"),
    "egress: name the ports": lambda m: policy(m, "names")["egress"][0].pop("ports"),
    "ipBlock 0.0.0.0/0: half the world": lambda m: address(m, "0.0.0.0/0"),
    "ipBlock 128.0.0.0/1: half the world": lambda m: address(m, "128.0.0.0/1"),
    "ipBlock ::/0: half the world": lambda m: address(m, "::/0"),
    "ipBlock 169.254.0.0/16: overlaps 169.254.0.0/16": lambda m: address(m, "169.254.0.0/16"),
    "ipBlock 169.254.170.23/32: overlaps 169.254.0.0/16": lambda m: address(m, "169.254.170.23/32"),
    "ipBlock 169.254.20.0/24: overlaps 169.254.0.0/16": lambda m: address(m, "169.254.20.0/24"),
    "ipBlock 169.240.0.0/12: overlaps 169.254.0.0/16": lambda m: address(m, "169.240.0.0/12"),
    "ipBlock fe80::1/128: overlaps fe80::/10": lambda m: address(m, "fe80::1/128"),
    "ipBlock fd00:ec2::23/128: overlaps fd00:ec2::/32": lambda m: address(m, "fd00:ec2::23/128"),
    "ipBlock 100.100.0.0/16: holds 100.100.100.200": lambda m: address(m, "100.100.0.0/16"),
    "Secret s3-worker: not for head": lambda m: head(m).update(envFrom=[{"secretRef": {"name": "s3-worker"}}]),
    "Secret mlflow-database: not for submitter": lambda m: submitter(m)["env"].append(
        {"name": "X", "valueFrom": {"secretKeyRef": {"name": "mlflow-database", "key": "password"}}}
    ),
    "outside of the namespace": lambda m: only(m, "Deployment")["metadata"].update(namespace="default"),
    "is not a kind that belongs here": lambda m: m.append(
        {"kind": "Secret", "metadata": {"name": "x", "namespace": "dist-condense"}}
    ),
}


@pytest.mark.parametrize("told", PLANTS)
def test_a_broken_rule_is_told(told: str) -> None:
    manifests = rendered("gpu")
    PLANTS[told](manifests)
    assert [problem for problem in rules.problems(manifests) if told in problem]


def test_a_job_without_an_end_is_told() -> None:
    manifests = rendered("prepare")
    only(manifests, "Job")["spec"].pop("activeDeadlineSeconds")
    assert list(rules.problems(manifests)) == ["Job/prepare: activeDeadlineSeconds: give a positive number"]
