"""Dataset condensation over the classes of a data set: Ray distributes it, MLflow records it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dist_condense.result.synthetic_set import load_set

__all__ = ["__version__", "load_set"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``load_set`` when it is asked for: it needs torch, which the commands import once they answer Ctrl-C."""
    if name != "load_set":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dist_condense.result.synthetic_set import load_set

    return load_set
