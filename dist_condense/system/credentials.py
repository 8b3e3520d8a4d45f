"""Handling of secrets in addresses: a secret is separated when an address is read, and masked in every written text.

The text of an :class:`Address` is masked, so that no file, log or message contains the secret; only code that opens a
connection requests the full address. Secrets in texts of other libraries are masked by :func:`masked`.
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
"""URL schemes, without the driver after `+`, whose user names are shown; in other schemes the user is often a token."""
FILES = {"sqlite", "file"}
"""URL schemes of files, in which a word after `?` is part of the path or an option and never a secret."""
HARMLESS = {
    *("user", "username", "uid", "encoding", "client_encoding", "sslcert", "version"),
    *("host", "port", "dbname", "database", "schema", "driver", "charset", "collation", "region", "versionid"),
    *("timeout", "connect_timeout", "read_timeout", "write_timeout", "application_name", "target_session_attrs"),
    *("sslmode", "sslrootcert", "ssl_ca", "encrypt", "trustservercertificate", "unix_socket"),
    *("mode", "cache", "uri", "immutable", "nolock", "vfs", "psow"),
    *("isolation_level", "detect_types", "check_same_thread", "cached_statements"),
}
"""Query parameters, in lower case, whose values are shown if all characters are plain; other values are masked."""
VARIABLES = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "DATABRICKS_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "RAY_AUTH_TOKEN",
)
"""Environment variables whose values are secrets."""
SHORTEST, SHORTEST_OTHER = 4, 8
"""Minimum lengths of a secret that is masked in every text: in general, and for the value of a query parameter whose
name does not suggest a secret."""
KNOWN_AT_MOST = 256
"""Maximum number of secrets that are remembered and masked in every text, since a manifest may have many signed
addresses."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*\Z")
_SCHEME_AT_MOST = 32
_HALF = re.compile(r"(?<![\w+.-])(?:https?|ftp|s3|gs|(?:postgres|mysql|mariadb|mssql|oracle)[\w+]{0,24})(?::/(?!/)|//)")
"""Pattern of the start of an address that lost a slash or its colon, for example because it was treated as a path."""
BUCKETS = {"s3", "gs"}
"""URL schemes of object stores, whose object names may contain `@`."""
_USER = re.compile(r"[\w.%+~-]*")
_PORT = re.compile(r"\d{0,5}|port", re.IGNORECASE)
_IPV6 = re.compile(r"\A\[[0-9A-Fa-f:.]*\]")
_PLAIN = re.compile(r"[\w ./+:,~-]*")
_NAME = re.compile(r"[\w.%\[\]-]{1,64}")
_ROUTE = re.compile(r"/[\w/.-]*")
"""Pattern of a URL fragment that addresses a page and contains no secret, such as MLflow's `#/experiments/1`."""
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_SECRET_NAME = re.compile(r"secret|passw|pwd|token|key|\bsig\b|signature|credential|auth", re.IGNORECASE)
_BESIDE = re.compile(r"""["'`<>,;(){}|\[\]](?=[A-Za-z][A-Za-z0-9+.-]{0,31}://)""")
"""Pattern of a character that separates two addresses without a space."""
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
    """Masked text of an address that contains a secret; two addresses are equal if their masked texts are equal.

    Copies, ``dataclasses.asdict`` and pickle preserve the secret; str methods return ordinary, masked strings.
    """

    _full: str
    _bare: bool

    def __new__(cls, full: str, bare: bool = False) -> Address:
        shown, secrets = _split(full, bare)
        made = super().__new__(cls, shown)
        made._full, made._bare = full, bare
        _remember(secrets)
        return made

    @property
    def revealed(self) -> str:
        """Full address with its secret, to be used only for opening a connection."""
        return self._full

    def __reduce__(self) -> tuple[type[Address], tuple[str, bool]]:
        return Address, (self._full, self._bare)


def address(text: str, bare: bool = False) -> str:
    """Return an :class:`Address` if the text is an address with a secret; return any other text unchanged.

    :param bare: whether a text such as `user:password@host` is an address without its scheme rather than a path.
    """
    if isinstance(text, Address) or _split(text, bare)[0] == text:
        return text
    return Address(text, bare)


def is_half(text: str) -> bool:
    """Return whether a text starts like an address that lacks its colon or a slash and would be treated as a path."""
    return _HALF.match(text) is not None


def revealed(text: str) -> str:
    """Return the full address with its secret for an :class:`Address`; return any other text unchanged."""
    return text.revealed if isinstance(text, Address) else text


def is_hidden(text: str) -> bool:
    """Return whether a text is a masked address that was read from a file; its secret must be supplied again."""
    return not isinstance(text, Address) and HIDDEN in text and ("://" in text or text.startswith(f"{HIDDEN}@"))


def masked(text: str) -> str:
    """Mask the secrets in a text: those known to this process, and everything that resembles a secret.

    The time is linear in the length of the text. Mask a text before shortening it, because part of a secret may not be
    recognised.
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
    """Split an address into its masked text and its secrets."""
    before, slashes, remainder = text.partition("://")
    if not slashes:
        return _without_scheme(text) if bare else (text, [])
    match = _SCHEME.search(before[-_SCHEME_AT_MOST:])
    scheme = match[0].partition("+")[0].lower() if match else ""
    user, location, secrets = _userinfo(remainder, scheme in USERS_ARE_SHOWN, _is_token(scheme, remainder, bare))
    start = min((at for sign in "?#" if (at := location.find(sign)) >= 0), default=len(location))
    query, others = _query(location[start:], scheme in FILES)
    return f"{before}://{user}{location[:start]}{query}", [*secrets, *others]


def _without_scheme(text: str) -> tuple[str, list[str]]:
    """Split `user:password@host` or `token@host` into masked text and secrets; a path is unchanged, without secrets."""
    userinfo, at, host = text.rpartition("@")
    if not at or text.startswith(("/", "~", ".")) or _DRIVE.match(text):
        return text, []
    return f"{HIDDEN}@{host}", _secrets_of(userinfo)


def _is_token(scheme: str, remainder: str, bare: bool) -> bool:
    """Return whether the text before the last `@` is a token rather than a host and a path."""
    host = remainder.partition("/")[0]
    if scheme in FILES | BUCKETS or "@" not in re.split(r"[?#]", remainder, maxsplit=1)[0]:
        return False
    return bare or not host or (scheme not in USERS_ARE_SHOWN and "." not in host and host != "localhost")


def _userinfo(remainder: str, shows_user: bool, has_any: bool) -> tuple[str, str, list[str]]:
    """Split an address after its scheme into (masked user information with `@`, remainder, secrets).

    A password may contain any character, including characters at which only some parsers end it. Therefore, if the part
    before the first `/` contains `:` or `@`, everything before the last `@` of the address is user information.

    :param shows_user: whether a plain user name is not masked.
    :param has_any: whether everything before the last `@` is user information even without these characters.
    """
    front, (userinfo, at, location) = remainder.partition("/")[0], remainder.rpartition("@")
    if at and ("@" in front or ":" in front or has_any):
        user, colon, _ = userinfo.partition(":")
        if not userinfo or (shows_user and not colon and _USER.fullmatch(user)):
            return f"{userinfo}@", location, []
        shown = f"{user}:{HIDDEN}" if shows_user and _USER.fullmatch(user) else HIDDEN
        return f"{shown}@", location, _secrets_of(userinfo)
    user, colon, port = _IPV6.sub("", front).partition(":")
    if colon and not _PORT.fullmatch(port):  # truncated before its `@`, or mistyped
        return f"{user}:{HIDDEN}" if shows_user and _USER.fullmatch(user) else HIDDEN, "", _secrets_of(remainder)
    return "", remainder, []


def _secrets_of(userinfo: str) -> list[str]:
    user, _, password = userinfo.partition(":")
    basic = base64.b64encode(unquote(userinfo).encode(errors="replace")).decode()
    token = [user] if len(password) < SHORTEST or len(user) >= 20 else []  # `TOKEN:@`, `TOKEN:x@`
    return [password, *token, basic]


def _query(text: str, is_file: bool) -> tuple[str, list[str]]:
    """Split `?name=value&...#fragment` into (text with masked values, secrets)."""
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
    """Yield the consecutive segments of a text, with the addresses in it masked."""
    done = 0
    while (slashes := text.find("://", done)) >= 0:
        start = max(done, slashes - _SCHEME_AT_MOST)
        match = _SCHEME.search(text, start, slashes)
        start = match.start() if match else slashes
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
    match = _HALF.search(word) if at >= 0 else None
    return f"{word[: match.end()]}{HIDDEN}{word[at:]}" if match and match.end() < at else word


_SPACE = re.compile(r"\s|\Z")
_WORDS = re.compile(r"(\s+)")


def _end(text: str, slashes: int) -> int:
    """Return the end of the word that contains an address, or a later end if its password seems to contain a space.

    :param slashes: index of the address's `://`.
    """
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
    """Mask an address; closing punctuation at its end is kept, because it belongs to the surrounding text."""
    whole = piece.rstrip(_CLOSING)
    return _split(whole)[0] + piece[len(whole) :]


def _encoded(match: re.Match[str]) -> str:
    """Mask an address that is entirely percent-encoded."""
    at = match[1].rfind("%40")
    shown = f"{HIDDEN}{match[1][at:]}" if at >= 0 else match[1]
    query = shown.upper().find("%3F")
    return match[0][:9] + (shown if query < 0 else f"{shown[: query + 3]}{HIDDEN}")


def _parameter(match: re.Match[str]) -> str:
    sign, name, value = match.groups()
    whole = value.rstrip(_CLOSING)
    return match[0] if _is_harmless(name, whole) else f"{sign}{name}={HIDDEN}{value[len(whole) :]}"


def _assigned(match: re.Match[str]) -> str:
    whole = match[2].rstrip(_CLOSING)
    opening = match[2][0] if match[2][0] in "'\"" else ""
    return f"{match[1]}{opening}{HIDDEN}{match[2][len(whole) :]}" if whole else match[0]


# --- secrets of this process --------------------------------------------------------------------------------------


def _remember(secrets: list[str], always: bool = False) -> None:
    """Remember secrets, so that they are masked in every text from now on.

    :param always: whether they are remembered even if there are already :data:`KNOWN_AT_MOST` secrets.
    """
    global _forms
    new = [secret for secret in secrets if len(secret) >= SHORTEST and secret.strip("*") and secret not in _known]
    if not new:
        return
    with _lock:
        if always or len(_known) < KNOWN_AT_MOST:
            _known.update(dict.fromkeys(new))
            _forms = tuple(sorted({form for secret in _known for form in _written(secret)}, key=len, reverse=True))


def _written(secret: str) -> Iterator[str]:
    """Yield the forms in which libraries print a secret, and its segments between separators.

    Some parsers report a segment of a password as the port.
    """
    for text in {secret, unquote(secret), unquote_plus(secret)}:
        forms = (text, quote(text), quote(text, ""), quote_plus(text), repr(text)[1:-1], json.dumps(text)[1:-1])
        parts = _PARTS.split(text)
        yield from (form for form in (*forms, html.escape(text), *parts) if len(form) >= SHORTEST and form.strip("*"))
