"""The site of docs/ builds without a warning, and its pages link to each other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site; a warning ends the command."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]
    variables = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return folder


def test_every_document_is_a_page(site: Path) -> None:
    documents = {file.stem for file in (ROOT / "docs").glob("*.md")} | {"index", "k8s", "contributing", "changelog"}
    notes = {f"benchmarks/{file.stem}" for file in (ROOT / "benchmarks").glob("*.md")}
    assert documents | notes == {
        str(file.relative_to(site).with_suffix("")) for file in site.rglob("*.html") if file.stem != "404"
    }


def test_links_lead_to_pages_of_the_site(site: Path) -> None:
    """Also in what the hook rewrote; sections are checked by mkdocs."""
    lost = []
    for page in site.rglob("*.html"):
        for target in re.findall(r'(?:href|src)="([^"#]+)', page.read_text()):
            if "://" not in target and page.stem != "404" and not (page.parent / target).exists():
                lost.append((page.name, target))
    assert lost == []


def test_functions_are_described_by_their_docstrings(site: Path) -> None:
    page = (site / "api.html").read_text()
    for words in ("Condense data in memory", "Train networks from scratch on each set", "Register a distance D"):
        assert words in page
    assert ":func:" not in page and ":class:" not in page
