"""The processes of a map import nothing from an untrusted working directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dist_condense.system.process_pool import SAFE_PATH, LocalMap
from tests.strangers import planted


@pytest.mark.slow  # starts two processes
def test_nothing_is_imported_from_the_folder_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = planted(tmp_path / "his")
    monkeypatch.chdir(tmp_path / "his")
    monkeypatch.delenv(SAFE_PATH, raising=False)
    assert sorted(LocalMap(2)(os.path.basename, ["/a", "/b"])) == ["a", "b"]
    assert not mark.exists(), mark.read_text()
    assert SAFE_PATH not in os.environ
