"""Output of commands for people, in which untrusted text cannot control the terminal.

Names of folders, classes and tar members, configs, cards, tables of results and messages of servers are untrusted.
Unescaped, they could set the window's title, write to the clipboard, erase a line, reverse text, or forge a line.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import re
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any, NoReturn, TextIO
from unicodedata import category

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import Progress
from rich.segment import Segment
from rich.text import Text

from dist_condense.system.credentials import masked

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories that are escaped: control characters, format characters (direction, zero width, tags), surrogates,
and the separators of lines and paragraphs."""
JOINERS = "\u200c\u200d"
"""Zero-width characters that join or separate letters of Persian and Hindi words and the parts of an emoji."""
LAYOUT = "\n\t"
LINE, LINES = 1_000, 50
"""Largest number of characters of a line of an error message, and of lines of one error."""
UNREAD = 128 + signal.SIGPIPE
"""Exit code of a command whose stdout was closed by its reader, as the shell reports for ``yes | head -1``."""
COLOURS_OFF = "\x1b[0m"
"""Text that is discarded: colorama, a dependency of Ray, writes it at exit although no colour is set."""
_NOT_PLAIN = re.compile("[^ -~]")


def printable(text: str, kept: str = "") -> str:
    r"""Escape hidden characters (``\x1b``, ``\n``, ``\u202e``) and bytes that are not UTF-8 (``\xe9``).

    Letters of all scripts and emoji are unchanged.

    :param kept: hidden characters that are not escaped.
    """
    if text.isprintable():
        return text
    return _NOT_PLAIN.sub(lambda match: match[0] if match[0] in kept else _visible(match), text)


def _visible(match: re.Match[str]) -> str:
    char = match[0]
    if category(char) not in HIDDEN or (char in JOINERS and _joins(match)):
        return char
    if char == "\x7f":
        return r"\u007f"  # JSON leaves it unescaped, and has no \x
    return ascii(char)[1:-1].replace(r"\udc", r"\x")  # how Python decodes bytes that are not UTF-8


def _joins(match: re.Match[str]) -> bool:
    """Return whether both neighbours of a joiner are non-ASCII letters, marks or symbols, which it may connect."""
    neighbours = (match.string[max(0, match.start() - 1) : match.start()], match.string[match.end() : match.end() + 1])
    return all(char > "\x7f" and category(char)[0] in "LMS" for char in neighbours)


def _shown(text: str, kept: str = "") -> str:
    """Mask secrets and escape hidden characters."""
    return printable(masked(text), kept)


def say(*lines: str) -> None:
    """Print notes to stderr, escaped; each argument becomes exactly one line."""
    print("\n".join(map(_shown, lines)), file=sys.stderr, flush=True)


def event(line: str) -> None:
    """Print an event to stderr after the local time of day, so that a log states when it happened."""
    say(f"{clock()} {line}")


def clock() -> str:
    """Return the local time of day, ``14:03:59``."""
    return time.strftime("%H:%M:%S")


def out(*lines: str) -> None:
    """Print results of the command to stdout, escaped; each argument becomes exactly one line."""
    print("\n".join(map(_shown, lines)), flush=True)


def width() -> int | None:
    """Return the number of columns of the terminal that shows stdout; None if it is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def lines_of(error: BaseException) -> list[str]:
    """Return the list ``problems`` of an error, or its text as the only line if it has no such list.

    The lines are escaped. A line of more than :data:`LINE` characters lacks its middle, and if there are more than
    :data:`LINES`, the last line counts the others.
    """
    problems = list(getattr(error, "problems", [])) or [str(error)]
    more = [f"... and {len(problems) - LINES + 1} more problems"] if len(problems) > LINES else []
    return [*map(_shortened, problems[: LINES - len(more)] if more else problems), *more]


def _shortened(text: str) -> str:
    """Escape a text, and replace the middle of a long one by ``...``: its start names the fault, its end the advice."""
    line = _shown(text[: 4 * LINE] + text[-4 * LINE :] if len(text) > 8 * LINE else text)
    return line if len(line) <= LINE else f"{line[: LINE // 2]} ... {line[5 - LINE // 2 :]}"


class Parser(argparse.ArgumentParser):
    """Argument parser that reports refused arguments on one line, with secrets masked and hidden characters escaped."""

    def error(self, message: str) -> NoReturn:
        """Print the message, shortened like those of :func:`lines_of`, and exit with code 2."""
        super().error(_shortened(message))


# --- rich ---------------------------------------------------------------------------------------------------------


class _Console(Console):
    """A rich console on which only rich itself, and no printed text, can control the terminal."""

    @property  # type: ignore[misc]  # the setter is not needed
    def file(self) -> IO[str]:
        """Unguarded stream of the console, because rich's own output is trusted."""
        file = super().file
        return file.stream if isinstance(file, _Guarded) else file

    def render_str(self, text: str, **options: Any) -> Text:
        """Escape a string before rich measures it."""
        return super().render_str(_shown(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escape the text in rendered objects, such as rich's ``Text``."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(_shown(segment.text, LAYOUT), segment.style)

    def on_broken_pipe(self) -> None:
        """End the command with the exit code :data:`UNREAD` instead of rich's exit code."""
        _unread(self.file)


def console(stderr: bool = False) -> Console:
    """Return a console that ignores markup and emoji codes, because paths and class names contain brackets and colons.

    :param stderr: whether it prints to stderr instead of stdout.
    """
    return _Console(stderr=stderr, soft_wrap=True, highlight=False, markup=False, emoji=False)


class Bars(Progress):
    """Rich progress bars with other output escaped above them; rich alone would interpret its ANSI codes."""

    def start(self) -> None:
        """Start drawing, and guard the streams that rich installs."""
        super().start()
        _guard_streams()


# --- streams ------------------------------------------------------------------------------------------------------


class _Guarded:
    """Text stream that escapes everything that print(), warnings, logging, argparse and tracebacks write to it."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write the escaped text, and return the number of characters before escaping."""
        if text == COLOURS_OFF:
            return len(text)
        with _ended_where_unread(self.stream):
            self.stream.write(_shown(text, LAYOUT))
            if "\n" in text:
                self.stream.flush()  # a reader that has closed the stream would be an error at exit
        return len(text)

    def writelines(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.write(text)

    def flush(self) -> None:
        with _ended_where_unread(self.stream):
            self.stream.flush()


def guard() -> None:
    """Guard stdout and stderr, so that no text of this process or of a library can control the terminal.

    If the reader of stdout closes it, the command ends with :data:`UNREAD`; without a reader of stderr it continues.
    Child processes, and C libraries that write directly to the file descriptors, are not guarded. Pillow is silenced.
    """
    os.environ["PYTHON_COLORS"] = "0"  # Python 3.13 colours tracebacks, which would appear as escapes
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a character outside the encoding must not end a command
    _guard_streams()
    silence_pillow()


def silence_pillow() -> None:
    """Suppress Pillow's warnings and log records, which repeat its errors or report damaged metadata of good images.

    This changes the whole process: it is for processes of a command, before they start threads.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


def _guard_streams() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _Guarded):
            setattr(sys, name, _Guarded(stream))


@contextmanager
def _ended_where_unread(stream: IO[str]) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        _unread(stream)
    except OSError as error:  # for example a full disk
        _unread(stream, f"failed: the output cannot be written: {error.strerror}")


def _unread(stream: IO[str], reason: str = "") -> None:
    """Discard further output to a stream that cannot be written; for stdout, end the command.

    :param reason: text for stderr, with exit code 1; empty if the reader closed the stream: exit code :data:`UNREAD`.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if stream.fileno() == 1:
        if reason:
            say(reason)
        raise SystemExit(1 if reason else UNREAD)
