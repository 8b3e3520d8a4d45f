"""Installation of the optional dependencies of this package."""


def command(extra: str) -> str:
    """Return the command that installs an extra, in its tested versions, in a clone of this repository.

    The extra is that of the clone because this package is in no index: anybody could register its name there.
    """
    return f"pip install -c constraints.txt '.[{extra}]'"
