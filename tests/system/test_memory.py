"""The memory of a machine, with and without its swap space."""

from __future__ import annotations

from pathlib import Path

import pytest

from dist_condense.system import memory


@pytest.mark.parametrize(
    ("limits", "ram", "swap"),
    [
        ({}, None, 3 * 2**10),
        ({"memory.max": "max\n", "memory.swap.max": "max\n"}, None, 3 * 2**10),
        ({"memory.max": "5000\n", "memory.swap.max": "0\n"}, 5000, 0),
        ({"memory.max": "5000\n", "memory.swap.max": "2000\n"}, 5000, 2000),
        ({"memory.swap.max": "4000\n"}, None, 3 * 2**10),
    ],
)
def test_the_limits_of_a_container_bound_memory_and_swap(
    limits: dict[str, str], ram: int | None, swap: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in limits.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "meminfo").write_text("MemTotal:  9 kB\nSwapCached:  1 kB\nSwapTotal:  3 kB\nSwapFree:  2 kB\n")
    monkeypatch.setattr(memory, "CONTAINER", tmp_path)
    monkeypatch.setattr(memory, "MEMORY", tmp_path / "meminfo")
    assert ram in (None, memory.machine_memory())
    assert memory.memory_and_swap() - memory.machine_memory() == swap
    monkeypatch.setattr(memory, "MEMORY", tmp_path / "none")
    assert memory.memory_and_swap() == memory.machine_memory()
