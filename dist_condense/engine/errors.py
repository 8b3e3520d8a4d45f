"""What ends a run."""


class RunFailed(RuntimeError):
    """The run cannot go on; the message says where and what to change."""
