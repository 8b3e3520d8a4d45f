"""Records of finished work below DEST, from which an interrupted command continues."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from dist_condense.system import records
from dist_condense.system.files import write_atomically

RECORDS = ".preparing"
"""Folder of records below DEST; removed when the manifest is written."""
Finished = TypeVar("Finished")


def write_record(file: Path, record: Any) -> None:
    """Write a record, a dataclass, as JSON, atomically."""
    write_atomically(file, json.dumps(asdict(record)).encode())


def read_record(kind: type[Finished], file: Path) -> Finished | None:
    """Read a record of the dataclass `kind`; None for a missing file, and for a file that is no such record."""
    try:
        return records.read(kind, file)
    except records.Unreadable:
        return None
