"""Passwords and tokens in addresses: kept apart when an address is read, shown and stored as ``***``.

An :class:`Address` is the text without its secrets, so whoever prints, stores or sends one cannot give them away; only
what opens a connection asks for :func:`revealed`. Texts of other libraries, which name addresses as they please, are
:func:`masked`.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"
LENGTHS = range(4, 4096)
"""Letters of a secret that is looked for in every text; shorter ones would be found in words."""
VARIABLES = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "DATABRICKS_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "RAY_AUTH_TOKEN",
)
"""Of the environment, whose values are secrets."""
NAMED = ("postgresql", "mysql", "mssql", "oracle", "mariadb", "sqlite")
"""Schemes of databases, whose addresses keep the user's name; elsewhere a token often stands in its place."""
HARMLESS = {
    *("user", "username", "uid", "host", "port", "dbname", "database", "driver", "charset", "encoding"),
    *("client_encoding", "timeout", "connect_timeout", "sslmode", "sslrootcert", "sslcert", "encrypt"),
    *("trustservercertificate", "target_session_attrs", "application_name", "isolation_level", "detect_types"),
    *("check_same_thread", "cached_statements", "uri", "mode", "cache", "nolock", "immutable", "vfs", "psow"),
    *("region", "version", "versionid"),
}
"""Parameters of an address that are shown; the value of every other one is taken for a secret."""

_ADDRESS = re.compile(r"(?<![A-Za-z0-9+.-])([A-Za-z][A-Za-z0-9+.-]*)://([^\s'\"<>]*)")
_BARE = re.compile(r"\A(?P<user>[^/\s@:]+:).*@", re.DOTALL)
"""An address whose scheme was forgotten."""
_PARAMETER = re.compile(r"([?&;#])([^\s?&;#=/'\"<>]{1,64})=([^\s&;#'\"<>]+)")
_PARTS = re.compile(r"[\s/@:?#&=;'\"<>\[\]]+")
_TRAILING = ".,;)]}'\""

QUOTED = (quote, quote_plus)
_known: set[str] = set()
_pattern: re.Pattern[str] | None = None
_lock = threading.Lock()


class Address(str):
    """An address with its secrets hidden; equal to every other one that differs by them alone. Copies and pickles keep
    them.
    """

    revealed: str
    """The whole."""

    def __new__(cls, whole: str) -> Address:
        made = super().__new__(cls, _without_secrets(whole))
        made.revealed = whole
        _remember(_secrets(whole))
        return made

    def __reduce__(self) -> tuple[type[Address], tuple[str]]:
        return Address, (self.revealed,)


def address(text: str) -> str:
    """A text that is an address or a path: an :class:`Address` where it holds a secret, else the text itself."""
    whole = revealed(text)
    return text if _without_secrets(whole) == whole else Address(whole)


def revealed(text: str) -> str:
    """The whole address, for what connects."""
    return text.revealed if isinstance(text, Address) else text


def is_hidden(text: str) -> bool:
    """Whether the secrets of an address are not known any more: it was read from where it was stored."""
    return HIDDEN in revealed(text)


def masked(text: str) -> str:
    """Any text, without the passwords and tokens of the addresses in it and without those that are known."""
    text = _ADDRESS.sub(lambda found: f"{found[1]}://{_hidden(found[1], found[2])}", text)
    text = _PARAMETER.sub(_hidden_parameter, text)
    pattern = _secrets_known()
    return text if pattern is None else pattern.sub(HIDDEN, text)


# --- what is hidden -----------------------------------------------------------------------------------------------


def _without_secrets(whole: str) -> str:
    """Of a text that is one address, with whatever letters."""
    scheme, found, rest = whole.partition("://")
    if not found or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return _BARE.sub(rf"\g<user>{HIDDEN}@", whole)
    shown = f"{scheme}://{_hidden(scheme, rest)}"
    return re.sub(r"([?&;#])([^?&;#=/]{1,64})=([^&;#]+)", _hidden_parameter, shown)


def _hidden(scheme: str, rest: str) -> str:
    """What follows ``://``, without the secret before the last ``@``: SQLAlchemy takes ``/`` and ``@`` in a password.

    Without ``@`` or ``:`` before the first ``/`` an ``@`` belongs to the path.
    """
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" not in rest or not {"@", ":"} & set(authority):
        return rest
    user, _, host = rest.rpartition("@")
    name, colon, _ = user.partition(":")
    if scheme.lower().partition("+")[0] not in NAMED:
        return f"{HIDDEN}@{host}"
    return f"{name}{colon and f':{HIDDEN}'}@{host}"


def _hidden_parameter(found: re.Match[str]) -> str:
    if unquote(found[2]).lower() in HARMLESS:
        return found[0]
    end = found[3][len(found[3].rstrip(_TRAILING)) :]
    return f"{found[1]}{found[2]}={HIDDEN}{end}"


# --- what is known ------------------------------------------------------------------------------------------------


def _secrets(whole: str) -> Iterator[str]:
    """The secrets of an address, and their parts: who reads it otherwise names a part as the port or the path."""
    scheme, found, rest = whole.partition("://")
    rest = rest if found else whole
    if "@" in rest:
        user = rest.rpartition("@")[0]
        name, _, password = user.partition(":")
        yield from _with_parts(password)
        if not password and scheme.lower().partition("+")[0] not in NAMED:
            yield from _with_parts(name)
    for parameter in re.finditer(r"[?&;#]([^?&;#=/]{1,64})=([^&;#]+)", rest):
        if unquote(parameter[1]).lower() not in HARMLESS:
            yield from _with_parts(parameter[2])


def _with_parts(secret: str) -> Iterator[str]:
    yield secret
    yield from _PARTS.split(secret)


def _remember(secrets: Iterator[str]) -> None:
    """In every spelling in which a library may show it."""
    global _pattern
    spellings = {
        spelled
        for secret in secrets
        for known in (secret, unquote(secret), unquote_plus(secret))
        for spelled in (known, repr(known)[1:-1], *(quoted(known, safe) for quoted in QUOTED for safe in ("", "/")))
        if len(spelled) in LENGTHS and spelled.strip("*")
    }
    with _lock:
        if not spellings <= _known:
            _known.update(spellings)
            _pattern = None


def _secrets_known() -> re.Pattern[str] | None:
    global _pattern
    _remember(iter([value for name in VARIABLES if (value := os.environ.get(name))]))
    with _lock:
        if _pattern is None and _known:
            _pattern = re.compile("|".join(map(re.escape, sorted(_known, key=lambda known: (-len(known), known)))))
        return _pattern
