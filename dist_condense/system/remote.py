"""Bytes from where they lie: a plain path, or s3://, gs:// and https:// by fsspec. No other scheme is ever opened."""

import os
import re
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
from dist_condense.system.files import stays_below
from dist_condense.system.records import BYTES, bytes_of

Result = TypeVar("Result")
Sleep = Callable[[float], None]

BACKENDS = {"s3": "s3fs", "gs": "gcsfs", "https": "aiohttp"}
"""The schemes that are opened, and the package with which fsspec reads each."""
TRIES, FIRST_DELAY = 5, 1.0
"""Delays double: 1, 2, 4, 8 seconds."""
CHUNK = 8 * 2**20
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ImportError, ValueError)
_BUSY = (408, 429)


async def _https_only(request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
    """Passes a request on, also one that a redirect asks for: what came over http could be anybody's."""
    if request.url.scheme != "https":
        raise PermissionError(f"the store redirects to {request.url}, which is not https")
    return await handler(request)


_OPTIONS: dict[str, dict[str, Any]] = {"https": {"client_kwargs": {"middlewares": (_https_only,)}}}
"""Of fsspec's file systems."""


class Torn(OSError):
    """A transfer that ended before all bytes were there."""


class Away(OSError):
    """A store that does not answer: nothing is known of what it holds."""


def scheme(url: str) -> str | None:
    """None for a plain path, else s3, gs or https; DataError for everything else (pipe:, file:, chains with ::)."""
    found = _SCHEME.match(url)
    if found is None:
        return None
    if found[1] in BACKENDS and url.startswith(f"{found[1]}://") and "::" not in url:
        return found[1]
    known = ", ".join(f"{name}://" for name in BACKENDS)
    raise DataError([f"'{url}' is not opened: give a plain path, or one of {known}."])


def entry_problem(url: str) -> str | None:
    """What is wrong with an address inside a manifest: it stays below the manifest's folder, or names a store."""
    try:
        if scheme(url) is not None:
            return None
    except DataError as error:
        return str(error)
    if not stays_below(url):
        return f"'{url}' leaves the manifest's folder; give a relative path without '..'."
    return None


def join(root: str, url: str) -> str:
    """The address of an entry below a folder or its url, whose secrets it keeps; an entry with a url of its own has
    that alone. A query, such as an access token, stays behind the path."""
    if scheme(url) is not None:
        return url
    folder, mark, query = revealed(root).partition("?") if scheme(root) == "https" else (revealed(root), "", "")
    return address(f"{folder.rstrip('/')}/{url}{mark}{query}")


def read_bytes(url: str, sleep: Sleep = time.sleep) -> bytes:
    """All bytes of a small file, or one more than a record may have; DataError naming it when it is missing, forbidden
    or fails again and again."""

    def read() -> bytes:
        if scheme(url) is None:
            return bytes_of(Path(url))
        with filesystem(url).open(revealed(url), "rb") as stream:
            return bytes(stream.read(BYTES + 1))

    return _retried(url, read, sleep)


def fetch(url: str, folder: Path, size: int, sha256: str, sleep: Sleep = time.sleep) -> Path:
    """The local copy of a remote file in this node's cache; downloaded once, by one of the processes that ask.

    It is named by its hash and a tar, whatever the url says: in no folder does that name mean anything to a program.
    Raises DataError when it is missing, forbidden, not `size` bytes long, or has another hash: then nothing is kept.
    """
    scheme(url)  # refuses before anything is written
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
    """This user's folder under that for temporary files; DataError where anybody else has made it or may write."""
    folder = Path(tempfile.gettempdir()) / f"dist_condense-{os.getuid()}"
    with _writing(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
        held = folder.lstat()
    if not stat.S_ISDIR(held.st_mode) or held.st_uid != os.getuid():
        raise DataError([f"{folder}: it is no folder of yours. Set data.cache to one on this machine."])
    if held.st_mode & 0o022:
        raise DataError([f"{folder}: other users may put files into it (mode {held.st_mode & 0o777:03o}). Remove it."])
    return folder


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """What this machine refuses is told at once: it is not the store's fault and does not pass."""
    try:
        yield
    except OSError as error:
        told = f"{folder}: remote shards cannot be kept here ({error})."
        raise DataError([f"{told} Make room, or set data.cache to another folder of this machine."]) from error


def _is_whole(target: Path, size: int) -> bool:
    return target.is_file() and target.stat().st_size == size


def _download(url: str, target: Path, size: int, sha256: str) -> None:
    part = target.with_name(f"{target.name}.part")
    try:
        digest = _copy(url, part, size)
        if digest != sha256:
            raise DataError([f"{url}: its sha256 is {digest}, the manifest says {sha256}. Upload the file again."])
        with _writing(target.parent):
            os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _copy(url: str, part: Path, size: int) -> str:
    """The hash of what was copied; never more than one chunk beyond `size`."""
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
        raise Torn(f"torn download: {got} of {size} bytes arrived")
    return digest.hexdigest()


def _created(part: Path) -> FileIO:
    """A new file, never what a link of this name points to; not buffered, so that closing it writes nothing."""
    with _writing(part.parent):
        part.unlink(missing_ok=True)
        return FileIO(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "w")


def _write(copy: FileIO, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[copy.write(rest) :]


def filesystem(url: str) -> Any:
    """What reads this url. DataError where its package is missing, or its password is not known any more."""
    if is_hidden(url):
        raise DataError([f"{url}: its password is not stored; give the whole address again."])
    kind = scheme(url) or "file"
    try:
        return fsspec.filesystem(kind, **_OPTIONS.get(kind, {}))
    except ImportError as reason:
        needed = BACKENDS.get(kind, "fsspec")
        raise DataError([f"{url}: {kind}:// needs the package {needed}: pip install {needed} ({reason})."]) from reason


def persistent(url: str, action: Callable[[], Result], sleep: Sleep = time.sleep) -> Result:
    """The result of an action on a store; transient errors are retried, 15 s in all.

    :raises Away: the store did not answer in any attempt.
    :raises FileNotFoundError: there is no such object, or no such bucket.
    :raises PermissionError: the store does not allow it.
    :raises OSError: any other refusal. All four name the url and the reason.
    """
    try:
        return _tried(action, sleep)
    except _GivenUp as reason:
        text = masked(f"{url}: {type(reason.last).__name__}: {reason.last}")
        if not reason.permanent:
            raise Away(f"{text} (tried {TRIES} times)") from None  # a traceback would show the whole url
        kinds = (FileNotFoundError, PermissionError)
        kind = next((kind for kind in kinds if isinstance(reason.last, kind)), OSError)
        raise kind(text) from None


class _GivenUp(Exception):
    """An action failed, for good or in every attempt."""

    def __init__(self, last: BaseException, permanent: bool) -> None:
        super().__init__(str(last))
        self.last, self.permanent = last, permanent


def _tried(action: Callable[[], Result], sleep: Sleep) -> Result:
    """The result of the action, transient errors retried. Raises _GivenUp, and DataError as the action does."""
    for attempt in range(TRIES):
        if attempt:
            sleep(FIRST_DELAY * 2 ** (attempt - 1))
        try:
            return action()
        except DataError:
            raise
        except Exception as error:  # every store has its own kinds
            last = _innermost(error)
            if permanent := next((e for e in (last, error) if _is_permanent(e)), None):
                raise _GivenUp(permanent, True) from error
    raise _GivenUp(last, False) from last


def _retried(url: str, action: Callable[[], Result], sleep: Sleep) -> Result:
    """The same for reading: what is given up becomes a DataError."""
    try:
        return _tried(action, sleep)
    except _GivenUp as reason:
        last = masked(f"{type(reason.last).__name__}: {reason.last}")
        if reason.permanent:
            raise DataError([f"{url}: it cannot be read ({last})."]) from None  # a traceback would show the whole url
        told = f"{url}: reading failed {TRIES} times, the last time with {last}."
        raise DataError([f"{told} Check the network and the store, then run the same command again."]) from None


def _innermost(error: BaseException) -> BaseException:
    """fsspec says "not found" of whatever happened, and keeps that as the cause."""
    return error if error.__cause__ is None else _innermost(error.__cause__)


def _is_permanent(error: BaseException) -> bool:
    status = getattr(error, "status", None) or getattr(error, "code", None)
    refused = isinstance(status, int) and 400 <= status < 500 and status not in _BUSY
    no_key = "Credentials" in type(error).__name__  # botocore's and google.auth's, whose packages may not be there
    return refused or no_key or isinstance(error, _PERMANENT)
