"""Copying of tensors to the compute device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch.utils import _pytree as pytree

Tree = TypeVar("Tree")
ALIGNMENT = 16
"""Bytes to whose multiples the tensors in a packed copy are aligned."""


def uploads(source: torch.device, target: torch.device) -> bool:
    """Return whether a copy goes from host memory to a GPU (``cuda``, with or without a number)."""
    return target.type == "cuda" and source.type != "cuda"


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to a device on the current stream.

    A copy to a GPU goes through pinned memory, so that the host does not wait.
    """
    if not uploads(tensor.device, device):
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def together(tree: Tree, device: torch.device) -> Tree:
    """Copy all tensors of nested dicts, lists and registered dataclasses to a device, to a GPU by a single copy.

    The tensors on the GPU are views of one allocation.
    """
    leaves, structure = pytree.tree_flatten(tree)
    tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
    if not any(uploads(x.device, device) for x in tensors):
        return pytree.tree_map_only(torch.Tensor, lambda x: x.to(device), tree)
    arrived = iter(unpacked(to_device(packed(tensors), device), tensors))
    copied = [next(arrived) if isinstance(x, torch.Tensor) else x for x in leaves]
    result: Tree = pytree.tree_unflatten(copied, structure)
    return result


def packed(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the bytes of the tensors one after the other, uint8 1-D, each aligned to ALIGNMENT bytes."""
    flat = [x.contiguous().flatten().view(torch.uint8) for x in tensors]
    return torch.cat([F.pad(x, (0, -len(x) % ALIGNMENT)) for x in flat])


def unpacked(buffer: torch.Tensor, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the tensors of :func:`packed` as views of ``buffer``, with the shapes and dtypes of ``like``."""
    sizes = [x.nbytes for x in like]
    parts = buffer.split([size + -size % ALIGNMENT for size in sizes])
    return [part[:size].view(x.dtype).view(x.shape) for part, size, x in zip(parts, sizes, like, strict=True)]


@dataclass(frozen=True)
class Arrival:
    """Images whose copy to the device may still be in progress.

    :param images: images on the device.
    :param copied: event recorded after the copy; None if there is nothing to wait for.
    :param pinned: source of the copy, kept in memory while the copy is in progress.
    """

    images: torch.Tensor
    copied: torch.cuda.Event | None = None
    pinned: torch.Tensor | None = None

    def received(self) -> torch.Tensor:
        """Return the images, after making the current stream wait for their copy."""
        if self.copied is not None:
            stream = torch.cuda.current_stream(self.images.device)
            stream.wait_event(self.copied)
            self.images.record_stream(stream)
        return self.images


@dataclass(frozen=True)
class Parcel:
    """Tensors that travel to the device together, in one copy, which may still be in progress.

    :param arrival: bytes of the tensors that come from host memory; None if nothing had to be copied to a GPU.
    :param tensors: the tensors before the copy; those that are not copied are on the device.
    """

    arrival: Arrival | None
    tensors: Sequence[torch.Tensor]

    def received(self) -> list[torch.Tensor]:
        """Return the tensors on the device, after making the current stream wait for their copy."""
        if self.arrival is None:
            return list(self.tensors)
        buffer = self.arrival.received()
        copied = [uploads(x.device, buffer.device) for x in self.tensors]
        moved = iter(unpacked(buffer, [x for x, here in zip(self.tensors, copied, strict=True) if here]))
        return [next(moved) if here else x for x, here in zip(self.tensors, copied, strict=True)]


class Transfer:
    """Copier of images to one device.

    Copies from host memory to a GPU are asynchronous, on a separate stream and from pinned memory. Other copies are
    made by ``Tensor.to``.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def begin(self, images: torch.Tensor) -> Arrival:
        """Start to copy images and return the pending copy; called in the thread that read the images."""
        if self._stream is None or not uploads(images.device, self.device):
            return Arrival(images.to(self.device))
        with torch.cuda.stream(self._stream):
            pinned = images.pin_memory()
            on_device = pinned.to(self.device, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record(self._stream)
        return Arrival(on_device, copied, pinned)

    def send(self, tensors: Sequence[torch.Tensor]) -> Parcel:
        """Start to copy tensors; those in host memory travel to a GPU together. Called in the thread that made them."""
        from_host = [x for x in tensors if uploads(x.device, self.device)]
        if not from_host:
            return Parcel(None, [x.to(self.device) for x in tensors])
        return Parcel(self.begin(packed(from_host)), tensors)
