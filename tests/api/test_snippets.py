"""The Python examples of README.md and docs/python.md are executed as they are written, on small data and networks."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dist_condense
from dist_condense.settings.config import from_dict
from dist_condense.settings.keys import SECTIONS
from tests.api.test_condensing import TEST, TINY, TRAIN
from tests.api.test_evaluating import SHORT
from tests.conftest import ROOT

SMALL = {"condense": {key: TINY[key] for key in ("trajectory", "network", "evaluation", "tracking")}, "evaluate": SHORT}
"""Keys that make an example short, in place of its own."""
DATA = {
    "X_train": TRAIN.images, "y_train": np.arange(60) % 3, "X_test": TEST.images, "y_test": np.arange(12) % 3,
    "X_mine": TRAIN.images[:6], "y_mine": np.arange(6) % 3,
}  # fmt: skip
"""Values of the names that the examples take from the reader."""


def short(function: Callable[..., Any], small: dict[str, Any]) -> Callable[..., Any]:
    """Return a function whose keys are checked, and replaced by those of a short call."""

    def call(*data: Any, **given: Any) -> Any:
        from_dict({key: value for key, value in given.items() if key in SECTIONS and key != "method"})
        return function(*data, **{**given, **small})

    return call


@pytest.mark.parametrize("document", ["README.md", "docs/python.md"])
def test_the_examples_run(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, small in SMALL.items():
        monkeypatch.setattr(dist_condense, name, short(getattr(dist_condense, name), small))
    names = dict(DATA)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    examples = [block for block in blocks if any(f"import {name}\n" in block for name in SMALL)]
    assert examples
    for example in examples:
        exec(compile(example, document, "exec"), names)
    assert names["result"].scores and len(names["result"].dataset)
