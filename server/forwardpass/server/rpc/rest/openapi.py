"""The description of what is answered over HTTP (OpenAPI 3.1), written from the models."""

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote as percent

from forwardpass.proto.explain import (
    DEFAULT_STEPS,
    PARAMETER,
    STEPS,
    STEPS_PARAMETER,
    is_explained,
)
from forwardpass.proto.metadata import ColumnNames, MetadataError
from forwardpass.proto.spec import TensorSpec
from forwardpass.proto.version import __version__
from forwardpass.server.engine.model import Model
from forwardpass.server.errors import InvalidRequestError
from forwardpass.server.rpc.rest.long_texts import WORDS
from forwardpass.server.rpc.rest.predictions import features

_ANY: dict[str, Any] = {}
_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_NUMBER = {"oneOf": [{"type": "number"}, {"enum": list(WORDS)}]}
_ELEMENT = {"type": ["number", "boolean", "string", "array"]}
"""Of a tensor, or a part of it where lists are nested."""
_ERROR = {"$ref": "#/components/schemas/Error"}


def describe(name: str, models: Iterable[Model]) -> dict[str, Any]:
    """Return the description; name: The server's. models: Those that the caller may read."""
    index = _operation(
        "Models and their states",
        {"type": "array", "items": _object(name=_TEXT, version=_TEXT, state=_TEXT)},
    )
    paths: dict[str, Any] = {
        "/v2": {"get": _operation("Server metadata", _object(name=_TEXT, version=_TEXT))},
        "/v2/health/live": {"get": _operation("Liveness", _object(live={"type": "boolean"}))},
        "/v2/health/ready": {"get": _operation("Readiness", _object(ready={"type": "boolean"}))},
        "/v2/repository/index": {"get": index, "post": index},
        "/v2/models/stats": {
            "get": _operation("Statistics of all models", _object(model_stats={"type": "array"}))
        },
    }
    for model in models:
        place = f"/v2/models/{percent(model.name, safe='')}"
        paths[place] = {"get": _operation(f"Metadata of {model.name}", _object(name=_TEXT))}
        ready = _object(name=_TEXT, ready={"type": "boolean"})
        paths[f"{place}/ready"] = {"get": _operation(f"Readiness of {model.name}", ready)}
        paths[f"{place}/config"] = {
            "get": _operation(f"Triton's configuration of {model.name}", _object(name=_TEXT))
        }
        paths[f"{place}/stats"] = {
            "get": _operation(f"Statistics of {model.name}", _object(model_stats={"type": "array"}))
        }
        paths[f"{place}/infer"] = {
            "post": _operation(
                f"Compute {model.name}",
                {"$ref": "#/components/schemas/InferResponse"},
                _infer_request(model),
            )
        }
        try:
            row = _row(model)
        except (InvalidRequestError, MetadataError):
            continue
        rows = {"oneOf": [row, {"type": "array", "items": row, "minItems": 1}]}
        shown = _object(
            model_name=_TEXT,
            model_version=_TEXT,
            predictions={"type": "array", "items": {"type": "object"}},
        )
        predict = _operation(f"Predict by {model.name}, of named features", shown, rows)
        if asked := _explained(model):
            predict["parameters"] = [
                {"name": name, "in": "query", "schema": schema} for name, schema in asked.items()
            ]
        paths[f"{place}:predict"] = {"post": predict}
    return {
        "openapi": "3.1.0",
        "info": {"title": name, "version": __version__},
        "paths": paths,
        "components": {
            "schemas": {"Error": _object(error=_TEXT), "InferResponse": _infer_response()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _operation(
    summary: str, shown: dict[str, Any], body: dict[str, Any] | None = None
) -> dict[str, Any]:
    content = {"application/json": {"schema": shown}}
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {
            "200": {"description": "The answer.", "content": content},
            "default": {
                "description": "An error, with the text that gRPC has.",
                "content": {"application/json": {"schema": _ERROR}},
            },
        },
    }
    if body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": body}},
        }
    return operation


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _infer_request(model: Model) -> dict[str, Any]:
    inputs = [
        {
            "type": "object",
            "properties": {
                "name": {"const": name},
                "datatype": {"const": spec.datatype},
                "shape": _shape(spec),
                "data": {"type": "array", "items": _ELEMENT},
                "parameters": {"type": "object"},
            },
            "required": ["name", "datatype", "shape"],
        }
        for name, spec in model.inputs.items()
    ]
    listed: dict[str, Any] = {"type": "array", "minItems": len(inputs), "maxItems": len(inputs)}
    if inputs:
        listed["items"] = inputs[0] if len(inputs) == 1 else {"oneOf": inputs}
    asked = _object(name={"enum": list(model.outputs)})
    return {
        "type": "object",
        "properties": {
            "id": _TEXT,
            "inputs": listed,
            "outputs": {"type": "array", "items": asked},
            "parameters": {"type": "object", "properties": _explained(model)},
        },
        "required": ["inputs"],
    }


def _explained(model: Model) -> dict[str, Any]:
    """Return the schemas of the parameters that ask for an explanation; none without numbers."""
    outputs = [name for name, spec in model.outputs.items() if is_explained(spec)]
    if not outputs:
        return {}
    # A text, not a choice: an output may have thousands of columns, which labels name as well.
    what = {
        "type": "string",
        "description": "OUTPUT or OUTPUT:COLUMN, an index or a label, of "
        f"{', '.join(outputs)}: what each feature contributes to that column is answered, too",
    }
    steps = {"enum": [*STEPS], "default": DEFAULT_STEPS, "description": "gradients for each row"}
    return {PARAMETER: what, STEPS_PARAMETER: steps}


def _shape(spec: TensorSpec) -> dict[str, Any]:
    return {
        "type": "array",
        "prefixItems": [_COUNT if size < 0 else {"const": size} for size in spec.shape],
        "minItems": len(spec.shape),
        "maxItems": len(spec.shape),
    }


def _infer_response() -> dict[str, Any]:
    output = {
        "type": "object",
        "properties": {
            "name": _TEXT,
            "datatype": _TEXT,
            "shape": {"type": "array", "items": _COUNT},
            "data": {"type": "array", "items": _ANY},
            "parameters": {"type": "object"},
        },
        "required": ["name", "datatype", "shape"],
    }
    return {
        "type": "object",
        "properties": {
            "model_name": _TEXT,
            "model_version": _TEXT,
            "id": _TEXT,
            "outputs": {"type": "array", "items": output},
        },
        "required": ["model_name", "model_version", "outputs"],
    }


def _row(model: Model) -> dict[str, Any]:
    """Return the schema of one object of named features."""
    properties: dict[str, Any] = {}
    for name, names in features(model).items():
        if not names.labels:
            properties[name] = _whole(names)
            continue
        for column, label in enumerate(names.labels):
            properties[label] = _feature(names, column)
    return _object(**properties) | {"additionalProperties": False}


def _whole(names: ColumnNames) -> dict[str, Any]:
    """Return the schema of an input without names of columns: a list, or its only element."""
    if not names.categories:
        return {"type": ["array", "number"]}
    kind = "string" if isinstance(names.categories[0], str) else "integer"
    # As with numbers, what the file knows is said: whether it takes others is its own affair.
    return {"type": ["array", kind], "x-categories": list(names.categories)}


def _feature(names: ColumnNames, column: int) -> dict[str, Any]:
    """Return the schema of a feature: what its data had is said, and is no limit."""
    feature: dict[str, Any] = dict(_NUMBER)
    if len(names.units) > column and names.units[column]:
        feature["x-unit"] = names.units[column]
    if len(names.low) > column:
        feature["x-range"] = [names.low[column], names.high[column]]
    return feature
