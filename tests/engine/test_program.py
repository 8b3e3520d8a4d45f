"""One program in all its forms: eager, forward over reverse, compiled, captured, and with tensors without values.

The programs are those of the engine's matching step: decoding, augmentation, statistics, distance, gradient and update.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils import _pytree as pytree

from dist_condense.core import program
from dist_condense.core.program import Branches, CannotCapture, CannotCompile, Captured, compiled, cuda_graph
from dist_condense.data.image_set import ClassName
from dist_condense.engine.coordinator import LocalCoordinator, Placement
from dist_condense.engine.matching.alone import Step, Stepped, Whole
from dist_condense.engine.matching.halving import is_out_of_memory
from dist_condense.engine.matching.two_passes import TwoPasses
from dist_condense.engine.matching.view import View
from dist_condense.engine.shard import ClassShard
from dist_condense.planning.images import RandomImages
from dist_condense.settings import assembly
from dist_condense.settings.config import load

SMALL = [
    *("network.width=6", "network.depth=2", "network.activation=swish", "ipc=2", "method.real_batch=5"),
    *("method.images.lr=0.1", "cluster.device=cpu"),
]
METHODS = {
    "dsa": ["method=dsa"],
    "dm": ["method=dm"],
    "idc": ["method=idc", "method.synthetic_limit=6"],
    "labels": ["method=dsa", "method.label_lr=0.1"],
    "resnet": [
        "method=idc",
        "network.name=resnet10_ap",
        "network.width=4",
        "network.depth=null",
        "network.activation=null",
    ],
}
Arguments = tuple[nn.Module, list[Any], list[Any], list[Any], list[Any]]


def shard(method: str, *more: str, device: str = "cpu") -> tuple[ClassShard, nn.Module]:
    """Return a shard of three classes of random images in float64, and a network."""
    config = load("configs/digits.yaml", [*SMALL, *METHODS[method], *more])
    data = RandomImages(classes=tuple(ClassName(f"class {c}") for c in range(3)), size=16, per_class=9)
    place = Placement(torch.device(device), torch.float64)
    made = assembly.shard_of(config, data, [0, 1, 2], coordinator=LocalCoordinator(), placement=place)  # type: ignore[arg-type]
    return made, assembly.network_builder(config, data)(1).to(torch.float64).eval()  # type: ignore[arg-type]


def arguments(made: ClassShard, network: nn.Module, visit: int = 0) -> Arguments:
    """Return the arguments of the step of all classes."""
    drawn, keyed = made.draws.of(visit), torch.Generator().manual_seed(visit)
    positions = {c: torch.randperm(9, generator=keyed)[:5] for c in made.labels}
    stored = [made.source.redeem(made.source.announce(c, positions[c])) for c in made.labels]
    own = [made.learnt_of(c) for c in made.labels]
    momentum = [{name: x + 1 for name, x in tensors.items()} for tensors in own]
    return network, own, momentum, stored, [drawn[c] for c in made.labels]


def assert_equal(results: list[Stepped], expected: list[Stepped], tolerance: float = 1e-9) -> None:
    for x, y in zip(pytree.tree_leaves(results), pytree.tree_leaves(expected), strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("method", ["dsa", "idc"])
def test_the_images_of_a_step_are_counted_without_a_kernel(method: str) -> None:
    made, _ = shard(method, "method.parameterisation.factor=2")
    learnt, drawn = made.learnt_of(0), made.draws.of(0)[0]
    with FakeTensorMode():  # refuses to compute with tensors of another mode
        count = made.view.count(learnt, drawn)
    assert count == len(made.view.taking_part(learnt, drawn)) == {"dsa": 8, "idc": 6}[method]
    assert (drawn.subset is None) == (method == "dsa")


@pytest.mark.parametrize("method", METHODS)
def test_forward_over_reverse_equals_double_backward(method: str) -> None:
    reverse, network = shard(method)
    forward, _ = shard(method, "compute.second_derivative=forward")
    assert isinstance(reverse.steps.step.match, Whole) and isinstance(forward.steps.step.match, TwoPasses)
    given = arguments(reverse, network)
    expected = reverse.steps(*given)
    assert_equal(forward.steps(*given), expected)
    assert not torch.equal(expected[0].learnt["pixels"], given[1][0]["pixels"])


@pytest.fixture(autouse=True)
def nothing_is_compiled() -> None:
    """Forget what earlier tests compiled: a function is compiled for a limited number of shapes and objects."""
    torch._dynamo.reset()


def assert_compiled_equals_eager(method: str, way: str) -> None:
    eager, network = shard(method)
    fast, _ = shard(method, "compute.compile=true", f"compute.second_derivative={way}")
    for visit in range(2):
        given = arguments(eager, network, visit)
        assert_equal(fast.steps(*given), eager.steps(*given))


@pytest.mark.parametrize(("method", "way"), [("idc", "reverse"), ("idc", "forward"), ("labels", "reverse")])
def test_compiled_equals_eager_with_the_kernels_of_torch(
    method: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler sees the whole step of all classes as one graph; making kernels of it takes a minute."""
    whole, graphs = torch.compile, []
    aot_eager = torch._dynamo.lookup_backend("aot_eager")

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return aot_eager(graph, inputs)

    monkeypatch.setattr(torch, "compile", lambda f, **given: whole(f, backend=backend, **given))
    assert_compiled_equals_eager(method, way)
    assert len(graphs) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("method", "way"), [("idc", "reverse"), ("labels", "forward")])
def test_compiled_equals_eager(method: str, way: str) -> None:
    assert_compiled_equals_eager(method, way)


def test_what_cannot_be_compiled_is_reported_in_one_line() -> None:
    def breaks(x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return x

    with pytest.raises(
        CannotCompile, match=r"compute\.compile: torch\.compile cannot .*set compute\.compile=false"
    ) as e:
        compiled(breaks, "a step")(torch.ones(2))
    assert "\n" not in str(e.value)


def test_a_shape_whose_first_call_fails_is_announced_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter([torch.OutOfMemoryError("CUDA out of memory")])

    def fails_once(x: Tensor) -> Tensor:
        for failure in failures:
            raise failure
        return x

    monkeypatch.setattr(torch, "compile", lambda f, **given: f)
    fast = compiled(fails_once, "a step")
    with caplog.at_level(logging.INFO):
        with pytest.raises(torch.OutOfMemoryError):
            fast(torch.ones(2))
        fast(torch.ones(2))
    said = [record.getMessage().partition(" (")[0] for record in caplog.records]
    assert said == ["compiling a step", "compiling a step", "compiled a step in 0 s"]


def test_each_shape_is_announced_before_it_is_compiled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[int] = []

    def doubled(x: Tensor) -> Tensor:
        said.append(len(caplog.records))
        return 2 * x

    monkeypatch.setattr(torch, "compile", lambda f, **given: f)
    fast = compiled(doubled, "a step")
    with caplog.at_level(logging.INFO):
        for length in (2, 2, 3, 2):
            assert torch.equal(fast(torch.ones(length)), 2 * torch.ones(length))
    assert said == [1, 2, 3, 4]  # the first line of a shape is there when its compilation starts
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [
        "compiling a step",
        "compiled a step in 0 s",
        "compiling a step for another shape",
        "compiled a step for another shape in 0 s",
    ]


def test_a_long_compilation_gives_signs_of_life(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told = threading.Event()

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("still compiling a step after "):
                told.set()

    def slow(x: Tensor) -> Tensor:
        assert told.wait(60)
        return x

    monkeypatch.setattr(torch, "compile", lambda f, **given: f)
    monkeypatch.setattr(program, "SIGN", 0.01)
    monkeypatch.setattr(program.log, "handlers", [Told()])
    with caplog.at_level(logging.INFO):
        compiled(slow, "a step")(torch.ones(2))
    for thread in threading.enumerate():
        if thread.name == "compiling":
            thread.join(60)
            assert not thread.is_alive()


# --- captured -----------------------------------------------------------------------------------------------------


class Tape:
    """Record that executes the function again at each replay, and writes the results into the same memory."""

    def __init__(self) -> None:
        self.recordings = 0

    def __call__(self, function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        self.recordings += 1
        static = pytree.tree_map_only(Tensor, torch.zeros_like, function())

        def replay() -> None:
            for kept, x in zip(pytree.tree_leaves(static), pytree.tree_leaves(function()), strict=True):
                kept.copy_(x)

        return static, replay


def test_replays_equal_calls_and_their_results_stay() -> None:
    made, network = shard("idc")
    tape = Tape()
    captured = Captured(Branches(made.steps.step), record=tape)
    given = [arguments(made, network, visit) for visit in range(3)]
    replayed = [captured(*each) for each in given]
    assert tape.recordings == 1
    for results, each in zip(replayed, given, strict=True):
        assert_equal(results, made.steps(*each), tolerance=0)
    fewer = tuple(x if x is network else x[:2] for x in given[0])
    assert_equal(captured(*fewer), made.steps(*fewer), tolerance=0)
    assert tape.recordings == 2, "other shapes are another recording"


def test_a_replay_reads_the_network_where_it_is() -> None:
    made, network = shard("idc")
    captured, given = Captured(Branches(made.steps.step), record=Tape()), arguments(made, network)
    captured(*given)
    with torch.no_grad():
        for x in network.parameters():
            x.mul_(1.5)
    assert_equal(captured(*given), made.steps(*given), tolerance=0)


class Stream:
    """Stand-in for a CUDA stream, which writes down what follows what."""

    current: Stream
    events: ClassVar[list[str]] = []

    def __init__(self, name: str) -> None:
        self.name = name

    def wait_stream(self, other: Stream) -> None:
        self.events.append(f"{self.name} waits for {other.name}")

    @contextmanager
    def entered(self) -> Iterator[None]:
        before, Stream.current = Stream.current, self
        try:
            yield
        finally:
            Stream.current = before


@pytest.fixture
def capturing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pretend that a capture is under way; return what the streams do."""
    Stream.current, Stream.events = Stream("main"), []
    numbers = itertools.count(1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream.current)
    monkeypatch.setattr(torch.cuda, "stream", Stream.entered)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: Stream(f"side {next(numbers)}"))
    program._stream.cache_clear()
    return Stream.events


def test_branches_start_together_and_are_joined(capturing: list[str]) -> None:
    def where(network: None, x: int) -> int:
        capturing.append(f"{x} on {Stream.current.name}")
        return x

    assert Branches(where)(None, [1, 2, 3]) == [1, 2, 3]
    start = ["side 1 waits for main", "side 2 waits for main", "1 on main", "2 on side 1", "3 on side 2"]
    assert capturing == [*start, "main waits for side 1", "main waits for side 2"]
    capturing.clear()
    assert Branches(where)(None, [4, 5]) == [4, 5]
    assert "5 on side 1" in capturing, "streams are used again"


def test_branches_that_fail_are_joined(capturing: list[str]) -> None:
    def fails(network: None, x: int) -> int:
        raise torch.OutOfMemoryError(str(x))

    with pytest.raises(torch.OutOfMemoryError):
        Branches(fails)(None, [1, 2])
    assert capturing[-1] == "main waits for side 1"


def test_a_capture_that_fails_says_why(capturing: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def capture(graph: object, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        try:
            yield
        finally:
            raise RuntimeError("capture_end: unjoined work")

    def fails() -> None:
        calls.append(1)
        if len(calls) > program.WARM_UP:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried 4 GiB.\nand more")

    calls: list[int] = []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    with pytest.raises(
        CannotCapture, match=r"compute\.cuda_graphs: .*: CUDA out of memory. Tried 4 GiB\.; set fewer"
    ) as e:
        cuda_graph(fails)
    assert "\n" not in str(e.value) and not is_out_of_memory(e.value)


# --- nothing waits ------------------------------------------------------------------------------------------------


def faked(made: ClassShard, given: Arguments, mode: FakeTensorMode) -> tuple[Step, Arguments]:
    """Return the step and its arguments with tensors that have shapes and no values."""
    network = given[0]

    def fake(x: Tensor) -> Tensor:
        return mode.from_tensor(x)

    for module in network.modules():
        for name, x in module.named_parameters(recurse=False):
            module._parameters[name] = fake(x)  # type: ignore[assignment]
    view = made.view
    origins = {
        ipc: replace(at, source=fake(at.source), factor=fake(at.factor), tile=fake(at.tile))
        for ipc, at in view.origins.items()
    }
    seen = replace(view, mean=fake(view.mean), std=fake(view.std), origins=origins)
    step = replace(made.steps.step, match=replace(made.steps.step.match, view=seen))  # type: ignore[type-var]
    return step, (network, *(pytree.tree_map_only(Tensor, fake, x) for x in given[1:]))  # type: ignore[return-value]


@pytest.mark.parametrize("method", METHODS)
def test_a_step_needs_no_values_on_the_host(method: str) -> None:
    """A step that reads a value of a tensor cannot be computed with tensors that have none.

    Forward differentiation does not know fake tensors; that it reads no value either, is seen when it is compiled.
    """
    made, network = shard(method)
    given = arguments(made, network)
    with FakeTensorMode() as mode:
        step, given = faked(made, given, mode)
        assert Branches(step)(*given)[0].learnt["pixels"].shape == made.pixels[0].shape


def test_a_step_that_reads_a_value_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    made, network = shard("idc")
    given = arguments(made, network)
    with FakeTensorMode() as mode:
        step, given = faked(made, given, mode)
        monkeypatch.setattr(View, "_shown", lambda self, images: images * float(images.max()))
        with pytest.raises(DataDependentOutputException):
            Branches(step)(*given)
