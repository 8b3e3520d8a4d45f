"""Checkpoints keyed by class, never by worker; one is there once its manifest is, which is written last.

``checkpoints/step_00000120/``: ``classes_R.safetensors`` (one per worker: pixels and momentum of its classes),
``shared.safetensors`` (theta and its optimiser, the same on every worker), ``state.json`` (the manifest).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from dist_condense.engine.coordinator import Coordinator

MANIFEST, SHARED = "state.json", "shared.safetensors"
KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def steps(self) -> int:
        """Matching steps done."""
        return int(self.manifest["steps"])

    def classes(self) -> dict[str, Tensor]:
        """The state of all classes, as ``pixels.LABEL`` and ``buffer.LABEL``."""
        files = [self.folder / name for name in self.manifest["files"] if name != SHARED]
        return {name: x for file in files for name, x in load_file(file).items()}

    def shared(self) -> dict[str, Tensor]:
        """The state that every worker holds."""
        return load_file(self.folder / SHARED)


def newest(folder: Path) -> Checkpoint | None:
    """The committed checkpoint with the most steps, if there is one."""
    for path in sorted(folder.glob("step_*"), reverse=True):
        if (path / MANIFEST).exists():
            return Checkpoint(path, json.loads((path / MANIFEST).read_text()))
    return None


def save(
    folder: Path,
    manifest: Mapping[str, Any],
    own: Mapping[str, Tensor],
    shared: Mapping[str, Tensor],
    coordinator: Coordinator,
) -> None:
    """Write one checkpoint together; every worker calls it at the same step.

    :param manifest: at least ``steps``.
    """
    writing = folder / f"writing_{manifest['steps']:08d}"
    if coordinator.rank == 0:
        shutil.rmtree(writing, ignore_errors=True)
        writing.mkdir(parents=True)
        save_file(dict(shared), writing / SHARED)
    coordinator.gather(None)
    name = f"classes_{coordinator.rank}.safetensors"
    if own:
        save_file(dict(own), writing / name)
    files = [SHARED, *filter(None, coordinator.gather(name if own else None))]
    if coordinator.rank == 0:
        (writing / MANIFEST).write_text(json.dumps({**manifest, "files": files}, indent=1))
        final = folder / f"step_{manifest['steps']:08d}"
        shutil.rmtree(final, ignore_errors=True)
        writing.rename(final)
        for old in sorted(folder.glob("step_*"))[:-KEPT]:
            shutil.rmtree(old)
    coordinator.gather(None)
