"""Dataset condensation over the classes of a data set, distributed by Ray and recorded by MLflow."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dist_condense.result.synthetic_set import load_set

__all__ = ["__version__", "load_set"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import ``load_set`` on first use, because it needs torch, which commands import after they can handle Ctrl-C."""
    if name != "load_set":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dist_condense.result.synthetic_set import load_set

    return load_set
