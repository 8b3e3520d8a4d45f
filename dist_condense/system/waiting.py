"""How OpenMP's threads, with which torch computes on CPUs, wait for their next work.

By default they spin for about a millisecond. Where several processes share the cores, a spinning thread takes a core
from a thread that computes: a run beside another one on two cores took twice as long.
"""

from __future__ import annotations

import os

VARIABLE, PASSIVE = "OMP_WAIT_POLICY", "passive"


def sleep_at_once() -> None:
    """Make the threads of this process and of its children sleep while they wait, unless the user has set a policy.

    OpenMP reads the policy when torch is imported, so this must be called before. It is for processes of a command:
    a process that imports this package keeps its own policy.
    """
    os.environ.setdefault(VARIABLE, PASSIVE)
