"""Dataset condensation over the classes of a data set, distributed by Ray and recorded by MLflow."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dist_condense.api.condensing import Result, condense
    from dist_condense.api.evaluating import evaluate
    from dist_condense.result.synthetic_set import load_set

__all__ = ["Result", "__version__", "condense", "evaluate", "load_set"]
__version__ = "0.1.0"
_PLACES = {
    "Result": "api.condensing",
    "condense": "api.condensing",
    "evaluate": "api.evaluating",
    "load_set": "result.synthetic_set",
}
"""Module of each function and class that is imported on first use."""


def __getattr__(name: str) -> Any:
    """Import on first use what needs torch, which commands import after they can handle Ctrl-C."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
