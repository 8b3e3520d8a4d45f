"""Types and shapes of the tensors in a file of a checkpoint, from its header."""

from __future__ import annotations

from dist_condense.engine.procedure import Kind
from dist_condense.system import safetensors_header
from dist_condense.system.remote import Unreachable
from dist_condense.system.storage import Storage


def kinds(store: Storage, name: str, size: int) -> dict[str, Kind] | None:
    """Read the types and shapes of a file's tensors, by name; None if the header is unreadable or invalid.

    The size and hash of the file are not verified.

    :param size: size of the file in bytes, as in the manifest.
    :raises Unreachable: the store does not answer.
    """
    try:
        return safetensors_header.read(lambda count: store.head(name, count), size, name)
    except Unreachable:
        raise
    except (OSError, ValueError):
        return None
