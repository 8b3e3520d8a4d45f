"""Modules that another user plants in a folder for users who start a command there."""

from __future__ import annotations

from pathlib import Path

MODULES = (
    *("random", "json", "socket", "tempfile", "multiprocessing"),
    *("pyarrow", "fsspec", "torch", "ray", "mlflow", "dist_condense"),
)
"""Names of modules that commands and their child processes import."""


def planted(folder: Path) -> Path:
    """Make a folder with planted modules and return the file that each of them would write."""
    folder.mkdir()
    for name in MODULES:
        (folder / f"{name}.py").write_text(f"open({str(folder / 'mark')!r}, 'a').write(__file__)\n")
    return folder / "mark"
