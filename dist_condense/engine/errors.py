"""The error that ends a run."""


class RunFailed(RuntimeError):
    """Error of a run that cannot continue; each problem says where it occurred, and what to change or what is kept."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = list(problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)
