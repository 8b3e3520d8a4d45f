"""Decisions about copies to a GPU; tests/test_gpu.py makes real copies."""

import pytest
import torch

from dist_condense.system.transfer import to_device, uploads


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("cpu", "cuda", True),
        ("cpu", "cuda:1", True),
        ("cuda:0", "cuda", False),  # the one GPU, by its two names
        ("cuda:0", "cuda:0", False),
        ("cuda:0", "cpu", False),
        ("cpu", "cpu", False),
    ],
)
def test_only_what_is_elsewhere_goes_to_the_gpu(source, target, expected):
    assert uploads(torch.device(source), torch.device(target)) is expected


class Told:
    """A tensor on the CPU that records the calls made on it."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.done: list[object] = []

    def pin_memory(self) -> "Told":
        self.done.append("pinned")
        return self

    def to(self, device: torch.device, non_blocking: bool = False) -> "Told":
        self.done.append((device.type, non_blocking))
        return self


@pytest.mark.parametrize(("device", "done"), [("cuda", ["pinned", ("cuda", True)]), ("cpu", [("cpu", False)])])
def test_the_host_does_not_wait_for_a_copy_to_the_gpu(device, done):
    reported = to_device(Told(), torch.device(device))
    assert reported.done == done


def test_what_is_there_is_not_copied():
    tensor = torch.arange(3)
    assert to_device(tensor, torch.device("cpu")) is tensor
