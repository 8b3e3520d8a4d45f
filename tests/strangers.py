"""Malicious modules that another user could leave in a folder where a command is run."""

from __future__ import annotations

from pathlib import Path

MODULES = (
    *("random", "json", "socket", "tempfile", "multiprocessing"),
    *("pyarrow", "fsspec", "torch", "ray", "mlflow", "dist_condense"),
)
"""Names of modules that commands, and processes that they start, import."""


def planted(folder: Path) -> Path:
    """Create a folder with such modules; each would write the returned file."""
    folder.mkdir()
    for name in MODULES:
        (folder / f"{name}.py").write_text(f"open({str(folder / 'mark')!r}, 'a').write(__file__)\n")
    return folder / "mark"
