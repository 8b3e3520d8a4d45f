"""Stand-ins for libraries, with which modules can be imported for the names in their tables.

The table of a part is beside the functions that it names, in a module that imports torch, which takes seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

LIBRARIES = ("torch", "numpy", "safetensors", "simplejpeg", "PIL")
"""Libraries for computing with tensors and images: torch, and those that import it or numpy."""


@contextmanager
def for_libraries() -> Iterator[None]:
    """Replace :data:`LIBRARIES` within the context by stand-ins, unless this process has imported torch already.

    Modules that are imported within the context can be read, but must not compute. They are forgotten at its end.
    """
    if "torch" in sys.modules:
        yield
        return
    before = dict(sys.modules)
    sys.meta_path.insert(0, finder := _Finder())
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in sys.modules.keys() - before.keys():
            if name.partition(".")[0] in sys.stdlib_module_names:
                continue
            del sys.modules[name]
            parent, _, child = name.rpartition(".")
            vars(before.get(parent, _NONE)).pop(child, None)


class _Finder:
    """Finder and loader of stand-ins for modules."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in LIBRARIES else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Module(ModuleType):
    """Stand-in for a module, whose every attribute is a stand-in."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Thing()


_NONE = ModuleType("")


class _Thing:
    """Stand-in for a class, also as a base class, for a function, a decorator or a value of a library."""

    def __getattr__(self, name: str) -> _Thing:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Thing()

    def __call__(self, *given: object, **named: object) -> _Thing:
        return _Thing()

    def __or__(self, other: object) -> _Thing:  # as in an alias of types
        return _Thing()

    __ror__ = __or__

    def __mro_entries__(self, bases: tuple[object, ...]) -> tuple[type, ...]:
        return ()
