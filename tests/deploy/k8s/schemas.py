"""Manifests against their schemas, closed: a key that the schema does not name is an error, as a typo should be."""

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
    """One line for each thing that the API server would refuse or drop."""
    name = f"{manifest.get('kind')}/{manifest.get('metadata', {}).get('name')}"
    if str(manifest.get("apiVersion")).startswith("ray.io/"):
        yield from (f"{name}: {told}" for told in _of_ray(manifest, crds))
        metadata = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": manifest.get("metadata")}
        yield from (f"{name}: {told}" for told in _of_kubernetes(metadata))  # a CRD says nothing of it
    else:
        yield from (f"{name}: {told}" for told in _of_kubernetes(manifest))


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
    found = {}
    for file in crds.glob("*.yaml"):
        spec = yaml.load(file.read_text(), yaml.CSafeLoader)["spec"]
        for version in spec["versions"]:
            schema = closed(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}  # checked by itself
            found[spec["names"]["kind"], version["name"]] = jsonschema.Draft202012Validator(schema)
    return found


def closed(schema: Any) -> Any:
    """Without keys that the schema does not name, unless it says that it takes any."""
    if isinstance(schema, list):
        return [closed(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if schema.get("type") == "object" and not schema.get(OPEN):
        made.setdefault("additionalProperties", False)
    return made
