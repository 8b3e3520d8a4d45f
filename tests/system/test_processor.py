"""Kernels of GPUs are selected in a context, and nothing else changes."""

from __future__ import annotations

import os

import torch

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
