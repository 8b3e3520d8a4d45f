"""``python -m dist_condense COMMAND ...``, the same as ``dist-condense COMMAND ...``."""

from __future__ import annotations

import sys

from dist_condense import signals


def main() -> int:
    """The exit code of the command; signals are answered from here on, so nothing heavy is imported before."""
    return signals.guarded(_command)


def _command() -> int:
    from dist_condense import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
