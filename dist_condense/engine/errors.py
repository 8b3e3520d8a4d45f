"""What ends a run."""


class RunFailed(RuntimeError):
    """The run cannot go on; each text says where and what to change, or what is kept."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = list(problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)
