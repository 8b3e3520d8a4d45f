"""``python -m dist_condense COMMAND ...``, the same as ``dist-condense COMMAND ...``."""

from __future__ import annotations

import sys

from dist_condense.system import signals


def main() -> int:
    """The exit code of the command that this process is for. Signals are answered from here on."""
    return signals.guarded(_command)


def _command() -> int:
    from dist_condense.commands import cli  # takes seconds: it brings torch

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
