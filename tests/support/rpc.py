"""A thin stub over grpc: a method by its name, a request, the type of its reply."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from forwardpass.proto import inference_pb2 as pb

SERVICE = "inference.GRPCInferenceService"
TIMEOUT_S = 60.0

_M = TypeVar("_M", bound=Message)


@dataclass(frozen=True)
class Refusal:
    """A call that was answered with an error."""

    code: grpc.StatusCode
    message: str
    violations: dict[str, str]
    """google.rpc.BadRequest: field -> description."""


class Stub:
    """Calls over a channel of its own; a context manager that closes it."""

    def __init__(
        self, target: str | int, credentials: grpc.ChannelCredentials | None = None
    ) -> None:
        """Connect to HOST:PORT, or to a port of this machine."""
        address = f"127.0.0.1:{target}" if isinstance(target, int) else target
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.channel = (
            grpc.insecure_channel(address, options)
            if credentials is None
            else grpc.secure_channel(address, credentials, options)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def method(self, name: str, reply_type: type[_M], service: str = SERVICE) -> Any:
        return self.channel.unary_unary(
            f"/{service}/{name}",
            request_serializer=_serialize,
            response_deserializer=reply_type.FromString,
        )

    def call(self, name: str, request: Message | bytes, reply_type: type[_M], **options: Any) -> _M:
        """Send a message, or bytes that may be none, and return the reply."""
        reply: _M = self.method(name, reply_type)(request, **{"timeout": TIMEOUT_S} | options)
        return reply

    def infer(self, request: pb.ModelInferRequest | bytes, **options: Any) -> pb.ModelInferResponse:
        return self.call("ModelInfer", request, pb.ModelInferResponse, **options)

    def stream(self, requests: Iterable[Message | bytes], **options: Any) -> Any:
        """Open a stream; returns the call, which is an iterator of the answers."""
        return self.channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            request_serializer=_serialize,
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )(iter(requests), **{"timeout": TIMEOUT_S} | options)

    def outcome(self, name: str, request: Message | bytes) -> grpc.StatusCode:
        """Send anything and return OK or the error's code."""
        try:
            self.call(name, request, REPLIES[name])
        except grpc.RpcError as error:
            return _read(error).code
        return grpc.StatusCode.OK

    def refusal(self, name: str, request: Message | bytes, **options: Any) -> Refusal:
        """Send a request that has to be refused and return the error."""
        try:
            reply = self.call(name, request, REPLIES.get(name, pb.ServerLiveResponse), **options)
        except grpc.RpcError as error:
            return _read(error)
        raise AssertionError(f"{name} answered: {str(reply)[:500]}")


REPLIES: dict[str, type[Message]] = {
    "ServerLive": pb.ServerLiveResponse,
    "ServerReady": pb.ServerReadyResponse,
    "ServerMetadata": pb.ServerMetadataResponse,
    "ModelReady": pb.ModelReadyResponse,
    "ModelMetadata": pb.ModelMetadataResponse,
    "ModelInfer": pb.ModelInferResponse,
    "ModelConfig": pb.ModelConfigResponse,
    "ModelStatistics": pb.ModelStatisticsResponse,
    "RepositoryIndex": pb.RepositoryIndexResponse,
    "RepositoryModelLoad": pb.RepositoryModelLoadResponse,
    "RepositoryModelUnload": pb.RepositoryModelUnloadResponse,
    "SystemSharedMemoryStatus": pb.SystemSharedMemoryStatusResponse,
    "SystemSharedMemoryRegister": pb.SystemSharedMemoryRegisterResponse,
    "SystemSharedMemoryUnregister": pb.SystemSharedMemoryUnregisterResponse,
    "CudaSharedMemoryStatus": pb.CudaSharedMemoryStatusResponse,
    "CudaSharedMemoryRegister": pb.CudaSharedMemoryRegisterResponse,
    "CudaSharedMemoryUnregister": pb.CudaSharedMemoryUnregisterResponse,
    "TraceSetting": pb.TraceSettingResponse,
    "LogSettings": pb.LogSettingsResponse,
}
"""Every unary RPC."""


def _serialize(request: Message | bytes) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()


def _read(error: Any) -> Refusal:
    violations: dict[str, str] = {}
    status = rpc_status.from_call(error)
    for detail in () if status is None else status.details:
        bad_request = error_details_pb2.BadRequest()
        if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            continue
        assert detail.Unpack(bad_request)
        violations |= {item.field: item.description for item in bad_request.field_violations}
    return Refusal(error.code(), error.details(), violations)
