"""How OpenMP's threads, with which torch computes on CPUs, wait for their next work.

By default they spin for about a millisecond. Where several processes share the cores, a spinning thread takes a core
from a thread that computes: steps of two runs beside each other on two cores took four times as long.
"""

from __future__ import annotations

import os

POLICY = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
"""Variables with which threads spin for some microseconds, until the next of several small operations, and then sleep.

Other OpenMP libraries than GNU's do not know the second one, so their threads sleep at once.
"""


def environment() -> dict[str, str]:
    """Return the variables of :data:`POLICY`, or those of them that the user has set."""
    return {name: os.environ[name] for name in POLICY if name in os.environ} or POLICY


def sleep_soon() -> None:
    """Make the threads of this process and of its children sleep soon while they wait, unless the user decides.

    OpenMP reads the variables when torch is imported, so this must be called before. It is for processes of a command:
    a process that imports this package keeps its own policy.
    """
    os.environ.update(environment())
