"""What somebody else leaves in a folder of his for those who call a command there."""

from __future__ import annotations

from pathlib import Path

MODULES = (
    *("random", "json", "socket", "tempfile", "multiprocessing"),
    *("pyarrow", "fsspec", "torch", "ray", "mlflow", "dist_condense"),
)
"""Names of modules that commands, and processes that they start, import."""


def planted(folder: Path) -> Path:
    """A new folder with modules of his. Each would write the file that is returned."""
    folder.mkdir()
    for name in MODULES:
        (folder / f"{name}.py").write_text(f"open({str(folder / 'mark')!r}, 'a').write(__file__)\n")
    return folder / "mark"
