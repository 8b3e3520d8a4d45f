"""Dataset condensation over the classes of a data set: Ray distributes it, MLflow records it."""

from dist_condense.synthetic_set import load_set

__all__ = ["__version__", "load_set"]
__version__ = "0.1.0"
