"""Requirements for starting Ray on this machine: a short writable folder and a token.

Both must be accessible to this user alone, because either gives full access to the cluster.
"""

from __future__ import annotations

import atexit
import errno
import os
import secrets
import shutil
import stat
import sys
import tempfile
from contextlib import suppress

import ray

from dist_condense.engine.errors import RunFailed
from dist_condense.system import terminal

VARIABLE, TOKEN_FILE = "RAY_TMPDIR", "RAY_AUTH_TOKEN_PATH"
LONGEST = 107 if sys.platform.startswith("linux") else 103
"""Maximum length of a socket's path in bytes, by operating system."""
SUBFOLDER = "ray"
"""Name of Ray's folder inside this user's private folder."""
SOCKET = "session_2026-11-26_20-37-05_612313_4194304/sockets/plasma_store"
"""Path of a socket inside Ray's folder, with a process number of maximum length."""
ROOM = 64 * 2**20
"""Bytes required for records and logs; in a full folder, Ray waits a minute and a half and reports that it was too
slow.
"""
FALLBACKS = ("/tmp", "/var/tmp", "/dev/shm")
"""Folders in which a temporary folder for this run is created, in order of preference."""


def folder() -> str:
    """Return the folder for Ray's sockets, logs and spilled objects.

    It is inside a private folder of this user, because Ray opens its own folder to all users. The private folder is the
    same for all runs of this user; it is in RAY_TMPDIR, else in TMPDIR or /tmp. If that is unsuitable and RAY_TMPDIR is
    not set, a private folder is created for this run alone and removed at the end.

    :raises RunFailed: RAY_TMPDIR is set but unsuitable, or no folder is suitable.
    """
    requested = os.environ.get(VARIABLE)
    parent = os.environ.get("TMPDIR", "/tmp") if requested is None else requested
    own = os.path.join(parent, f"dc_{os.geteuid()}")
    problem = _problem(own)
    if problem is None:
        return os.path.join(own, SUBFOLDER)
    if requested is not None:
        advice = f"unset {VARIABLE}, or set it to a short path of a folder that you can write, such as /tmp"
        raise RunFailed(f"Ray cannot start: {VARIABLE}={requested} {problem}; {advice}")
    if (temporary := _temporary_folder()) is not None:
        return temporary
    advice = f"set {VARIABLE} to a short path of a folder that you can write"
    raise RunFailed(f"Ray cannot start: {parent} {problem}, and none of {', '.join(FALLBACKS)} is suitable; {advice}")


def token() -> None:
    """Prepare Ray's token before Ray starts on this machine, in a file that this user alone can read.

    If HOME has no token, one is created; if HOME cannot contain a suitable file, this run has a token of its own.

    :raises RunFailed: the file of RAY_AUTH_TOKEN_PATH is another user's or otherwise unsafe.
    """
    path, named = _token_file()
    if path is None:
        return
    try:
        if not named:
            _make_token(path)
        _tighten(path, named)
    except UnsafeFile as error:
        if named:
            raise RunFailed(f"Ray cannot start: {TOKEN_FILE}={path} {error}; set it to a file of your own") from None
        terminal.say(f"{path} {error}: Ray has a token for this run alone")
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    except OSError:  # it cannot be read or created; Ray reports a file that the user named
        if not named:
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def tighten_token() -> None:
    """Make the token's file, if this user owns it, inaccessible to other users before a cluster is joined."""
    path, named = _token_file()
    if path is not None:
        with suppress(UnsafeFile, OSError):
            _tighten(path, named)


def unguarded() -> str:
    """Return a warning if RAY_AUTH_MODE disables the token, as the end of a sentence; else an empty string."""
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    return "" if mode.lower() == "token" else f", open to every user who reaches its ports (RAY_AUTH_MODE={mode})"


class UnsafeFile(Exception):
    """Error for a file that is unsuitable for a secret; its text continues a sentence that starts with the path."""


def _token_file() -> tuple[str | None, bool]:
    """Return the path of Ray's token file (None if the token is not in a file) and whether the user named the file."""
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return None, False
    if given := os.environ.get(TOKEN_FILE):
        return given, True
    return os.path.join(os.path.expanduser("~"), ".ray", "auth_token"), False


def _make_token(path: str) -> None:
    """Create a token file of mode 0600 in a folder of mode 0700, complete from the start; keep an existing file."""
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    status = os.stat(folder)
    if status.st_uid != os.geteuid():
        raise UnsafeFile("is in another user's folder")
    if status.st_mode & 0o022:
        os.chmod(folder, 0o700)
        _report_closed(folder, status)
    if os.path.lexists(path):
        return
    descriptor, made = tempfile.mkstemp(dir=folder)
    try:
        with open(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        with suppress(FileExistsError):  # two runs that start at once use the token of the first
            os.link(made, path)
    finally:
        os.unlink(made)


def _tighten(path: str, named: bool) -> None:
    """Restrict a token file to this user, its owner; report it if the file was accessible to others.

    Raises UnsafeFile if this is not possible.

    :param named: whether the user named the file; otherwise, links are refused.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (0 if named else os.O_NOFOLLOW))
    except OSError as error:
        if error.errno == errno.ELOOP and not named:
            raise UnsafeFile("is a link") from error
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnsafeFile("is not a regular file")
        if status.st_uid != os.geteuid():
            raise UnsafeFile("is another user's")
        if status.st_mode & 0o077:
            try:
                os.fchmod(descriptor, 0o600)
            except OSError as error:
                raise UnsafeFile(f"is open to other users and stays so ({error.strerror})") from error
            _report_closed(path, status)
    finally:
        os.close(descriptor)


def _report_closed(path: str, before: os.stat_result) -> None:
    change = f"{path} was open to other users (mode {before.st_mode & 0o777:03o}) and is yours alone now"
    terminal.say(f"{change}; delete it for a new token if one of them may have used it")


def _temporary_folder() -> str | None:
    for parent in FALLBACKS:
        try:
            made = tempfile.mkdtemp(prefix="dc_", dir=parent)
        except OSError:
            continue
        if _problem(made) is None:
            atexit.register(_remove, made)
            return os.path.join(made, SUBFOLDER)
        shutil.rmtree(made, ignore_errors=True)
    return None


def _remove(folder: str) -> None:
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def _problem(own: str) -> str | None:
    """Return why Ray cannot keep its files in the private folder ``own``, or None.

    The text completes a sentence that starts with the parent folder.
    """
    folder, parent = os.path.join(own, SUBFOLDER), os.path.dirname(own)
    if not os.path.isabs(own):
        return "is not an absolute path"
    if (length := len(os.fsencode(os.path.join(folder, SOCKET)))) > LONGEST:
        return f"is too long: the path of a socket below it has {length} bytes, at most {LONGEST} are possible"
    try:
        os.makedirs(parent, exist_ok=True)
        with suppress(FileExistsError):
            os.mkdir(own, 0o700)
        if (problem := _not_private(own)) is not None:
            return problem
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        return f"cannot be written ({error.strerror or error})"
    if (free := shutil.disk_usage(folder).free) < ROOM:
        return f"has {free / 2**20:.0f} MiB free, at least {ROOM / 2**20:.0f} are needed"
    return None


def _not_private(folder: str) -> str | None:
    """Return why other users may enter or replace a folder, or None.

    The text completes a sentence that starts with the parent folder.
    """
    own, above = os.lstat(folder), os.stat(os.path.dirname(folder))
    if not stat.S_ISDIR(own.st_mode) or own.st_uid != os.geteuid() or own.st_mode & 0o077:
        return f"contains {os.path.basename(folder)}, which is not a folder of yours alone (mode 0700)"
    if above.st_mode & 0o022 and not above.st_mode & stat.S_ISVTX:
        return f"lets other users replace its contents (mode {above.st_mode & 0o777:03o})"
    return None
