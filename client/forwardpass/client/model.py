"""The metadata of a server and of a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

from forwardpass.proto.inference_pb2 import ModelMetadataResponse, ServerMetadataResponse
from forwardpass.proto.spec import TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model's signature and properties, from ModelMetadata."""

    name: str
    versions: tuple[str, ...]
    """The versions that are served."""
    platform: str
    inputs: tuple[TensorSpec, ...]
    """The inputs in the model's order; empty if the server does not know them."""
    outputs: tuple[TensorSpec, ...]
    """The outputs in the model's order; empty if the server does not know them."""
    properties: Mapping[str, str]
    """Metadata of the model's file, by the keys of `forwardpass.proto.metadata`."""

    def __reduce__(self) -> tuple[Any, ...]:
        # A read-only view of a dict does not pickle.
        fields = {name: getattr(self, name) for name in self.__slots__}
        return _model_spec, (fields | {"properties": dict(self.properties)},)

    @classmethod
    def from_message(cls, message: ModelMetadataResponse) -> Self:
        """Read a message; a datatype may be one that this client cannot send."""
        return cls(
            name=message.name,
            versions=tuple(message.versions),
            platform=message.platform,
            inputs=tuple(_tensor(tensor) for tensor in message.inputs),
            outputs=tuple(_tensor(tensor) for tensor in message.outputs),
            properties=MappingProxyType(dict(message.properties)),
        )


def _model_spec(fields: Mapping[str, Any]) -> ModelSpec:
    return ModelSpec(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """Name, version and protocol extensions of a server, from ServerMetadata."""

    name: str
    version: str
    extensions: tuple[str, ...]

    @classmethod
    def from_message(cls, message: ServerMetadataResponse) -> Self:
        """Read a message."""
        return cls(name=message.name, version=message.version, extensions=tuple(message.extensions))


def _tensor(message: ModelMetadataResponse.TensorMetadata) -> TensorSpec:
    return TensorSpec(message.name, message.datatype, tuple(message.shape))
