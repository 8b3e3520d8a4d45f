"""Predictions of `dist-condense plan` against measured runs, with other ipc, classes and workers than calibrated.

    python -m benchmarks.plan digits              # one series; prints a line per run
    DATA_DIR=/data python -m benchmarks.plan cifar10_dcc --json outputs/plan_dcc.json
    python -m benchmarks.plan digits --evaluation 30    # networks of the evaluation, 30 epochs each, instead of runs

DATA_DIR contains cifar10/, imagenette224/ and miniimagenet84/ as class folders. Seconds per step are measured between
two lines of metrics.jsonl: they exclude the start and include everything else. Every worker has one thread. Runs on two
workers are longer, because on a machine with two cores Ray's own start slows the first half minute.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from dist_condense.commands.arguments import plan_parser
from dist_condense.commands.plan_command import planned
from dist_condense.data import Reading
from dist_condense.evaluation.evaluate import Evaluation, TrainingSet, Trial, in_process
from dist_condense.planning.forecast import evaluating
from dist_condense.planning.plan import Plan
from dist_condense.settings import assembly
from dist_condense.settings.config import load

FIXED = ["compute.threads=1", "evaluation.epochs=0", "tracking.uri=http://127.0.0.1:9", "cluster.device=cpu"]
Keys = list[str]


@dataclass(frozen=True)
class Series:
    """A calibration and the runs that are predicted from it."""

    config: str
    keys: Keys
    calibrated: Keys
    runs: list[Keys]


def folder(name: str, *keys: str) -> Keys:
    """Return the keys of a data set in DATA_DIR."""
    return [f"dataset.root={os.environ.get('DATA_DIR', '.cache/data')}/{name}", *keys]


def budget(networks: int, steps: int) -> Keys:
    """Return the keys of a run with at least two lines of metrics.jsonl, each after complete networks."""
    every = max(1, networks // 3) * steps
    return [f"trajectory.networks={networks}", f"trajectory.matching_steps={steps}", f"tracking.log_every={every}"]


IDC = ["trajectory.start=fresh", "network.width=16", "method.parameterisation.factor=2", "method.real_batch=16"]
IDC += ["training.images=64", "training.batch=32"]
EAGER = ["compute.compile=false", "compute.autocast=false"]
ALONE, ONE, TWO = "cluster.workers=0", "cluster.workers=1", "cluster.workers=2"
SERIES = {
    "digits": Series(
        "configs/digits.yaml",
        ["training.epochs=2"],
        [ALONE, *budget(20, 2)],
        [
            [ALONE, *budget(30, 2)],
            [ALONE, "ipc=8", *budget(9, 4)],
            [ALONE, "dataset.classes=['1','4','7']", *budget(60, 2)],
            [ONE, *budget(30, 2)],
            [TWO, "ipc=4", *budget(30, 2)],
        ],
    ),
    "cifar10_dc": Series(
        "configs/cifar10_dc.yaml",
        folder("cifar10", "method.real_batch=64", *EAGER),
        [ALONE, "training.epochs=2", *budget(4, 3)],
        [
            [ALONE, "training.epochs=2", *budget(4, 1)],
            [ALONE, "ipc=5", "training.epochs=2", *budget(3, 2)],
            [TWO, "ipc=10", "training.epochs=2", *budget(12, 2)],
        ],
    ),
    "cifar10_dcc": Series(
        "configs/cifar10_dcc.yaml",
        folder("cifar10", "method.real_batch=64", "method.grouping.warmup_networks=0", "training.epochs=2", *EAGER),
        [ALONE, *budget(3, 3)],
        [
            [ALONE, "dataset.classes=[cat,dog,horse]", *budget(4, 2)],
            [ALONE, "ipc=4", *budget(2, 2)],
            [TWO, "ipc=4", *budget(15, 2)],
        ],
    ),
    "imagenette224_idc": Series(
        "configs/imagenette224_idc.yaml",
        folder("imagenette224", "dataset.size=64", *IDC),
        [ALONE, "ipc=2", *budget(3, 3)],
        [
            [ALONE, "ipc=2", *budget(3, 2)],
            [TWO, "ipc=5", *budget(6, 2)],
        ],
    ),
    "miniimagenet84_idc": Series(
        "configs/miniimagenet84_idc.yaml",
        folder("miniimagenet84", "dataset.size=32", *IDC),
        [ALONE, "ipc=1", *budget(3, 3)],
        [
            [ALONE, "ipc=3", "compute.slices=1", *budget(2, 2)],
            [TWO, "ipc=1", *budget(3, 3)],
        ],
    ),
}


@dataclass(frozen=True, kw_only=True)
class PredictedRun:
    """Prediction and measurement of one run."""

    series: str
    keys: Keys
    predicted: float
    """Predicted seconds per matching step, with the network's training after it."""
    measured: float
    """Measured seconds per matching step."""
    bytes: int
    """Predicted memory of a worker."""
    resident: int | None
    """Measured peak memory of the process in bytes; None for the driver of separate workers."""

    @property
    def error(self) -> float:
        """Relative error of the predicted time."""
        return self.predicted / self.measured - 1

    def __str__(self) -> str:
        memory = "" if self.resident is None else f"{self.bytes / 2**20:6.0f} {self.resident / 2**20:6.0f} MiB"
        keys = " ".join(k for k in self.keys if "log_every" not in k)
        return f"{self.series:20} {self.predicted:8.4f} {self.measured:8.4f} s {self.error:+6.1%} {memory:20} {keys}"


def measure(name: str, only: list[int] | None = None) -> Iterator[PredictedRun]:
    """Calibrate a series once, then predict and measure its runs."""
    series = SERIES[name]
    with tempfile.TemporaryDirectory() as folder:
        rates = Path(folder, "rates.json")
        _planned(series, series.calibrated, "--save", str(rates))
        for number, keys in enumerate(series.runs):
            if only is None or number in only:
                plan = _planned(series, keys, "--calibration", str(rates))
                seconds, resident = _run(series, keys, Path(folder, str(number)))
                yield PredictedRun(
                    series=name,
                    keys=keys,
                    predicted=plan.forecast.seconds / plan.load.steps,
                    measured=seconds,
                    bytes=plan.forecast.bytes,
                    resident=resident if ALONE in keys else None,
                )


def evaluated(name: str, epochs: int) -> Iterator[str]:
    """Calibrate a series, then train and test one network of each of its sets and architectures; yield a line for each.

    :param epochs: training epochs of a network. The images are random.
    """
    series = SERIES[name]
    keys = [*series.calibrated, f"evaluation.epochs={epochs}", "evaluation.seeds=1", "compute.threads=1"]
    config = load(series.config, [*series.keys, *keys, "cluster.device=cpu"])
    plan = planned(plan_parser().parse_args([series.config]), config)
    dataset, ipc = assembly.dataset_of(config), config.ipc
    for each in plan.load.trials:
        number = max(1, sum(batch * n for batch, n in each.updates.items()) // (epochs * plan.load.classes))
        images = torch.randint(256, (number * plan.load.classes, *dataset.shape), dtype=torch.uint8)
        labels = torch.arange(plan.load.classes).repeat_interleave(number)
        evaluation = Evaluation(
            sets={each.set: TrainingSet(images, labels, epochs=epochs, stored=True)},
            test=dataset.test(Reading(tier="ram")),
            statistics=dataset.space.statistics,
            classes=plan.load.classes,
            protocol=config.evaluation.protocol,
            flip=dataset.flip,
        )
        start = time.process_time()  # of one thread, so that other processes matter little
        in_process([Trial(each.set, each.architecture, 0)], evaluation, lambda row: None, threads=1)
        measured = time.process_time() - start
        predicted = evaluating([each], plan.rates.updating, 1) or 0.0
        text = f"{each.set}, {each.architecture}, ipc {ipc}"
        yield f"{name:20} {predicted:8.2f} {measured:8.2f} s {predicted / measured - 1:+6.1%} {text}"


def _planned(series: Series, keys: Keys, *options: str) -> Plan:
    arguments = plan_parser().parse_args([series.config, *options])
    return planned(arguments, load(series.config, [*series.keys, *keys, *FIXED]))


def _run(series: Series, keys: Keys, output: Path) -> tuple[float, int]:
    command = [
        sys.executable,
        "-m",
        "dist_condense.run",
        series.config,
        *series.keys,
        *keys,
        *FIXED,
        f"output={output}",
    ]
    with output.with_suffix(".log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except KeyboardInterrupt:
            process.terminate()
            raise
    if status:
        raise RuntimeError(f"{' '.join(command)} failed:\n{output.with_suffix('.log').read_text()}")
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    first, last = lines[0], lines[-1]
    return (last["time"] - first["time"]) / (last["step"] - first["step"]), usage.ru_maxrss * 1024


def main() -> None:
    """Measure and print run by run, and write the rows as JSON if requested."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("series", choices=SERIES)
    command.add_argument("--runs", type=int, nargs="*", help="numbers of the runs to measure, from 0; default: all")
    command.add_argument("--evaluation", type=int, metavar="EPOCHS", help="compare the evaluation instead of runs")
    command.add_argument("--json", type=Path)
    arguments = command.parse_args()
    if arguments.evaluation:
        for line in evaluated(arguments.series, arguments.evaluation):
            print(line, flush=True)
        return
    rows = []
    for row in measure(arguments.series, arguments.runs):
        print(row, flush=True)
        rows.append(asdict(row) | {"error": row.error})
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
