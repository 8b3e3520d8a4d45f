"""Errors that end a run or a worker group."""


class RunFailed(RuntimeError):
    """Error of a run that cannot continue.

    :param problems: messages that each state where a problem occurred, and what to change or which results are kept.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = list(problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


class WorkerLost(RuntimeError):
    """Error for lost workers or a broken connection between workers.

    The message names the step, if known; for lost workers, also their ranks and hosts, and the key to change.
    """
