"""FFCV, an extra: imported when it is first needed, and kept from changing the process around it."""

from types import ModuleType

import torch

from dist_condense.system.errors import DataError

SYSTEM = "apt-get install --no-install-recommends g++ python3-dev libopencv-dev libturbojpeg0-dev pkg-config"
"""FFCV is compiled when it is installed; this is what that needs on Debian and Ubuntu."""
PACKAGE = "pip install ffcv"
"""By the name that its authors hold: this package is in no index, where somebody else may take its name."""


def load_ffcv() -> ModuleType:
    """The module ffcv; DataError with the two commands that install it where it cannot be imported.

    The first import takes seconds. Importing FFCV sets torch's number of threads to 1, and so does every pass over a
    Loader (to another number); since that number decides the last bits of a convolution, it is left as it was, for
    good. Nor does a Loader make CUDA streams, which would open a context on device 0 from the reading thread.
    """
    threads = torch.get_num_threads()
    try:
        import ffcv
        import ffcv.loader.epoch_iterator
        import ffcv.memory_allocator
        import ffcv.pipeline.compiler
    except ImportError as reason:
        text = f"FFCV cannot be imported ({reason}). Install it once torch is there, with `{SYSTEM}` and `{PACKAGE}`."
        raise DataError([text]) from reason
    finally:
        torch.set_num_threads(threads)
    ffcv.pipeline.compiler.Compiler.set_num_threads = staticmethod(_leave_threads)
    ffcv.loader.epoch_iterator.IS_CUDA = False
    module: ModuleType = ffcv
    return module


def _leave_threads(_: int) -> None:
    """What FFCV calls instead of numba's and torch's set_num_threads."""
