"""What a server says of itself and of a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Self

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
    """In the model's order; empty where the server does not know them."""
    outputs: tuple[TensorSpec, ...]
    """In the model's order; empty where the server does not know them."""
    properties: Mapping[str, str]
    """What the model's file says of itself, by the keys of `forwardpass.proto.metadata`."""

    @classmethod
    def from_message(cls, message: ModelMetadataResponse) -> Self:
        """Take over the message as it is; a datatype may be one that we cannot send."""
        return cls(
            name=message.name,
            versions=tuple(message.versions),
            platform=message.platform,
            inputs=tuple(_tensor(tensor) for tensor in message.inputs),
            outputs=tuple(_tensor(tensor) for tensor in message.outputs),
            properties=MappingProxyType(dict(message.properties)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """Name, version and protocol extensions of a server, from ServerMetadata."""

    name: str
    version: str
    extensions: tuple[str, ...]

    @classmethod
    def from_message(cls, message: ServerMetadataResponse) -> Self:
        """Take over the message as it is."""
        return cls(name=message.name, version=message.version, extensions=tuple(message.extensions))


def _tensor(message: ModelMetadataResponse.TensorMetadata) -> TensorSpec:
    return TensorSpec(message.name, message.datatype, tuple(message.shape))
