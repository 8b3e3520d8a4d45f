"""Parts of the check of a machine, each a function of a Task; benchmarks/gpu_check.py runs each in its own process.

    python -m benchmarks.gpu_parts PART --device cuda --seconds 60 --json part.json --work FOLDER

A part writes its JSON after every measurement, so that what was measured before it is stopped is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from statistics import median

import torch

from benchmarks.gpu_run import run
from benchmarks.gpu_steps import BF16, EAGER, SHAPES, preparing, profile, steps, twice
from benchmarks.gpu_task import GIB, TERA, Row, Skipped, Task, first_line
from dist_condense.commands import cli
from dist_condense.result.environment import environment
from dist_condense.settings.config import load
from dist_condense.system.processor import gpu_kernels

ROOT = Path(__file__).parents[1]


# --- the machine --------------------------------------------------------------------------------------------------


def machine(task: Task) -> None:
    """Describe the machine, and measure the rates of matrix products and of a copy on the device."""
    facts = environment()
    if task.on_gpu:
        properties = torch.cuda.get_device_properties(task.device)
        facts |= {
            "gpu": properties.name,
            "gpu_gib": properties.total_memory / GIB,
            "cudnn": torch.backends.cudnn.version(),
        }
    task.add(machine=facts)
    side = 256 if task.smoke else 8192 if task.on_gpu else 2048
    for name, dtype, is_tf32 in PRODUCTS:
        if is_tf32 and not task.on_gpu:
            task.add({"name": f"{name} matrix product", "skipped_because": "needs a CUDA device"})
            continue
        with gpu_kernels(tf32=is_tf32, benchmark=True, deterministic=False):
            square = torch.randn(side, side, device=task.device, dtype=dtype)
            seconds = median(task.timed(lambda x=square: x @ x, warm=2, least=10))
        task.add({"name": f"{name} matrix product of side {side}", "TFLOP/s": 2 * side**3 / seconds / TERA})
        if name == "bf16":
            task.add(rate=2 * side**3 / seconds / TERA)
    source = torch.randint(256, (2**20 if task.smoke else 2**28,), device=task.device, dtype=torch.uint8)
    target = torch.empty_like(source)
    seconds = median(task.timed(lambda: target.copy_(source), warm=2, least=10))
    task.add({"name": "copy on the device, read and written", "GB/s": 2 * source.nbytes / seconds / 1e9})


PRODUCTS = (("bf16", torch.bfloat16, False), ("float32", torch.float32, False), ("TF32", torch.float32, True))


# --- the GPU tests ------------------------------------------------------------------------------------------------


def tests(task: Task) -> None:
    """Run the tests that need a CUDA device, without plugins and without the settings of pyproject.toml."""
    import pytest

    files = sorted(str(x) for x in ROOT.glob("tests/**/test_*.py") if "mark.gpu" in x.read_text())
    if not files:
        raise Skipped("there are no tests here; the check needs a checkout")
    report = task.work / "tests.xml"
    words = ["-c", os.devnull, "--rootdir", str(ROOT), "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    code = pytest.main([*words, f"--junitxml={report}", f"--basetemp={task.work / 'pytest'}", *files], [InTime(task)])
    if not report.is_file():
        raise RuntimeError(f"pytest ended with {int(code)} and without a report")
    cases = list(ET.parse(report).iter("testcase"))
    ended = {kind: [case.get("name") for case in cases if case.find(kind) is not None] for kind in KINDS}
    bad = [*ended["failure"], *ended["error"]]
    counts = {
        "passed": len(cases) - sum(map(len, ended.values())),
        "failed": len(bad),
        "skipped": len(ended["skipped"]),
    }
    task.add({"name": "GPU tests", **counts}, *({"name": name, "failed": 1} for name in bad))
    if bad or code not in (0, 5):
        raise RuntimeError(f"{len(bad)} of {len(cases)} GPU tests failed, pytest ended with {int(code)}")
    if counts["passed"] == 0:
        raise Skipped(f"all {len(cases)} GPU tests were skipped: {_reason(cases)}")


@dataclass(frozen=True)
class InTime:
    """Plugin of pytest that skips the tests for which no time is left."""

    task: Task

    def pytest_runtest_setup(self) -> None:
        """Skip the test in the last tenth of the time; called by pytest."""
        import pytest

        if self.task.left < self.task.seconds / 10:
            pytest.skip("no time was left")


KINDS = ("failure", "error", "skipped")


def _reason(cases: Sequence[ET.Element]) -> str:
    return next((str(x.get("message")) for case in cases for x in case.iter("skipped")), "there are none")


# --- rates for plan -----------------------------------------------------------------------------------------------

PLANNED = {
    f"{title}, IDC, ipc 10, {precision}": (f"{name}_idc.yaml", keys)
    for precision, keys in (("bf16", BF16), ("float32", EAGER))
    for title, name in (("CIFAR-10", "cifar10"), ("ImageNet-10", "imagenet10"))
}
"""Config and keys of each planned run; rates in bf16 are measured first, because docs/cluster.md plans with them, and
compiled where the config is, because a config can use only rates that were measured with its ``compute.compile``."""


def rates(task: Task) -> None:
    """Measure the rates that ``dist-condense plan --calibration`` reads, and estimate the published runs by them.

    A plan is skipped if the longest one before it took more than the time that is left, or, where it compiles, if the
    longest compiling of step32 did. Raises RuntimeError at the end if any failed.
    """
    longest = 0.0
    for title, (name, keys) in task.some(PLANNED).items():
        before, work = task.left, partial(_planned, task, title, name, keys=keys)
        compiling = preparing(task) if load(f"configs/{name}", keys).compute.compile else 0.0
        task.attempt({"name": title}, work, task.lacks(max(longest, compiling), "another plan or compiling"))
        longest = max(longest, before - task.left)
    task.check()


def _planned(task: Task, title: str, name: str, *, keys: Sequence[str]) -> Row:
    """Make a plan with measured rates, store them, and return its hours and memory."""
    shape = next(x for shapes in SHAPES.values() for x in shapes.values() if x.config == name)
    keys = [
        *keys,
        "cluster.workers=0",
        f"cluster.device={task.device.type}",
        "dataset.root=null",
        f"output={task.work}/plan",
    ]
    small = [*shape.tiny, "dataset.size=16", "trajectory.start=fresh", "compute.compile=false"] if task.smoke else []
    saved = task.work / f"{Path(name).stem}_{title.rpartition(' ')[2]}.json"  # for plan --calibration
    words = ["plan", f"configs/{name}", *keys, *small, "--json", "--save", str(saved)]
    with redirect_stdout(StringIO()) as printed:
        cli.main([*words, *(["--images-per-class", "16"] if task.smoke else [])])
    if not printed.getvalue():
        raise RuntimeError("plan refused the config or could not time a step; see the log")
    made = json.loads(printed.getvalue())
    measured = made["rates"] | ({"matrix_rate": task.rate * TERA} if task.rate else {})
    saved.write_text(json.dumps(measured, indent=1) + "\n")
    task.add(calibrations={**task.result.get("calibrations", {}), title: measured})
    return {"hours": made["chosen"]["seconds"] / 3600, "peak GiB": made["chosen"]["bytes"] / GIB}


# --- the command of one part --------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Task], None]] = {
    "machine": machine,
    "tests": tests,
    "step32": steps,
    "step224": steps,
    "profile": profile,
    "twice": twice,
    "rates": rates,
    "run": run,
}


def main(words: Sequence[str] | None = None) -> None:
    """Run one part, and write how it ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("keys", nargs="*", metavar="KEY=VALUE", help="further keys of the run")
    parser.add_argument("--device", type=torch.device, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--resume", type=Path, help="run of an earlier check")
    parser.add_argument("--before", type=Path, help="JSON of the parts before")
    parser.add_argument("--again", action="store_true", help="go on with what the JSON contains")
    parser.add_argument("--smoke", action="store_true")
    options = vars(parser.parse_intermixed_args(words))
    before, again = options.pop("before"), options.pop("again")
    task = Task(
        **options,
        before=json.loads(before.read_text())["parts"] if before else {},
        result=json.loads(options["json"].read_text()) if again else {},
    )
    task.add(status="running", reason="")
    if task.smoke:
        torch.set_num_threads(1)  # tiny shapes, beside other work
    try:
        PARTS[task.part](task)
    except Skipped as reason:
        task.finish("skipped", str(reason))
    except Exception as error:
        task.finish("failed", first_line(error))
        raise
    else:
        task.finish("done")


if __name__ == "__main__":
    main()
