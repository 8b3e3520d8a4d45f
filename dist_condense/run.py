"""The main command: ``python -m dist_condense.run CONFIG [key=value ...]``.

Loads the config, condenses on the cluster, evaluates, tracks and reports. The same command again continues.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from dist_condense.config import ConfigError, load, to_yaml
from dist_condense.data import DataError
from dist_condense.engine.journal import RunFailed
from dist_condense.job import Job

REFUSED, FAILED, INTERRUPTED = 2, 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 the run failed (the last good set is kept), 2 refused before anything started."""
    parser = argparse.ArgumentParser(prog="python -m dist_condense.run", description=__doc__)
    parser.add_argument("config", help="a yaml file, or the name of a shipped one such as configs/digits.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="see docs/config.md")
    parser.add_argument("--cfg", action="store_true", help="print the resolved config and stop")
    options = parser.parse_intermixed_args(argv)
    try:
        config = load(options.config, options.overrides)
        if options.cfg:
            print(to_yaml(config), end="")
            return 0
        job = Job.prepare(config)
    except ConfigError as error:
        print("\n".join(f"refused: {problem}" for problem in error.problems), file=sys.stderr)
        return REFUSED
    try:
        job.run()
    except (RunFailed, DataError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted: the same command continues from the last checkpoint", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
