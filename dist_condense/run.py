"""The main command: ``python -m dist_condense.run CONFIG [key=value ...]``, the same as ``dist-condense run``."""

from __future__ import annotations

import sys

from dist_condense import signals


def main() -> int:
    """The exit code of the command; signals are answered from here on, so nothing heavy is imported before."""
    return signals.guarded(_command)


def _command() -> int:
    from dist_condense import cli

    return cli.run()


if __name__ == "__main__":
    sys.exit(main())
