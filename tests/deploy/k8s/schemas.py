"""Validation of manifests by closed schemas: a key that is not in the schema, such as a typo, is an error."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from tests.deploy.k8s.manifests import Manifest

KUBERNETES = "1.37"
OPEN = "x-kubernetes-preserve-unknown-fields"


def problems(manifest: Manifest, crds: Path) -> Iterator[str]:
    """Yield a line for each key or value that the API server would refuse or drop."""
    name = f"{manifest.get('kind')}/{manifest.get('metadata', {}).get('name')}"
    if str(manifest.get("apiVersion")).startswith("ray.io/"):
        yield from (f"{name}: {problem}" for problem in _of_ray(manifest, crds))
        metadata = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": manifest.get("metadata")}
        yield from (f"{name}: {problem}" for problem in _of_kubernetes(metadata))  # a CRD has no schema of metadata
    else:
        yield from (f"{name}: {problem}" for problem in _of_kubernetes(manifest))


def _of_kubernetes(manifest: Manifest) -> Iterator[str]:
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
    except (KeyError, kubernetes_validate.SchemaNotFoundError) as error:
        yield f"no schema: {error!r}"


def _of_ray(manifest: Manifest, crds: Path) -> Iterator[str]:
    version = manifest["apiVersion"].removeprefix("ray.io/")
    validator = _validators(crds).get((manifest.get("kind"), version))
    if validator is None:
        yield f"no schema of {manifest['apiVersion']} {manifest.get('kind')}"
        return
    for error in validator.iter_errors(manifest):
        yield f"{'.'.join(map(str, error.absolute_path))}: {error.message}"


@functools.cache
def _validators(crds: Path) -> dict[tuple[str, str], jsonschema.Draft202012Validator]:
    validators = {}
    for file in crds.glob("*.yaml"):
        spec = yaml.load(file.read_text(), yaml.CSafeLoader)["spec"]
        for version in spec["versions"]:
            schema = closed(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}  # checked separately
            validators[spec["names"]["kind"], version["name"]] = jsonschema.Draft202012Validator(schema)
    return validators


def closed(schema: Any) -> Any:
    """Return a copy of the schema that allows no additional keys, except where it preserves unknown ones."""
    if isinstance(schema, list):
        return [closed(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    copied = {key: closed(value) for key, value in schema.items()}
    if schema.get("type") == "object" and not schema.get(OPEN):
        copied.setdefault("additionalProperties", False)
    return copied
