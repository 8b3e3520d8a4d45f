"""Test images in one folder, with their classes in a file: the layout of Tiny-ImageNet's val/.

The images are val/images/val_0.JPEG, ...; the lines of val/val_annotations.txt have the form
`val_0.JPEG<tab>n03444034<tab>0<tab>32<tab>44<tab>62`.
"""

from collections.abc import Sequence
from pathlib import Path

from dist_condense.data.reading.store import ClassFolder
from dist_condense.data.sets.listing import Entries, class_files, listing_note
from dist_condense.system import records
from dist_condense.system.errors import listed

ANNOTATIONS, IMAGES = "val_annotations.txt", "images"


def is_annotated(split: Path, entries: Entries) -> bool:
    """Return whether a split's folder has Tiny-ImageNet's layout.

    A folder whose images were sorted into class folders no longer has this layout.
    """
    return entries.folders == [IMAGES] and (split / ANNOTATIONS).is_file()


def read(split: Path, classes: Sequence[str]) -> tuple[tuple[ClassFolder, ...], list[str], list[str]]:
    """List the images of these classes; return a ClassFolder per class (in the order of `classes`), problems and notes.

    The images of a class are sorted by name. Problems are lines other than `file<tab>class`, files with two classes,
    missing files, and classes without images. Raises OSError, and DataError for unreadable annotations.
    """
    class_of, problems = _annotations(split / ANNOTATIONS)
    folder, ignored = class_files(split / IMAGES, split)
    images = set(folder.files)
    files: dict[str, list[str]] = {name: [] for name in classes}
    for name in sorted(class_of):
        if name in images and class_of[name] in files:
            files[class_of[name]].append(f"{IMAGES}/{name}")
    if lost := sorted(name for name, label in class_of.items() if label in files and name not in images):
        problems.append(
            f"{split / IMAGES} lacks {len(lost)} images that {ANNOTATIONS} names: {listed(lost)}. Unpack it again."
        )
    if empty := [name for name in classes if not files[name]]:
        problems.append(f"{split / ANNOTATIONS} names no image of {len(empty)} of train's classes: {listed(empty)}.")
    used = sum(map(len, files.values()))
    if others := len(images & class_of.keys()) - used:
        ignored["images of other classes"] += others
    if unnamed := len(images - class_of.keys()):
        ignored[f"images that {ANNOTATIONS} does not name"] += unnamed
    folders = tuple(ClassFolder(split, tuple(names)) for names in files.values())
    return folders, problems, [listing_note(f"{split} (classes by {ANNOTATIONS})", used, len(classes), ignored)]


def _annotations(file: Path) -> tuple[dict[str, str], list[str]]:
    """Read the annotations; return the class of each file name, and the problems of the annotations.

    Raises DataError for a file that cannot be read, is not UTF-8 or is larger than a record may be.
    """
    class_of: dict[str, str] = {}
    invalid: list[str] = []
    for number, line in enumerate(records.text_of(records.bytes_of(file), str(file)).splitlines(), 1):
        if not line.strip():
            continue
        name, _, rest = line.partition("\t")
        label = rest.split("\t")[0].strip()
        if not label or class_of.setdefault(name, label) != label:
            invalid.append(str(number))
    remedy = "Each must be file<tab>class, and each file has one class."
    return class_of, [f"{file}: these lines cannot be used: {listed(invalid)}. {remedy}"] if invalid else []
