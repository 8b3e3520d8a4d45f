"""Hook of mkdocs: pages outside ``docs/`` become part of the site, and links to files outside the site become text."""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "k8s/README.md": "k8s.md",
    **{f"benchmarks/{note.name}": f"benchmarks/{note.name}" for note in (ROOT / "benchmarks").glob("*.md")},
}
"""Pages of the site outside ``docs/``: path in the repository, and in the site."""
_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):<code>~?")
_LINK = re.compile(r"(!?)\[((?:[^\]\[]|\[[^\]]*\])*)\]\(([^()\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages outside ``docs/``."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Replace links between files of the repository by links between pages."""
    source = Path(os.path.relpath(page.file.abs_src_path, ROOT)).as_posix()

    def replaced(match: re.Match[str]) -> str:
        mark, text, target = match.groups()
        if "://" in target or target.startswith("#"):
            return match[0]
        path, sharp, anchor = target.partition("#")
        inside = _of_site(posixpath.normpath(posixpath.join(posixpath.dirname(source), path)))
        if inside is None:
            return str(text)
        return (
            f"{mark}[{text}]({posixpath.relpath(inside, posixpath.dirname(page.file.src_uri) or '.')}{sharp}{anchor})"
        )

    return _LINK.sub(replaced, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Remove the roles of Sphinx, which docstrings have before names."""
    return _ROLE.sub("<code>", html)


def _of_site(path: str) -> str | None:
    """Return the path in the site of a file of the repository; None if it is no part of the site."""
    if path in PAGES:
        return PAGES[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else None
