"""What a person reads while a command runs."""

from __future__ import annotations

from rich.console import Console


def console(stderr: bool = False) -> Console:
    """Prints every text as it stands: paths, class names and other libraries' words have brackets and colons, which
    are neither markup nor emoji.
    """
    return Console(stderr=stderr, soft_wrap=True, highlight=False, markup=False, emoji=False)
