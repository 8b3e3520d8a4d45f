"""The main command: ``python -m dist_condense.run CONFIG [key=value ...]``, the same as ``dist-condense run``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dist_condense.system import signals, waiting


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Slow imports are inside this function, which is called once the signal handlers are installed.
    """
    from dist_condense.commands import cli

    return cli.run(arguments)


if __name__ == "__main__":
    waiting.sleep_soon()
    sys.exit(signals.guarded(main))
