"""Forms in which one function of tensors is executed: as it is, compiled, or captured in CUDA graphs and replayed.

A program is a function of tensors with fixed shapes that draws no random numbers and never waits for the device. It
changes no argument, unless its recording undoes the changes. All forms give the same result up to rounding.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cache
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

log = logging.getLogger(__name__)
Result = TypeVar("Result")
SIGN = 60.0
"""Seconds between two signs of life while a program is compiled."""
WARM_UP = 3
"""Number of calls before a capture, in which libraries select their kernels and allocate workspaces."""

Record = Callable[[Callable[[], Any]], tuple[Any, Callable[[], None]]]
"""Function that executes a function without arguments, and returns its result and a function that computes the result
again, in the same memory.
"""


class CannotCompile(RuntimeError):
    """Error of torch's compiler, or of the C++ or Triton compiler that it starts."""


def compiled(function: Callable[..., Result], name: str) -> Callable[..., Result]:
    """Return a function that ``torch.compile`` compiles for each shape of its arguments (a call with a new one takes up
    to two minutes, which is logged), and that is executed as it is for further shapes once there are many.

    :param name: name of the function in messages.
    :raises CannotCompile: in a call; the function cannot be compiled as a whole.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns of a missing GPU
    # With dynamic shapes, the smaller last batch of a pass would make the kernels of all batches slower.
    fast = torch.compile(function, dynamic=False, fullgraph=True)
    shapes: set[Any] = set()

    @functools.wraps(function)
    def call(*arguments: Any) -> Result:
        from torch._dynamo import exc  # imported with the compiler, which takes a second

        shape = tuple((x.shape, x.dtype) for x in pytree.tree_leaves(arguments) if isinstance(x, Tensor))
        try:
            if shape in shapes:
                return fast(*arguments)
            result = _logged(lambda: fast(*arguments), f"{name}{' for another shape' if shapes else ''}")
            shapes.add(shape)
            return result
        except exc.FailOnRecompileLimitHit:
            _warn_of_many_shapes(name)
            return function(*arguments)
        except exc.TorchDynamoException as error:
            log.debug("torch.compile failed", exc_info=True)
            reason = next((line for line in str(error).split("\n") if line.strip()), type(error).__name__)
            raise CannotCompile(
                f"compute.compile: torch.compile cannot compile a step: {reason.strip():.300}; set "
                "compute.compile=false or compute.second_derivative=reverse, or install a C++ compiler if it lacks one"
            ) from error

    return call


def _logged(first: Callable[[], Result], name: str) -> Result:
    """Return the result of a call that compiles, and log that it starts, each :data:`SIGN` and how long it took."""
    start, done = time.monotonic(), threading.Event()

    def tell() -> None:
        while not done.wait(SIGN):
            log.info("still compiling %s after %.0f s", name, time.monotonic() - start)

    how_long = "half a minute to two, longer on a busy machine; compute.compile=false computes at once"
    log.info("compiling %s (%s)", name, how_long)
    threading.Thread(target=tell, name="compiling", daemon=True).start()
    try:
        result = first()
    finally:
        done.set()
    log.info("compiled %s in %.0f s", name, time.monotonic() - start)
    return result


@cache
def _warn_of_many_shapes(name: str) -> None:
    log.warning("compute.compile: %s got too many shapes to compile; further ones are computed as they are", name)


class CannotCapture(RuntimeError):
    """Error of a function while its kernels are captured, after which this process cannot use its GPU reliably."""


@cache
def _stream(number: int) -> torch.cuda.Stream:
    """Return a stream of this process for captures.

    torch hands out 32 streams in turn, so new ones for every capture would soon be those on which images are copied.
    """
    return torch.cuda.Stream()


def cuda_graph(function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
    """Capture the kernels of a function in a CUDA graph (a :data:`Record`).

    :raises CannotCapture: the function failed during the capture, for example because memory is exhausted.
    """
    stream = _stream(0)
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph, failure = torch.cuda.CUDAGraph(), None
    try:
        # Threads that read ahead may allocate pinned memory during the capture, which only "thread_local" allows.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            try:
                result = function()
            except Exception as error:
                failure = error  # the end of the capture raises another one
                raise
    except Exception as error:
        reason = str(failure or error).partition("\n")[0]
        raise CannotCapture(
            f"compute.cuda_graphs: a step cannot be captured: {reason:.300}; set fewer classes, or 0, and start again"
        ) from (failure or error)
    return result, graph.replay


@dataclass
class _Recorded:
    """A recorded call: its static arguments and results, and the function that computes these again."""

    arguments: list[Tensor]
    results: list[Tensor]
    structure: Any
    replay: Callable[[], None]

    def __call__(self, tensors: Sequence[Tensor]) -> Any:
        _copy(self.arguments, tensors)
        self.replay()
        results = [torch.empty_like(x) for x in self.results]
        _copy(results, self.results)
        return pytree.tree_unflatten(results, self.structure)


@dataclass
class Captured(Generic[Result]):
    """A program that is recorded at the first call with new shapes, and replayed by later calls.

    Tensors in the arguments are copied to static memory. All other arguments, such as a network, must be hashable and
    are kept: their tensors are read where they were at the recording, so they may only be changed in place.
    """

    function: Callable[..., Result]
    _: KW_ONLY
    record: Record = cuda_graph
    _recorded: dict[Any, _Recorded] = field(default_factory=dict, init=False)

    def __call__(self, *arguments: Any) -> Result:
        leaves, structure = pytree.tree_flatten(arguments)
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        key = structure, tuple((x.shape, x.dtype) if isinstance(x, Tensor) else x for x in leaves)
        if key not in self._recorded:
            self._recorded[key] = self._new(leaves, structure)
        result: Result = self._recorded[key](tensors)
        return result

    def _new(self, leaves: Sequence[Any], structure: Any) -> _Recorded:
        static = [x.clone() if isinstance(x, Tensor) else x for x in leaves]
        arguments = pytree.tree_unflatten(static, structure)
        result, replay = self.record(lambda: self.function(*arguments))
        results, returned = pytree.tree_flatten(result)
        return _Recorded([x for x in static if isinstance(x, Tensor)], results, returned, replay)


@dataclass(frozen=True)
class Branches(Generic[Result]):
    """A program that is called for several independent items, on a CUDA stream each, inside one capture.

    Outside of a capture the calls follow each other.
    """

    function: Callable[..., Result]

    def __call__(self, network: Any, *each: Sequence[Any]) -> list[Result]:
        """Return ``function(network, *item)`` for each item of ``zip(*each)``."""
        items = list(zip(*each, strict=True))
        if not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
            return [self.function(network, *item) for item in items]
        main, results = torch.cuda.current_stream(), list[Result]()
        others = [_stream(number) for number in range(1, len(items))]
        for stream in others:
            stream.wait_stream(main)
        try:
            for stream, item in zip([main, *others], items, strict=True):
                with torch.cuda.stream(stream):
                    results.append(self.function(network, *item))
        finally:
            for stream in others:
                main.wait_stream(stream)
        return results


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy tensors in place, all of one dtype by one operation."""
    for dtype in {x.dtype for x in targets}:
        rows = [i for i, x in enumerate(targets) if x.dtype == dtype]
        torch._foreach_copy_([targets[i] for i in rows], [sources[i] for i in rows])
