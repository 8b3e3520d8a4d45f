"""The Grafana dashboard queries only metrics that a run exports and the docs list."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

from dist_condense.engine.ray.metrics import COUNTERS, GAUGES, MEASURES, TAGS

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "launch" / "grafana.json").read_text())
OWN = {f"ray_{name}" for name, _ in (GAUGES | MEASURES).values()}
OWN |= {f"ray_{name}_total" for name, _ in COUNTERS.values()}
NODES = {f"ray_{name}" for name in METRICS_GAUGES}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def expressions(dashboard: dict[str, Any]) -> list[str]:
    """Return every expression, with Grafana's own variables replaced by values."""
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    values = {"$run": "run|another", "$window": "5m"}
    return [re.sub(r"\$\w+", lambda match: values[match[0]], expression) for expression in asked]


def selectors(node: Any) -> Iterator[tuple[str, set[str]]]:
    """Yield (metric, labels that select it) of every metric in an expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node.name, {matcher.name for matcher in node.matchers.matchers}
    for part in ("lhs", "rhs", "expr", "vector_selector"):
        if hasattr(node, part):
            yield from selectors(getattr(node, part))
    for part in getattr(node, "args", ()):
        yield from selectors(part)


def read(dashboard: dict[str, Any]) -> list[tuple[str, set[str]]]:
    """Return the metrics and labels of the whole dashboard."""
    return [selector for text in expressions(dashboard) for selector in selectors(promql_parser.parse(text))]


def problems(dashboard: dict[str, Any]) -> list[str]:
    """Return a line for each fault of the dashboard."""
    faults = [f"{name} is not exported" for name, _ in read(dashboard) if name not in OWN | NODES]
    faults += [f"{name} has no {labels}" for name, labels in read(dashboard) if name in OWN and labels - {*TAGS}]
    panels = dashboard["panels"]
    if len({panel["id"] for panel in panels}) < len(panels):
        faults.append("two panels have one id")
    cells = [cell for panel in panels for cell in _cells(panel["gridPos"])]
    if len(set(cells)) < len(cells) or any(x >= 24 for x, _ in cells):
        faults.append("panels overlap, or are outside the page")
    for panel in panels:
        if any(part["datasource"] != SOURCE for part in (panel, *panel["targets"])):
            faults.append(f"{panel['title']}: the data source is not the variable")
    return faults


def _cells(at: dict[str, int]) -> Iterator[tuple[int, int]]:
    return ((at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"]))


def test_the_dashboard_is_whole() -> None:
    assert problems(DASHBOARD) == []
    assert {name for name, _ in read(DASHBOARD)} >= OWN
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variables["run"]["query"]["query"])
    assert asked and asked[1] in OWN and asked[2] in TAGS
    used = {name for panel in DASHBOARD["panels"] for name in re.findall(r"\$\{?(\w+)", json.dumps(panel))}
    assert used == set(variables)
    assert DASHBOARD["title"] and DASHBOARD["uid"] and DASHBOARD["schemaVersion"] >= 36


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("targets", 0, "expr"), "rate(ray_dist_condense_waiting_total[5m])", "is not exported"),
        (("targets", 0, "expr"), 'ray_dist_condense_step{worker="1"}', "has no"),
        (("targets", 0, "datasource", "uid"), "P1809F7CD0C75ACF3", "data source"),
        (("gridPos", "x"), 20, "outside the page"),
        (("id",), 2, "one id"),
    ],
)
def test_a_planted_mistake_is_found(path: tuple[Any, ...], value: Any, message: str) -> None:
    planted = copy.deepcopy(DASHBOARD)
    place = planted["panels"][0]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert any(message in problem for problem in problems(planted))


def test_an_expression_that_prometheus_would_refuse_is_refused() -> None:
    planted = copy.deepcopy(DASHBOARD)
    planted["panels"][0]["targets"][0]["expr"] += ")"
    with pytest.raises(ValueError, match="paren"):
        problems(planted)


def test_the_docs_have_each_metric() -> None:
    documented = re.findall(r"^\| `(ray_dist_condense_\w+)` \|", (ROOT / "docs" / "observability.md").read_text(), re.M)
    assert len(documented) == len(OWN) and set(documented) == OWN
