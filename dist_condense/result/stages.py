"""Pictures of a few learnt images during a run, so that the report shows how they change.

``stages/STEP_LABEL.png`` has the first image of a class after a number of units. Each worker writes those of its own
classes, so that workers need not communicate. A resumed run writes equal files.
"""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dist_condense.result.gallery import SIDE, base64_of, png_of
from dist_condense.result.preview import picture
from dist_condense.result.synthetic_set import SyntheticDataset
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system import records
from dist_condense.system.files import write_atomically

CLASSES = 10
"""Number of classes, the first ones, of which there are pictures."""
PARTS = (16, 4)
"""Divisors of a run's number of units, after which pictures are written; and at the start."""
SHOWN = 6
"""Largest number of steps in a film strip, besides the end; a run that was prolonged has more pictures."""
PNG = b"\x89PNG\r\n\x1a\n"
"""First bytes of a PNG file."""
BYTES = 2**15
"""Largest size of a picture that is read."""
NAME = re.compile(r"([0-9]{8,18})_([0-9]{3})\.png")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stages:
    """Writer of pictures after a few steps.

    :param folder: folder of the run.
    :param steps: numbers of completed units after which pictures are written.
    :param shown: function from pixels to values in [0, 1].
    :param writing: function that returns the context for each write.
    """

    folder: Path
    steps: frozenset[int]
    shown: Callable[[Tensor], Tensor]
    writing: Callable[[], AbstractContextManager[None]] = nullcontext

    def write(self, step: int, labels: Sequence[int], state: Callable[[], Mapping[str, Tensor]]) -> None:
        """Write a picture of each class in ``labels`` that has one, if ``step`` is in :attr:`steps`.

        A picture that the disk does not accept is left out with a warning.

        :param state: function that returns the learnt pixels ``[ipc, C, H, W]`` of each class as ``pixels.LABEL``.
        """
        pictured = [label for label in labels if label < CLASSES]
        if step not in self.steps or not pictured:
            return
        tensors = state()
        for label in pictured:
            first = self.shown(tensors[f"pixels.{label}"][:1].float())
            file = RunFolder(self.folder).stages / f"{step:08d}_{label:03d}.png"
            try:
                with self.writing():
                    file.parent.mkdir(exist_ok=True)
                    write_atomically(file, png_of(picture(first, SIDE)))
            except OSError as error:
                log.warning("a picture for the report is not written: %s", error)


def steps_of(total: int) -> frozenset[int]:
    """Return the numbers of completed units after which a run of ``total`` units has pictures."""
    return frozenset({0, *(total // part for part in PARTS)})


def cut(folder: Path, steps: int) -> None:
    """Remove pictures of later steps than ``steps``; an earlier start, perhaps with other settings, wrote them."""
    for step, _, file in _files(folder):
        if step > steps:
            file.unlink(missing_ok=True)


@dataclass(frozen=True)
class Film:
    """Images of the first classes at several steps.

    :param steps: numbers of completed units, the last of which is that of the set.
    :param rows: name of each class, and its picture in base64 at each step, None if there is none.
    """

    steps: Sequence[int]
    rows: Sequence[tuple[str, Sequence[str | None]]]


def film(folder: Path, dataset: SyntheticDataset) -> Film | None:
    """Read the pictures of a run's folder, to which its set belongs; None if there are none.

    Files with other names, or of later steps than the set's, are ignored. Raises Unreadable if a file cannot be read.
    """
    last, pictures = dataset.card.steps, dict[tuple[int, int], str]()
    files = [entry for entry in _files(folder) if entry[0] < last and entry[1] < min(CLASSES, len(dataset.classes))]
    steps = sorted({step for step, _, _ in files})[:SHOWN]
    for step, label, file in files:
        if step in steps and (content := records.bytes_of(file, BYTES)).startswith(PNG):
            pictures[step, label] = base64.b64encode(content).decode()
    if not pictures:
        return None
    positions = dataset.positions()
    for label in range(min(CLASSES, len(dataset.classes))):
        pictures[last, label] = base64_of(picture(dataset.shown(positions[label][:1]), SIDE))
    steps.append(last)
    names = enumerate(dataset.classes[:CLASSES])
    return Film(steps, [(name, [pictures.get((step, label)) for step in steps]) for label, name in names])


def _files(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """Yield step, label and path of each picture, in the order of their names; links are none, wherever they lead."""
    stages = RunFolder(folder).stages
    for file in sorted(stages.iterdir()) if stages.is_dir() and not stages.is_symlink() else ():
        if (match := NAME.fullmatch(file.name)) and not file.is_symlink():
            yield int(match[1]), int(match[2]), file
