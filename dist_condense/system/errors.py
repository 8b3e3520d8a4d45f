"""Error that reports all problems with the data at once, and functions that shorten lists in messages."""

from collections.abc import Sequence

from dist_condense.system.credentials import masked

SHOWN = 10
"""Maximum number of names in one message; the others are counted."""


class DataError(ValueError):
    """Error with a list of problems; each text in ``problems`` says what is wrong, where, and what to change."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems: list[str] = [masked(problem) for problem in problems]  # Ray logs the arguments unmasked
        super().__init__(self.problems)  # the arguments, so that the error survives pickling between processes

    def __str__(self) -> str:
        return "\n".join(self.problems)


def words_of(error: BaseException) -> str:
    """Return the message of an error of somebody else's program in one line, as far as the error can make it."""
    try:
        return " ".join(str(error).split())[:500]
    except KeyboardInterrupt:
        raise
    except BaseException:  # its class may raise anything
        return "without a message"


def listed(names: Sequence[str]) -> str:
    """Join names as ``a, b, c``; after ten names the others are counted: ``a, ..., j and 90 more``."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def shortened(problems: list[str], others: str) -> list[str]:
    """Return at most the first ten problems, then a line that counts the others: `... and 90 more <others>.`"""
    return [*problems[:SHOWN], *([f"... and {len(problems) - SHOWN} more {others}."] if len(problems) > SHOWN else [])]
