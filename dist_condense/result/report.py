"""What a run leaves to read: the table on the terminal, report.html (one file, no script), environment.json."""

from __future__ import annotations

import base64
import html
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.table import Table
from rich.text import Text

from dist_condense.evaluation.rows import Row, read_csv
from dist_condense.result import metrics_file
from dist_condense.result.metrics_file import STEP, Entry, measures
from dist_condense.result.preview import left_out
from dist_condense.result.synthetic_set import CARD, PREVIEW, code_commit, facts_of
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system import records, terminal
from dist_condense.system.credentials import masked
from dist_condense.system.files import write_atomically

PACKAGES = (
    "dist-condense",
    "torch",
    "torchvision",
    "ray",
    "mlflow",
    "hydra-core",
    "numpy",
    "safetensors",
    "ffcv",
    "timm",
)
KEY = ("set", "architecture", "protocol", "epochs")  # of rows that differ in their seeds only
WIDTH, HEIGHT, LEFT, BOTTOM = 760, 260, 64, 34  # of the loss curve, with room for its scales
POINTS = 400
"""Of the curve; more are averaged in bins."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Top-1 of the last epoch over seeds, in percent."""

    set: str
    architecture: str
    protocol: str
    epochs: str
    values: tuple[tuple[str, float], ...]
    """(seed, top-1)."""
    best: float | None
    """Mean over seeds of the best test evaluation, where it was recorded."""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What its rows share."""
        return self.set, self.architecture, self.protocol, self.epochs

    @property
    def mean(self) -> float:
        """Over seeds."""
        return fmean(x for _, x in self.values)

    @property
    def std(self) -> float | None:
        """Of the sample (n - 1); None for one seed."""
        return stdev(x for _, x in self.values) if len(self.values) > 1 else None

    @property
    def text(self) -> str:
        """``62.1 ± 1.3``."""
        return f"{self.mean:.1f}" + ("" if self.std is None else f" ± {self.std:.1f}")


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """One for each set, architecture, protocol and number of epochs, in the order of their first rows."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(str(getattr(row, name)) for name in KEY), []).append(row)
    return [_summary(group) for group in groups.values()]


def differing(summaries: Sequence[Summary]) -> list[str]:
    """Of protocol and epochs those that tell summaries apart."""
    return [name for name in ("protocol", "epochs") if len({getattr(x, name) for x in summaries}) > 1]


def summary_table(rows: Sequence[Row]) -> Table:
    """For the terminal; protocol and epochs are columns where they differ."""
    summaries = summarise(rows)
    columns = ["set", "architecture", *differing(summaries)]
    table = Table(*columns, box=None, pad_edge=False)
    table.add_column("top-1 mean ± std (n)", justify="right")
    for x in summaries:
        texts = (Text(terminal.printable(str(getattr(x, name)))) for name in columns)
        table.add_row(*texts, f"{x.text} ({len(x.values)})")
    return table


def environment() -> dict[str, Any]:
    """Versions, machine and commit, without importing Ray or touching a device; for environment.json."""
    return {
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
        "os": platform.platform(),
        "cpu": _cpu_name(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "devices": _devices(),
        "commit": code_commit(),
    }


def write_report(folder: str | Path, latest: Sequence[Row] = (), title: str | None = None) -> Path:
    """Write ``folder/report.html`` from what lies in the folder; whatever is not there is left out.

    :param latest: rows of ``evaluation.csv`` whose groups stand first; the others are told to be of earlier calls.
    """
    folder = Path(folder)
    files = RunFolder(folder)
    card = _record(files.synthetic_set / CARD)
    rows = read_csv(files.evaluation)
    title = title or " · ".join(str(card[key]) for key in ("method", "dataset") if card.get(key)) or folder.name
    parts = [
        f"<header><h1>{escape(title)}</h1>{_facts(card)}</header>",
        _section("Top-1 on the real test set", _evaluation(summarise(rows), latest) if rows else ""),
        _section("The synthetic set", _preview(files.synthetic_set / PREVIEW, card)),
        *_curves(metrics_file.read(files.metrics)),
        _section("Configuration", _folded(files.config.name, masked(_text(files.config)))),
        _section("Environment", _machine(_record(files.environment))),
    ]
    page = PAGE.format(title=escape(title), style=STYLE, body="\n".join(x for x in parts if x))
    write_atomically(files.report, page.encode())
    return files.report


def escape(text: str) -> str:
    """As HTML; marks of direction would turn what stands beside a name."""
    return html.escape(terminal.printable(text, kept=terminal.LAYOUT))


def curve(name: str, points: Sequence[tuple[float, float]]) -> str:
    """An SVG of a measure over steps; a logarithmic scale where it spans more than a factor of ten."""
    points = _binned([(x, y) for x, y in points if math.isfinite(y)])
    if len(points) < 2:
        return ""
    steps, values = [x for x, _ in points], [y for _, y in points]
    low, high = min(values), max(values)
    logarithmic = low > 0 and high / low > 10
    scale = math.log10 if logarithmic else float
    bottom, top = (scale(low), scale(high)) if high > low else (scale(low) - 0.5, scale(low) + 0.5)
    first, last = steps[0], max(steps[-1], steps[0] + 1)

    def across(step: float) -> float:
        return LEFT + (step - first) / (last - first) * (WIDTH - LEFT - 12)

    def down(value: float) -> float:
        return 10 + (top - value) / (top - bottom) * (HEIGHT - BOTTOM - 10)

    grid = []
    for i in range(5):
        value = bottom + (top - bottom) * i / 4
        text = f"{10**value if logarithmic else value:.3g}"
        y = down(value)
        grid.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 12}" y1="{y:.1f}" y2="{y:.1f}"/>')
        grid.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for i in range(5):
        step = first + (last - first) * i / 4
        anchor = "end" if i == 4 else "middle"
        grid.append(f'<text x="{across(step):.1f}" y="{HEIGHT - 12}" text-anchor="{anchor}">{round(step):,}</text>')
    path = " ".join(f"{across(x):.1f},{down(scale(y)):.1f}" for x, y in points)
    label = f"{escape(name)} over steps" + (", logarithmic scale" if logarithmic else "")
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(grid)}'
        f'<polyline class="curve" points="{path}"/></svg><figcaption>{label}</figcaption></figure>'
    )


def _summary(rows: Sequence[Row]) -> Summary:
    best = [x.top1_best for x in rows if x.top1_best is not None]
    group, architecture, protocol, epochs = (str(getattr(rows[0], name)) for name in KEY)
    return Summary(
        set=group,
        architecture=architecture,
        protocol=protocol,
        epochs=epochs,
        values=tuple((str(x.seed), x.top1_last) for x in rows),
        best=fmean(best) if len(best) == len(rows) else None,
    )


def _evaluation(summaries: Sequence[Summary], latest: Sequence[Row]) -> str:
    keys = {x.key for x in summarise(latest)}
    first, earlier = [x for x in summaries if x.key in keys], [x for x in summaries if x.key not in keys]
    columns = ["set", "architecture", "protocol", *(["epochs"] if "epochs" in differing(summaries) else [])]
    best = any(x.best is not None for x in summaries)
    head = [*columns, "last epoch, mean ± std", "n", *(["best"] if best else []), "each seed"]
    between = f"<tr><td class=note colspan={len(head)}>of earlier calls</td></tr>" if first and earlier else ""
    blocks = ["".join(_evaluation_row(x, columns, best) for x in part) for part in (first, earlier)]
    heads = "".join(f"<th scope=col>{x}</th>" for x in head)
    note = "Percent. Networks trained from scratch; ± is the standard deviation over seeds (n − 1)."
    return (
        f"<div class=wide><table><thead><tr>{heads}</tr></thead><tbody>{between.join(blocks)}</tbody></table></div>"
        f"<p class=note>{note}</p>"
    )


def _evaluation_row(x: Summary, columns: Sequence[str], best: bool) -> str:
    seeds = "".join(f'<span title="seed {escape(seed)}">{value:.1f}</span>' for seed, value in x.values)
    cells = [
        f"<th scope=row>{escape(x.set)}</th>",
        *(f"<td>{escape(getattr(x, name))}</td>" for name in columns[1:]),
        f'<td class=number style="--part:{max(0.0, min(100.0, x.mean)):.1f}%"><b>{x.text}</b></td>',
        f"<td class=number>{len(x.values)}</td>",
        *([f"<td class=number>{'' if x.best is None else f'{x.best:.1f}'}</td>"] if best else []),
        f"<td class=seeds>{seeds}</td>",
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _facts(card: Mapping[str, Any]) -> str:
    if not card:
        return ""
    state = "complete" if card["complete"] else "not complete"
    facts = [
        ("images per class", card["ipc"]),
        ("factor", card["factor"]),
        ("classes", len(card["classes"])),
        *((name.replace("_", " "), value) for name, value in facts_of(card).items()),
        ("steps", f"{card['steps']:,}"),
        ("seed", card["seed"]),
        ("state", state),
    ]
    return "<dl>" + "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(str(v))}</dd></div>" for k, v in facts) + "</dl>"


def _curves(entries: Sequence[Entry]) -> list[str]:
    """A section of each measure."""
    points: dict[str, list[tuple[float, float]]] = {}
    for entry in entries:
        for name, value in measures(entry).items():
            points.setdefault(name, []).append((entry[STEP], value))
    return [_section(name.capitalize(), curve(name, measured)) for name, measured in points.items()]


def _preview(file: Path, card: Mapping[str, Any]) -> str:
    if not file.exists():
        return ""
    names = [str(x["name"]) for x in card.get("classes", ())]
    more = " …" if len(names) > 20 else ""
    part = left_out(len(names), int(card.get("ipc", 1)))
    shown = f" Shown: {part}." if part else ""
    image = base64.b64encode(file.read_bytes()).decode()
    order = f" Classes, from left to right and then down: {escape(', '.join(names[:20]))}{more}." if names else ""
    return (
        f'<figure><img class=preview src="data:image/png;base64,{image}" alt="Synthetic images by class">'
        f"<figcaption>Clipped to [0, 1]; the set itself is not.{shown}{order}</figcaption></figure>"
    )


def _machine(values: Mapping[str, Any]) -> str:
    if not values:
        return ""
    rows = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value)) or "none"
        rows.append(f"<tr><th scope=row>{escape(str(key))}</th><td>{escape(str(value))}</td></tr>")
    return f"<div class=wide><table class=plain><tbody>{''.join(rows)}</tbody></table></div>"


def _folded(name: str, text: str) -> str:
    return f"<details><summary>{escape(name)}</summary><pre>{escape(text)}</pre></details>" if text else ""


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _binned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    width = -(-len(points) // POINTS) or 1
    bins = [points[i : i + width] for i in range(0, len(points), width)]
    return [(fmean(x for x, _ in part), fmean(y for _, y in part)) for part in bins]


def _record(file: Path) -> dict[str, Any]:
    return records.read(dict[str, Any], file) if file.exists() else {}


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.exists() else ""


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [x.partition(":")[2].strip() for x in lines if x.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _devices() -> list[str]:
    """Names of GPUs as the driver tells them: asking torch would start CUDA in this process."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    query = [command, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [x.strip() for x in done.stdout.splitlines() if x.strip()] if done.returncode == 0 else []


STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf8; --ink: #23262b; --quiet: #6b7078; --rule: #e3e0da;
  --card: #ffffff; --accent: #2f6f8f; --tint: #2f6f8f1c; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --ink: #dfe1e4; --quiet: #949aa3; --rule: #2b2f35;
  --card: #1c1f23; --accent: #7db8d4; --tint: #7db8d42b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 860px; margin: 0 auto; padding: 48px 24px 72px; }
h1 { font-size: 30px; font-weight: 650; letter-spacing: -0.01em; line-height: 1.2; margin: 0 0 20px;
  overflow-wrap: anywhere; }
h2 { font-size: 18px; font-weight: 620; margin: 0 0 14px; }
section { margin-top: 44px; }
dl { display: flex; flex-wrap: wrap; gap: 14px 32px; margin: 0; padding: 16px 0; border: solid var(--rule);
  border-width: 1px 0; }
dt, th, figcaption, .note, summary { font-size: 13px; color: var(--quiet); font-weight: 400; }
dd { margin: 0; font-variant-numeric: tabular-nums; font-weight: 550; }
.wide { overflow-x: auto; background: var(--card); border: 1px solid var(--rule); border-radius: 10px; }
table { border-collapse: collapse; width: 100%; font-size: 15px; }
th, td { padding: 9px 14px; text-align: left; vertical-align: baseline; }
thead th { white-space: nowrap; }
tbody tr { border-top: 1px solid var(--rule); }
.plain tbody tr:first-child { border-top: 0; }
tbody th { font-size: 15px; color: var(--ink); font-weight: 550; }
.plain th { width: 8em; color: var(--quiet); font-weight: 400; }
.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
td[style] { background: linear-gradient(90deg, var(--tint) var(--part), transparent var(--part)); min-width: 150px; }
.number b { font-weight: 620; }
.seeds { color: var(--quiet); font-size: 13px; font-variant-numeric: tabular-nums; }
.seeds span { display: inline-block; margin-right: 10px; }
figure { margin: 0; padding: 16px; background: var(--card); border: 1px solid var(--rule); border-radius: 10px; }
figcaption { margin-top: 10px; }
.note { margin: 10px 2px 0; }
.preview { display: block; max-width: 100%; max-height: 75vh; height: auto; border-radius: 4px; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 12px; fill: var(--quiet); font-variant-numeric: tabular-nums; }
.grid { stroke: var(--rule); }
.curve { fill: none; stroke: var(--accent); stroke-width: 1.8; stroke-linejoin: round; }
details { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 10px 16px; }
summary { cursor: pointer; }
pre { margin: 10px 0 4px; overflow-x: auto; font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
@media print { body { background: #fff; } details { border: 0; } }
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body><main>
{body}
</main></body>
</html>
"""
