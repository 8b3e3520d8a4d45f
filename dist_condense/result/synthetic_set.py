"""The synthetic set on disk: learnt pixels exactly as held, labels, and a card that says how to use them.

``synthetic_set/``: ``synthetic_set.safetensors`` (``images`` float32, unclipped; ``labels`` int64, or
float32 class probabilities where they were learnt), ``card.json``, ``preview.png`` (clipped).
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from math import prod
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

from dist_condense import __version__
from dist_condense.core.parameterisation import AXES, BOTH, Grid, MultiFormation, grid_of, pad, tile_size
from dist_condense.data.normalise import ChannelStatistics
from dist_condense.data.space import NORMALISED, UNIT, VALUES, Space
from dist_condense.result.preview import sheet
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system import conversion, records
from dist_condense.system.conversion import NonNegative, Positive, Rule
from dist_condense.system.files import flush, flush_names, sha256_of
from dist_condense.system.records import Unreadable

FORMAT = 1
FORMAT_OF_VALUES = 2
"""Of sets that need one of the keys `LATER`, without which an earlier version would read them wrongly."""
LATER = ("width", "axes", "bounds")
FORMATS = f"{FORMAT} or {FORMAT_OF_VALUES}"
"""That are read."""
READABLE = 0o666
"""Bits of a file's mode; which of them are set is as for the folder, by the umask."""
CARD, TENSORS, PREVIEW = "card.json", "synthetic_set.safetensors", "preview.png"
VALUE_SPACES = (NORMALISED, UNIT, VALUES)
PADDING_OF_BEFORE = (0.5,)
HARD, SOFT = "hard", "soft"
ValueSpace = Annotated[str, Rule(" or ".join(VALUE_SPACES), VALUE_SPACES.__contains__)]
Axes = Annotated[str, Rule(" or ".join(AXES), AXES.__contains__)]
Bounds = Annotated[
    Sequence[float | None],
    Rule("the least and the largest value, or null for either", lambda x: len(x) == 2 and (None in x or x[0] < x[1])),
]
LOADS = 100
"""Tries to load a set, each of which met a new one taking its place."""

WITH_PACKAGE = """\
from dist_condense import load_set
dataset = load_set("synthetic_set")  # a torch Dataset of (image float32 [C, H, W], label), ready for training"""

BY_HAND = """\
import json, torch, torch.nn.functional as F
from safetensors.torch import load_file
card, held = json.load(open("card.json")), load_file("synthetic_set.safetensors")
n, h, w, axes = card["factor"], card["size"], card.get("width", card["size"]), card.get("axes", "both")
m, n = 1 if axes == "width" else n, 1 if axes == "height" else n  # an image holds m x n tiles, row by row
s, t = -(-h // m), -(-w // n)  # a tile's height and width; where m or n does not divide, right and bottom are padded
x = F.pad(held["images"], (0, t * n - w, 0, s * m - h))
x[:, :, h:] = x[:, :, :, w:] = torch.tensor(card["padding"])[:, None, None]
x = torch.cat([x[:, :, r * s : r * s + s, c * t : c * t + t] for r in range(m) for c in range(n)])
x = F.interpolate(x, size=(h, w), mode="bilinear", align_corners=False)  # all first tiles, then all second tiles
y = torch.cat([held["labels"]] * (m * n))
if card["value_space"] != "normalised":  # values of images ("unit": in [0, 1]), not clipped: normalise after decoding
    mean, std = (torch.tensor(card[k])[:, None, None] for k in ("mean", "std"))
    x = (x - mean) / std  # x, y: what training uses"""


class SyntheticSetError(RuntimeError):
    """A synthetic set cannot be written or read; the message says what, where and what to do."""


@dataclass(frozen=True)
class CardClass:
    """A class; ``label`` is the number in the labels, ``wnid`` its WordNet id where the data set has them."""

    label: NonNegative
    name: str
    wnid: str | None = None


@dataclass(frozen=True, kw_only=True)
class Card:
    """All that a stranger needs to use a set. :func:`write_set` fills in what stands below ``complete``."""

    method: str
    dataset: str
    classes: Sequence[CardClass]
    ipc: Positive
    """Images held per class."""
    channels: Positive
    size: Positive
    """Pixels of a side (of a column, where there is a ``width``), stored and decoded."""
    value_space: ValueSpace
    """``normalised``: pixels are (x - mean) / std already; ``unit``: in [0, 1], ``values``: as real images are stored;
    normalise both after decoding."""
    mean: Sequence[float]
    std: Sequence[float]
    factor: Positive
    """An image holds factor x factor tiles, or factor along ``axes`` (1: it is the image)."""
    seed: int
    steps: int
    """Units of the procedure done."""
    complete: bool
    """False while the run that makes the set goes on."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the procedure adds, each a key of the file beside these: matching its networks and matching steps."""
    decoding: str = "uniform"
    """What training on the set uses, whatever condensation used."""
    images_per_class: int = 0
    """Decoded."""
    labels: str = HARD
    """``hard``: numbers of the classes; ``soft``: class probabilities, in their order, ``[N, classes]``."""
    padding: Sequence[float] = PADDING_OF_BEFORE
    """One value, or one per channel, at the right and bottom where ``factor`` does not divide ``size``, as pixels are.
    Sets without it are of an earlier version, which padded 0.5 in either space.
    """
    width: Positive | None = None
    """Pixels of a row, where images are not square."""
    axes: Axes = BOTH
    """``both``, or the one along which an image holds tiles: ``height``, ``width``."""
    bounds: Bounds | None = None
    """The least and the largest value of a real image, null: there is none; without it 0 and 1."""
    format_version: int = FORMAT
    sha256: str = ""
    """Of the safetensors file."""
    created: str = ""
    """UTC."""
    code_commit: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    how_to_load: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Python, line by line."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self.channels, self.size, self.width or self.size

    @property
    def grid(self) -> Grid:
        """Rows and columns of tiles of an image."""
        return grid_of(self.factor, self.axes)

    @property
    def decoded_per_image(self) -> int:
        """Tiles of an image."""
        return prod(self.grid)

    @property
    def space(self) -> Space:
        """Of the pixels, but for its padding, which the card has as a pixel."""
        statistics = ChannelStatistics(tuple(self.mean), tuple(self.std))
        lower, upper = self.bounds or (0.0, 1.0)
        return Space(statistics, lower=lower, upper=upper, normalised=self.value_space == NORMALISED)


def form_of(space: Space, shape: tuple[int, int, int], parameterisation: MultiFormation) -> dict[str, Any]:
    """The fields of a card that say what the tensors mean.

    :param shape: (C, H, W) of an image.
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
    """What the cards of all formats have."""

    format_version: int
    versions: Mapping[str, str] = field(default_factory=dict)


def write_set(folder: str | Path, pixels: Tensor, labels: Tensor, card: Card) -> Card:
    """Write the set so that a whole one is there at every moment; returns the card as written.

    :param pixels: ``[N, C, H, W]`` float32, as learnt.
    :param labels: ``[N]``, integers of ``card.classes``, ``card.ipc`` of each; or class probabilities, float32
        ``[N, classes]``, with the images in the order of the classes.
    """
    folder = Path(folder).absolute()
    _check(pixels, labels, card)
    writing = _beside(folder, "writing")
    try:
        card = _write_beside(writing, pixels, labels, card)
        _put_in_place(writing, folder)
    except (OSError, SafetensorError) as error:
        raise SyntheticSetError(f"{folder}: the set is not written ({error}); one that was there is kept") from error
    finally:
        shutil.rmtree(writing, ignore_errors=True)  # a full disk gets its room back
    return card


def load_set(path: str | Path, verify: bool = True) -> SyntheticDataset:
    """Open a synthetic set; images are read and decoded when they are asked for.

    :param verify: compare the file's SHA-256 with the card's. It reads the whole file once: pass False for a set
        of ImageNet-1K (about 6 GB at ipc 10) that has been verified before.
    """
    path = Path(path).expanduser().absolute()
    for _ in range(LOADS):
        folder = _place(path)
        before = _content(folder / CARD)
        try:
            dataset = _open(folder, verify)
        except (RuntimeError, SafetensorError, OSError):  # a file that has gone is a RuntimeError of torch
            if _place(path) == folder and _content(folder / CARD) == before:
                raise
        else:
            if _content(folder / CARD) == before:  # so that card and images are of one set
                return dataset
    raise SyntheticSetError(f"{path} is replaced all the time; load it when the run is done")


def read_card(folder: str | Path) -> Card:
    """The card of a set."""
    file = Path(folder) / CARD
    if not file.exists():
        raise SyntheticSetError(f"no synthetic set at {folder}: {file} is missing")
    try:
        content = records.parsed(records.bytes_of(file), str(file))
        version = records.made(_Version, content, str(file), spare=True)
        if version.format_version in (FORMAT, FORMAT_OF_VALUES):
            return replace(records.made(Card, content, str(file), spare=True), facts=facts_of(content))
    except Unreadable as error:
        raise SyntheticSetError(f"{error}; it is not a card of format {FORMATS}") from error
    raise SyntheticSetError(
        f"{file} has format version {version.format_version}, dist_condense {__version__} reads {FORMATS};"
        f" the set was written by {conversion.shown(version.versions)}: use that version"
    )


def facts_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """Of what card.json holds the keys that are the procedure's own."""
    own = {x.name for x in fields(Card)}
    return {key: value for key, value in content.items() if key not in own}


class SyntheticDataset(Dataset[tuple[Tensor, int | Tensor]]):
    """Decoded, normalised images and labels, ready for training; read from disk one tile at a time.

    Item ``i`` is tile ``i // N`` of held image ``i % N``: all images' first tile, then all second tiles. The same
    numbers, bit for bit, as decoding the whole set with ``core.parameterisation.uniform`` and then normalising.
    """

    card: Card
    classes: tuple[CardClass, ...]
    labels: Tensor
    """Of the decoded images: int64, or class probabilities, float32 ``[N, classes]``."""

    def __init__(self, file: Path, card: Card) -> None:
        self.file, self.card, self.classes = file, card, tuple(card.classes)
        self._handle = safe_open(file, framework="pt")
        held = self._handle.get_tensor("labels")
        self._held = len(held)
        self.labels = torch.cat([held] * card.decoded_per_image)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]:
        index = range(len(self))[index]  # negative counts from the end; IndexError outside
        label = self.labels[index]
        return self.batch(torch.tensor([index]))[0], int(label) if label.ndim == 0 else label.clone()

    def batch(self, indices: Tensor) -> Tensor:
        """Decoded normalised images ``[len(indices), C, H, W]`` of integer indices."""
        chosen = range(len(self))
        images = torch.stack([self._tile(*divmod(chosen[i], self._held)) for i in indices.tolist()])
        if self.card.decoded_per_image > 1:
            images = F.interpolate(images, size=self.card.shape[1:], mode="bilinear", align_corners=False)
        return self.card.space.seen(images)

    def parameters(self) -> tuple[Tensor, Tensor]:
        """Learnt pixels ``[N, C, H, W]`` and labels exactly as in the file: reads the whole file."""
        return self._handle.get_tensor("images").clone(), self.labels[: self._held].clone()

    def _tile(self, tile: int, source: int) -> Tensor:
        """``[C, height, width]`` of a tile: only these pixels are read."""
        height, width = size = tile_size(self.card.shape[1:], self.card.grid)
        row, column = divmod(tile, self.card.grid[1])
        top, left = row * height, column * width
        # cloned: in the file a page may be shared with others, and a user may write to the image
        cut = self._handle.get_slice("images")[source, :, top : top + height, left : left + width].clone()
        return pad(cut, size, self.card.padding)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_handle"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)  # a file handle does not travel: every process has its own
        self._handle = safe_open(self.file, framework="pt")


def code_commit() -> str | None:
    """The commit of this code, with ``-dirty`` when files differ from it; None where it is not in a git checkout."""
    here = Path(__file__).parent

    def git(*command: str) -> str | None:
        try:
            done = subprocess.run(["git", *command], cwd=here, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:  # installed inside a foreign checkout
        return None
    return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _check(pixels: Tensor, labels: Tensor, card: Card) -> None:
    shape = (len(card.classes) * card.ipc, *card.shape)
    owners = labels if labels.ndim == 1 else _in_order(card)
    counts = {entry.label: int((owners == entry.label).sum()) for entry in card.classes}
    of_labels = (shape[0],) if labels.ndim == 1 else (shape[0], len(card.classes))
    uneven = {label: count for label, count in counts.items() if count != card.ipc}
    problems = [
        (pixels.dtype != torch.float32, f"pixels are {pixels.dtype}, a set holds float32"),
        (tuple(pixels.shape) != shape, f"pixels are {list(pixels.shape)}, the card says {list(shape)}"),
        (tuple(labels.shape) != of_labels, f"labels are {list(labels.shape)}, the card says {list(of_labels)}"),
        (bool(uneven), f"images per class are {uneven} where the card's ipc is {card.ipc}"),
        (card.value_space not in VALUE_SPACES, f"value_space is '{card.value_space}', choose one of {VALUE_SPACES}"),
        (card.axes not in AXES, f"axes is '{card.axes}', choose one of {', '.join(AXES)}"),
        (bool(wrong := _wrong_factor(card)), wrong),
        (len(card.mean) != card.channels or len(card.std) != card.channels, "mean and std need one value per channel"),
    ]
    if found := [text for wrong, text in problems if wrong]:
        raise SyntheticSetError("the synthetic set is not written: " + "; ".join(found))


def _write_beside(writing: Path, pixels: Tensor, labels: Tensor, card: Card) -> Card:
    """All files of the set, on the disk when this returns."""
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir(parents=True)
    images = pixels.detach().cpu().contiguous()
    soft = labels.ndim == 2
    held = labels.detach().to("cpu", torch.float32 if soft else torch.int64).contiguous()
    tensors = {"images": images, "labels": held}
    save_file(tensors, writing / TENSORS)
    (writing / TENSORS).chmod(writing.stat().st_mode & READABLE)  # safetensors makes it for its owner alone
    card = _filled(replace(card, labels=SOFT if soft else HARD), sha256_of(writing / TENSORS))
    _preview(images, _in_order(card) if soft else held, card).save(writing / PREVIEW)
    text = json.dumps(_content_of(card), indent=1, ensure_ascii=False)
    (writing / CARD).write_text(f"{text}\n", encoding="utf-8")
    for file in (TENSORS, PREVIEW, CARD):
        flush(writing / file)
    flush_names(writing)
    return card


def _put_in_place(writing: Path, folder: Path) -> None:
    """Two renames; where the process dies between them, load_set finds the last set aside."""
    aside = _beside(folder, "previous")
    if folder.exists():
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    try:
        writing.rename(folder)
    except OSError:
        with suppress(OSError):
            aside.rename(folder)
        raise
    flush_names(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _place(path: Path) -> Path:
    """The folder that holds the set of a path now: itself, in the folder of a run, or aside."""
    inside = RunFolder(path).synthetic_set
    folder = inside if (inside / CARD).exists() or _aside(inside) else path
    return _aside(folder) or folder


def _aside(folder: Path) -> Path | None:
    """The set that was there, while a new one takes its place or where that was cut short."""
    aside = _beside(folder, "previous")
    return aside if not (folder / CARD).exists() and (aside / CARD).exists() else None


def _open(folder: Path, verify: bool) -> SyntheticDataset:
    card, file = read_card(folder), folder / TENSORS
    if not file.is_file():
        raise SyntheticSetError(f"{file} is missing; copy the whole folder of the set")
    if verify and (found := sha256_of(file)) != card.sha256:
        raise SyntheticSetError(
            f"{file} is not the file that its card describes: SHA-256 is {found[:12]}..., "
            f"the card says {card.sha256[:12]}... It was changed or cut; copy the set again "
            "(verify=False opens it all the same)"
        )
    _check_held(file, card)
    return SyntheticDataset(file, card)


def _check_held(file: Path, card: Card) -> None:
    """What a card says decides how much memory is taken; what the file holds bounds it. Only its shapes are read."""
    try:
        with safe_open(file, framework="pt") as held:
            images, labels = (tuple(held.get_slice(name).get_shape()) for name in ("images", "labels"))
    except SafetensorError as error:
        raise SyntheticSetError(f"{file}: it cannot be read ({error}). It was changed; copy the set again") from error
    of_labels = (*images[:1], len(card.classes)) if card.labels == SOFT else images[:1]
    if images != (len(card.classes) * card.ipc, *card.shape) or labels != of_labels:
        wrong = f"images are {list(images)} and labels {list(labels)}, not as many or as large as its card says"
    elif wrong := _wrong_factor(card):
        wrong += ": a tile has at least one pixel"
    else:
        return
    raise SyntheticSetError(f"{file}: {wrong}. It was changed; copy the set again")


def _wrong_factor(card: Card) -> str:
    """Empty where it is right."""
    cut = [side for side, cut in zip(card.shape[1:], AXES.get(card.axes, (True, True)), strict=True) if cut]
    return "" if 1 <= card.factor <= min(cut) else f"factor {card.factor} is not in 1..{min(cut)}"


def _content_of(card: Card) -> dict[str, Any]:
    """As JSON holds it: the procedure's facts among the others, later keys only where they say something."""
    left_out = {entry.name: entry.default for entry in fields(Card) if entry.name in LATER}
    content = asdict(card)
    return content.pop("facts") | {key: x for key, x in content.items() if key not in left_out or x != left_out[key]}


def _content(file: Path) -> bytes | None:
    """None while it is not there."""
    try:
        return records.bytes_of(file)
    except Unreadable:
        return None


def _filled(card: Card, sha256: str) -> Card:
    return replace(
        card,
        format_version=FORMAT_OF_VALUES if set(LATER) & _content_of(card).keys() else FORMAT,
        images_per_class=card.ipc * card.decoded_per_image,
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


def _preview(pixels: Tensor, labels: Tensor, card: Card) -> Image.Image:
    def held(place: int) -> Tensor:
        return card.space.shown(pixels[labels == card.classes[place].label])

    return sheet(held, len(card.classes), card.ipc)


def _in_order(card: Card) -> Tensor:
    """The class of each image of a set with soft labels, int64 ``[N]``."""
    return torch.tensor([entry.label for entry in card.classes]).repeat_interleave(card.ipc)


def _beside(folder: Path, what: str) -> Path:
    return folder.with_name(f".{folder.name}.{what}")
