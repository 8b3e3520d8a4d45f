"""Bytes on their way to the device that computes."""

from __future__ import annotations

from dataclasses import dataclass

import torch


def uploads(source: torch.device, target: torch.device) -> bool:
    """Whether bytes go to the worker's GPU from elsewhere; it has one, called `cuda` or by its number."""
    return target.type == "cuda" and source.type != "cuda"


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """There, for work on the current stream; the host does not wait, as it does for pageable memory."""
    if not uploads(tensor.device, device):
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True)
class Arrival:
    """Images, and the copy that may still be under way to them.

    :param pinned: what is copied from, kept until the copy is done.
    """

    images: torch.Tensor
    copied: torch.cuda.Event | None = None
    pinned: torch.Tensor | None = None

    def received(self) -> torch.Tensor:
        """The images, safe to use on the current stream."""
        if self.copied is not None:
            stream = torch.cuda.current_stream(self.images.device)
            stream.wait_event(self.copied)
            self.images.record_stream(stream)
        return self.images


class Transfer:
    """Copies to one device: to a GPU from pinned memory, on a stream of its own; elsewhere there is nothing to do."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def begin(self, images: torch.Tensor) -> Arrival:
        """Start the copy; called from the thread that read the images."""
        if self._stream is None or not uploads(images.device, self.device):
            return Arrival(images.to(self.device))
        with torch.cuda.stream(self._stream):
            pinned = images.pin_memory()
            there = pinned.to(self.device, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record(self._stream)
        return Arrival(there, copied, pinned)
