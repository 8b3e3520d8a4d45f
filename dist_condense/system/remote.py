"""Reading of plain paths and, through fsspec, of s3://, gs:// and https:// urls; no other scheme is ever opened."""

import errno
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256 as new_hash
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from filelock import FileLock

from dist_condense.system.credentials import address, is_hidden, masked, revealed
from dist_condense.system.errors import DataError
from dist_condense.system.extras import command
from dist_condense.system.files import stays_below
from dist_condense.system.records import BYTES, bytes_of

Result = TypeVar("Result")
Sleep = Callable[[float], None]

BACKENDS = {"s3": "s3fs", "gs": "gcsfs", "https": "aiohttp"}
"""Supported schemes, and the package that fsspec needs for each."""
INSTALL = {"s3": command("s3"), "gs": command("gs"), "https": "pip install aiohttp"}
"""Command that installs the package, by scheme."""
LOGINS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or use `gcloud auth application-default login`",
    "https": "set FSSPEC_HTTPS, as docs/data.md describes",
}
"""Where the backend of each scheme finds its login."""
UNAUTHORIZED = 401
TRIES, FIRST_DELAY = 5, 1.0
"""Number of attempts, and seconds before the second one; delays double: 1, 2, 4, 8 s."""
CHUNK = 8 * 2**20
_NAMES_A_FILE = re.compile(r"[a-z0-9]+://[^/]+/+[^/].*")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ImportError, ValueError)
_BUSY = (408, 429)


async def _https_only(request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
    """Refuse a request or redirect that is not https, because its answer could be forged."""
    if request.url.scheme != "https":
        raise PermissionError(f"the store redirects to {request.url}, which is not https")
    return await handler(request)


_OPTIONS: dict[str, dict[str, Any]] = {"https": {"client_kwargs": {"middlewares": (_https_only,)}}}
"""Options of fsspec's file systems, by scheme."""


class Unreachable(OSError):
    """Error for a store that does not answer, so that its content is unknown."""


def scheme(url: str) -> str | None:
    """Return s3, gs or https, or None for a plain path.

    Raises DataError for everything else (pipe:, file:, chains with ::).
    """
    match = _SCHEME.match(url)
    if match is None:
        return None
    if match[1] in BACKENDS and url.startswith(f"{match[1]}://") and "::" not in url:
        return match[1]
    known = ", ".join(f"{name}://" for name in BACKENDS)
    raise DataError([f"'{url}' is not opened: give a plain path, or one of {known}."])


def entry_problem(url: str) -> str | None:
    """Return a description of the problem with an address in a manifest; None if the address is valid.

    An address must be a relative path that stays below the manifest's folder, or a url of a supported scheme.
    """
    try:
        kind = scheme(url)
    except DataError as error:
        return str(error)
    if kind is not None:
        return None if _NAMES_A_FILE.fullmatch(url) else f"'{url}' names no file in a store."
    if not stays_below(url):
        return f"'{url}' leaves the manifest's folder; give a relative path without '..'."
    return None


def join(root: str, url: str) -> str:
    """Return the address of the entry ``url`` below the folder or url ``root``; a complete ``url`` is unchanged.

    Secrets of ``root`` are kept. The query of an https root, such as an access token, stays at the end.
    """
    if scheme(url) is not None:
        return url
    folder, mark, query = revealed(root).partition("?") if scheme(root) == "https" else (revealed(root), "", "")
    return address(f"{folder.rstrip('/')}/{url}{mark}{query}")


def read_bytes(url: str, sleep: Sleep = time.sleep) -> bytes:
    """Read all bytes of a file of at most :data:`BYTES` bytes.

    Raises DataError with the url for a file that is missing, forbidden or larger, and if every attempt fails.
    """

    def read() -> bytes:
        if scheme(url) is None:
            return bytes_of(Path(url))
        with filesystem(url).open(revealed(url), "rb") as stream:
            content = bytes(stream.read(BYTES + 1))
        if len(content) > BYTES:
            raise DataError([f"{url} cannot be read: more than {BYTES} bytes, expected at most {BYTES}"])
        return content

    return _retried(url, read, sleep)


def fetch(url: str, folder: Path, size: int, sha256: str, sleep: Sleep = time.sleep) -> Path:
    """Return the local copy of a remote file in this node's cache, downloaded once by one of the calling processes.

    The copy is named ``HASH-NAME.tar`` whatever the url's ending, so that no program interprets the name. Raises
    DataError, and leaves no copy, if the file is missing or forbidden, or differs from ``size`` (bytes) or ``sha256``.
    """
    scheme(url)  # refuses an address before anything is written
    name = re.sub(r"[^A-Za-z0-9._-]", "_", url.split("?")[0].rsplit("/", 1)[-1]).removesuffix(".tar")
    target = folder / f"{sha256[:16]}-{name}.tar"
    if _is_whole(target, size):
        return target
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        locked = FileLock(f"{target}.lock").acquire()
    with locked:
        if not _is_whole(target, size):
            _retried(url, lambda: _download(url, target, size, sha256), sleep)
    return target


def own_cache() -> Path:
    """Return this user's cache folder in the system's temporary folder; create it if it is missing.

    Raises DataError if another user owns it or may write to it.
    """
    folder = Path(tempfile.gettempdir()) / f"dist_condense-{os.getuid()}"
    with _writing(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise DataError([f"{folder}: it is no folder of yours. Set data.cache to one on this machine."])
    if status.st_mode & 0o022:
        raise DataError([f"{folder}: other users may write to it (mode {status.st_mode & 0o777:03o}). Remove it."])
    return folder


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Convert an OSError of a local write to a DataError, which is not retried because the failure is permanent."""
    try:
        yield
    except OSError as error:
        problem = f"{folder}: remote shards cannot be stored here ({error})."
        raise DataError([f"{problem} Make room, or set data.cache to another folder of this machine."]) from error


def _is_whole(target: Path, size: int) -> bool:
    return target.is_file() and target.stat().st_size == size


def _download(url: str, target: Path, size: int, sha256: str) -> None:
    part = target.with_name(f"{target.name}.part")
    with _writing(target.parent):
        if size > (free := shutil.disk_usage(target.parent).free):
            raise OSError(errno.ENOSPC, f"{url} has {size} bytes, {free} are free")
    try:
        digest = _copy(url, part, size)
        if digest != sha256:
            raise DataError([f"{url}: its sha256 is {digest}, the manifest says {sha256}. Upload the file again."])
        with _writing(target.parent):
            os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _copy(url: str, part: Path, size: int) -> str:
    """Copy a remote file to ``part`` and return its SHA-256 as hex digits.

    At most one chunk beyond ``size`` bytes is read. Raises DataError if the file is longer, OSError if it is shorter.
    """
    digest, got = new_hash(), 0
    with filesystem(url).open(revealed(url), "rb") as stream, _created(part) as copy:
        while got <= size and (chunk := stream.read(CHUNK)):
            digest.update(chunk)
            got += len(chunk)
            with _writing(part.parent):
                _write(copy, chunk)
    if got > size:
        raise DataError([f"{url}: it is longer than the {size} bytes of the manifest. Upload the file again."])
    if got < size:
        raise OSError(f"incomplete download: {got} of {size} bytes arrived")
    return digest.hexdigest()


def _created(part: Path) -> FileIO:
    """Create a file in place of any file or link of this name; it is unbuffered, so that closing it writes nothing."""
    with _writing(part.parent):
        part.unlink(missing_ok=True)
        return FileIO(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "w")


def _write(copy: FileIO, chunk: bytes) -> None:
    remaining = memoryview(chunk)
    while remaining:
        remaining = remaining[copy.write(remaining) :]


def filesystem(url: str) -> Any:
    """Return fsspec's file system for a url.

    Raises DataError if the package for its scheme is missing, or if the url is masked, so that its secret is unknown.
    """
    if is_hidden(url):
        raise DataError([f"{url}: its password is not stored; give the whole address again."])
    kind = scheme(url) or "file"
    try:
        return fsspec.filesystem(kind, **_OPTIONS.get(kind, {}))
    except ImportError as reason:
        needed, install = BACKENDS.get(kind, "fsspec"), INSTALL.get(kind, "pip install fsspec")
        raise DataError([f"{url}: {kind}:// needs the package {needed}: {install} ({reason})."]) from reason


def persistent(url: str, action: Callable[[], Result], sleep: Sleep = time.sleep) -> Result:
    """Run an action on a store and return its result; after transient errors, retry with delays of 15 s in total.

    The messages of all errors contain the url and the reason.

    :raises Unreachable: the store did not answer in any attempt.
    :raises FileNotFoundError: the object or bucket does not exist.
    :raises PermissionError: the store denies the action.
    :raises OSError: the store refuses the action for another reason.
    """
    try:
        return _tried(action, sleep)
    except _GivenUp as reason:
        text = masked(f"{url}: {type(reason.last).__name__}: {reason.last}{_login(url, reason.last)}")
        if not reason.permanent:
            raise Unreachable(f"{text} (tried {TRIES} times)") from None  # a traceback would show the whole url
        kinds = (FileNotFoundError, PermissionError)
        kind = next((kind for kind in kinds if isinstance(reason.last, kind)), OSError)
        raise kind(text) from None


class _GivenUp(Exception):
    """Error that carries the last error of an action that failed permanently or in every attempt."""

    def __init__(self, last: BaseException, permanent: bool) -> None:
        super().__init__(str(last))
        self.last, self.permanent = last, permanent


def _tried(action: Callable[[], Result], sleep: Sleep) -> Result:
    """Run an action and return its result; retry it after transient errors.

    Raises _GivenUp after a permanent error or the last attempt. A DataError of the action is raised unchanged.
    """
    for attempt in range(TRIES):
        if attempt:
            sleep(FIRST_DELAY * 2 ** (attempt - 1))
        try:
            return action()
        except DataError:
            raise
        except Exception as error:  # each store raises its own kinds
            last = _innermost(error)
            if permanent := next((e for e in (last, error) if _is_permanent(e)), None):
                raise _GivenUp(permanent, True) from error
    raise _GivenUp(last, False) from last


def _retried(url: str, action: Callable[[], Result], sleep: Sleep) -> Result:
    """Run a read with the retries of :func:`_tried` and return its result. Raises DataError if it fails."""
    try:
        return _tried(action, sleep)
    except _GivenUp as reason:
        last = masked(f"{type(reason.last).__name__}: {reason.last}")
        if reason.permanent:  # a traceback would show the whole url
            raise DataError([f"{url}: it cannot be read ({last}){_login(url, reason.last)}."]) from None
        problem = f"{url}: reading failed {TRIES} times, the last time with {last}."
        raise DataError([f"{problem} Check the network and the store, then run the same command again."]) from None


def _innermost(error: BaseException) -> BaseException:
    """Return the original cause of an error, because fsspec wraps every failure in "not found"."""
    return error if error.__cause__ is None else _innermost(error.__cause__)


def _login(url: str, error: BaseException) -> str:
    """Return where a login is given, after a semicolon, if an error is that there is none; else an empty text."""
    kind = scheme(url)
    return f"; {LOGINS[kind]}" if kind and (_lacks_key(error) or _status(error) == UNAUTHORIZED) else ""


def _lacks_key(error: BaseException) -> bool:
    return "Credentials" in type(error).__name__  # botocore's and google.auth's, which may not be installed


def _status(error: BaseException) -> object:
    return getattr(error, "status", None) or getattr(error, "code", None)


def _is_permanent(error: BaseException) -> bool:
    status = _status(error)
    refused = isinstance(status, int) and 400 <= status < 500 and status not in _BUSY
    return refused or _lacks_key(error) or isinstance(error, _PERMANENT)
