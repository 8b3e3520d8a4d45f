"""Error that ends a run."""


class RunFailed(RuntimeError):
    """Error of a run that cannot continue.

    :param problems: messages that each state where a problem occurred, and what to change or which results are kept.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = list(problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)
