"""Server reflection over grpcio: our messages, told to tools that have no file of ours.

grpcio-reflection brings it under its older name, v1alpha, alone. v1 has the same messages, field
by field, and is what newer tools ask first, some of them only.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from forwardpass.proto import inference_pb2

if TYPE_CHECKING:
    import grpc

_V1ALPHA, _V1 = "grpc.reflection.v1alpha", "grpc.reflection.v1"
SERVICES = tuple(f"{package}.ServerReflection" for package in (_V1, _V1ALPHA))

_MAX_STREAMS = 8
"""That are answered at a time; tools hold one for as long as a command runs."""


def reflection_handlers(services: tuple[str, ...]) -> list["grpc.GenericRpcHandler"]:
    """Return what a grpcio server needs to answer both names; services: what else it answers."""
    import grpc

    servicer = reflection_servicer(services)

    def handle(requests: Iterator[Any], context: "grpc.ServicerContext") -> Iterator[Any]:
        yield from servicer.ServerReflectionInfo(requests, context)

    # A stream holds a thread while it is open: none of those that answer calls.
    handle.experimental_thread_pool = ThreadPoolExecutor(  # type: ignore[attr-defined]
        _MAX_STREAMS, thread_name_prefix="reflection"
    )
    method = grpc.stream_stream_rpc_method_handler(
        handle,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return [
        grpc.method_handlers_generic_handler(service, {"ServerReflectionInfo": method})
        for service in SERVICES
    ]


def reflection_servicer(services: tuple[str, ...]) -> Any:
    """Return what answers the messages of both names; services: what else is answered."""
    # It brings grpcio, which a server on the event loop needs for nothing else.
    from grpc_reflection.v1alpha import reflection

    return reflection.ReflectionServicer((*services, *SERVICES), pool=_pool())


def _pool() -> DescriptorPool:
    """Put all that is served into one pool; our messages are not in protobuf's default one."""
    pool = DescriptorPool()
    for file in (inference_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        pool.AddSerializedFile(file.serialized_pb)
    pool.AddSerializedFile(_v1_file().SerializeToString())
    return pool


def _v1_file() -> FileDescriptorProto:
    """Return the file of v1: that of v1alpha with another package."""
    file = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    file.name = file.name.replace("v1alpha", "v1")
    file.package = _V1
    file.ClearField("options")  # where code that is generated belongs
    fields = [field for message in file.message_type for field in message.field]
    for field in fields:
        if field.type_name:
            field.type_name = field.type_name.replace(_V1ALPHA, _V1)
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(_V1ALPHA, _V1)
        method.output_type = method.output_type.replace(_V1ALPHA, _V1)
    return file
