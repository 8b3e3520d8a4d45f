"""Peak memory of a computation, counted from its live tensors instead of measured on a device."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


class PeakBytes(TorchDispatchMode):
    """Context manager that counts the bytes of live tensors created in it, without the workspaces of kernels.

    The attribute ``most`` is the peak.
    """

    def __init__(self, before: Iterable[Tensor] = ()) -> None:
        """Count all tensors but those of ``before``, which would be counted once an operation returns a view of one."""
        super().__init__()
        self.most = 0
        self._now = 0
        self._before = [x.untyped_storage() for x in before]
        self._alive = {id(storage) for storage in self._before}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._count, result)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key not in self._alive:
            self._alive.add(key)
            self._now += size
            self.most = max(self.most, self._now)
            weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self._now -= size
