"""The table of costs in docs/cluster.md: what ImageNet runs take on a known GPU at assumed shares of its matrix rate.

    python -m benchmarks.costs               # seconds; nothing is timed and no data are read
    python -m benchmarks.costs --gpu h200 --shares 0.3

The rows are those of ``dist-condense plan CONFIG KEYS --gpu NAME --gpus N --share S``. Once rates of the GPU are in
planning/devices.json, ``--measured`` prints what follows from them instead.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from dist_condense.commands.arguments import plan_parser
from dist_condense.commands.plan_command import planned
from dist_condense.planning.plan import Plan
from dist_condense.result.progress import duration
from dist_condense.settings.config import load

AUTOCAST = "compute.autocast=true"


@dataclass(frozen=True)
class Run:
    """A run, with the numbers of GPUs for which it is planned."""

    title: str
    config: str
    keys: list[str]
    gpus: list[int]


RUNS = [
    Run("ImageNet-10", "configs/imagenet10_idc.yaml", [AUTOCAST], [1]),
    Run("ImageNet-100", "configs/imagenet100_idc.yaml", [AUTOCAST], [1, 8]),
    Run("ImageNet-1K", "configs/imagenet1k_idc.yaml", [AUTOCAST], [8, 64]),
]
HEAD = ["run", "share", "GPUs", "condensing", "GPU hours", "pretraining", "evaluation", "networks", "hours in all"]
HEAD += ["efficiency", "steps, divided", "overlapped", "all on every worker", "classes", "memory"]


def plans(gpu: str, shares: list[float | None]) -> Iterator[tuple[str, float | None, Plan]]:
    """Yield the title, the share and the plan of each row; share None: the measured rates."""
    for run in RUNS:
        for share in shares:
            for gpus in run.gpus:
                options = [
                    run.config,
                    "--gpu",
                    gpu,
                    "--gpus",
                    str(gpus),
                    *([] if share is None else [f"--share={share}"]),
                ]
                yield run.title, share, planned(plan_parser().parse_args(options), load(run.config, run.keys))


def row(title: str, share: float | None, plan: Plan) -> list[str]:
    """Return the cells of a row of the table."""
    found, steps = plan.forecast, plan.steps
    efficiency = next(each for other, each in plan.others if other.workers == found.workers)
    return [
        title,
        "measured" if share is None else f"{share:g}",
        f"{found.workers}",
        duration(found.seconds),
        f"{found.workers * found.seconds / 3600:.3g}",
        f"{found.pretraining / found.seconds:.0%}",
        duration(found.evaluating or 0.0),
        f"{sum(each.seeds for each in plan.load.trials)}",
        f"{found.device_hours:.3g}",
        *(f"{x:.1%}" for x in (efficiency, steps.divided, steps.overlapped, steps.everywhere)),
        f"{found.least} to {found.most}",
        f"{found.bytes / 2**30:.0f} GiB",
    ]


def main() -> None:
    """Print the table as markdown."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--gpu", default="h100")
    command.add_argument("--shares", type=float, nargs="+", default=[0.4, 0.2])
    command.add_argument("--measured", action="store_true", help="use the measured rates of the GPU, not a share")
    arguments = command.parse_args()
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}")
    for each in plans(arguments.gpu, [None] if arguments.measured else arguments.shares):
        print(f"| {' | '.join(row(*each))} |", flush=True)


if __name__ == "__main__":
    main()
