"""Records of finished work in the folder DEST, which let an interrupted command continue."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from dist_condense.system import records
from dist_condense.system.files import write_atomically

RECORDS = ".preparing"
"""Name of the folder of records in DEST; the folder is removed when the manifest is written."""
Finished = TypeVar("Finished")


def write_record(file: Path, record: Any) -> None:
    """Write an instance of a dataclass as a JSON file, atomically."""
    write_atomically(file, json.dumps(asdict(record)).encode())


def read_record(kind: type[Finished], file: Path) -> Finished | None:
    """Read a record of the dataclass `kind`; return None if the file is missing or invalid."""
    try:
        return records.read(kind, file)
    except records.Unreadable:
        return None
