"""Whether Kubernetes would know an object: its own schemas, read strictly.

They come with the Go modules of Kubernetes and of the Prometheus Operator, whose PodMonitor it is. Both
describe what may be there; here what they don't describe is an error, as for `kubectl --validate=strict`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft7Validator  # type: ignore[import-untyped]

_KUBERNETES = "k8s.io/kubernetes@v1.37.2"
_PROMETHEUS_OPERATOR = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
_QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"


def problems(found: Mapping[str, Any]) -> list[str]:
    """What is wrong with an object, each problem with its place."""
    kind = (found["apiVersion"], found["kind"])
    if kind not in _schemas():
        return [f"{kind} is not known"]
    errors = Draft7Validator(_schemas()[kind]).iter_errors(found)
    return [f"{found['kind']} {error.json_path}: {error.message}" for error in errors]


@cache
def _schemas() -> dict[tuple[str, str], dict[str, Any]]:
    """The schema of each kind, by API version and kind."""
    return dict([*_of_kubernetes(), *_of_the_prometheus_operator()])


def _of_kubernetes() -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    swagger = json.loads((_module(_KUBERNETES) / "api/openapi-spec/swagger.json").read_text("utf-8"))
    definitions = {name: _strictly(entry) for name, entry in swagger["definitions"].items()}
    definitions[_QUANTITY]["type"] = ["number", "string"]
    for name, entry in definitions.items():
        for kind in entry.get("x-kubernetes-group-version-kind", ()):
            version = "/".join(filter(None, (kind["group"], kind["version"])))
            schema = {"$ref": f"#/definitions/{name}", "definitions": definitions}
            yield (version, kind["kind"]), schema


def _of_the_prometheus_operator() -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    path = "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml"
    definition = yaml.safe_load((_module(_PROMETHEUS_OPERATOR) / path).read_text("utf-8"))["spec"]
    for version in definition["versions"]:
        schema = _strictly(version["schema"]["openAPIV3Schema"])
        # What all objects have is not said there.
        schema["properties"]["metadata"] = {"type": "object"}
        yield (f"{definition['group']}/{version['name']}", definition["names"]["kind"]), schema


def _strictly(schema: Any) -> Any:
    """A schema that forbids what it does not describe."""
    if isinstance(schema, list):
        return [_strictly(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strictly(entry) for key, entry in schema.items()}
    if isinstance(strict.get("properties"), dict):
        strict.setdefault("additionalProperties", False)
    if strict.get("format") == "int-or-string":
        strict["type"] = ["integer", "string"]
    return strict


def _module(name: str) -> Path:
    """Where Go keeps a module, after fetching it if need be."""
    done = subprocess.run(["go", "mod", "download", "-json", name], check=True, stdout=subprocess.PIPE)
    return Path(json.loads(done.stdout)["Dir"])
