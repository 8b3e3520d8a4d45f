"""The connections that the rendered NetworkPolicies allow: exactly the table of k8s/README.md."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.deploy.k8s.manifests import K8S, Manifest, only, pods, rendered

NAME, COMPONENT, NAMESPACE = (
    "app.kubernetes.io/name",
    "app.kubernetes.io/component",
    "kubernetes.io/metadata.name",
)
PORTS = {22: "ssh", 53: "names", 443: "443", 5000: "MLflow", 5432: "PostgreSQL", 8080: "metrics", 8265: "job API"}
ALL_PORTS = "every port"


@dataclass(frozen=True)
class Party:
    """A pod, here or in another namespace, or an address."""

    namespace: str
    labels: tuple[tuple[str, str], ...] = ()
    address: str = ""

    @property
    def ours(self) -> bool:
        return self.namespace == "dist-condense"


OTHERS = {
    "operator": Party("kuberay-operator", ((NAME, "kuberay-operator"),)),
    "one that calls itself operator": Party("default", ((NAME, "kuberay-operator"),)),
    "Prometheus": Party("monitoring", ((NAME, "prometheus"),)),
    "DNS": Party("kube-system", (("k8s-app", "kube-dns"),)),
    "DNS of the node": Party("", address="169.254.20.10"),
    "another pod": Party("default", ((NAME, "dist-condense"), (COMPONENT, "head"))),
    "another pod of kuberay-operator": Party("kuberay-operator", ((NAME, "debug"),)),
    "another pod of monitoring": Party("monitoring", ((NAME, "grafana"),)),
    "another pod of kube-system": Party("kube-system", (("k8s-app", "metrics-server"),)),
    "metadata": Party("", address="169.254.169.254"),
    "the store": Party("", address="192.0.2.1"),
    "the world": Party("", address="8.8.8.8"),
}


def parties(manifests: list[Manifest]) -> dict[str, Party]:
    labels = [pod["metadata"]["labels"] for _, pod in pods(manifests)]
    return {own[COMPONENT]: Party("dist-condense", tuple(own.items())) for own in labels} | OTHERS


def selected(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    assert all(expression["operator"] == "In" for expression in selector.get("matchExpressions", []))
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(expression["key"]) in expression["values"] for expression in selector.get("matchExpressions", [])
    )


def within(address: str, cidr: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(cidr)


def is_peer(peer: dict[str, Any], party: Party) -> bool:
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        return (
            party.address != ""
            and within(party.address, block["cidr"])
            and not any(within(party.address, cidr) for cidr in block.get("except", []))
        )
    if "namespaceSelector" in peer:
        inside = party.namespace != "" and selected(peer["namespaceSelector"], {NAMESPACE: party.namespace})
    else:
        inside = party.ours
    return inside and selected(peer.get("podSelector", {}), dict(party.labels))


def permitted(policies: list[dict[str, Any]], way: str, party: Party, peer: Party, port: int) -> bool:
    """Return whether any policy that selects `party` allows `way` ("Ingress", "Egress"); other parties are free."""
    if not party.ours:
        return True
    mine = [p for p in policies if way in p["policyTypes"] and selected(p["podSelector"], dict(party.labels))]
    side = {"Ingress": "from", "Egress": "to"}[way]
    return not mine or any(
        (not rule.get(side) or any(is_peer(entry, peer) for entry in rule[side]))
        and (not rule.get("ports") or port in [entry["port"] for entry in rule["ports"]])
        for policy in mine
        for rule in policy.get(way.lower(), [])
    )


def reached(manifests: list[Manifest]) -> set[tuple[str, str, str]]:
    """Return every open connection: (who, whom, on what)."""
    policies = [manifest["spec"] for manifest in manifests if manifest["kind"] == "NetworkPolicy"]
    known, connections = parties(manifests), set()
    for source, a in known.items():
        for target, b in known.items():
            if not (a.ours or b.ours):
                continue
            open_ports = [
                port
                for port in PORTS
                if permitted(policies, "Egress", a, b, port) and permitted(policies, "Ingress", b, a, port)
            ]
            names = [ALL_PORTS] if len(open_ports) == len(PORTS) else [PORTS[port] for port in open_ports]
            connections |= {(source, target, name) for name in names}
    return connections


def table(readme: str) -> set[tuple[str, str, str]]:
    rows = re.findall(r"(?m)^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|", readme.partition("## Who can reach what")[2])
    whole = [[cell.strip().split(", ") for cell in row] for row in rows if "---" not in row[0] and row[0] != "who"]
    return {(who, whom, port) for a, b, c in whole for who in a for whom in b for port in c}


@pytest.mark.parametrize("name", ["gpu", "prepare", "s3"])
def test_the_table_of_the_readme_is_what_the_policies_allow(name: str) -> None:
    manifests = rendered(name)
    known = set(parties(manifests))
    rows = {row for row in table((K8S / "README.md").read_text()) if row[0] in known and row[1] in known}
    if name != "s3":
        rows = {row for row in rows if row[1] != "the store"}
    assert reached(manifests) == rows


def test_the_operator_is_where_the_readme_installs_it() -> None:
    (namespace,) = re.findall(
        r"helm install (?:\S|[ ]|\\\n)* --namespace (\S+) --create-namespace", (K8S / "README.md").read_text()
    )
    peers = only(rendered("base"), "NetworkPolicy", "job-api")["spec"]["ingress"][0]["from"]
    assert [x["namespaceSelector"]["matchLabels"] for x in peers if "namespaceSelector" in x] == [
        {NAMESPACE: namespace}
    ]


def rule(manifests: list[Manifest], policy: str, side: str = "ingress") -> dict[str, Any]:
    return only(manifests, "NetworkPolicy", policy)["spec"][side][0]


PLANTS: dict[str, tuple[Callable[[list[Manifest]], object], set[tuple[str, str, str]]]] = {
    "no denial": (
        lambda m: m.remove(only(m, "NetworkPolicy", "nothing-else")),
        {("another pod", "submitter", ALL_PORTS)},
    ),
    "any pod of ours": (
        lambda m: (
            rule(m, "mlflow").update({"from": [{"podSelector": {}}]}),
            only(m, "NetworkPolicy", "tracking")["spec"].update(podSelector={}),
        ),
        {("worker", "mlflow", "MLflow"), ("postgres", "mlflow", "MLflow")},
    ),
    "no peer": (lambda m: rule(m, "job-api").pop("from"), {("the world", "head", "job API")}),
    "any namespace": (
        lambda m: rule(m, "job-api")["from"][-1].update(namespaceSelector={}),
        {("one that calls itself operator", "head", "job API")},
    ),
    "any pod of a namespace": (
        lambda m: rule(m, "job-api")["from"][-1].pop("podSelector"),
        {("another pod of kuberay-operator", "head", "job API")},
    ),
    "no port of ingress": (lambda m: rule(m, "job-api").pop("ports"), {("operator", "head", ALL_PORTS)}),
    "no port of egress": (lambda m: rule(m, "names", "egress").pop("ports"), {("mlflow", "DNS", ALL_PORTS)}),
    "any address": (
        lambda m: rule(m, "names", "egress")["to"][-1]["ipBlock"].update(cidr="0.0.0.0/0"),
        {("head", "the world", "names"), ("head", "metadata", "names")},
    ),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_a_policy_that_is_missing_or_too_wide_opens_a_connection(plant: str) -> None:
    manifests = rendered("gpu")
    before = reached(manifests)
    change, connections = PLANTS[plant]
    change(manifests)
    assert connections <= reached(manifests) - before
