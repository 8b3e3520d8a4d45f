"""report.html: a run on one page, a single file without scripts."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from dist_condense.evaluation.class_rows import ClassRow, read_classes
from dist_condense.evaluation.rows import Row, RowsError, read_csv
from dist_condense.result import metrics_file
from dist_condense.result.bars import Bar, bars
from dist_condense.result.card import CARD, TEST_IMAGES, WITH_PACKAGE, Card, SyntheticSetError, read_card
from dist_condense.result.class_results import class_results
from dist_condense.result.cost import cost
from dist_condense.result.curve import Curve, Point, curve
from dist_condense.result.difference import text_of
from dist_condense.result.gallery import gallery
from dist_condense.result.markdown import table_below
from dist_condense.result.metrics_file import STEP, MetricsEntry, measures
from dist_condense.result.preview import left_out
from dist_condense.result.readme import RECIPE
from dist_condense.result.stages import film
from dist_condense.result.summary import KEY, Summary, differing, is_balanced_apart, over_random, summarise
from dist_condense.result.synthetic_set import PREVIEW, README, TENSORS, load_set
from dist_condense.result.tracking.tags import tags_of
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system import records, terminal
from dist_condense.system.credentials import masked
from dist_condense.system.errors import DataError
from dist_condense.system.files import write_atomically

TEMPLATE = "report_page.html"
CHARTS = 20
"""Largest number of charts, each of which takes a tenth of a second."""
Content = TypeVar("Content")


def write_report(
    folder: str | Path,
    latest: Sequence[Row] = (),
    writing: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Path:
    """Write ``folder/report.html`` from the files in the folder, and return its path.

    Missing files are omitted, and so are files that cannot be read, of which the page has a note.

    :param latest: rows of ``evaluation.csv`` from the latest call. Their summaries come first; all other summaries
        are marked as results of earlier calls.
    :param writing: returns a context in which the page may be written, such as a lock; it is entered only after the
        page has been rendered, which takes a second.
    :raises RowsError: evaluation.csv cannot be read.
    """
    files, notes = RunFolder(Path(folder)), list[str]()

    def read(file: Path, how: Callable[[Path], Content]) -> Content | None:
        """Read a file that may be missing; a file that cannot be read adds a note."""
        try:
            return how(file) if os.path.lexists(file) else None
        except (DataError, SyntheticSetError, RowsError) as error:
            notes.append(f"Left out: {terminal.lines_of(error)[0]}")
            return None

    entries = read(files.metrics, metrics_file.read) or []
    card = read(files.synthetic_set / CARD, lambda file: read_card(file.parent))
    dataset = read(files.synthetic_set / TENSORS, lambda file: load_set(file.parent, verify=False)) if card else None
    shown = gallery(dataset) if dataset else None
    of_classes = read(files.evaluation_classes, read_classes) or []
    results = _results(read_csv(files.evaluation), latest, of_classes, _test_images(card, of_classes))
    chart = ""
    try:
        curves = _curves(entries, notes)
        chart = _chart(results["groups"][0]) if results else ""
    except Exception as error:  # matplotlib is missing or fails; a finished run still needs its report
        curves = {}
        notes.append(f"No charts: {terminal.lines_of(error)[0]}")
    page = template(TEMPLATE).render(
        title=files.path.absolute().name,
        about=f"{card.method} · {card.dataset}" if card else "",
        facts=_facts(card) if card else {},
        results=results,
        chart=chart,
        cost=dict(cost(_tags(files.path), entries)),
        recipe=read(files.synthetic_set / README, _recipe),
        loading=WITH_PACKAGE if card else "",
        gallery=shown,
        film=read(files.stages, lambda folder: film(folder.parent, dataset)) if dataset else None,
        preview=None if shown else _preview(read(files.synthetic_set / PREVIEW, records.bytes_of), card),
        curves=curves,
        config=read(files.config, _config),
        environment=read(files.environment, _environment),
        notes=notes,
    )
    with writing():
        write_atomically(files.report, page.encode())
    return files.report


def template(name: str) -> Any:
    """Return a template of this package, which escapes every value and makes its invisible characters visible."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, finalize=_printable, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))


def _printable(value: Any) -> Any:
    """Make invisible characters of a value visible, unless the template marks the value as safe.

    Direction marks, for example, would reverse the text after them.
    """
    return value if hasattr(value, "__html__") else terminal.printable(str(value), kept=terminal.LAYOUT)


def _facts(card: Card) -> dict[str, Any]:
    return {
        "images per class": card.ipc_text,
        "factor": card.factor,
        "classes": len(card.classes),
        **{name.replace("_", " "): f"{value:,}" if type(value) is int else value for name, value in card.facts.items()},
        "steps": f"{card.steps:,}",
        "seed": card.seed,
        "state": "complete" if card.complete else "not complete",
    }


def _test_images(card: Card | None, of_classes: Sequence[ClassRow]) -> int | None:
    """Return the number of test images, from the card or else from the accuracies by class; None if neither has it."""
    recorded = card.facts.get(TEST_IMAGES) if card else None
    if type(recorded) is not int:
        recorded = sum({row.label: row.images for row in of_classes}.values())
    return recorded if recorded > 0 else None


def _results(
    rows: Sequence[Row], latest: Sequence[Row], of_classes: Sequence[ClassRow], images: int | None
) -> dict[str, Any] | None:
    """Return the columns and the summaries of the table of results, and those by class; None if there are no rows.

    Summaries, with their differences to random images, are in one group, or in two: those of the latest call, and those
    of earlier calls. Those by class are of the first group.

    :param images: number of test images; None if it is not known.
    """
    if not rows:
        return None
    summaries, keys = summarise(rows), {x.key for x in summarise(latest)}
    varying = differing(summaries)
    over = {x.key: text_of(difference) for x, difference in zip(summaries, over_random(summaries), strict=True)}
    groups = [x for x in summaries if x.key in keys], [x for x in summaries if x.key not in keys]
    shown = [group for group in groups if group]
    return {
        "columns": ["set", *varying],
        "equal": {name: getattr(summaries[0], name) for name in KEY[1:] if name not in varying},
        "groups": shown,
        "over_random": over if any(over.values()) else {},
        "classes": class_results(of_classes, shown[0]),
        "has_balanced": is_balanced_apart(rows),
        "test_images": images,
        "has_best": any(x.best is not None for x in summaries),
    }


def _chart(summaries: Sequence[Summary]) -> str:
    varying = [name for name in differing(summaries) if name != "epochs"]
    names = [", ".join(getattr(x, name) for name in ("set", *varying)) for x in summaries]
    return bars([Bar(name, x.mean, x.std) for name, x in zip(names, summaries, strict=True)])


def _tags(folder: Path) -> Mapping[str, str]:
    """Return the tags of a run; empty if its config or environment cannot be read, of which the page has a note."""
    try:
        return tags_of(folder)
    except (ValueError, DataError):
        return {}


def _recipe(file: Path) -> dict[str, str]:
    return table_below(records.text_of(records.bytes_of(file), str(file)), RECIPE)


def _preview(png: bytes | None, card: Card | None) -> dict[str, Any] | None:
    if png is None:
        return None
    return {
        "png": base64.b64encode(png).decode(),
        "names": [entry.name for entry in card.classes] if card else [],
        "part": left_out(card.counts) if card else "",
    }


def _curves(entries: Sequence[MetricsEntry], notes: list[str]) -> dict[str, Curve]:
    """Draw a curve of each measure, at most :data:`CHARTS`. Raises ImportError if matplotlib is not installed."""
    points: dict[str, list[Point]] = {}
    for entry in entries:
        for name, value in measures(entry).items():
            points.setdefault(name, []).append((entry[STEP], value))
    if len(points) > CHARTS:
        notes.append(f"No charts of {len(points) - CHARTS} more measures.")
    curves = {name: curve(name, measured) for name, measured in islice(points.items(), CHARTS)}
    return {name: drawn for name, drawn in curves.items() if drawn is not None}


def _config(file: Path) -> str:
    return masked(records.text_of(records.bytes_of(file, records.YAML_BYTES), str(file)))


def _environment(file: Path) -> dict[str, str]:
    return {key: _text(value) for key, value in records.read(dict[str, Any], file).items()}


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {x}" for key, x in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)
