"""Images per second of every way to read a prepared set, the share of waiting in a run, and memory against the budget.

    dist-condense prepare data/imagenette224 prepared --size 224 --ffcv
    python -m benchmarks.loading data/imagenette224 prepared
    python -m benchmarks.loading data/imagenette224 prepared --sections waiting method.real_batch=32

`rates` reads class minibatches ahead, as a matching step does, and compares them with torchvision's ImageFolder and the
decoder alone; all files are in the page cache. `waiting` runs matching steps of a config on the prepared set. `memory`
opens each tier in a process of its own with the smallest budget that admits it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.step import Measurement, machine, table
from dist_condense.data import ImageSet, Reading, open_dataset
from dist_condense.data.reading.decode import decode_into
from dist_condense.data.reading.read_ahead import DEPTH, HELD, ReadAhead, Ticket
from dist_condense.data.reading.split import StoredSplit
from dist_condense.engine.coordinator import LocalCoordinator, Placement
from dist_condense.job import worker
from dist_condense.settings import config
from dist_condense.system.memory import keep_freed_memory

H200_STEP = 0.5
"""Seconds of a step with 16 classes x 128 images of 224 px on an H200, by the specification of this project."""
H200_IMAGES = 16 * 128


@dataclass(frozen=True, kw_only=True)
class LoadingSettings:
    """Settings of one benchmark run."""

    folder: Path
    prepared: Path
    size: int
    batch: int
    threads: int
    requests: int
    repeat: int
    config: str
    overrides: tuple[str, ...]

    def opened(self) -> ImageSet:
        """Open the prepared set."""
        return open_dataset("image_folder", self.prepared, size=self.size)


def rates(settings: LoadingSettings) -> list[Measurement]:
    """Measure images per second; the ways of reading alternate, ``repeat`` times."""
    keep_freed_memory()
    torch.set_num_threads(settings.threads)
    ways: dict[str, Callable[[], int]] = {
        "decoder alone": _decoder(settings),
        "torchvision ImageFolder": partial(_image_folder, settings),
        "folder, tier disk": _minibatches(_folder(settings), settings, tier="disk"),
    }
    ways |= {f"shards, tier {t}": _minibatches(settings.opened(), settings, tier=t) for t in ("disk", "encoded", "ram")}
    if settings.opened().train_split.raw:
        ways["beton (ffcv, raw)"] = _minibatches(settings.opened(), settings, tier="ffcv")
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(settings.repeat):
        for name, way in ways.items():
            start = time.perf_counter()
            images = way()
            measured[name].append(images / (time.perf_counter() - start))
    rows = [Measurement("rates", name, median(x), "images/s", low=min(x)) for name, x in measured.items()]
    ceiling = median(measured["decoder alone"])
    shares = [f"shards, tier {tier}" for tier in ("disk", "encoded")]
    rows += [Measurement("rates", f"{name} / decoder", median(measured[name]) / ceiling, "") for name in shares]
    copied = H200_IMAGES / median(measured["shards, tier ram"])
    waiting = max(0.0, copied - H200_STEP)
    return [
        *rows,
        Measurement("rates", "H200 step's images, tier ram", 1e3 * copied, "ms"),
        Measurement("rates", "waiting of such a step, read ahead", 100 * waiting / H200_STEP, "%"),
    ]


def _folder(settings: LoadingSettings) -> ImageSet:
    return open_dataset("image_folder", settings.folder, size=settings.size)


def _decoder(settings: LoadingSettings) -> Callable[[], int]:
    """Return a function that decodes files in memory on threads: the upper bound of all loaders with this decoder."""
    split = settings.opened().train_split
    assert isinstance(split, StoredSplit)
    plan = list(_plan(split.counts, settings))
    store = split.open_store(range(len(split.counts)), Reading(verify=False))
    files = [store.read(label, index) for label, indices in plan for index in indices.tolist()]
    shares = [files[i :: settings.threads] for i in range(settings.threads)]

    def run() -> int:
        with ThreadPoolExecutor(settings.threads) as pool:
            return sum(pool.map(partial(_decode, settings.size), shares))

    return run


def _decode(size: int, files: Sequence[bytes]) -> int:
    """Decode all files into the same array, because allocating memory is no part of decoding."""
    pixels = np.empty((size, size, 3), dtype=np.uint8)
    for data in files:
        decode_into(pixels, data)
    return len(files)


def _image_folder(settings: LoadingSettings) -> int:
    """Read with torchvision's ImageFolder and torch's DataLoader: processes, shuffled over all classes."""
    steps = [transforms.Resize(settings.size), transforms.CenterCrop(settings.size), transforms.PILToTensor()]
    folder = ImageFolder(str(settings.folder / "train"), transforms.Compose(steps))
    loader = DataLoader(folder, settings.batch, shuffle=True, num_workers=settings.threads, drop_last=True)
    count = 0
    for images, _ in loader:
        count += len(images)
        if count >= settings.requests * settings.batch:
            break
    return count


def _minibatches(dataset: ImageSet, settings: LoadingSettings, tier: str) -> Callable[[], int]:
    """Return a function that reads random minibatches of single classes, announced ahead like a matching step's."""
    labels = range(len(dataset.classes))
    ahead = ReadAhead(dataset.train(labels, Reading(tier, threads=settings.threads, verify=False)))

    def run() -> int:
        tickets, count = deque[Ticket](), 0
        for request in _plan(dataset.counts, settings):
            tickets.append(ahead.announce(*request))
            if len(tickets) > DEPTH:
                count += len(ahead.redeem(tickets.popleft()))
        return count + sum(len(ahead.redeem(ticket)) for ticket in tickets)

    ahead.source.get(0, torch.arange(1))  # FFCV compiles
    return run


def _plan(counts: Sequence[int], settings: LoadingSettings) -> Iterator[tuple[int, torch.Tensor]]:
    for request in range(settings.requests):
        label = request % len(counts)
        yield label, torch.randint(counts[label], (settings.batch,))


def waiting(settings: LoadingSettings) -> list[Measurement]:
    """Measure the share of matching steps' time spent waiting for images, by tier."""
    return [row for tier in ("ram", "encoded", "disk") for row in _alone(_waiting, settings, tier)]


def _waiting(settings: LoadingSettings, tier: str) -> list[Measurement]:
    keep_freed_memory()
    torch.set_num_threads(settings.threads)
    keys = [f"dataset.root={settings.prepared}", f"data.tier={tier}", "trajectory.start=fresh", "output=unused"]
    run = config.load(settings.config, [*keys, "compute.slices=1", *settings.overrides])
    matching = worker.assemble(run, LocalCoordinator(), Placement()).procedure
    matching.trajectory.reach(0, 0)
    matching.shard.match(matching.trajectory.network, 0, 0, 0)
    before, start = matching.shard.source.waited, time.perf_counter()
    for visit in range(1, 1 + settings.repeat):
        matching.shard.match(matching.trajectory.network, 0, visit, visit)
    spent = time.perf_counter() - start
    share = 100 * (matching.shard.source.waited - before) / spent
    step = 1e3 * spent / settings.repeat
    return [
        Measurement("waiting", f"matching step, tier {tier}", step, "ms"),
        Measurement("waiting", f"of it waiting, {tier}", share, "%"),
    ]


def memory(settings: LoadingSettings) -> list[Measurement]:
    """Measure the memory growth of a process that reads minibatches, against the budget of its tier."""
    return [row for tier in ("ram", "encoded", "disk") for row in _alone(_memory, settings, tier)]


def _memory(settings: LoadingSettings, tier: str) -> list[Measurement]:
    keep_freed_memory()
    dataset = settings.opened()
    _decoder(replace(settings, requests=1))()  # the budget does not include the memory of decoding itself
    Path("/proc/self/clear_refs").write_text("5")  # resets the recorded peak
    before = _status("VmRSS")
    _minibatches(dataset, settings, tier=tier)()
    grown = _status("VmHWM") - before
    stored = {
        "ram": sum(dataset.decoded_bytes(dataset.counts)),
        "encoded": sum(dataset.train_split.encoded_bytes()),
        "disk": 0,
    }
    budget = stored[tier] + HELD * settings.batch * 3 * settings.size**2
    return [
        Measurement("memory", f"tier {tier}: budget", budget / 2**20, "MiB"),
        Measurement("memory", f"tier {tier}: growth at the peak", grown / 2**20, "MiB"),
        Measurement("memory", f"tier {tier}: growth / budget", 100 * grown / budget, "%"),
    ]


def _status(key: str) -> int:
    """Read a memory size of this process in bytes from the kernel (Linux only)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def _alone(
    function: Callable[[LoadingSettings, str], list[Measurement]], settings: LoadingSettings, tier: str
) -> list[Measurement]:
    with ProcessPoolExecutor(1, mp_context=torch.multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, settings, tier).result()


SECTIONS = {"rates": rates, "waiting": waiting, "memory": memory}


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print section by section, and write the rows as JSON if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="an ImageFolder")
    parser.add_argument("prepared", type=Path, help="the same images, prepared at --size")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="keys of the config of `waiting`")
    for name, value in {"size": 224, "batch": 128, "threads": 2, "requests": 20, "repeat": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--config", default="configs/imagenette224_idc.yaml", help="config of `waiting`")
    parser.add_argument("--sections", default=",".join(SECTIONS))
    parser.add_argument("--json", type=Path)
    arguments = vars(parser.parse_intermixed_args(sys.argv[1:] if words is None else words))
    names, path, overrides = arguments.pop("sections").split(","), arguments.pop("json"), arguments.pop("overrides")
    settings = LoadingSettings(**arguments, overrides=tuple(overrides))
    rows = []
    for name in names:
        rows += (new := SECTIONS[name](settings))
        print(table(new), flush=True)
    if path:
        path.write_text(json.dumps({"machine": machine("cpu"), "rows": [asdict(row) for row in rows]}, indent=1))


if __name__ == "__main__":
    main()
