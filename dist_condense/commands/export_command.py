"""Execution of ``dist-condense export``; the work is in result/formats.py."""

from __future__ import annotations

import argparse
from pathlib import Path

from dist_condense.result import formats
from dist_condense.result.synthetic_set import SyntheticSetError
from dist_condense.system import signals, terminal
from dist_condense.system.errors import DataError

REFUSED, FAILED = 2, 1


def export(options: argparse.Namespace) -> int:
    """Write a synthetic set in the format of other programs; return the exit code."""
    dest: Path = options.dest
    signals.writing_starts()
    try:
        done = formats.export(options.set, dest, options.format, options.space)
    except KeyboardInterrupt as interrupt:
        terminal.say(f"{signals.description(interrupt)}: nothing was written")
        return signals.exit_code(interrupt)
    except (DataError, SyntheticSetError, ImportError) as error:
        terminal.say(*(f"refused: {line}" for line in terminal.lines_of(error)))
        return REFUSED
    except OSError as error:
        terminal.say(f"failed: {terminal.lines_of(error)[0]}; nothing was written")
        return FAILED
    terminal.out(f"{dest}: {done.images:,} images as {options.format}{_loss(done.clipped)}")
    for note in done.notes:
        terminal.out(f"note: {note}")
    return 0


def _loss(clipped: float | None) -> str:
    if clipped is None:
        return ""
    return f", rounded to bytes; {clipped:.1%} of the values were outside [0, 1] and were clipped"
