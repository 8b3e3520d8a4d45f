"""Environment variables in configs, the only interpolation where OmegaConf is not installed."""

from __future__ import annotations

import os
import re
from typing import Any

from dist_condense.settings.values import Unusable

NEEDS = "needs hydra-core and omegaconf, which are not installed here"
_VARIABLE = re.compile(r"\$\{oc\.env:([^\s${},:]+)(?:,([^${}]*))?\}")
"""Pattern of an environment variable with an optional default."""


def resolved(value: Any) -> Any:
    """Replace the environment variables in the texts of a value. Raises Unusable for any other interpolation."""
    if isinstance(value, dict):
        return {key: resolved(item) for key, item in value.items()}
    if isinstance(value, list):
        return [resolved(item) for item in value]
    if not isinstance(value, str) or "${" not in value:
        return value
    text = _VARIABLE.sub(_variable, value)
    if "${" in text:
        raise Unusable(f"{value!r:.200} {NEEDS}; give the value")
    return None if text == "null" and _VARIABLE.fullmatch(value) else text


def _variable(match: re.Match[str]) -> str:
    name, default = match.groups()
    if name not in os.environ and default is None:
        raise Unusable(f"the environment variable {name} is not set; set it, or give the value")
    return os.environ.get(name, default)
