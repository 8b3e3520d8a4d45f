"""The run of the check of a machine: IDC in the fastest variant for the time left, which a later check can continue."""

from __future__ import annotations

import gzip
import json
import shutil
import tarfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from benchmarks import gpu_data
from benchmarks.gpu_steps import EAGER, SHAPES, SMALL, VARIANTS
from benchmarks.gpu_task import Row, Skipped, Task
from dist_condense.job.job import Job
from dist_condense.job.stop import Terminated
from dist_condense.result import metrics_file
from dist_condense.result.synthetic_set import load_set
from dist_condense.settings.config import load
from dist_condense.settings.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Known:
    """A data set with its published result.

    :param folders: names of a folder that contains it.
    :param accuracy: published top-1 accuracy in percent; None: there is none.
    """

    folders: tuple[str, ...]
    keys: tuple[str, ...]
    accuracy: float | None = None
    config: str = "cifar10_idc.yaml"


_FASHION = (
    "dataset.name=fashion_mnist",
    "training.images=500",
    "method.distance=sum_absolute",
    "method.images.lr=1e-4",
)
FASHION, CIFAR = "FashionMNIST, IDC, ipc 10", "CIFAR-10, IDC, ipc 10"
KNOWN = {
    FASHION: Known(folders=("FashionMNIST",), keys=_FASHION, accuracy=86.0),
    CIFAR: Known(folders=("cifar10", "cifar-10-batches-py"), keys=(), accuracy=67.5),
}
"""Data sets of the run, the first that the folder of data contains; accuracies of Kim et al. 2022, factor 2."""
DIGITS = Known(folders=(), keys=("dataset.name=digits", "dataset.size=16"))
EVALUATION = 0.4
"""Share of the part's time that is kept for the evaluation."""
LEAST = 60.0
"""Seconds that are kept for the evaluation at least."""
UNMEASURED = "engine, eager, bf16"
"""Variant of the run if none was measured."""
STORED = "run.tar"
"""Name of the file in the output from which another check continues the run."""
KEYS = "keys.json"
"""Name of the file in it with the run's data set and the keys of its variant."""


def run(task: Task) -> None:
    """Condense with the published config for a share of the time, then train networks on the set for the rest of it."""
    kept = max(EVALUATION * task.left, LEAST)
    title, known, root = _data_set(task)
    name, keys = _restored(task, title) if task.resume else fastest(task, task.left - kept)
    task.add({"name": "variant", "heading": f"{name}: {' '.join(keys)}"})
    config = load(f"configs/{known.config}", [*known.keys, *_keys(task, root), *keys, *task.keys])
    job = Job.prepare(config)
    before = job.start.steps if job.start else 0
    timer = threading.Timer(max(1.0, task.left - kept), job.files.stop.touch)
    timer.start()
    try:
        job.run()
    except Terminated:
        pass  # as requested by the file; the set of the last step is exported
    finally:
        timer.cancel()
    done, planned = _steps(job.files), job.outline.units.total
    entries = [x for x in metrics_file.read(job.files.metrics) if "steps_per_second" in x][1:]
    speeds = {"steps/s": median(x["steps_per_second"] for x in entries)} if entries else {}
    of_all = "% of its steps" if known.accuracy is None else "% of the published steps"
    steps = {"steps": done, of_all: 100 * done / planned, "of them before": before}
    task.add({"name": f"{title}: condensing", **steps, **speeds})
    if done == 0:
        raise RuntimeError("no step was finished within the time")
    stored = _stored(task, job.files, title, variant=(name, keys))
    task.add({"name": f"{STORED}, to go on with --resume", "MiB": stored.stat().st_size / 2**20})
    _evaluated(task, title, job, known=known)


def fastest(task: Task, seconds: float) -> tuple[str, tuple[str, ...]]:
    """Return the variant that takes the most steps of CIFAR-10 in ``seconds``, as it was measured, and its keys.

    The time until the first step, in which it is compiled and captured, is subtracted. If none was measured, it is
    :data:`UNMEASURED`, which starts soon.
    """
    [shape] = SHAPES["step32"].values()
    rows = [x for x in task.before.get("step32", {}).get("rows", []) if "training ms" in x]

    def steps(row: Row) -> float:
        return float((seconds - row["prepare s"]) / (row["ms"] + row["training ms"]))

    name = max(rows, key=steps)["name"] if rows else UNMEASURED
    return name if rows else f"{name}, because none was measured", (*EAGER, *VARIANTS[name].all_keys(shape))


def _data_set(task: Task) -> tuple[str, Known, Path | None]:
    """Return the title and the root of the first known data set in the folder of data. Raises Skipped without one."""
    if task.smoke:
        return "digits, IDC, tiny", DIGITS, None
    for title, known in KNOWN.items() if task.data else ():
        for place in (*(task.data / name for name in known.folders), task.data):
            if place.name in known.folders and place.is_dir():
                return title, known, _unpacked(place, task.work)
    if task.data and (root := gpu_data.unpacked(task.data, task.work)):
        return CIFAR, KNOWN[CIFAR], root
    if task.data and (lacking := gpu_data.missing(task.data)):
        raise Skipped(f"--data has one half of CIFAR-10 and lacks {lacking[0]}")
    folders = " or ".join(name for known in KNOWN.values() for name in known.folders)
    raise Skipped(f"--data names no folder with {folders}, or {' and '.join(gpu_data.HALVES)}")


def _unpacked(folder: Path, work: Path) -> Path:
    """Return a folder with uncompressed idx files: ``folder``, or one in ``work`` to which they are unpacked."""
    packed = [x for x in folder.glob("raw/*.gz") if not x.with_suffix("").exists()]
    for file in packed:
        target = work / folder.name / "raw" / file.stem
        target.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(file) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
    return work / folder.name if packed else folder


def _keys(task: Task, root: Path | None) -> Iterator[str]:
    yield from ("cluster.workers=0", f"cluster.device={task.device.type}", f"output={task.work / 'run'}")
    yield from ("tracking.uri=http://127.0.0.1:9", "evaluation.sets=[condensed]", "evaluation.seeds=1")
    if root is not None:
        yield f"dataset.root={root}"
    if task.smoke:
        yield from (*SMALL, "network.depth=1", "evaluation.epochs=1", "trajectory.networks=2")
        yield from ("trajectory.matching_steps=2", "tracking.log_every=1")


def _steps(files: RunFolder) -> int:
    return load_set(files.synthetic_set, verify=False).card.steps if files.synthetic_set.exists() else 0


def _stored(task: Task, files: RunFolder, title: str, variant: tuple[str, Sequence[str]]) -> Path:
    """Store what a later check needs to continue the run in one file of the output, and return its path."""
    target = task.json.parents[1] / STORED
    newest = max(files.checkpoints.iterdir())  # they are named by their steps
    (task.work / KEYS).write_text(json.dumps({"title": title, "name": variant[0], "keys": list(variant[1])}))
    with tarfile.open(target, "w") as stored:
        for path in (task.work / KEYS, files.config, files.metrics, newest, *files.pool.glob("*")):
            stored.add(path, str(path.relative_to(task.work)))
    return target


def _restored(task: Task, title: str) -> tuple[str, tuple[str, ...]]:
    """Unpack the run of an earlier check, and return the name and the keys of its variant."""
    assert task.resume is not None
    with tarfile.open(task.resume) as stored:
        stored.extractall(task.work, filter="data")
    found = json.loads((task.work / KEYS).read_text())
    if found["title"] != title:
        raise Skipped(f"{task.resume} contains a run on {found['title']}, and the data are those of {title}")
    return found["name"], tuple(found["keys"])


def _evaluated(task: Task, title: str, job: Job, *, known: Known) -> None:
    """Train networks on the set as its protocol says, one seed after the other while there is time for another."""
    published = {} if known.accuracy is None else {"published": known.accuracy}
    for seed in range(1, 4):
        start = time.monotonic()
        config = replace(job.config, evaluation=replace(job.config.evaluation, seeds=seed))
        rows = replace(job.comparison, config=config).rows()  # those of earlier seeds are in evaluation.csv
        accuracies = [row.top1_last for row in rows]
        taken = time.monotonic() - start
        mean = sum(accuracies) / len(accuracies)
        task.result["rows"] = [x for x in task.rows if "top-1" not in x]
        task.add({"name": f"{title}: evaluation", "top-1": mean, "seeds": seed, **published, "seconds a seed": taken})
        if task.smoke or task.left < 1.3 * taken + 5:
            return
