"""Secrets in addresses: kept apart where an address is read, masked wherever a text is written.

An :class:`Address` is its masked text, so that every file, log and message that it reaches is without the secret; only
code that opens a connection asks for the whole. Texts of other libraries go through :func:`masked`.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
import threading
from collections.abc import Iterator
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"
USERS_ARE_SHOWN = {"postgresql", "postgres", "mysql", "mariadb", "mssql", "oracle"}
"""Schemes, without their drivers, whose user is a name; elsewhere a token often stands in its place."""
FILES = {"sqlite", "file"}
"""Schemes of files: a word after `?` is part of a path, or an option, but no secret."""
HARMLESS = {
    *("user", "username", "uid", "encoding", "client_encoding", "sslcert", "version"),
    *("host", "port", "dbname", "database", "schema", "driver", "charset", "collation", "region", "versionid"),
    *("timeout", "connect_timeout", "read_timeout", "write_timeout", "application_name", "target_session_attrs"),
    *("sslmode", "sslrootcert", "ssl_ca", "encrypt", "trustservercertificate", "unix_socket"),
    *("mode", "cache", "uri", "immutable", "nolock", "vfs", "psow"),
    *("isolation_level", "detect_types", "check_same_thread", "cached_statements"),
}
"""Parameters of a query, in lower case, that are shown where their values are plain; all others are masked."""
VARIABLES = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "DATABRICKS_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "RAY_AUTH_TOKEN",
)
"""Of the environment, whose values are secrets."""
SHORTEST, SHORTEST_OTHER = 4, 8
"""Letters from which a secret is masked wherever it occurs; of a parameter that is not named like one."""
KNOWN_AT_MOST = 256
"""Secrets that are looked for as such; the first ones, since a manifest may have many signed addresses."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*\Z")
_SCHEME_AT_MOST = 32
_HALF = re.compile(r"(?<![\w+.-])(?:https?|ftp|s3|gs|(?:postgres|mysql|mariadb|mssql|oracle)[\w+]{0,24})(?::/(?!/)|//)")
"""The beginning of an address that lost a slash or its colon, as when it was taken for a path."""
BUCKETS = {"s3", "gs"}
"""Schemes of stores, whose names of objects may have `@`."""
_USER = re.compile(r"[\w.%+~-]*")
_PORT = re.compile(r"\d{0,5}|port", re.IGNORECASE)
_IPV6 = re.compile(r"\A\[[0-9A-Fa-f:.]*\]")
_PLAIN = re.compile(r"[\w ./+:,~-]*")
_NAME = re.compile(r"[\w.%\[\]-]{1,64}")
_ROUTE = re.compile(r"/[\w/.-]*")
"""A fragment of a web page: MLflow's `#/experiments/1`."""
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_SECRET_NAME = re.compile(r"secret|passw|pwd|token|key|\bsig\b|signature|credential|auth", re.IGNORECASE)
_BESIDE = re.compile(r"""["'`<>,;(){}|\[\]](?=[A-Za-z][A-Za-z0-9+.-]{0,31}://)""")
"""What parts two addresses that no space parts."""
_CLOSING = "'\"`>)]},.;:!"
_ENCODED = re.compile(r"%3A%2F%2F(\S*)", re.IGNORECASE)
_PARAMETER = re.compile(r"([?&;#])([\w.%\[\]-]{1,64})=([^\s&]+)")
_ASSIGNED = re.compile(
    r"((?:secret|password|passwd|pwd|token|api_?key|access_key(?:_id)?)(?:=|[\"']\s{0,3}[:=]\s{0,3}(?=[\"'])))(?![\"']?\*\*\*)(\S+)",
    re.IGNORECASE,
)
_AUTHORIZATION = re.compile(
    r"(\bauthorization[\"']?\s{0,3}[:=,]\s{0,3}[\"']?(?:[a-z-]{1,16}\s{1,3})?|\bbearer\s{1,3})([^\s\"',]+)",
    re.IGNORECASE,
)

_PARTS = re.compile(r"[\s/@:?#&=;'\"<>\[\]]+")

_known: dict[str, None] = {}
_forms: tuple[str, ...] = ()
_lock = threading.Lock()


class Address(str):
    """The masked text of an address that holds a secret; equal to another by that text.

    It stays one through copies, ``dataclasses.asdict`` and pickle. Whatever is made from it by methods of str is an
    ordinary, masked text.
    """

    _whole: str
    _bare: bool

    def __new__(cls, whole: str, bare: bool = False) -> Address:
        shown, secrets = _split(whole, bare)
        made = super().__new__(cls, shown)
        made._whole, made._bare = whole, bare
        _remember(secrets)
        return made

    @property
    def revealed(self) -> str:
        """With its secret: for those alone who open a connection."""
        return self._whole

    def __reduce__(self) -> tuple[type[Address], tuple[str, bool]]:
        return Address, (self._whole, self._bare)


def address(text: str, bare: bool = False) -> str:
    """An :class:`Address` where a text, which is one address or path as a whole, holds a secret; else as it is.

    :param bare: whether `user:password@host` is an address whose scheme was forgotten, and not a path.
    """
    if isinstance(text, Address) or _split(text, bare)[0] == text:
        return text
    return Address(text, bare)


def is_half(text: str) -> bool:
    """Whether it is meant as an address and lacks a slash or the colon, so that it would be taken for a path."""
    return _HALF.match(text) is not None


def revealed(text: str) -> str:
    """The whole of an Address, and every other text as it is."""
    return text.revealed if isinstance(text, Address) else text


def is_hidden(text: str) -> bool:
    """Whether this is what was stored of an address, whose secret has to be given again."""
    return not isinstance(text, Address) and HIDDEN in text and ("://" in text or text.startswith(f"{HIDDEN}@"))


def masked(text: str) -> str:
    """A text in which there may be addresses, without the secrets that this process knows and without all that looks
    like one: when in doubt it is masked. In time linear in the text; masking before a text is cut is the caller's.
    """
    _remember([value for name in VARIABLES if (value := os.environ.get(name))], always=True)
    for form in _forms:
        text = text.replace(form, HIDDEN)
    text = "".join(_of_addresses(_ENCODED.sub(_encoded, text)))
    text = "".join(map(_of_half, _WORDS.split(text)))
    text = _PARAMETER.sub(_parameter, text)
    return _AUTHORIZATION.sub(_assigned, _ASSIGNED.sub(_assigned, text))


# --- one address --------------------------------------------------------------------------------------------------


def _split(text: str, bare: bool = False) -> tuple[str, list[str]]:
    """An address without its secrets, and these."""
    before, slashes, rest = text.partition("://")
    if not slashes:
        return _without_scheme(text) if bare else (text, [])
    found = _SCHEME.search(before[-_SCHEME_AT_MOST:])
    scheme = found[0].partition("+")[0].lower() if found else ""
    user, place, secrets = _userinfo(rest, scheme in USERS_ARE_SHOWN, _is_token(scheme, rest, bare))
    start = min((at for sign in "?#" if (at := place.find(sign)) >= 0), default=len(place))
    query, more = _query(place[start:], scheme in FILES)
    return f"{before}://{user}{place[:start]}{query}", [*secrets, *more]


def _without_scheme(text: str) -> tuple[str, list[str]]:
    """`user:password@host` or `token@host` that was meant as an address; a path stays."""
    userinfo, at, host = text.rpartition("@")
    if not at or text.startswith(("/", "~", ".")) or _DRIVE.match(text):
        return text, []
    return f"{HIDDEN}@{host}", _secrets_of(userinfo)


def _is_token(scheme: str, rest: str, bare: bool) -> bool:
    """Whether all before an `@` of what looks like a path is a token, or follows a third slash."""
    host = rest.partition("/")[0]
    if scheme in FILES | BUCKETS or "@" not in re.split(r"[?#]", rest, maxsplit=1)[0]:
        return False
    return bare or not host or (scheme not in USERS_ARE_SHOWN and "." not in host and host != "localhost")


def _userinfo(rest: str, shows_user: bool, has_any: bool) -> tuple[str, str, list[str]]:
    """(what is shown of it, with `@`; what follows; its secrets).

    A password may hold every sign, also those that end it for one parser and not for another. So where the first part
    has `:` or `@`, all until the last `@` is taken for it.

    :param has_any: whether it is also without these.
    """
    front, (userinfo, at, place) = rest.partition("/")[0], rest.rpartition("@")
    if at and ("@" in front or ":" in front or has_any):
        user, colon, _ = userinfo.partition(":")
        if not userinfo or (shows_user and not colon and _USER.fullmatch(user)):
            return f"{userinfo}@", place, []
        shown = f"{user}:{HIDDEN}" if shows_user and _USER.fullmatch(user) else HIDDEN
        return f"{shown}@", place, _secrets_of(userinfo)
    user, colon, port = _IPV6.sub("", front).partition(":")
    if colon and not _PORT.fullmatch(port):  # cut off before its `@`, or mistyped
        return f"{user}:{HIDDEN}" if shows_user and _USER.fullmatch(user) else HIDDEN, "", _secrets_of(rest)
    return "", rest, []


def _secrets_of(userinfo: str) -> list[str]:
    user, _, password = userinfo.partition(":")
    basic = base64.b64encode(unquote(userinfo).encode(errors="replace")).decode()
    token = [user] if len(password) < SHORTEST or len(user) >= 20 else []  # `TOKEN:@`, `TOKEN:x@`
    return [password, *token, basic]


def _query(text: str, is_file: bool) -> tuple[str, list[str]]:
    """`?name=value&...#fragment` with its values masked, and these."""
    parts, secrets = re.split(r"([?&;#])", text), []
    for index in range(2, len(parts), 2):
        sign, part = parts[index - 1], parts[index]
        name, equals, value = part.partition("=")
        if not part or HIDDEN in (part, value) or (equals and _is_harmless(name, value)):
            continue
        if not equals and (is_file or (sign == "#" and _ROUTE.fullmatch(part))):
            continue
        is_named = bool(value.strip("=") and _NAME.fullmatch(name))
        secret = value if is_named else part
        if len(secret) >= SHORTEST_OTHER or not is_named or _SECRET_NAME.search(name):
            secrets.append(secret)
        parts[index] = f"{name}={HIDDEN}" if is_named else HIDDEN
    return "".join(parts), secrets


def _is_harmless(name: str, value: str) -> bool:
    return name.lower() in HARMLESS and bool(_PLAIN.fullmatch(unquote_plus(value)))


# --- addresses in a text ------------------------------------------------------------------------------------------


def _of_addresses(text: str) -> Iterator[str]:
    """The parts of a text, its addresses masked."""
    done = 0
    while (slashes := text.find("://", done)) >= 0:
        start = max(done, slashes - _SCHEME_AT_MOST)
        found = _SCHEME.search(text, start, slashes)
        start = found.start() if found else slashes
        end = _end(text, slashes)
        yield text[done:start]
        last = start
        for parting in _BESIDE.finditer(text, start, end):
            yield _closed(text[last : parting.start()])
            yield parting[0]
            last = parting.end()
        yield _closed(text[last:end])
        done = end
    yield text[done:]


def _of_half(word: str) -> str:
    at = word.rfind("@")
    found = _HALF.search(word) if at >= 0 else None
    return f"{word[: found.end()]}{HIDDEN}{word[at:]}" if found and found.end() < at else word


_SPACE = re.compile(r"\s|\Z")
_WORDS = re.compile(r"(\s+)")


def _end(text: str, slashes: int) -> int:
    """Where the word ends; beyond a space where a password seems to have one."""
    space = _SPACE.search(text, slashes)
    end = space.start() if space else len(text)
    slashes = text.rfind("://", slashes, end)
    front = text[slashes + 3 : min(end, slashes + 300)].partition("/")[0]
    _, colon, port = _IPV6.sub("", front).partition(":")
    if "@" in front or not colon or _PORT.fullmatch(port.rstrip(_CLOSING)):
        return end
    line = text[end : end + 100].partition("\n")[0].partition("://")[0]
    return end + line.rfind("@") + 1


def _closed(piece: str) -> str:
    """An address, with the signs of the text that follow it."""
    whole = piece.rstrip(_CLOSING)
    return _split(whole)[0] + piece[len(whole) :]


def _encoded(found: re.Match[str]) -> str:
    """An address that is percent-encoded as a whole."""
    at = found[1].rfind("%40")
    shown = f"{HIDDEN}{found[1][at:]}" if at >= 0 else found[1]
    query = shown.upper().find("%3F")
    return found[0][:9] + (shown if query < 0 else f"{shown[: query + 3]}{HIDDEN}")


def _parameter(found: re.Match[str]) -> str:
    sign, name, value = found.groups()
    whole = value.rstrip(_CLOSING)
    return found[0] if _is_harmless(name, whole) else f"{sign}{name}={HIDDEN}{value[len(whole) :]}"


def _assigned(found: re.Match[str]) -> str:
    whole = found[2].rstrip(_CLOSING)
    opening = found[2][0] if found[2][0] in "'\"" else ""
    return f"{found[1]}{opening}{HIDDEN}{found[2][len(whole) :]}" if whole else found[0]


# --- what this process knows --------------------------------------------------------------------------------------


def _remember(secrets: list[str], always: bool = False) -> None:
    """:param always: also beyond :data:`KNOWN_AT_MOST`."""
    global _forms
    new = [secret for secret in secrets if len(secret) >= SHORTEST and secret.strip("*") and secret not in _known]
    if not new:
        return
    with _lock:
        if always or len(_known) < KNOWN_AT_MOST:
            _known.update(dict.fromkeys(new))
            _forms = tuple(sorted({form for secret in _known for form in _written(secret)}, key=len, reverse=True))


def _written(secret: str) -> Iterator[str]:
    """The forms in which libraries print it, and its parts: who reads an address otherwise names one as the port."""
    for text in {secret, unquote(secret), unquote_plus(secret)}:
        forms = (text, quote(text), quote(text, ""), quote_plus(text), repr(text)[1:-1], json.dumps(text)[1:-1])
        parts = _PARTS.split(text)
        yield from (form for form in (*forms, html.escape(text), *parts) if len(form) >= SHORTEST and form.strip("*"))
