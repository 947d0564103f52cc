"""The manifests of KServe against the models that KServe publishes of its resources.

KServe's package on PyPI has a class for each object of its resources, made from their schemas:
the names and types of its fields are read from there, without importing the package, which would
need a dozen others. What KServe takes over from Kubernetes (V1...) is checked as a Pod's.
"""

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCUMENTS = list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "kserve.yaml").read_text()))
PLAIN: dict[str, type] = {"str": str, "int": int, "bool": bool}


class Schema:
    """Fields of KServe's objects, by the name of the class."""

    def __init__(self, models: Path) -> None:
        self._fields: dict[str, dict[str, str]] = {}
        for file in models.glob("*.py"):
            for node in ast.parse(file.read_text()).body:
                if isinstance(node, ast.ClassDef):
                    tables = {
                        each.targets[0].id: ast.literal_eval(each.value)
                        for each in node.body
                        if isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Name)
                    }
                    names = tables["attribute_map"]
                    self._fields[node.name] = {
                        names[attribute]: kind
                        for attribute, kind in tables["openapi_types"].items()
                    }

    def check(self, value: Any, kind: str, at: str) -> None:
        """Raise AssertionError for an unknown field or a value of another type, at its place."""
        if inner := re.fullmatch(r"list\[(.*)\]", kind):
            assert isinstance(value, list), f"{at}: expected a list"
            for index, each in enumerate(value):
                self.check(each, inner[1], f"{at}[{index}]")
        elif inner := re.fullmatch(r"dict\(str, (.*)\)", kind):
            assert isinstance(value, dict), f"{at}: expected a mapping"
            for key, each in value.items():
                self.check(each, inner[1], f"{at}.{key}")
        elif kind in self._fields:
            assert isinstance(value, dict), f"{at}: expected {kind}"
            for key, each in value.items():
                assert key in self._fields[kind], f"{at}: {kind} has no {key}"
                self.check(each, self._fields[kind][key], f"{at}.{key}")
        elif kind in PLAIN:
            assert type(value) is PLAIN[kind], f"{at}: expected {kind}, got {value!r}"
        elif kind == "V1Container":
            pod = {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [value]}}
            kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
        else:
            assert kind == "V1ObjectMeta", f"{at}: no check for {kind}"
            assert set(value) <= {"name", "namespace", "labels", "annotations"}


@pytest.fixture(scope="module")
def schema(environment: Callable[..., Path]) -> Schema:
    python = environment("--no-deps", "kserve==0.21.0")
    (models,) = python.parent.parent.glob("lib/python3*/site-packages/kserve/models")
    return Schema(models)


def kind(document: dict[str, Any]) -> str:
    version = document["apiVersion"].removeprefix("serving.kserve.io/")
    return f"{version.capitalize()}{document['kind']}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda each: each["kind"])
def test_kserve_takes_it(schema: Schema, document: dict[str, Any]) -> None:
    schema.check(document, kind(document), document["kind"])


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        (("spec",), "multimodel", False),
        (("spec", "supportedModelFormats", 0), "version", 1),
        (("spec", "containers", 0), "readyProbe", {}),
    ],
)
def test_a_mistake_would_be_noticed(
    schema: Schema, place: tuple[str | int, ...], name: str, value: object
) -> None:
    (spoilt,) = yaml.safe_load_all(yaml.safe_dump(DOCUMENTS[0]))
    at = spoilt
    for step in place:
        at = at[step]
    at[name] = value
    with pytest.raises((AssertionError, kubernetes_validate.ValidationError)):
        schema.check(spoilt, kind(spoilt), "spoilt")


def test_the_service_runs_on_the_runtime_with_a_format_and_protocol_that_it_has() -> None:
    runtime, service = DOCUMENTS
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    formats = [(each["name"], each["version"]) for each in runtime["spec"]["supportedModelFormats"]]
    assert (model["modelFormat"]["name"], model["modelFormat"]["version"]) in formats
