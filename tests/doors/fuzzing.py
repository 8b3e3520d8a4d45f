"""The rule that every door keeps, and random mutations of valid files.

Each door is a reader of content from outside. :func:`door` runs one attempt and checks the rule. DOORS_TIMES=20 in the
environment runs 20 times as many examples, from a seed that differs each time.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torchvision.datasets  # noqa: F401  # the package imports it on first use, which loads libraries
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dist_condense.system.terminal import lines_of

SECONDS, WAIT, BYTES = 5.0, 30.0, 2**30
"""Limits of one attempt: seconds of computation, seconds in all (it may wait for other processes), and memory."""
LETTERS = 2_000
"""Longest line of a refusal."""
LEAST = 20
"""Number of examples that are tried however long they take."""
TIMES = int(os.environ.get("DOORS_TIMES", "1"))
EXECUTED = {
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "subprocess.Popen"),
    *("pickle.find_class", "marshal.loads", "socket.connect", "ctypes.dlopen", "webbrowser.open"),
}
"""Audit events of Python that no reading of content may cause. Modules are loaded by marshal: :func:`_seen`."""
_recorded: list[str] | None = None


def _seen(event: str, arguments: tuple[object, ...]) -> None:
    if _recorded is None or event not in EXECUTED:
        return
    caller = sys._getframe(1)
    if event == "marshal.loads" and "importlib" in caller.f_code.co_filename:
        return
    _recorded.append(f"{event} {arguments!r:.200}")


sys.addaudithook(_seen)


@dataclass
class Answer:
    """Answer of a door: ``lines`` is None if the content was accepted, else the lines of the refusal."""

    lines: list[str] | None = None
    error: Exception | None = field(default=None, repr=False)

    @property
    def is_accepted(self) -> bool:
        return self.lines is None


@contextmanager
def door(*refusals: type[Exception]) -> Iterator[Answer]:
    """Run one attempt, which accepts the content or raises one of ``refusals``, and check the rule.

    The rule: clear lines, no execution, at most :data:`SECONDS` of computation and :data:`BYTES` of memory.
    """
    global _recorded
    answer, executed = Answer(), list[str]()
    before = _peak_reset()
    with _no_hang():
        start, _recorded = time.process_time(), executed
        try:
            yield answer
        except refusals as error:
            answer.lines, answer.error = lines_of(error), error
        finally:
            taken, _recorded = time.process_time() - start, None
    assert not executed, executed
    assert taken < SECONDS, f"{taken:.1f} s: {answer}"
    assert _peak() - before < BYTES, f"{(_peak() - before) / 2**20:.0f} MiB: {answer}"
    if answer.lines is not None:
        check_lines(answer.lines)


def check_lines(lines: list[str]) -> None:
    """Check that a refusal is a few single lines of readable length, and not the text of an exception of Python."""
    assert 0 < len(lines) <= 100, f"{len(lines)} lines: {lines[:3]}"
    for line in lines:
        assert line.strip() and "\n" not in line, f"not one line: {line!r}"
        assert len(line) <= LETTERS, f"{len(line)} letters: {line[:200]!r}"
        assert "Traceback" not in line and "object at 0x" not in line, line


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Check that every file below a folder is the same afterwards, and that there is no other."""
    before = _content(folder)
    yield
    after = _content(folder)
    assert after.keys() == before.keys(), sorted(after.keys() ^ before.keys())
    assert after == before, [name for name in before if before[name] != after[name]]


def _content(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@contextmanager
def _no_hang() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"no answer within {WAIT:.0f} s")

    handler, start = signal.signal(signal.SIGALRM, stop), time.monotonic()
    left, _ = signal.setitimer(signal.ITIMER_REAL, WAIT)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - start), 0.01) if left else 0)


def _peak_reset() -> int:
    """Set the peak of memory back to the memory in use, where Linux permits it, and return it."""
    with suppress(OSError):  # then the check is weaker
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """Return the peak of this process's memory in bytes."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fuzz(
    *strategies: st.SearchStrategy[Any], examples: int = 100, seconds: float = 8.0
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test on random examples, which are the same each time, and end after ``seconds`` if none has failed.

    :param strategies: one for each of the test's last parameters; the others are fixtures.
    """
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    options = settings(
        max_examples=examples * TIMES,
        derandomize=TIMES == 1,
        deadline=None,
        database=None,
        suppress_health_check=quiet,
        print_blob=True,
    )

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        end, has_failed, tried = 0.0, False, 0

        @functools.wraps(test)
        def example(*args: Any, **kwargs: Any) -> None:
            nonlocal has_failed, tried
            if time.monotonic() > end and tried >= LEAST and not has_failed:
                return
            tried += 1
            try:
                test(*args, **kwargs)
            except BaseException:
                has_failed = True
                raise

        tested = options(given(*strategies)(example))

        @functools.wraps(tested)
        def whole(*args: Any, **kwargs: Any) -> None:
            nonlocal end, has_failed, tried
            end, has_failed, tried = time.monotonic() + seconds * TIMES, False, 0
            tested(*args, **kwargs)

        return whole

    return decorate


# --- mutations -----------------------------------------------------------------------------------------------------

NUMBERS = (
    *(0, -1, 1, 2, 255, 2**31, 2**53 + 1, 2**63, 2**70, 10**30, -(10**9), -(2**63) - 1),
    *(0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), float("-inf")),
)
TEXTS = (
    *("", " ", "0", "-1", "1.5", "nan", "true", "null", "~", "???", "..", "../..", "/", "/dev/zero", "a/b", "\0", "\n"),
    *("\x1b[31mred", "[red]red[/red]", "<script>alert(1)</script>", "\u202eabc", "\ud800", "ä" * 300, "x" * 100_000),
    *("${oc.env:HOME}", "${output}", "!!python/name:os.system", "=1+1", "file:///etc/passwd", "http://127.0.0.1:9/"),
)
odd_scalars = st.one_of(st.none(), st.booleans(), st.sampled_from(NUMBERS), st.sampled_from(TEXTS))
odd_values = st.one_of(
    odd_scalars,
    st.recursive(
        st.one_of(odd_scalars, st.integers(), st.floats(), st.text(max_size=20)),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=8,
    ),
    st.sampled_from([17, 40, 200]).map(lambda depth: functools.reduce(lambda inner, _: [inner], range(depth), 0)),
)
"""Values that are wrong almost everywhere: of another type, out of every range, hostile texts, deep lists."""


ODD_LABELS: tuple[list[Any], ...] = (
    *([-1] * 6, [0] * 6, [0, 1, None] * 2, [None] * 6, [2**62, -(2**62), 0] * 2, [0.5] * 6, [float("nan")] * 6),
    *([0, 1], [True, False] * 3, [3, 4, 5] * 2, [0, "a"] * 3, [[0], [1, 2]] * 3, [{"a": 1}] * 6, [b"a", b"b"] * 3),
    *(["a", "b", ""] * 2, ["a\nb", "\x1b[31m", "c"] * 2, ["\ud800", "b", "c"] * 2, ["a\0", "b", "c"] * 2),
    ["x" * 5_000, "b", "c"] * 2,
)
"""Labels of images: of other types or ranges, missing, of one class, hostile names."""


def _neighbours(value: Any) -> list[Any]:
    """Return values close to a given one: of another type, sign or size, or incomplete, or with an item twice."""
    match value:
        case bool():
            return [not value, int(value), str(value).lower()]
        case int() | float():
            return [-value, value + 1, value - 1, value * 10, value * 10**9, str(value), float(value), [value], None]
        case str():
            return [value + " ", value.upper(), value[:-1], value * 2, [value], {value: value}, f"../{value}"]
        case list():
            return [value[1:], value[:-1], value * 2, value[::-1], [*value, *value[:1]], [value], {}, len(value)]
        case dict():
            return [dict(list(value.items())[1:]), dict(list(value.items())[:-1]), list(value.items()), [value]]
        case _:
            return [0, "", [], {}]


@st.composite
def mutated_values(draw: st.DrawFn, valid: Any) -> Any:
    """Return a copy of nested lists and dicts with one to three random changes."""
    value = deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        value = _changed(draw, value)
    return value


def _changed(draw: st.DrawFn, value: Any) -> Any:
    is_filled = isinstance(value, dict | list) and len(value) > 0
    if is_filled and draw(st.integers(0, 4)):  # goes down
        key = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
        what = draw(st.sampled_from(["change", "change", "change", "change", "remove", "double"]))
        if what == "change":
            value[key] = _changed(draw, value[key])
        elif what == "remove":
            del value[key]
        elif isinstance(value, list):
            value.insert(draw(st.integers(0, len(value))), deepcopy(value[key]))
        else:
            value[draw(st.sampled_from([key.upper(), f"{key}_", "", "__proto__", "x" * 1_000]))] = deepcopy(value[key])
        return value
    near = _neighbours(value)
    return draw(st.sampled_from(near)) if draw(st.booleans()) else draw(odd_values)


BYTES_REPEATED = (b"\0", b"\xff", b"[", b'{"a":', b"9")


@st.composite
def mutated_bytes(draw: st.DrawFn, valid: bytes) -> bytes:
    """Return a file's bytes with one to three random changes: cut, overwritten, inserted, repeated, appended."""
    data = valid
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        length = draw(st.sampled_from([0, 1, 2, 8, 64, 4096]))
        junk = draw(st.one_of(st.binary(max_size=16), st.sampled_from(BYTES_REPEATED).map(lambda b, n=length: b * n)))
        what = draw(st.sampled_from(["cut", "overwrite", "insert", "remove", "repeat", "append", "empty"]))
        data = {
            "cut": data[:start],
            "overwrite": data[:start] + junk + data[start + len(junk) :],
            "insert": data[:start] + junk + data[start:],
            "remove": data[:start] + data[start + length :],
            "repeat": data[: start + length] + data[start:],
            "append": data + junk,
            "empty": b"",
        }[what]
    return data


@st.composite
def mutated_json(draw: st.DrawFn, valid: Any) -> bytes:
    """Return the text of a JSON document with random changes of its values and, one time in five, of its bytes."""
    data = json.dumps(draw(mutated_values(valid))).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 9)) == 0:
        data = draw(st.sampled_from([data.decode("utf-8", "replace").encode("utf-16"), b"\xef\xbb\xbf" + data]))
    return draw(mutated_bytes(data)) if draw(st.integers(0, 4)) == 0 else data


SNIPPETS = (
    *("!!python/object/apply:os.mkdir [mark]", "!!python/name:os.system", "!!binary x", "!!set {a}", "!x y", "%YAML 9"),
    *("${oc.env:HOME}", "${ipc}", "${a}${a}", "???", "&a", "*a", "<<: *a", "&a [*a]", "\t", "- ", ": ", "? ", "\n"),
    *("{", "}", "[", "]", '"', "'", "#", "|", ">", "---\n", "...\n", "@", "`", "%", "\0", "\x85", "\ufeff", "\u2028"),
    *("1_000", "0x10", "190:20:30", "1e999", ".nan", "-.inf", "2026-01-01", "yes", "~", "null", "[" * 500, "{a: " * 40),
)


@st.composite
def mutated_yaml(draw: st.DrawFn, valid: Any) -> bytes:
    """Return the text of a YAML document with random changes of its values, and snippets at random places."""
    values = draw(st.one_of(st.just(valid), mutated_values(valid)))
    text = yaml.dump(values, Dumper=_Plain, allow_unicode=True, width=1_000_000)
    for _ in range(draw(st.integers(0 if values is not valid else 1, 3))):
        spots = [0, len(text), *(i for i, letter in enumerate(text) if letter in "\n :-")]
        spot = draw(st.sampled_from(spots)) + draw(st.integers(0, 1))
        text = text[:spot] + draw(st.sampled_from(SNIPPETS)) + text[spot:]
    data = text.encode("utf-8", "surrogatepass")
    return draw(mutated_bytes(data)) if draw(st.integers(0, 7)) == 0 else data


class _Plain(yaml.SafeDumper):
    """Dumper without aliases, so that a repeated value is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
