"""Server reflection: describes our messages to tools that do not have our .proto file.

grpcio-reflection has it only under its older name, v1alpha. v1 has the same messages, field by
field; newer tools ask for it first, and some ask for nothing else.
"""

from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from forwardpass.proto import inference_pb2

_V1ALPHA, _V1 = "grpc.reflection.v1alpha", "grpc.reflection.v1"
SERVICES = tuple(f"{package}.ServerReflection" for package in (_V1, _V1ALPHA))


def reflection_servicer(services: tuple[str, ...]) -> Any:
    """Return the servicer for both names; services: the server's other services."""
    # Imports grpcio, which the event loop needs for nothing else.
    from grpc_reflection.v1alpha import reflection

    return reflection.ReflectionServicer((*services, *SERVICES), pool=_pool())


def _pool() -> DescriptorPool:
    """Return a pool of all served messages; ours are not in protobuf's default pool."""
    pool = DescriptorPool()
    for file in (inference_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        pool.AddSerializedFile(file.serialized_pb)
    pool.AddSerializedFile(_v1_file().SerializeToString())
    return pool


def _v1_file() -> FileDescriptorProto:
    """Return the file of v1: the file of v1alpha with another package."""
    file = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    file.name = file.name.replace("v1alpha", "v1")
    file.package = _V1
    file.ClearField("options")  # they say where generated code goes
    fields = [field for message in file.message_type for field in message.field]
    for field in fields:
        if field.type_name:
            field.type_name = field.type_name.replace(_V1ALPHA, _V1)
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(_V1ALPHA, _V1)
        method.output_type = method.output_type.replace(_V1ALPHA, _V1)
    return file
