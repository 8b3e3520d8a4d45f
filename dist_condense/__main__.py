"""Command line ``python -m dist_condense COMMAND ...``, the same as ``dist-condense COMMAND ...``."""

from __future__ import annotations

import sys

from dist_condense.system import signals, waiting


def main() -> int:
    """Run the command of this process, answer signals from now on, and return the exit code."""
    waiting.sleep_soon()
    return signals.guarded(_command)


def _command() -> int:
    from dist_condense.commands import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
