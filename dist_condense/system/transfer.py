"""Copying of image batches to the compute device."""

from __future__ import annotations

from dataclasses import dataclass

import torch


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
