"""Door: the files of the catalogue's data sets, damaged at random."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from hypothesis import strategies as st

from dist_condense.data import DataError, open_dataset
from dist_condense.data.sets.packed import PACKED
from tests.data.sets.idx_cases import write_fashion
from tests.doors.fuzzing import door, fuzz, mutated_bytes

HTML = b"<html><body>502 Bad Gateway</body></html>"


def odd_files(valid: bytes) -> st.SearchStrategy[bytes]:
    return st.one_of(mutated_bytes(valid), st.sampled_from([b"", HTML, b"\x1f\x8b\x08" + valid]))


def replace(file: Path, how: str) -> None:
    file.unlink()
    if how == "pipe":
        os.mkfifo(file)
    elif how == "folder":
        file.mkdir()
    elif how == "device":
        file.symlink_to("/dev/zero")
    elif how == "sparse":
        file.write_bytes(b"\0\0\x08\3")
        os.truncate(file, 20 * 2**30)


def check(name: str, root: Path, file: Path, data: st.DataObject, valid: bytes) -> None:
    """Damage one file, open the data set, and read it whole if it is accepted; a refusal names the data set or file."""
    how = data.draw(st.sampled_from(["bytes"] * 8 + ["pipe", "folder", "device", "sparse", "gone"]))
    if how == "bytes":
        file.write_bytes(data.draw(odd_files(valid)))
    else:
        replace(file, how)
    with door(DataError) as answer:
        opened = open_dataset(name, root)
        source, test = opened.train(), opened.test()
        for label, count in enumerate(opened.counts):
            images = source.get(label, torch.arange(count))
            assert count and (images.dtype, images.shape) == (torch.uint8, (count, *opened.shape))
        assert test.labels.unique().tolist() == list(range(10))
    for line in answer.lines or []:
        assert file.name in line or line.startswith(name), line


@fuzz(st.data(), examples=200)
def test_idx_files(data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        raw = write_fashion(Path(folder))
        file = data.draw(st.sampled_from(sorted(raw.iterdir())))
        check("fashion_mnist", Path(folder), file, data, file.read_bytes())


@fuzz(st.sampled_from(["cifar10", "cifar100", "svhn"]), st.data(), examples=60)
def test_files_with_checksums_are_never_unpickled(name: str, data: st.DataObject) -> None:
    """No small file has the published MD5, so each is refused; the harness watches that nothing is unpickled."""
    with TemporaryDirectory() as folder:
        for path in PACKED[name].original.files:
            (Path(folder) / path).parent.mkdir(exist_ok=True)
            (Path(folder) / path).write_bytes(b"cos\nmkdir\n(S'executed'\ntR.")
        file = Path(folder) / data.draw(st.sampled_from(sorted(PACKED[name].original.files)))
        with door(DataError) as answer:
            file.write_bytes(data.draw(odd_files(file.read_bytes())))
            open_dataset(name, folder)
        assert answer.lines and any(file.name in line for line in answer.lines)
