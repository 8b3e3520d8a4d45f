"""The main command: ``python -m dist_condense.run CONFIG [key=value ...]``, the same as ``dist-condense run``."""

from __future__ import annotations

import sys

from dist_condense.cli import run as main

if __name__ == "__main__":
    sys.exit(main())
