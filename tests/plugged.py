"""The package of docs/extending.md outside the repository, and runs that use each of its parts."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "extending.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NAMES = {
    "augmentation": "negative",
    "data set": "stripes",
    "distance": "huber",
    "network": "tanh",
    "protocol": "short",
    "selection": "central",
    "statistic": "moments",
}
"""Name of the package's part of each kind."""
ALL_PARTS = (
    *("dataset.name=stripes", "network.name=tanh:width=8", "network.depth=null", "network.width=null"),
    *("method.distance=huber", "method.statistic.name=moments", "method.augmentation.always=[negative]"),
    *("ipc=2", "method.real_batch=8", "trajectory.networks=2", "trajectory.matching_steps=2", "training.epochs=1"),
    *("tracking.uri=http://127.0.0.1:9", "cluster.device=cpu"),
)
"""Overrides of configs/digits.yaml for a tiny run with the parts of the package that matching uses."""
EVALUATION = (
    *("evaluation.sets=[condensed,central]", "evaluation.protocol=short", "evaluation.seeds=1", "evaluation.epochs=2"),
    "evaluation.architectures=[network,tanh:width=4]",
)
"""Overrides for an evaluation with the others."""


def source() -> str:
    """Return the module of the documentation."""
    return "\n\n".join(BLOCK.findall(PAGE.read_text()))


def write(folder: Path, text: str | None = None, module: str = "mypkg") -> Path:
    """Write a module, by default that of the documentation, to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{module}.py").write_text(source() if text is None else text)
    return folder


def install(folder: Path, module: str = "mypkg", version: str = "1.0") -> None:
    """Write what an installer records of a distribution with an entry point."""
    info = folder / f"{module}_dist-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}-dist\nVersion: {version}\n")
    (info / "RECORD").write_text(f"{module}.py,,\n")
    (info / "entry_points.txt").write_text(f"[dist_condense.plugins]\nmine = {module}\n")
