"""Decisions about copies to a GPU; tests/test_gpu.py makes real copies."""

import pytest
import torch

from dist_condense.system.transfer import ALIGNMENT, Arrival, Parcel, Transfer, packed, to_device, unpacked, uploads


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


TENSORS = [
    torch.arange(7, dtype=torch.uint8).view(7, 1),
    torch.tensor(0.3, dtype=torch.float64),
    torch.arange(6.0).view(2, 3).t(),
    torch.zeros(0, 2, dtype=torch.int64),
    torch.tensor([True, False, True]),
]


def test_packed_tensors_come_out_as_they_were():
    buffer = packed(TENSORS)
    assert buffer.dtype == torch.uint8 and len(buffer) % ALIGNMENT == 0
    for made, tensor in zip(unpacked(buffer, TENSORS), TENSORS, strict=True):
        assert made.dtype == tensor.dtype and torch.equal(made, tensor)
        assert not len(made.flatten()) or made.data_ptr() % made.itemsize == 0


def test_a_parcel_on_the_cpu_holds_the_tensors_themselves():
    received = Transfer(torch.device("cpu")).send(TENSORS).received()
    assert all(x is y for x, y in zip(received, TENSORS, strict=True))


def test_tensors_on_the_device_stay_there_while_the_others_are_copied(monkeypatch):
    """A device of its own stands for a GPU; what is copied there is one buffer."""
    monkeypatch.setattr("dist_condense.system.transfer.uploads", lambda source, target: source.type == "cpu")
    on_device, here = torch.empty(3, device="meta"), TENSORS[0]
    parcel = Parcel(Arrival(packed([here, here]).to("meta")), [here, on_device, here])
    first, kept, last = parcel.received()
    assert kept is on_device and first.device.type == last.device.type == "meta"
    assert first.shape == last.shape == here.shape and first.dtype == here.dtype
