"""What Ray needs of this machine before it can start here: a short folder that it can write, and a token."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import sys
import tempfile

import ray

from dist_condense.engine.journal import RunFailed

VARIABLE = "RAY_TMPDIR"
LONGEST = 107 if sys.platform.startswith("linux") else 103
"""Bytes of a socket's path, on every system."""
BELOW = "ray"
"""Ray's folder in the one that it is given."""
SOCKET = "session_2026-11-26_20-37-05_612313_4194304/sockets/plasma_store"
"""As Ray calls one below that, with the longest number of a process."""
ROOM = 64 * 2**20
"""Bytes for records and logs; with a full folder Ray waits a minute and a half and says that it was too slow."""
OURS = ("/tmp", "/var/tmp", "/dev/shm")
"""Where a folder of our own may be."""


def folder() -> str | None:
    """Where Ray keeps sockets and logs; None: where it would by itself. A folder of our own, readable by its owner
    only and removed at the end, where Ray's default will not do.

    :raises RunFailed: RAY_TMPDIR will not do, or no folder does.
    """
    asked = os.environ.get(VARIABLE)
    parent = os.environ.get("TMPDIR", "/tmp") if asked is None else asked
    problem = _problem(parent)
    if problem is None:
        return None
    if asked is not None:
        advice = f"unset {VARIABLE}, or set it to a short path of a folder that you can write, such as /tmp"
        raise RunFailed(f"Ray cannot start: {VARIABLE}={asked} {problem}; {advice}")
    if (own := _our_own()) is not None:
        return own
    advice = f"set {VARIABLE} to a short path of a folder that you can write"
    raise RunFailed(f"Ray cannot start: {parent} {problem}, and none of {', '.join(OURS)} will do; {advice}")


def token() -> None:
    """Give Ray a token for this run alone where it would keep one in HOME and cannot."""
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    kept = os.path.join(os.path.expanduser("~"), ".ray", "auth_token")
    usable = os.access(kept, os.R_OK) if os.path.exists(kept) else _unwritable(os.path.dirname(kept)) is None
    if not usable:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _our_own() -> str | None:
    for place in OURS:
        try:
            made = tempfile.mkdtemp(prefix="dc_", dir=place)
        except OSError:
            continue
        if _problem(made) is None:
            atexit.register(_remove, made)
            return os.path.join(made, BELOW)  # Ray opens this one to others; it lies in ours, mode 0700
        shutil.rmtree(made, ignore_errors=True)
    return None


def _remove(folder: str) -> None:
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def _problem(parent: str) -> str | None:
    """Why Ray cannot keep its files in this folder, as the end of a sentence about it."""
    place = os.path.join(parent, BELOW)
    if not os.path.isabs(parent):
        return "is not an absolute path"
    if (length := len(os.fsencode(os.path.join(place, SOCKET)))) > LONGEST:
        return f"is too long: the path of a socket below it has {length} bytes, {LONGEST} are the most"
    if (why := _unwritable(place)) is not None:
        return f"cannot be written ({why})"
    if (free := shutil.disk_usage(place).free) < ROOM:
        return f"has {free / 2**20:.0f} MiB free, {ROOM / 2**20:.0f} are the least"
    return None


def _unwritable(folder: str) -> str | None:
    """Why no file can be made in a folder, which is made where it is missing."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        return error.strerror or str(error)
    return None
