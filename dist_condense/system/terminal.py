"""All text that a command writes for a person, made so that no text of somebody else steers the terminal.

Names of folders, classes and tar members, configs, cards, tables of results and texts of servers come from others.
Raw, they could set the window's title, write the clipboard, erase a line, reverse what follows, or fake a line of ours.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import signal
import sys
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
"""Unicode's categories of control characters, of formats (direction, zero width, tags), of halves of a surrogate pair,
and of the separators of lines and paragraphs."""
JOINERS = "\u200c\u200d"
"""They join or part letters of Persian and Hindi words and the parts of an emoji."""
LAYOUT = "\n\t"
UNREAD = 128 + signal.SIGPIPE
"""Exit code of a command whose stdout is closed, as the shell reports it for ``yes | head -1``."""
COLOURS_OFF = "\x1b[0m"
"""Written by itself when Python ends, by colorama, which Ray brings; no colour is on."""
_NOT_PLAIN = re.compile("[^ -~]")


def printable(text: str, kept: str = "") -> str:
    r"""A text as one line, in which hidden characters are written ``\x1b``, ``\n``, ``\u202e``, and bytes that are not
    UTF-8 ``\xe9``. Letters of all scripts and emoji stay.

    :param kept: characters that stay as well.
    """
    if text.isprintable():
        return text
    return _NOT_PLAIN.sub(lambda found: found[0] if found[0] in kept else _visible(found), text)


def _visible(found: re.Match[str]) -> str:
    char = found[0]
    if category(char) not in HIDDEN or (char in JOINERS and _joins(found)):
        return char
    if char == "\x7f":
        return r"\u007f"  # the one that JSON leaves as it is, which has no \x
    return ascii(char)[1:-1].replace(r"\udc", r"\x")  # how Python reads bytes that are not UTF-8


def _joins(found: re.Match[str]) -> bool:
    """Whether both neighbours are letters, marks or symbols of a script that has joiners."""
    neighbours = (found.string[max(0, found.start() - 1) : found.start()], found.string[found.end() : found.end() + 1])
    return all(char > "\x7f" and category(char)[0] in "LMS" for char in neighbours)


def _shown(text: str, kept: str = "") -> str:
    """What is written: without passwords of addresses, and printable."""
    return printable(masked(text), kept)


def say(*lines: str) -> None:
    """To stderr, what a person should know; each text is one line, whatever is in it."""
    print("\n".join(map(_shown, lines)), file=sys.stderr, flush=True)


def out(*lines: str) -> None:
    """To stdout, what the command was asked for; each text is one line, whatever is in it."""
    print("\n".join(map(_shown, lines)), flush=True)


def lines_of(error: BaseException) -> list[str]:
    """The problems of an error that lists them, else its text as the only one."""
    return list(getattr(error, "problems", [])) or [str(error)]


class Parser(argparse.ArgumentParser):
    """Repeats what it refuses on one line."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        super().error(_shown(message))


# --- rich ---------------------------------------------------------------------------------------------------------


class _Console(Console):
    """Only rich itself colours and moves the cursor; a text, wherever it stands in what is printed, does not."""

    @property  # type: ignore[misc]  # nobody sets it
    def file(self) -> IO[str]:
        """The stream itself, to which rich may write what it makes."""
        found = super().file
        return found.stream if isinstance(found, _Guarded) else found

    def render_str(self, text: str, **how: Any) -> Text:
        """Before it is measured and laid out."""
        return super().render_str(_shown(text), **how)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Texts that were made elsewhere (rich's ``Text``)."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(_shown(segment.text, LAYOUT), segment.style)

    def on_broken_pipe(self) -> None:
        """Instead of rich's own exit code."""
        _unread(self.file)


def console(stderr: bool = False) -> Console:
    """Prints every text as it stands: paths, class names and other libraries' words have brackets and colons, which
    are neither markup nor emoji.
    """
    return _Console(stderr=stderr, soft_wrap=True, highlight=False, markup=False, emoji=False)


class Bars(Progress):
    """rich's bars. What is written meanwhile stands above them; rich would take colours and links from it."""

    def start(self) -> None:
        """Begin to draw."""
        super().start()
        _guard_streams()


# --- streams ------------------------------------------------------------------------------------------------------


class _Guarded:
    """A stream of texts in lines, whoever writes them: print(), warnings, logging, argparse, tracebacks."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """All of it."""
        if text == COLOURS_OFF:
            return len(text)
        with _ended_where_unread(self.stream):
            self.stream.write(_shown(text, LAYOUT))
            if "\n" in text:
                self.stream.flush()  # at Python's own end a reader that has left would be an error
        return len(text)

    def writelines(self, texts: Iterable[str]) -> None:
        """As they are, one after the other."""
        for text in texts:
            self.write(text)

    def flush(self) -> None:
        """Now."""
        with _ended_where_unread(self.stream):
            self.stream.flush()


def guard() -> None:
    """From here on no text that this process writes steers the terminal, also none of another library.

    What reads stdout may close it: then the command ends (:data:`UNREAD`). Without a reader of stderr it goes on.
    Not guarded: what libraries in C write to the file descriptor, and processes that are started.
    """
    os.environ["PYTHON_COLORS"] = "0"  # since 3.13 Python colours tracebacks, which would be shown as escapes
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the encoding lacks must not end a command
    _guard_streams()


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


def _unread(stream: IO[str]) -> None:
    """Nobody reads a stream any more: what is written to it from now on is lost without an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if stream.fileno() == 1:
        raise SystemExit(UNREAD)
