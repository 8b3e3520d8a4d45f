"""The one error of this package: everything that is wrong with a data set, told at once."""

from collections.abc import Sequence

from dist_condense.system.credentials import masked

SHOWN = 10
"""Names listed in one message before the rest becomes a count."""


class DataError(ValueError):
    """What is wrong with the data, where, and what to change; one text per problem in `problems`."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems: list[str] = [masked(problem) for problem in problems]  # Ray writes them into logs of its own
        super().__init__(self.problems)  # the arguments, so that the error survives pickling between processes

    def __str__(self) -> str:
        return "\n".join(self.problems)


def listed(names: Sequence[str]) -> str:
    """`a, b, c`, cut after ten names: `a, ..., j and 90 more`."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def shortened(problems: list[str], others: str) -> list[str]:
    """Return the first ten problems, and a line on the number of the others: `... and 90 more <others>.`"""
    return [*problems[:SHOWN], *([f"... and {len(problems) - SHOWN} more {others}."] if len(problems) > SHOWN else [])]
