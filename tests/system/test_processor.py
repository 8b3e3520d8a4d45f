"""Kernels of GPUs are selected in a context, and nothing else changes."""

from __future__ import annotations

import torch

from dist_condense.system.processor import gpu_kernels


def state() -> dict[str, object]:
    cudnn = torch.backends.cudnn
    flags = {name: getattr(cudnn, name) for name in ("enabled", "benchmark", "deterministic", "allow_tf32")}
    return flags | {"matmul": torch.backends.cuda.matmul.allow_tf32}


def test_kernels_are_selected_and_restored() -> None:
    before = state()
    with gpu_kernels(tf32=False, benchmark=True, deterministic=True):
        assert state() == before | {"benchmark": True, "deterministic": True, "allow_tf32": False, "matmul": False}
    with gpu_kernels(tf32=True, benchmark=False, deterministic=False):
        assert state() == before | {"benchmark": False, "deterministic": False, "allow_tf32": True, "matmul": True}
    assert state() == before and before["enabled"]
