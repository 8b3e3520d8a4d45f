"""Check of a machine and its GPU: is it all right, how fast is a step here, and how long will a run take?

    make gpu-check MINUTES=8 DATA=.cache/data
    python -m benchmarks.gpu_check --minutes 8 --data .cache/data --output outputs/gpu-check
    python -m benchmarks.gpu_check --device cpu --smoke     # shows in less than a minute that every part runs
    python -m benchmarks.gpu_check --pack CIFAR10 FOLDER    # CIFAR-10 in two files of less than 60 MiB
    python -m benchmarks.gpu_check --parts run --resume run.tar --data FOLDER    # on from where an earlier one stopped

Parts, one process and one limit of time each: the machine and its matrix rate, the GPU tests, matching steps of
CIFAR-10 and ImageNet-10 beside a plain loop, a profile, two runs of one seed, rates for `dist-condense plan
--calibration`, and IDC in the fastest variant on the data set in DATA, a folder with FashionMNIST/ as torchvision
stores it (compressed or not), with cifar10/, or with the two files of --pack. A part may take its share of the time
that is left; what it does not take is for the parts after it. It needs this checkout, pytest, and the dependencies in
pyproject.toml except ray, mlflow, hydra-core, omegaconf, webdataset, braceexpand and simplejpeg.

The output folder gets gpu-check.json and the note gpu-check.md, both written again after every part, run.tar, from
which the run can go on, and the files of the parts. Results of an earlier check in this folder are kept for the parts
that --parts leaves out. Exit code: 0 every part was done, skipped or only short of time, 1 one failed, or had measured
nothing when it was stopped at its limit, 2 there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks import gpu_data, gpu_parts
from benchmarks.gpu_task import AGAIN
from dist_condense.settings.config import ConfigError, load
from dist_condense.system.files import write_atomically

ROOT = Path(__file__).parents[1]
FORK = multiprocessing.get_context("fork")
"""Parts are forked from this process, which has imported everything, but has neither used a GPU nor started a thread.
"""
MINUTES, SMOKE_MINUTES = 8.0, 10.0
GRACE = 5.0
"""Seconds between the request to a part to end and its end by force."""
Result = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A part of the check.

    :param title: heading of its table.
    :param weight: its limit is the time left times its weight, divided by the weights of the parts that are not done.
    """

    title: str
    weight: float


PARTS = {
    "machine": Part("The machine", 5),
    "tests": Part("GPU tests", 13),
    "step32": Part("Matching step, ConvNet-3, 32 px", 12),
    "step224": Part("Matching step, ResNetAP-10, 224 px", 17),
    "profile": Part("Profile of a step", 5),
    "twice": Part("Two runs of one seed, bit by bit", 12),
    "rates": Part("Rates, and the time of the published runs estimated by them", 10),
    "run": Part("A run within the time left", 26),
}
"""Parts in their order."""


def main(words: Sequence[str] | None = None) -> int:
    """Run the parts one after the other, write their results, and return the exit code."""
    options = parse(words)
    if options.pack:
        return pack(*options.pack)
    if options.device == "cuda" and not has_gpu():
        print("gpu-check: torch sees no CUDA device here; --device cpu --smoke only shows that every part runs")
        return 2
    output: Path = options.output.absolute()
    (output / "work").mkdir(parents=True, exist_ok=True)
    results: dict[str, Result] = earlier(output, options)
    write(output, results, options)
    deadline = time.monotonic() + 60 * options.minutes
    for name in PARTS:
        print(f"{name}: ", end="", flush=True)
        if name in options.parts:
            results[name] = run_part(name, options, output, limit(name, options.parts, deadline))
        else:
            results.setdefault(name, {"status": "skipped", "reason": "not in --parts", "rows": []})
        print(state(results[name]), flush=True)
        write(output, results, options)
    print("", *table(results), f"written: {output / 'gpu-check.md'} and gpu-check.json", sep="\n")
    return 1 if any(is_bad(result) for result in results.values()) else 0


def is_bad(result: Result) -> bool:
    """Return whether a part failed, or was stopped at its limit before it measured anything or after a row failed."""
    rows = result["rows"]
    is_measured = any("heading" not in row and _reason(row) is None for row in rows)
    is_short = result["status"] == "stopped" and is_measured and not any("failed_because" in row for row in rows)
    return result["status"] in ("failed", "stopped") and not is_short


def pack(folder: Path, output: Path) -> int:
    """Pack CIFAR-10 (:func:`benchmarks.gpu_data.pack`), and return the exit code."""
    try:
        for file in gpu_data.pack(folder, output):
            print(f"{file}: {file.stat().st_size / 2**20:.1f} MiB")
    except (OSError, ValueError) as error:
        print(f"gpu-check: {error}")
        return 1
    return 0


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("keys", nargs="*", metavar="KEY=VALUE", help="further keys of the run's config, such as compute.autocast=true")
    add(
        "--minutes",
        type=float,
        help=f"time of all parts together (default: {MINUTES:g}, {SMOKE_MINUTES:g} with --smoke)",
    )
    add("--device", default="cuda", choices=["cuda", "cpu"])
    add("--data", type=Path, help="folder with FashionMNIST/ or cifar10/; without it there is no run")
    add("--resume", type=Path, metavar="FILE", help="run.tar of an earlier check, whose run goes on")
    add(
        "--pack", type=Path, nargs=2, metavar=("CIFAR10", "FOLDER"), help="write CIFAR-10 as two files, do nothing else"
    )
    add("--output", type=Path, default=Path("outputs/gpu-check"))
    add("--parts", type=lambda x: x.split(","), default=list(PARTS), help=f"some of {','.join(PARTS)}")
    add("--smoke", action="store_true", help="tiny shapes")
    options = parser.parse_intermixed_args(words)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"--parts: {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    if options.minutes is None:
        options.minutes = SMOKE_MINUTES if options.smoke else MINUTES
    if options.resume and not options.resume.is_file():
        parser.error(f"--resume: {options.resume} is no file")
    if not 0 < options.minutes < math.inf:
        parser.error(f"--minutes: {options.minutes:g} is not a positive number")
    try:
        load("configs/cifar10_idc.yaml", options.keys)  # the run, which comes last, needs them
    except ConfigError as error:
        parser.error("; ".join(error.problems))
    return options


def has_gpu() -> bool:
    """Return whether torch sees a CUDA device; asked in another process, because CUDA does not survive a fork."""
    process = FORK.Process(target=lambda: sys.exit(0 if torch.cuda.is_available() else 1))
    process.start()
    process.join()
    return process.exitcode == 0


def earlier(output: Path, options: argparse.Namespace) -> dict[str, Result]:
    """Return the results of an earlier check in the output, for the parts that this one leaves out, as skipped."""
    file = output / "gpu-check.json"
    if not file.exists():
        return {}
    found = json.loads(file.read_text())
    if (found["device"], found["smoke"]) != (options.device, options.smoke):
        return {}
    reason = f"not in --parts; the rows are those of {found['time']}"
    return {
        name: {**result, "status": "skipped", "reason": reason}
        for name, result in found["parts"].items()
        if name in PARTS and name not in options.parts and result["rows"]
    }


def limit(name: str, parts: Sequence[str], deadline: float) -> float:
    """Return the limit of a part in seconds, by its weight among those of ``parts`` that are not done."""
    names = list(PARTS)
    weights = [PARTS[x].weight for x in names[names.index(name) :] if x in parts]
    return max(1.0, (deadline - time.monotonic() - GRACE) * PARTS[name].weight / sum(weights))


def run_part(name: str, options: argparse.Namespace, output: Path, seconds: float) -> Result:
    """Run a part in a process group of its own, which is ended at the limit; return what it wrote.

    A failure may leave the GPU unusable for its process: a part that can do without what failed goes on in another one.
    """
    file, work, log = output / "work" / f"{name}.json", output / "work" / name, output / "work" / f"{name}.log"
    for path in (file, log):
        path.unlink(missing_ok=True)
    shutil.rmtree(work, ignore_errors=True)  # a run would continue there, and keep the accuracies of its last set
    work.mkdir()
    start, words, goes_on = time.monotonic(), _words(name, options, output), True
    while goes_on:
        left = seconds - (time.monotonic() - start)
        process = FORK.Process(target=in_its_group, args=([*words, "--seconds", str(left)], log), name=name)
        process.start()
        in_time = ended(process, max(0.0, left))
        result: Result = json.loads(file.read_text()) if file.exists() else {"status": "running", "rows": []}
        reason = f"its process ended with {process.exitcode}; see {log}"
        current = result.pop("current", None)
        if current:
            ended_by = {"failed_because": reason} if in_time else {"skipped_because": "it took until the limit"}
            result["rows"].append({**current, **ended_by})
        goes_on = in_time and result["status"] == "running" and bool(current or process.exitcode == AGAIN)
        if goes_on:
            write_atomically(file, json.dumps(result).encode())
            words += ["--again"]
    if result["status"] == "running" and in_time:
        result |= {"status": "failed", "reason": reason}
    elif result["status"] == "running":
        result |= {"status": "stopped", "reason": f"at its limit of {seconds:.0f} s"}
    return {**result, "seconds": round(time.monotonic() - start, 1)}


def _words(name: str, options: argparse.Namespace, output: Path) -> list[str]:
    """Return the command line of a part, without its limit."""
    work = output / "work"
    words = [name, *options.keys, "--device", options.device, "--json", str(work / f"{name}.json")]
    words += ["--work", str(work / name), *(["--smoke"] if options.smoke else [])]
    for key in ("data", "resume"):
        if path := getattr(options, key):
            words += [f"--{key}", str(path.absolute())]
    return [*words, "--before", str(output / "gpu-check.json")]


def in_its_group(words: Sequence[str], log: Path) -> None:
    """Run a part in a process group of its own, with its output in a file."""
    os.setsid()
    with log.open("ab") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    os.chdir(ROOT)
    code = 1
    try:
        gpu_parts.main(words)
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)  # everything is written, and an interpreter that shuts down may wait for the GPU


def ended(process: ForkProcess, seconds: float) -> bool:
    """Wait for a process, end its group if it runs longer, and return whether it ended by itself."""
    try:
        process.join(seconds)
        return process.exitcode is not None
    finally:  # also after Ctrl-C, and for processes that an ended part has left
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(cast(int, process.pid), number)
                process.join(GRACE)


# --- output -------------------------------------------------------------------------------------------------------


def state(result: Result) -> str:
    """Describe how a part ended: ``done in 12 s``, ``skipped: REASON``, ``failed: REASON`` or ``stopped: REASON``."""
    seconds = f" in {result['seconds']:.0f} s" if result["status"] == "done" else ""
    return f"{result['status']}{seconds}" + (f": {result['reason']}" if result.get("reason") else "")


def write(output: Path, results: Mapping[str, Result], options: argparse.Namespace) -> None:
    """Write the results so far, as JSON and as a note."""
    facts = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "minutes": options.minutes}
    facts |= {"device": options.device, "smoke": options.smoke}
    text = json.dumps({**facts, "parts": results}, indent=1)
    write_atomically(output / "gpu-check.json", f"{text}\n".encode())
    write_atomically(output / "gpu-check.md", ("\n".join(note(facts, results)) + "\n").encode())


def note(facts: Mapping[str, Any], results: Mapping[str, Result]) -> Iterator[str]:
    """Yield the lines of the note: where it was measured, then a table of each part."""
    machine = results.get("machine", {}).get("machine", {})
    packages = machine.get("packages", {})
    devices = ", ".join(machine.get("devices") or [f"{machine.get('cpus')} x {machine.get('cpu')}, no GPU"])
    yield f"# GPU check, {facts['time'][:10]}"
    yield from ("", f"Hardware: {devices}; torch {packages.get('torch')}, Python {machine.get('python')};")
    yield f"commit {machine.get('commit') or 'unknown'}. All parts together have {facts['minutes']:g} minutes."
    if facts["smoke"]:
        yield from ("", "**Smoke test on tiny shapes: it shows that every part runs, and its numbers mean nothing.**")
    for name, result in results.items():
        yield from ("", f"## {PARTS[name].title}", "", f"{state(result)}", *_markdown(result.get("rows", [])))
    yield from ("", *FOOTNOTES)


FOOTNOTES = (
    "TFLOP/s of a step: the operations that it must do (3 forward passes for a real image, 8 for a decoded one; a",
    "multiply-add is 2) divided by its median time. The plain loop is IDC's, class after class. cuDNN times its",
    "algorithms, except in deterministic rows. 'x plain' compares with the first plain loop. A run of fewer steps than",
    "published is no reproduction.",
)


def table(results: Mapping[str, Result]) -> Iterator[str]:
    """Yield the lines of the table that is printed last."""
    for name, result in results.items():
        yield f"{name}: {state(result)}"
        for row in result.get("rows", []):
            if "heading" in row:
                yield f"  {row['name']}: {row['heading']}"
            else:
                yield f"  {row['name']:<40} {_cells(row)}"


def _cells(row: Mapping[str, Any]) -> str:
    if reason := _reason(row):
        return reason
    return "  ".join(f"{_number(value)} {column}" for column, value in row.items() if column not in NAMES)


def _markdown(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a table for all rows up to the next heading, and so on."""
    block: list[Mapping[str, Any]] = []
    for row in [*rows, {"name": "", "heading": None}]:
        if "heading" not in row:
            block.append(row)
            continue
        if block:
            columns = list(dict.fromkeys(column for x in block for column in x if column not in (*NAMES, *REASONS)))
            columns = columns or ["result"]  # where no row has numbers
            yield from ("", f"| | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}")
            yield from (f"| {x['name']} | {' | '.join(_markdown_cells(x, columns))} |" for x in block)
        block = []
        if row["heading"]:
            yield from ("", f"{row['name']}: {row['heading']}")


NAMES = ("name", "shape")
"""Columns that are not printed as numbers."""
REASONS = {"skipped_because": "skipped", "failed_because": "failed"}


def _reason(row: Mapping[str, Any]) -> str | None:
    """Return why there are no numbers in a row, else None."""
    return next((f"{ended}: {row[key]}" for key, ended in REASONS.items() if key in row), None)


def _markdown_cells(row: Mapping[str, Any], columns: Sequence[str]) -> Iterator[str]:
    if reason := _reason(row):
        yield from (reason, *([""] * (len(columns) - 1)))
    else:
        yield from (_number(row[column]) if column in row else "" for column in columns)


def _number(value: float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
