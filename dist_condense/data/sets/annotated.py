"""Test images in one folder, their classes in a file: the layout of Tiny-ImageNet's val/.

val/images/val_0.JPEG ...      val/val_annotations.txt: val_0.JPEG<tab>n03444034<tab>0<tab>32<tab>44<tab>62 ...
"""

from collections.abc import Sequence
from pathlib import Path

from dist_condense.data.reading.store import ClassFolder
from dist_condense.data.sets.listing import Entries, class_files, told
from dist_condense.system.errors import listed

ANNOTATIONS, IMAGES = "val_annotations.txt", "images"


def is_annotated(split: Path, entries: Entries) -> bool:
    """Whether a split is laid out so; one whose images were sorted into class folders meanwhile is not."""
    return entries.folders == [IMAGES] and (split / ANNOTATIONS).is_file()


def read(split: Path, classes: Sequence[str]) -> tuple[tuple[ClassFolder, ...], list[str], list[str]]:
    """The images of these classes in their order, sorted by name, problems, and notes.

    Problems: lines that are not `file<tab>class`, a file named twice, files that are missing, classes without images.
    Raises OSError.
    """
    label_of, problems = _annotations(split / ANNOTATIONS)
    found, passed = class_files(split / IMAGES, split)
    there = set(found.files)
    files: dict[str, list[str]] = {name: [] for name in classes}
    for name in sorted(label_of):
        if name in there and label_of[name] in files:
            files[label_of[name]].append(f"{IMAGES}/{name}")
    if lost := sorted(name for name, label in label_of.items() if label in files and name not in there):
        problems.append(
            f"{split / IMAGES} lacks {len(lost)} images that {ANNOTATIONS} names: {listed(lost)}. Unpack it again."
        )
    if empty := [name for name in classes if not files[name]]:
        problems.append(f"{split / ANNOTATIONS} names no image of {len(empty)} of train's classes: {listed(empty)}.")
    used = sum(map(len, files.values()))
    if others := len(there & label_of.keys()) - used:
        passed["images of other classes"] += others
    if unnamed := len(there - label_of.keys()):
        passed[f"images that {ANNOTATIONS} does not name"] += unnamed
    folders = tuple(ClassFolder(split, tuple(names)) for names in files.values())
    return folders, problems, [told(f"{split} (classes by {ANNOTATIONS})", used, len(classes), passed)]


def _annotations(file: Path) -> tuple[dict[str, str], list[str]]:
    """Image to class, and what is wrong with the file."""
    label_of: dict[str, str] = {}
    wrong: list[str] = []
    for number, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        name, _, rest = line.partition("\t")
        label = rest.split("\t")[0].strip()
        if not label or label_of.setdefault(name, label) != label:
            wrong.append(str(number))
    remedy = "Each must be file<tab>class, and each file has one class."
    return label_of, [f"{file}: these lines cannot be used: {listed(wrong)}. {remedy}"] if wrong else []
