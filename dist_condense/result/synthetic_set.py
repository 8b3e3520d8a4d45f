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
from dist_condense.core.parameterisation import PADDING, normalised_padding, pad
from dist_condense.data.normalise import denormalise, normalise
from dist_condense.result.preview import sheet
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system import conversion, records
from dist_condense.system.conversion import NonNegative, Positive, Rule
from dist_condense.system.files import flush, flush_names, sha256_of
from dist_condense.system.records import Unreadable

FORMAT = 1
READABLE = 0o666
"""Bits of a file's mode; which of them are set is as for the folder, by the umask."""
CARD, TENSORS, PREVIEW = "card.json", "synthetic_set.safetensors", "preview.png"
VALUE_SPACES = ("normalised", "unit")
HARD, SOFT = "hard", "soft"
ValueSpace = Annotated[str, Rule(" or ".join(VALUE_SPACES), VALUE_SPACES.__contains__)]
LOADS = 100
"""Tries to load a set, each of which met a new one taking its place."""

WITH_PACKAGE = """\
from dist_condense import load_set
dataset = load_set("synthetic_set")  # a torch Dataset of (image float32 [C, h, h], label), ready for training"""

BY_HAND = """\
import json, torch, torch.nn.functional as F
from safetensors.torch import load_file
card, held = json.load(open("card.json")), load_file("synthetic_set.safetensors")
n, h = card["factor"], card["size"]  # an image holds n x n tiles, row by row
s = -(-h // n)  # pixels of a tile's side; where n does not divide h, the right and bottom are padded
x = F.pad(held["images"], (0, s * n - h, 0, s * n - h))
x[:, :, h:] = x[:, :, :, h:] = torch.tensor(card["padding"])[:, None, None]
x = torch.cat([x[:, :, r * s : r * s + s, c * s : c * s + s] for r in range(n) for c in range(n)])
x = F.interpolate(x, size=(h, h), mode="bilinear", align_corners=False)  # all first tiles, then all second tiles
y = torch.cat([held["labels"]] * n**2)
if card["value_space"] == "unit":  # held in [0, 1], not clipped: normalise after decoding; "normalised": done
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
    """Pixels of a side, held and decoded."""
    value_space: ValueSpace
    """``normalised``: pixels are (x - mean) / std already; ``unit``: in [0, 1], normalise after decoding."""
    mean: Sequence[float]
    std: Sequence[float]
    factor: Positive
    """An image holds factor x factor tiles (1: it is the image)."""
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
    padding: Sequence[float] = (PADDING,)
    """One value, or one per channel, at the right and bottom where ``factor`` does not divide ``size``: grey 0.5, in
    the space that pixels are held in. Sets without it are of an earlier version, which padded 0.5 in either space.
    """
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
    def decoded_per_image(self) -> int:
        """Tiles of an image."""
        return self.factor**2


@dataclass(frozen=True)
class _Version:
    """What the cards of all formats have."""

    format_version: int
    versions: Mapping[str, str] = field(default_factory=dict)


def write_set(folder: str | Path, pixels: Tensor, labels: Tensor, card: Card) -> Card:
    """Write the set so that a whole one is there at every moment; returns the card as written.

    :param pixels: ``[N, C, h, h]`` float32, as held.
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
        if version.format_version == FORMAT:
            return replace(records.made(Card, content, str(file), spare=True), facts=facts_of(content))
    except Unreadable as error:
        raise SyntheticSetError(f"{error}; it is not a card of format {FORMAT}") from error
    raise SyntheticSetError(
        f"{file} has format version {version.format_version}, dist_condense {__version__} reads {FORMAT};"
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
        """Decoded normalised images ``[len(indices), C, h, h]`` of integer indices."""
        chosen = range(len(self))
        images = torch.stack([self._tile(*divmod(chosen[i], self._held)) for i in indices.tolist()])
        if self.card.factor > 1:
            side = (self.card.size, self.card.size)
            images = F.interpolate(images, size=side, mode="bilinear", align_corners=False)
        unit = self.card.value_space == VALUE_SPACES[1]
        return normalise(images, self.card.mean, self.card.std) if unit else images

    def parameters(self) -> tuple[Tensor, Tensor]:
        """Learnt pixels ``[N, C, h, h]`` and labels exactly as in the file: reads the whole file."""
        return self._handle.get_tensor("images").clone(), self.labels[: self._held].clone()

    def _tile(self, tile: int, source: int) -> Tensor:
        """``[C, s, s]``: only these pixels are read."""
        side = -(-self.card.size // self.card.factor)
        top, left = (side * x for x in divmod(tile, self.card.factor))
        # cloned: in the file a page may be shared with others, and a user may write to the image
        cut = self._handle.get_slice("images")[source, :, top : top + side, left : left + side].clone()
        return pad(cut, side, self.card.padding)

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
    shape = (len(card.classes) * card.ipc, card.channels, card.size, card.size)
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
        (not 1 <= card.factor <= card.size, f"factor {card.factor} is not in 1..{card.size}"),
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
    content = {key: value for key, value in asdict(card).items() if key != "facts"}
    text = json.dumps({**card.facts, **content}, indent=1, ensure_ascii=False)
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
    if images != (len(card.classes) * card.ipc, card.channels, card.size, card.size) or labels != of_labels:
        wrong = f"images are {list(images)} and labels {list(labels)}, not as many or as large as its card says"
    elif card.factor > card.size:
        wrong = f"factor {card.factor} is not in 1..{card.size}: a tile has at least one pixel"
    else:
        return
    raise SyntheticSetError(f"{file}: {wrong}. It was changed; copy the set again")


def _content(file: Path) -> bytes | None:
    """None while it is not there."""
    try:
        return records.bytes_of(file)
    except Unreadable:
        return None


def _filled(card: Card, sha256: str) -> Card:
    return replace(
        card,
        format_version=FORMAT,
        images_per_class=card.ipc * card.decoded_per_image,
        padding=(PADDING,) if card.value_space == VALUE_SPACES[1] else normalised_padding(card.mean, card.std),
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
        images = pixels[labels == card.classes[place].label]
        return images if card.value_space == VALUE_SPACES[1] else denormalise(images, card.mean, card.std)

    return sheet(held, len(card.classes), card.ipc)


def _in_order(card: Card) -> Tensor:
    """The class of each image of a set with soft labels, int64 ``[N]``."""
    return torch.tensor([entry.label for entry in card.classes]).repeat_interleave(card.ipc)


def _beside(folder: Path, what: str) -> Path:
    return folder.with_name(f".{folder.name}.{what}")
