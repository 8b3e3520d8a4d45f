"""Docstrings that Python does not keep: those below fields and assignments, read from the source of a module."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from types import ModuleType

_END = re.compile(r"(?<=\.)\s+(?=[A-Z`])|\n\n")
"""End of a sentence: a full stop of `et al. 2021` is none, because no capital letter follows it."""


def first_sentence(text: str | None, least: int = 1) -> str:
    """Return the first sentence of a docstring in one line, without its full stop; empty without a docstring.

    :param least: least number of characters, to which further sentences are added.
    """
    sentences = [one_line(each) for each in _END.split(text.strip())] if text else []
    needed = next((n for n in range(1, len(sentences)) if len(" ".join(sentences[:n])) >= least), len(sentences))
    return " ".join(sentences[:needed]).rstrip(".:,")


def one_line(text: str) -> str:
    """Return a text without line breaks."""
    return " ".join(text.split())


def of_assignments(module: ModuleType) -> dict[str, str]:
    """Return the docstrings below the assignments of a module, by name."""
    return dict(_below(ast.parse(inspect.getsource(module)).body))


def of_fields(module: ModuleType, root: str) -> dict[str, str]:
    """Return the docstring below each field of a class and of the classes that are its fields' types, by dotted name.

    A field whose type is such a class has the docstring of the class.

    :param root: name of the class, which is in the module as the others are.
    """
    tree = ast.parse(inspect.getsource(module))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}

    def walk(name: str, prefix: str) -> dict[str, str]:
        meanings = {f"{prefix}{field}": text for field, text in _below(classes[name].body)}
        for node in classes[name].body:
            if isinstance(node, ast.AnnAssign) and (kind := ast.unparse(node.annotation)) in classes:
                field = f"{prefix}{ast.unparse(node.target)}"
                meanings |= {field: one_line(ast.get_docstring(classes[kind]) or ""), **walk(kind, f"{field}.")}
        return meanings

    return walk(root, "")


def _below(body: Sequence[ast.stmt]) -> Iterator[tuple[str, str]]:
    """Yield the name and the docstring, in one line, of each assignment with a text below it."""
    for node, after in pairwise(body):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            yield target.id, one_line(str(after.value.value))
