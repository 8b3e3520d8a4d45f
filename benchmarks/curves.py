"""Accuracy against steps and against seconds: plain runs beside runs with fewer steps (docs/fewer_steps.md).

    DATA_DIR=/data python -m benchmarks.curves fashion_mnist_dc --minutes 30        # repeat it until nothing is left
    DATA_DIR=/data python -m benchmarks.curves cifar10_idc --networks 20 --seeds 3 --epochs 100 --minutes 90

DATA_DIR contains FashionMNIST/ (torchvision's layout) and cifar10/ (class folders). Every variant runs once per seed as
`python -m dist_condense.run` with the same budget; a call starts or continues runs and evaluations until its minutes
are over, and the next call goes on there. The set of every point is that of a checkpoint. On each set, `--tested`
networks are trained by the protocol of the config, which `--epochs` shortens.

Seconds are those of metrics.jsonl, in which the pool's training and k-means are included, and for the first point also
the start of the process, with the initial images. Breaks between calls are not counted.

OUT/SERIES/ gets curves.csv (a row per set), curves.md (table and comparison) and curves.png.
"""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, fields, replace
from pathlib import Path
from statistics import fmean, stdev

import torch

from dist_condense.data import ImageSet
from dist_condense.data.reading.source import TestImages
from dist_condense.evaluation.evaluate import Evaluation, TrainingSet, evaluate_set
from dist_condense.evaluation.rows import Row, read_csv
from dist_condense.job import checkpoint, contents, exporting
from dist_condense.result import metrics_file
from dist_condense.result.synthetic_set import load_set, write_set
from dist_condense.settings import assembly, procedures
from dist_condense.settings.config import RunConfig, load
from dist_condense.settings.run_folder import RunFolder

Keys = list[str]
PARTS = 20
"""Number of equal parts of a run, at whose ends a checkpoint is kept."""
POINTS = (1, 2, 3, 4, 6, 8, 12, 16, 20)
"""Parts after which the set is evaluated; the 4th is a fifth of the steps, and the last two bound the last fifth."""
FIFTH, BEFORE_LAST = 4, 16
LEVEL = 1.0
"""Gain of top-1 in percent in the last fifth of a run below which it has levelled off."""

START = ["method.start=representative"]
REPRESENTATIVE = ["method.real_draw=representative", *START]
EARLY = ["trajectory.start=early", "trajectory.pool_size=5", "trajectory.pretrain_epochs=2"]
VARIANTS: dict[str, Keys] = {  # `start` shows how much of `representative` is due to the initial images alone
    "plain": [],
    "start": START,
    "representative": REPRESENTATIVE,
    "early": EARLY,
    "both": [*REPRESENTATIVE, *EARLY],
}


def _data(name: str) -> str:
    return f"dataset.root={os.environ.get('DATA_DIR', '.cache/data')}/{name}"


FASHION = [_data("."), "dataset.name=fashion_mnist", "method.images.lr=1e-4", "method.distance=sum_absolute"]
SERIES: dict[str, tuple[str, Keys]] = {
    "fashion_mnist_dc": ("configs/fashion_mnist_dc.yaml", [_data(".")]),
    "fashion_mnist_idc": ("configs/cifar10_idc.yaml", [*FASHION, "training.images=500"]),
    "fashion_mnist_idc_i": ("configs/cifar10_idc_i.yaml", [*FASHION, "training.images=500"]),
    "cifar10_dc": ("configs/cifar10_dc.yaml", [_data("cifar10")]),
    "cifar10_dcc": ("configs/cifar10_dcc.yaml", [_data("cifar10")]),
    "cifar10_dm": ("configs/cifar10_dm.yaml", [_data("cifar10")]),
    "cifar10_idc": ("configs/cifar10_idc.yaml", [_data("cifar10")]),
}
"""Config of each series, and the keys that its variants share."""
FIXED = ["compute.compile=false", "evaluation.sets=[condensed]", "evaluation.architectures=[network]"]
FIXED += ["tracking.uri=http://127.0.0.1:9"]
FIXED += ["tracking.checkpoint_minutes=10", f"tracking.checkpoints_kept={10 * PARTS}", "cluster.workers=0"]


@dataclass(frozen=True)
class Point:
    """Evaluated set: mean and standard deviation of the top-1 accuracy in percent over the networks trained on it."""

    variant: str
    seed: int
    _: KW_ONLY
    step: int
    seconds: float
    top1: float
    spread: float
    networks: int
    epochs: int
    """Training epochs of these networks."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """The runs of a series, as one call of this program continues them."""

    config: str
    shared: Keys
    """Keys of all variants, which a variant may override."""
    more: Keys
    """Keys of all variants, which override those of a variant: another size of the pool, or of the real batch."""
    folder: Path
    epochs: int | None
    tested: int
    deadline: float
    """Time in seconds since 1970 at which the call ends."""

    @property
    def left(self) -> float:
        """Seconds until the call ends."""
        return self.deadline - time.time()

    def run(self, variant: str, seed: int) -> Run:
        """Return a run of the series."""
        own = [f"seed={seed}", f"output={self.folder.absolute()}/{variant}_{seed}"]
        keys = [*self.shared, *VARIANTS[variant], *FIXED, *self.more, *own]
        total = _total(load(self.config, keys))
        if total % PARTS:
            raise SystemExit(f"{total} matching steps are not a multiple of {PARTS}; change --networks")
        keys += [f"tracking.checkpoint_steps={total // PARTS}", f"tracking.log_every={max(1, total // PARTS // 5)}"]
        return Run(keys, load(self.config, [*keys, f"evaluation.epochs={self.epochs or 'null'}"]))

    def advance(self, run: Run) -> None:
        """Start or continue a run until it is complete or the call ends."""
        if self.left <= 0 or run.is_complete:
            return
        run.files.path.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "dist_condense.run", self.config, *run.keys, "evaluation.epochs=0"]
        start, is_stopped = time.time(), False
        with run.beside(".log").open("a") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            try:
                process.wait(self.left)
            except subprocess.TimeoutExpired:
                is_stopped = True
                process.terminate()  # the run stores a checkpoint and ends
                process.wait()
        run.beside(".calls").write_text(json.dumps([*run.calls, (start, time.time())]))
        if process.returncode and not is_stopped:
            raise SystemExit(f"a run failed: see {log.name}")

    def points(self, variant: str, seed: int) -> Iterator[Point]:
        """Yield the points of a run so far; evaluations that are missing are made while time is left."""
        run = self.run(variant, seed)
        if not run.calls:
            return
        store, part = assembly.storage_of(run.config), _total(run.config) // PARTS
        stored = {tuple(checkpoint.progress(name)): name for name in checkpoint.names(store)}
        for step in (part * number for number in POINTS):
            rows = self._rows(run, stored[step, 0], step) if (step, 0) in stored else []
            if rows:
                top1, seconds = [row.top1_last for row in rows], run.seconds(step)
                spread = stdev(top1) if len(top1) > 1 else 0.0
                numbers = {"top1": fmean(top1), "spread": spread, "networks": len(top1), "epochs": rows[0].epochs}
                yield Point(variant, seed, step=step, seconds=seconds, **numbers)  # type: ignore[arg-type]

    def _rows(self, run: Run, name: str, step: int) -> list[Row]:
        """Return the rows of all networks that are trained on a checkpoint's set; none if some are missing."""
        file, label = run.beside(".csv"), f"step_{step}"
        known = {row.seed: row for row in read_csv(file) if row.set == label and self.epochs in (None, row.epochs)}
        evaluation = run.evaluation(label, name) if len(known) < self.tested and self.left > 0 else None
        for seed in range(self.tested):
            if seed not in known:
                if evaluation is None or self.left <= 0:
                    return []
                [known[seed]] = evaluate_set(label, evaluation, [run.architecture], [seed], file)
        return [known[seed] for seed in range(self.tested)]


@dataclass(frozen=True)
class Run:
    """A variant of a series with one seed."""

    keys: Keys
    config: RunConfig

    @property
    def files(self) -> RunFolder:
        return RunFolder(Path(self.config.output))

    @property
    def calls(self) -> list[tuple[float, float]]:
        """Start and end of each process that has computed a part of the run, in seconds since 1970."""
        file = self.beside(".calls")
        return json.loads(file.read_text()) if file.exists() else []

    @property
    def is_complete(self) -> bool:
        newest = checkpoint.newest(assembly.storage_of(self.config)) if self.calls else None
        return newest is not None and newest.steps == _total(self.config)

    @property
    def architecture(self) -> str:
        return assembly.network_text(self.config.network)

    @functools.cached_property
    def dataset(self) -> ImageSet:
        return assembly.dataset_of(self.config)

    @functools.cached_property
    def test(self) -> TestImages:
        data = replace(self.config.data, tier="ram")
        return self.dataset.test(assembly.reading_of(replace(self.config, data=data)))

    def beside(self, suffix: str) -> Path:
        """Return the path of a file beside the run's folder."""
        return self.files.path.with_name(self.files.path.name + suffix)

    def seconds(self, step: int) -> float:
        """Return the seconds that the run has taken until a step."""
        entries = [entry for entry in metrics_file.read(self.files.metrics) if entry["step"] <= step]
        began = entries[0]["time"]
        first = sum(min(end, began) - start for start, end in self.calls if start < began)
        later = itertools.pairwise(entries)
        return first + sum((entry["step"] - last["step"]) / entry["steps_per_second"] for last, entry in later)

    def evaluation(self, label: str, name: str) -> Evaluation:
        """Return the evaluation of the set of the checkpoint ``name``, under the name ``label``."""
        stored, outline = (
            checkpoint.opened(assembly.storage_of(self.config), name),
            procedures.outline_of(self.config, self.dataset),
        )
        images, labels = outline.synthetic_set(contents.classes(stored, outline, len(self.dataset.classes)))
        folder = self.beside(".sets") / label
        write_set(folder, images, labels, exporting.card(self.config, self.dataset, outline, stored.steps))
        made = load_set(folder)
        training = TrainingSet(
            made.batch(torch.arange(len(made))),
            made.labels,
            epochs=self.config.evaluation.epochs,
            tiles=made.card.decoded_per_image,
        )
        return Evaluation(
            sets={label: training},
            test=self.test,
            statistics=self.dataset.space.statistics,
            classes=len(self.dataset.classes),
            protocol=self.config.evaluation.protocol,
            flip=self.dataset.flip,
            device=self.config.cluster.settled(torch.cuda.is_available).device,
        )


def _total(config: RunConfig) -> int:
    return config.trajectory.networks * config.trajectory.matching_steps


# --- report -------------------------------------------------------------------------------------------------------


def mean_curve(points: Sequence[Point], variant: str) -> dict[int, tuple[float, float, float, int]]:
    """Return (seconds, top-1, standard deviation over seeds, number of seeds) of a variant, by step."""
    result = {}
    for step in sorted({point.step for point in points if point.variant == variant}):
        own = [point for point in points if (point.variant, point.step) == (variant, step)]
        top1 = [point.top1 for point in own]
        spread = stdev(top1) if len(top1) > 1 else 0.0
        result[step] = fmean(point.seconds for point in own), fmean(top1), spread, len(own)
    return result


def comparison(points: Sequence[Point], total: int, seeds: int) -> Iterator[str]:
    """Yield sentences that compare each variant with the plain runs, or say why they cannot be compared."""
    plain, fifth = mean_curve(points, "plain"), total // PARTS * FIFTH
    ends = [plain.get(total // PARTS * BEFORE_LAST), plain.get(total)]
    if None in ends or any(end[3] < seeds for end in ends if end):
        yield f"Unfinished: the {seeds} plain runs are not complete."
        return
    (_, before, *_), (seconds, last, *_) = ends  # type: ignore[misc]
    gain = last - before
    levelled = gain < LEVEL
    yield (
        f"The plain runs reach {last:.1f} in {total} steps; their last fifth gains {gain:+.1f}: "
        + ("they have levelled off." if levelled else "they have not levelled off, so this comparison is unfinished.")
    )
    for variant in VARIANTS:
        curve = mean_curve(points, variant)
        if variant == "plain" or not curve:
            continue
        at_fifth = f"{curve[fifth][1]:.1f}" if fifth in curve else "not evaluated yet"
        text = f"not within the evaluated {max(curve)} steps"
        if reached := next((step for step, found in curve.items() if found[1] >= last), 0):
            steps, time_ = total / reached, seconds / curve[reached][0]
            text = f"first at step {reached} (1/{steps:.3g} of the steps, 1/{time_:.3g} of the seconds)"
        beside = f"{at_fifth} (plain {plain[fifth][1]:.1f})"
        yield f"{variant}: in a fifth of the steps {beside}; {last:.1f} is reached {text}."


def table(points: Sequence[Point]) -> Iterator[str]:
    """Yield the lines of a Markdown table with the accuracy and the seconds of each variant, by step."""
    curves = {variant: curve for variant in VARIANTS if (curve := mean_curve(points, variant))}
    yield "| steps | " + " | ".join(f"{variant}: top-1, seconds" for variant in curves) + " |"
    yield "| --- |" + " --- |" * len(curves)
    for step in sorted({point.step for point in points}):
        cells = [_cell(curve.get(step)) for curve in curves.values()]
        yield f"| {step} | " + " | ".join(cells) + " |"


def _cell(found: tuple[float, float, float, int] | None) -> str:
    return f"{found[1]:.1f} ± {found[2]:.1f} ({found[3]}), {found[0]:.0f}" if found else ""


def draw(points: Sequence[Point], file: Path) -> None:
    """Draw the mean accuracy against steps and against seconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, number, label in zip(figure.subplots(1, 2, sharey=True), (None, 0), ("steps", "seconds"), strict=True):
        for variant in VARIANTS:
            if curve := mean_curve(points, variant):
                x = [step if number is None else found[number] for step, found in curve.items()]
                y, spread = ([found[i] for found in curve.values()] for i in (1, 2))
                axes.errorbar(x, y, spread, marker="o", markersize=3, capsize=2, label=variant)
        axes.set(xlabel=label)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("top-1 in %, mean and deviation over seeds")
    figure.axes[0].legend()
    figure.savefig(file, dpi=120)


def report(series: Series, points: Sequence[Point], seeds: int) -> str:
    """Write curves.csv, curves.md and curves.png, and return the text of curves.md."""
    with (series.folder / "curves.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Point)])
        writer.writeheader()
        writer.writerows(asdict(point) for point in points)
    total = _total(series.run("plain", 0).config)
    epochs = ", ".join(map(str, sorted({point.epochs for point in points})))
    lines = [
        f"{series.folder.name}: {total} matching steps, {series.tested} networks per set trained for {epochs} epochs. "
        "Top-1 in %: mean and standard deviation over seeds (their number).",
        "",
        *table(points),
        "",
        *(f"- {line}" for line in comparison(points, total, seeds)),
    ]
    text = "\n".join(lines) + "\n"
    (series.folder / "curves.md").write_text(text)
    if points:
        draw(points, series.folder / "curves.png")
    return text


def main() -> None:
    """Continue the runs and evaluations of a series for some minutes, then write the report."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("series", choices=SERIES)
    command.add_argument("keys", nargs="*", help="further keys of docs/config.md, for all variants")
    command.add_argument("--minutes", type=float, default=10, help="minutes after which this call ends")
    command.add_argument("--networks", type=int, default=20, help="number K of networks of a run")
    command.add_argument("--seeds", type=int, default=3, help="number of runs of each variant, seeds from 0")
    command.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    command.add_argument("--tested", type=int, default=3, help="number of networks that are trained on each set")
    command.add_argument("--epochs", type=int, help="epochs of their training; default: the protocol's")
    command.add_argument("--out", type=Path, default=Path("outputs/curves"))
    options = command.parse_args()
    config, keys = SERIES[options.series]
    series = Series(
        config=config,
        shared=[*keys, f"trajectory.networks={options.networks}"],
        more=options.keys,
        folder=options.out / options.series,
        epochs=options.epochs,
        tested=options.tested,
        deadline=time.time() + 60 * options.minutes,
    )
    series.folder.mkdir(parents=True, exist_ok=True)
    runs = [(variant, seed) for seed in range(options.seeds) for variant in options.variants]
    for run in runs:
        series.advance(series.run(*run))
        for point in series.points(*run):
            print(point, flush=True)
    print(report(series, [point for run in runs for point in series.points(*run)], options.seeds))
    left = [f"{variant} {seed}" for variant, seed in runs if len([*series.points(variant, seed)]) < len(POINTS)]
    print(f"left: {', '.join(left)}; repeat the command" if left else "everything is done")


if __name__ == "__main__":
    main()
