"""Small data sets to prepare, and tars of given members."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from dist_condense.data.preparing.betons import ReportProgress
from dist_condense.data.preparing.prepare import Preparation, PrepareOptions, finish, plan
from dist_condense.data.preparing.tars import MapUnordered
from dist_condense.data.shards.manifest import Manifest
from dist_condense.system.process_pool import LocalMap

CLASSES = ("n00000001", "n00000002", "zebra")
HERE = LocalMap(1)


def photograph(seed: int, mode: str = "RGB", width: int = 40, height: int = 40) -> Image.Image:
    """Return a blurred random image."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def write_folder(root: Path) -> Path:
    """Write three classes of four training images (grey, CMYK, not square, 24 pixels) and one validation image."""
    for position, name in enumerate(CLASSES):
        train, val = root / "train" / name, root / "val" / name
        train.mkdir(parents=True)
        val.mkdir(parents=True)
        photograph(position, "L").save(train / "a.jpg")
        photograph(position, "CMYK").save(train / "b.x y.JPEG")
        photograph(position, width=61, height=33).save(train / "c.png")
        photograph(position, width=24, height=24).save(train / "d.jpg")
        photograph(position, width=20, height=27).save(val / "e.png")
    return root


def unreported(finished: int, total: int, what: str) -> None:
    """Ignore a report of progress."""


def prepared(
    source: Path | str,
    dest: Path,
    *,
    mapping: MapUnordered = HERE,
    report: ReportProgress = unreported,
    ffcv: bool = False,
    **options: object,
) -> Manifest:
    """Prepare as the command does; by default in this process and without reports of progress."""
    planned = plan(str(source), dest, PrepareOptions(**options), map_unordered=mapping, ffcv=ffcv)
    manifest = planned.run(mapping, report) if isinstance(planned, Preparation) else planned
    return finish(dest, manifest, ffcv, report)


def tree(folder: Path) -> dict[str, bytes]:
    """Return the content of all files below a folder, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_tar(path: Path, members: list[tuple[str, bytes] | tarfile.TarInfo]) -> Path:
    """Write a tar of (name, content) pairs, or of headers without content."""
    with tarfile.open(path, "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def special(name: str, kind: bytes) -> tarfile.TarInfo:
    """A member that is no regular file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/hostname"
    return info
