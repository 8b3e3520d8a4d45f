"""Kernels of GPUs are selected in a context, and nothing else changes; what a processor or compiler lacks is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from dist_condense.system import processor
from dist_condense.system.processor import gpu_kernels


def state() -> dict[str, object]:
    cudnn = torch.backends.cudnn
    flags = {name: getattr(cudnn, name) for name in ("enabled", "benchmark", "deterministic", "allow_tf32")}
    memory = torch.utils.deterministic.fill_uninitialized_memory
    everywhere = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    return flags | {"matmul": torch.backends.cuda.matmul.allow_tf32, "memory": memory, "everywhere": everywhere}


def test_kernels_are_selected_and_restored() -> None:
    before = state()
    with gpu_kernels(tf32=False, benchmark=True, deterministic=True):
        fixed = {"deterministic": True, "everywhere": (True, False), "memory": False}
        assert state() == before | {"benchmark": True, "allow_tf32": False, "matmul": False} | fixed
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"]  # without it, torch refuses every matrix product
    with gpu_kernels(tf32=True, benchmark=False, deterministic=False):
        assert state() == before | {"benchmark": False, "deterministic": False, "allow_tf32": True, "matmul": True}
    assert state() == before and before["enabled"]


@pytest.mark.parametrize(("flags", "has"), [("fpu avx2 avx512_bf16 sse", True), ("fpu avx2 avx512f", False)])
def test_bfloat16_is_a_flag_of_the_cpu(tmp_path: Path, flags: str, has: bool) -> None:
    (info := tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    assert processor.has_bfloat16("cpu", info) is has
    assert processor.has_bfloat16("cpu", tmp_path / "none")


def test_a_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "mine -v")
    monkeypatch.delenv("CC", raising=False)
    assert processor.lacks_compiler("cpu") == "a C++ compiler (g++, or CXX)"
    assert processor.lacks_compiler("cuda") == "a C compiler (gcc, or CC)"
    for name in ("mine", "gcc"):
        (tmp_path / name).touch(0o755)
    assert processor.lacks_compiler("cpu") == processor.lacks_compiler("cuda")
    monkeypatch.setattr(processor.sysconfig, "get_path", lambda name: str(tmp_path))
    assert "Python.h" in str(processor.lacks_compiler("cpu"))
    (tmp_path / "Python.h").touch()
    assert processor.lacks_compiler("cpu") is None
