"""The synthetic set on disk: learnt pixels exactly as held, labels, and a card that says how to use them.

``synthetic_set/``: ``synthetic_set.safetensors`` (``images`` float32, unclipped; ``labels`` int64), ``card.json``,
``preview.png`` (clipped).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

import dist_condense
from dist_condense.core.parameterisation import PADDING
from dist_condense.data.normalise import denormalise, normalise

FORMAT = 1
NAME = "synthetic_set"
CARD, TENSORS, PREVIEW = "card.json", "synthetic_set.safetensors", "preview.png"
VALUE_SPACES = ("normalised", "unit")
PREVIEW_ROWS, PREVIEW_COLUMNS, PREVIEW_SIDE, PREVIEW_GAP = 20, 10, 64, 2

WITH_PACKAGE = """\
from dist_condense import load_set
dataset = load_set("synthetic_set")  # a torch Dataset of (image float32 [C, h, h], label), ready for training"""

BY_HAND = """\
import json, torch, torch.nn.functional as F
from safetensors.torch import load_file
card, held = json.load(open("card.json")), load_file("synthetic_set.safetensors")
n, h = card["factor"], card["size"]  # an image holds n x n tiles, row by row
s = -(-h // n)  # pixels of a tile's side; where n does not divide h, 0.5 is padded at the right and bottom
x = F.pad(held["images"], (0, s * n - h, 0, s * n - h), value=0.5)
x = torch.cat([x[:, :, r * s : r * s + s, c * s : c * s + s] for r in range(n) for c in range(n)])
x = F.interpolate(x, size=(h, h), mode="bilinear", align_corners=False)  # all first tiles, then all second tiles
y = held["labels"].repeat(n * n)
if card["value_space"] == "unit":  # held in [0, 1], not clipped: normalise after decoding; "normalised": done
    mean, std = (torch.tensor(card[k])[:, None, None] for k in ("mean", "std"))
    x = (x - mean) / std  # x, y: what training uses"""


class SyntheticSetError(RuntimeError):
    """A synthetic set cannot be written or read; the message says what, where and what to do."""


@dataclass(frozen=True)
class CardClass:
    """A class; ``label`` is the number in the labels, ``wnid`` its WordNet id where the data set has them."""

    label: int
    name: str
    wnid: str | None = None


@dataclass(frozen=True)
class Card:
    """All that a stranger needs to use a set. :func:`write_set` fills in what stands below ``complete``."""

    method: str
    dataset: str
    classes: Sequence[CardClass]
    ipc: int
    """Images held per class."""
    channels: int
    size: int
    """Pixels of a side, held and decoded."""
    value_space: str
    """``normalised``: pixels are (x - mean) / std already; ``unit``: in [0, 1], normalise after decoding."""
    mean: Sequence[float]
    std: Sequence[float]
    factor: int
    """An image holds factor x factor tiles (1: it is the image)."""
    seed: int
    networks_done: int
    networks_total: int
    matching_steps: int
    """Per network."""
    steps: int
    """Matching steps done."""
    complete: bool
    """False while the run that makes the set goes on."""
    decoding: str = "uniform"
    """What training on the set uses, whatever condensation used."""
    images_per_class: int = 0
    """Decoded."""
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


def write_set(folder: str | Path, pixels: Tensor, labels: Tensor, card: Card) -> Card:
    """Write the set so that a whole one is there at every moment; returns the card as written.

    :param pixels: ``[N, C, h, h]`` float32, as held.
    :param labels: ``[N]``, integers of ``card.classes``, ``card.ipc`` of each.
    """
    folder = Path(folder).absolute()
    _check(pixels, labels, card)
    writing, aside = _beside(folder, "writing"), _beside(folder, "previous")
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir(parents=True)
    images = pixels.detach().cpu().contiguous()
    save_file({"images": images, "labels": labels.detach().to("cpu", torch.int64).contiguous()}, writing / TENSORS)
    card = _filled(card, _sha256(writing / TENSORS))
    _preview(images, labels.cpu(), card).save(writing / PREVIEW)
    (writing / CARD).write_text(json.dumps(asdict(card), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for file in (TENSORS, PREVIEW, CARD):
        _flush(writing / file)
    if folder.exists():  # if the process dies between the two renames, load_set finds the last set in `aside`
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    writing.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)
    return card


def load_set(path: str | Path, verify: bool = True) -> SyntheticDataset:
    """Open a synthetic set; images are read and decoded when they are asked for.

    :param verify: compare the file's SHA-256 with the card's. It reads the whole file once: pass False for a set
        of ImageNet-1K (about 6 GB at ipc 10) that has been verified before.
    """
    folder = Path(path).expanduser().absolute()
    if (folder / NAME / CARD).exists():  # the folder of a run
        folder = folder / NAME
    if not (folder / CARD).exists() and (_beside(folder, "previous") / CARD).exists():
        folder = _beside(folder, "previous")
    card = read_card(folder)
    file = folder / TENSORS
    if not file.exists():
        raise SyntheticSetError(f"{file} is missing; copy the whole folder of the set")
    if verify and (found := _sha256(file)) != card.sha256:
        raise SyntheticSetError(
            f"{file} is not the file that its card describes: SHA-256 is {found[:12]}..., "
            f"the card says {card.sha256[:12]}... It was changed or cut; copy the set again "
            "(verify=False opens it all the same)"
        )
    return SyntheticDataset(file, card)


def read_card(folder: str | Path) -> Card:
    """The card of a set."""
    file = Path(folder) / CARD
    if not file.exists():
        raise SyntheticSetError(f"no synthetic set at {folder}: {file} is missing")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        version = content.get("format_version")
    except (ValueError, AttributeError) as error:
        raise SyntheticSetError(f"{file} is not a card: {error}") from error
    if version != FORMAT:
        raise SyntheticSetError(
            f"{file} has format version {version}, dist_condense {dist_condense.__version__} reads {FORMAT}; "
            f"the set was written by {content.get('versions', {})}: use that version"
        )
    known = {x.name: content[x.name] for x in fields(Card) if x.name in content}
    try:
        return Card(**{**known, "classes": tuple(CardClass(**x) for x in known["classes"])})
    except (KeyError, TypeError) as error:
        raise SyntheticSetError(f"{file} is not a card of format {FORMAT}: {error}") from error


class SyntheticDataset(Dataset[tuple[Tensor, int]]):
    """Decoded, normalised images and labels, ready for training; read from disk one tile at a time.

    Item ``i`` is tile ``i // N`` of held image ``i % N``: all images' first tile, then all second tiles. The same
    numbers, bit for bit, as decoding the whole set with ``core.parameterisation.uniform`` and then normalising.
    """

    card: Card
    classes: tuple[CardClass, ...]
    labels: Tensor
    """Of the decoded images, int64."""

    def __init__(self, file: Path, card: Card) -> None:
        self.file, self.card, self.classes = file, card, tuple(card.classes)
        self._handle = safe_open(file, framework="pt")
        held = self._handle.get_tensor("labels")
        self._held = len(held)
        self.labels = held.repeat(card.decoded_per_image)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        index = range(len(self))[index]  # negative counts from the end; IndexError outside
        return self.batch(torch.tensor([index]))[0], int(self.labels[index])

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
        """Learnt pixels ``[N, C, h, h]`` and labels ``[N]`` exactly as held: reads the whole file."""
        return self._handle.get_tensor("images").clone(), self.labels[: self._held].clone()

    def _tile(self, tile: int, source: int) -> Tensor:
        """``[C, s, s]``: only these pixels are read."""
        side = -(-self.card.size // self.card.factor)
        top, left = (side * x for x in divmod(tile, self.card.factor))
        # cloned: in the file a page may be shared with others, and a user may write to the image
        cut = self._handle.get_slice("images")[source, :, top : top + side, left : left + side].clone()
        return F.pad(cut, (0, side - cut.shape[-1], 0, side - cut.shape[-2]), value=PADDING)

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
    counts = {entry.label: int((labels == entry.label).sum()) for entry in card.classes}
    uneven = {label: count for label, count in counts.items() if count != card.ipc}
    problems = [
        (pixels.dtype != torch.float32, f"pixels are {pixels.dtype}, a set holds float32"),
        (tuple(pixels.shape) != shape, f"pixels are {list(pixels.shape)}, the card says {list(shape)}"),
        (tuple(labels.shape) != shape[:1], f"labels are {list(labels.shape)}, the card says [{shape[0]}]"),
        (bool(uneven), f"images per class are {uneven} where the card's ipc is {card.ipc}"),
        (card.value_space not in VALUE_SPACES, f"value_space is '{card.value_space}', choose one of {VALUE_SPACES}"),
        (not 1 <= card.factor <= card.size, f"factor {card.factor} is not in 1..{card.size}"),
        (len(card.mean) != card.channels or len(card.std) != card.channels, "mean and std need one value per channel"),
    ]
    if found := [text for wrong, text in problems if wrong]:
        raise SyntheticSetError("the synthetic set is not written: " + "; ".join(found))


def _filled(card: Card, sha256: str) -> Card:
    return replace(
        card,
        format_version=FORMAT,
        images_per_class=card.ipc * card.decoded_per_image,
        sha256=sha256,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        code_commit=code_commit(),
        versions={
            "dist_condense": dist_condense.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
        how_to_load={"with_dist_condense": WITH_PACKAGE.splitlines(), "by_hand": BY_HAND.splitlines()},
    )


def _preview(pixels: Tensor, labels: Tensor, card: Card) -> Image.Image:
    """The held images, a row per class, small ones enlarged by whole pixels; clipped to [0, 1]."""
    rows, columns = min(len(card.classes), PREVIEW_ROWS), min(card.ipc, PREVIEW_COLUMNS)
    chosen = [torch.nonzero(labels == entry.label)[:columns, 0] for entry in card.classes[:rows]]
    images = pixels[torch.cat(chosen)]
    if card.value_space != VALUE_SPACES[1]:
        images = denormalise(images, card.mean, card.std)
    scale = max(1, math.ceil(PREVIEW_SIDE / card.size))
    images = (images.clamp(0, 1) * 255).round().to(torch.uint8)
    images = images.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    images = F.pad(images, (0, PREVIEW_GAP, 0, PREVIEW_GAP), value=255).unflatten(0, (rows, columns))
    grid = images.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)[:-PREVIEW_GAP, :-PREVIEW_GAP]  # H W C
    return Image.fromarray((grid[..., 0] if card.channels == 1 else grid[..., :3]).contiguous().numpy())


def _beside(folder: Path, what: str) -> Path:
    return folder.with_name(f".{folder.name}.{what}")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(file: Path) -> None:
    """To the disk, so that a power cut after the rename does not leave empty files."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
