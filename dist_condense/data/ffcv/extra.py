"""Import of FFCV, an optional dependency, without its side effects on the process."""

from types import ModuleType

import torch

from dist_condense.system.errors import DataError
from dist_condense.system.extras import command

SYSTEM = "apt-get install --no-install-recommends g++ python3-dev libopencv-dev libturbojpeg0-dev pkg-config"
"""Command that installs the build dependencies of FFCV on Debian and Ubuntu, where pip compiles it."""
PACKAGE = command("ffcv")
"""Command that installs FFCV itself."""


def load_ffcv() -> ModuleType:
    """Import ffcv, which takes seconds the first time; raise DataError with installation commands if that fails.

    FFCV would set torch's number of threads when it is imported and in every pass over a Loader, which changes the last
    bits of convolutions. This function prevents that. It also stops Loaders from creating CUDA streams, which would
    open a context on device 0 from the reading thread.
    """
    threads = torch.get_num_threads()
    try:
        import ffcv
        import ffcv.loader.epoch_iterator
        import ffcv.memory_allocator
        import ffcv.pipeline.compiler
    except ImportError as reason:
        text = f"FFCV cannot be imported ({reason}). Install it after torch, with `{SYSTEM}` and `{PACKAGE}`."
        raise DataError([text]) from reason
    finally:
        torch.set_num_threads(threads)
    ffcv.pipeline.compiler.Compiler.set_num_threads = staticmethod(_leave_threads)
    ffcv.loader.epoch_iterator.IS_CUDA = False
    module: ModuleType = ffcv
    return module


def _leave_threads(_: int) -> None:
    """Do nothing; replaces FFCV's function that sets numba's and torch's number of threads."""
