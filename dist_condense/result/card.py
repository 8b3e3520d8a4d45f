"""The card (card.json) that describes the meaning and the use of a synthetic set's tensors, and its reader."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from dist_condense import __version__
from dist_condense.core.parameterisation import AXES, BOTH, Grid, MultiFormation, grid_of
from dist_condense.data.normalise import ChannelStatistics
from dist_condense.data.sets.request import LARGEST_SIDE
from dist_condense.data.space import NORMALISED, UNIT, VALUES, Space
from dist_condense.engine.procedure import Kind
from dist_condense.result.environment import code_commit
from dist_condense.system import conversion, records
from dist_condense.system.conversion import NonNegative, Positive, Rule, Sha256
from dist_condense.system.records import Unreadable

CARD = "card.json"
FORMAT, FORMAT_OF_VALUES, FORMAT_OF_NUMBERS = FORMATS = 1, 2, 3
"""Format versions that are read and written. The second is for cards that contain a key in :data:`LATER`: an earlier
version of this package would ignore this key and decode the set wrongly. The third is for different numbers of images
of the classes."""
KNOWN = "1, 2 or 3"
LATER = ("width", "axes", "bounds")
VALUE_SPACES = (NORMALISED, UNIT, VALUES)
FIRST_PADDING = (0.5,)
"""Padding of sets of an earlier version, whose cards do not state it."""
HARD, SOFT = "hard", "soft"
PROTOCOL = "protocol"
"""Fact of a card: the protocol with which the run that made the set trains networks on it."""
TRAINING_IMAGES, TEST_IMAGES = "training_images", "test_images"
"""Facts of a card: numbers of real images of the source, in all classes."""
FLOAT32 = torch.finfo(torch.float32)
Value = Annotated[float, Rule(f"a number of at most {FLOAT32.max:.3g}", lambda x: abs(x) <= FLOAT32.max)]
Spread = Annotated[float, Rule("a number above 0", lambda x: FLOAT32.tiny <= x <= FLOAT32.max)]
Labels = Annotated[str, Rule(f"{HARD} or {SOFT}", (HARD, SOFT).__contains__)]
ValueSpace = Annotated[str, Rule(" or ".join(VALUE_SPACES), VALUE_SPACES.__contains__)]
Axes = Annotated[str, Rule(" or ".join(AXES), AXES.__contains__)]
Bounds = Annotated[
    Sequence[Value | None],
    Rule("the least and the largest value, or null for either", lambda x: len(x) == 2 and (None in x or x[0] < x[1])),
]

WITH_PACKAGE = """\
from dist_condense import load_set
dataset = load_set("synthetic_set")  # a torch Dataset of (image float32 [C, H, W], label), ready for training"""

IMPORTS = """\
import json, torch, torch.nn.functional as F
from pathlib import Path
from safetensors.torch import load_file
"""
DECODING = """\
card = json.loads(Path(folder, "card.json").read_text(encoding="utf-8"))
stored = load_file(Path(folder, "synthetic_set.safetensors"))
n, h, w, axes = card["factor"], card["size"], card.get("width", card["size"]), card.get("axes", "both")
m, n = 1 if axes == "width" else n, 1 if axes == "height" else n  # an image consists of m x n tiles, row by row
s, t = -(-h // m), -(-w // n)  # a tile's height and width; where m or n does not divide, right and bottom are padded
x = F.pad(stored["images"], (0, t * n - w, 0, s * m - h))
x[:, :, h:] = x[:, :, :, w:] = torch.tensor(card["padding"])[:, None, None]
x = torch.cat([x[:, :, r * s : r * s + s, c * t : c * t + t] for r in range(m) for c in range(n)])
x = F.interpolate(x, size=(h, w), mode="bilinear", align_corners=False)  # all first tiles, then all second tiles
y = torch.cat([stored["labels"]] * (m * n))
if card["value_space"] != "normalised":  # values of images ("unit": in [0, 1]), not clipped: normalise after decoding
    mean, std = (torch.tensor(card[k])[:, None, None] for k in ("mean", "std"))
    x = (x - mean) / std  # x, y: what training uses
"""
"""Lines that load the set in ``folder`` as images ``x`` and labels ``y``, also in load.py (see loader.py)."""
BY_HAND = f"""\
{IMPORTS}folder = "."  # the folder of this card
{DECODING}"""


class SyntheticSetError(RuntimeError):
    """Error in writing or reading a synthetic set; the message states the reason, the file and what to do."""


@dataclass(frozen=True)
class CardClass:
    """A class: its label, its name, and its WordNet id if the data set has one."""

    label: NonNegative
    name: str
    wnid: str | None = None


@dataclass(frozen=True, kw_only=True)
class Card:
    """Description of a synthetic set, sufficient to use the set.

    :meth:`filled` sets ``format_version`` and the fields after it.
    """

    method: str
    dataset: str
    classes: Sequence[CardClass]
    ipc: Positive | Sequence[Positive]
    """Number of stored images per class; if classes have different numbers, that of each class in their order."""
    channels: Positive
    size: Positive
    """Height of an image in pixels, stored and decoded; also its width, unless ``width`` is set."""
    value_space: ValueSpace
    """Space of the pixels. ``normalised``: (x - mean) / std; ``unit``: in [0, 1]; ``values``: as real images are
    stored. Pixels of the latter two are normalised after decoding."""
    mean: Sequence[Value]
    std: Sequence[Spread]
    factor: Positive
    """Number of tiles of an image along each of ``axes``; 1: the image is not tiled."""
    seed: int
    steps: NonNegative
    """Number of completed units of the procedure."""
    complete: bool
    """Whether the run that writes the set has finished condensing."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Facts of the procedure, which are further keys of card.json; for matching, the numbers of networks and of
    matching steps."""
    decoding: Literal["uniform"] = "uniform"
    """Decoding for training on the set, which may differ from the decoding used in matching."""
    images_per_class: NonNegative | Sequence[Positive] = 0
    """Number of decoded images per class, in the form of ``ipc``; 0 if it is not stated."""
    labels: Labels = HARD
    """``hard``: class numbers; ``soft``: probabilities ``[N, classes]``, in the order of ``classes``."""
    padding: Sequence[Value] = FIRST_PADDING
    """Pixel value, one or one per channel, of the right and bottom margin where ``factor`` does not divide a side."""
    width: Positive | None = None
    """Width of an image in pixels; None: equal to ``size``."""
    axes: Axes = BOTH
    """``both``, or the single axis along which an image is tiled: ``height`` or ``width``."""
    bounds: Bounds | None = None
    """Lower and upper bound of the values of real images, each None if there is no bound; None stands for (0, 1)."""
    format_version: int = FORMAT
    sha256: Sha256 | Literal[""] = ""
    """SHA-256 of the safetensors file."""
    created: str = ""
    """Time of writing in UTC, ISO 8601."""
    code_commit: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    how_to_load: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Lines of Python that load the set, with this package and without it."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of an image."""
        return self.channels, self.size, self.width or self.size

    @property
    def grid(self) -> Grid:
        """Numbers of rows and columns of tiles in an image."""
        return grid_of(self.factor, self.axes)

    @property
    def decoded_per_image(self) -> int:
        """Number of decoded images in each stored image: ``factor`` squared, or ``factor`` where one axis is tiled."""
        return prod(self.grid)

    @property
    def space(self) -> Space:
        """Space of the pixels. Its padding is not set, because the card states padding as pixel values."""
        statistics = ChannelStatistics(tuple(self.mean), tuple(self.std))
        lower, upper = self.bounds or (0.0, 1.0)
        return Space(statistics, lower=lower, upper=upper, normalised=self.value_space == NORMALISED)

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of stored images of each class, in the order of ``classes``."""
        return (self.ipc,) * len(self.classes) if isinstance(self.ipc, int) else tuple(self.ipc)

    @property
    def ipc_text(self) -> str:
        """Number of stored images per class for people: ``10``, or ``2 to 10`` if classes have different numbers."""
        least, most = min(self.counts), max(self.counts)
        return f"{least:,}" if least == most else f"{least:,} to {most:,}"

    @property
    def decoded_counts(self) -> tuple[int, ...]:
        """Number of decoded images of each class, in the order of ``classes``."""
        return tuple(count * self.decoded_per_image for count in self.counts)

    @property
    def class_of_each_image(self) -> Tensor:
        """Label of each stored image if images are in the order of ``classes``, int64 ``[N]``."""
        return torch.tensor([entry.label for entry in self.classes]).repeat_interleave(torch.tensor(self.counts))

    @property
    def tensors(self) -> dict[str, Kind]:
        """Types and shapes of the tensors that the set stores, by name."""
        count, classes = sum(self.counts), len(self.classes)
        labels = (torch.float32, (count, classes)) if self.labels == SOFT else (torch.int64, (count,))
        return {"images": (torch.float32, (count, *self.shape)), "labels": labels}

    def contradictions(self) -> Iterator[str]:
        """Yield a problem for each field that contradicts others; each field by itself has passed its type's rules."""
        if not self.classes or any(entry.label != label for label, entry in enumerate(self.classes)):
            yield "the labels of classes are not 0, 1, 2, ... in this order"
        largest = min(side for side, is_cut in zip(self.shape[1:], AXES[self.axes], strict=True) if is_cut)
        if self.factor > largest:
            yield f"factor {self.factor} is not in 1..{largest}: a tile has at least one pixel"
        if (pixels := self.size * self.shape[2]) > LARGEST_SIDE**2:
            yield f"an image has {pixels} pixels, more than {LARGEST_SIDE**2}"
        if len(self.counts) != len(self.classes):
            yield f"ipc has {len(self.counts)} numbers for {len(self.classes)} classes"
        elif self.classes and self.images_per_class not in (0, self.decoded_counts, common(self.decoded_counts)):
            stated, given = (f"{x!r:.80}" for x in (self.images_per_class, common(self.decoded_counts)))
            yield f"images_per_class is {stated}, but ipc and factor give {given}"
        lengths = {"mean": len(self.mean), "std": len(self.std), "padding": len(self.padding)}
        uneven = {name: n for name, n in lengths.items() if n != self.channels and (name, n) != ("padding", 1)}
        yield from (f"{name} has {n} values for {self.channels} channels" for name, n in uneven.items())
        if (
            not uneven
            and not self.space.seen(torch.tensor(self.padding).expand(self.channels)[:, None, None]).isfinite().all()
        ):
            yield "padding is not finite after normalisation"
        if self.space.name != self.value_space:
            bounds = "no bounds" if self.bounds is None else f"bounds {list(self.bounds)}"
            yield f"value_space {self.value_space} contradicts {bounds}"

    @property
    def content(self) -> dict[str, Any]:
        """Content of card.json: facts and fields, except fields in :data:`LATER` that have their default value."""
        defaults = {entry.name: entry.default for entry in fields(Card) if entry.name in LATER}
        content = asdict(self)
        return content.pop("facts") | {k: x for k, x in content.items() if k not in defaults or x != defaults[k]}

    def filled(self, sha256: str) -> Card:
        """Return a copy of the card that also describes the written files and how to load them."""
        usual = FORMAT_OF_VALUES if set(LATER) & self.content.keys() else FORMAT
        return replace(
            self,
            format_version=usual if isinstance(self.ipc, int) else FORMAT_OF_NUMBERS,
            images_per_class=common(self.decoded_counts),
            sha256=sha256,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            code_commit=code_commit(),
            versions={
                "dist_condense": __version__,
                "torch": str(torch.__version__),
                "python": platform.python_version(),
            },
            how_to_load={"with_dist_condense": WITH_PACKAGE.splitlines(), "by_hand": BY_HAND.splitlines()},
        )


def common(numbers: Sequence[int]) -> int | Sequence[int]:
    """Return the number that all classes have in common, or the numbers of all classes if they differ."""
    first, *others = {*numbers}
    return numbers if others else first


def form_of(space: Space, shape: tuple[int, int, int], parameterisation: MultiFormation) -> dict[str, Any]:
    """Return the fields of a card that describe the form of the images, as a dict by field name.

    :param space: value space of the stored pixels.
    :param shape: (C, H, W) of an image.
    :param parameterisation: parameterisation that decodes the images.
    """
    channels, height, width = shape
    return {
        "channels": channels,
        "size": height,
        "width": None if width == height else width,
        "value_space": space.name,
        "bounds": None if space.bounds == (0.0, 1.0) else space.bounds,
        "mean": space.statistics.mean,
        "std": space.statistics.std,
        "padding": space.pixel_padding,
        "factor": parameterisation.factor,
        "axes": parameterisation.axes,
    }


@dataclass(frozen=True)
class _Version:
    """Fields that exist in cards of every format."""

    format_version: int
    versions: Mapping[str, str] = field(default_factory=dict)


def read_card(folder: str | Path) -> Card:
    """Read the card of a set. Raises SyntheticSetError if it is missing, invalid or of an unknown format."""
    file = Path(folder) / CARD
    try:
        reason = "" if file.exists() else f"{file} is missing"
    except (OSError, ValueError) as error:  # a folder that may not be searched, or a name that is none
        reason = getattr(error, "strerror", None) or str(error)
    if reason:
        raise SyntheticSetError(f"no synthetic set at {folder}: {reason}")
    try:
        content = records.parsed(records.bytes_of(file), str(file))
        version = records.made(_Version, content, str(file), ignore_unknown=True)
        if version.format_version in FORMATS:
            return checked(content, str(file))
    except Unreadable as error:
        raise SyntheticSetError(f"{error}; it is not a card of format {KNOWN}: copy the set again") from error
    writer = conversion.shown(version.versions.get("dist_condense"))
    raise SyntheticSetError(
        f"{file} has format version {version.format_version}, dist_condense {__version__} reads {KNOWN};"
        f" the set was written by version {writer}: use that version"
    )


def checked(content: Mapping[str, Any], where: str) -> Card:
    """Return the card with the content of a card.json; every card that is written or read has passed this check.

    :param where: name of the content in messages.
    :raises Unreadable: a value has a wrong type or is out of its range, or values contradict each other.
    """
    card = records.made(Card, content, where, ignore_unknown=True)
    if problems := list(card.contradictions()):
        raise Unreadable(f"{where}: {'; '.join(problems)}")
    return replace(card, facts=records.made(dict[str, Any], facts_of(content), where))


def facts_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of card.json that are facts of the procedure, not fields of :class:`Card`."""
    own = {x.name for x in fields(Card)}
    return {key: value for key, value in content.items() if key not in own}
