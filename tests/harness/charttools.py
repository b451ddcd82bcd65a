"""Programs that the chart's tests run, built from their published sources: Helm, its unit tests, and kubeconform with
schemas of several Kubernetes versions.

Each is built by the first test that wants it, see gobuild.py.
"""

from __future__ import annotations

import json
from importlib import util
from pathlib import Path
from typing import Any

import yaml

from tests.harness import gobuild

HELM = "helm.sh/helm/v3/cmd/helm@v3.22.0"
KUBECONFORM = "github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0"
UNITTEST = "github.com/helm-unittest/helm-unittest/cmd/helm-unittest@v1.1.2"
# As its own go.mod has it; `go install` refuses a module with a replacement.
UNITTEST_REPLACED = "github.com/vmware-labs/yaml-jsonpath=github.com/helm-unittest/yaml-jsonpath@v0.4.0"


def helm() -> Path:
    """Helm 3."""
    return gobuild.installed("helm", HELM)


def kubeconform() -> Path:
    """It comes without schemas: see `schemas`."""
    return gobuild.installed("kubeconform", KUBECONFORM)


def helm_unittest() -> Path:
    """The unit tests of charts, as a program of its own."""
    return gobuild.tool("helm-unittest", UNITTEST, replaced=UNITTEST_REPLACED)


def schemas(version: str, target: Path) -> None:
    """Writes Kubernetes' schemas for kubeconform: those of kubernetes-validate, each made to stand alone."""
    found = util.find_spec("kubernetes_validate")
    assert found is not None
    assert found.submodule_search_locations
    source = Path(next(iter(found.submodule_search_locations))) / f"kubernetes-json-schema/v{version}-local-strict"
    definitions: dict[str, Any] = json.loads((source / "_definitions.json").read_text())["$defs"]
    folder = target / f"v{version}-standalone-strict"
    folder.mkdir(parents=True)
    for path in source.glob("*-v[0-9]*.json"):
        schema = _local(json.loads(path.read_text()))
        schema.pop("$id", None)
        wanted, reached = _references(schema), {}
        while wanted:
            name = wanted.pop()
            reached[name] = _local(definitions[name])
            wanted |= _references(reached[name]) - reached.keys()
        (folder / path.name).write_text(json.dumps({**schema, "$defs": reached}))


def _local(schema: Any) -> Any:
    """With references into this document instead of into the file beside it."""
    if isinstance(schema, dict):
        return {
            key: f"#/$defs/{value.rpartition('/')[2]}" if key == "$ref" and isinstance(value, str) else _local(value)
            for key, value in schema.items()
        }
    return [_local(item) for item in schema] if isinstance(schema, list) else schema


def _references(schema: Any) -> set[str]:
    if isinstance(schema, dict):
        own = {schema["$ref"].rpartition("/")[2]} if isinstance(schema.get("$ref"), str) else set()
        return own.union(*(_references(value) for value in schema.values()))
    return set().union(*map(_references, schema)) if isinstance(schema, list) else set()


def documents(rendered: str) -> list[dict[str, Any]]:
    """The objects of a rendered chart."""
    return [document for document in yaml.safe_load_all(rendered) if document]
