"""Copying of tensors to the compute device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch.utils import _pytree as pytree

Tree = TypeVar("Tree")
ALIGNMENT = 16
"""Bytes to which tensors are aligned in a common copy; a multiple of every dtype's size."""


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


def packed(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Return the bytes of tensors, one after the other, each padded to a multiple of :data:`ALIGNMENT`."""
    parts = [x.contiguous().flatten().view(torch.uint8) for x in tensors]
    return torch.cat([torch.nn.functional.pad(x, (0, -len(x) % ALIGNMENT)) for x in parts])


def unpacked(flat: torch.Tensor, like: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return views of the bytes that :func:`packed` made from tensors of the shapes and dtypes of ``like``."""
    sizes = [x.numel() * x.element_size() for x in like]
    parts = flat.split([size + -size % ALIGNMENT for size in sizes])
    return [p[:size].view(x.dtype).view(x.shape) for p, size, x in zip(parts, sizes, like, strict=True)]


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
class Parcel(Generic[Tree]):
    """Nested dicts, lists and registered dataclasses whose tensors travel to the device in one copy.

    :param arrival: bytes of the tensors from host memory, whose copy may still be in progress; None: nothing is copied.
    :param tree: the tensors before the copy; those that are not copied are on the device.
    """

    arrival: Arrival | None
    tree: Tree

    def received(self) -> Tree:
        """Return the tensors on the device, after making the current stream wait for their copy."""
        if self.arrival is None:
            return self.tree
        buffer = self.arrival.received()
        moved = iter(unpacked(buffer, _from_host(self.tree, buffer.device)))
        tree: Tree = pytree.tree_map_only(
            torch.Tensor, lambda x: next(moved) if uploads(x.device, buffer.device) else x, self.tree
        )
        return tree


def _from_host(tree: object, device: torch.device) -> list[torch.Tensor]:
    """Return the tensors that must be copied from host memory to a GPU."""
    return [x for x in pytree.tree_leaves(tree) if isinstance(x, torch.Tensor) and uploads(x.device, device)]


class Transfer:
    """Copier of images to one device.

    Copies from host memory to a GPU are asynchronous, on a separate stream and from pinned memory. Other copies are
    made by ``Tensor.to``.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # By its priority it is none of the streams on which steps are captured.
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None

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

    def send(self, tree: Tree) -> Parcel[Tree]:
        """Start to copy the tensors of ``tree``, to a GPU by a single copy; called in the thread that made them."""
        if from_host := _from_host(tree, self.device):
            return Parcel(self.begin(packed(from_host)), tree)
        return Parcel(None, pytree.tree_map_only(torch.Tensor, lambda x: x.to(self.device), tree))
