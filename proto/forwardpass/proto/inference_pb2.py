"""The message and enum classes of `inference.proto`, in a descriptor pool of their own.

protobuf's default pool refuses a second `inference.ModelInferRequest`: with our
messages there, importing this client beside tritonclient, kserve or mlserver would
end in "duplicate symbol". The classes are built from a serialized descriptor set
instead of generated Python, which would tie us to one major version of protobuf.
"""

from pathlib import Path

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message

_FILES = descriptor_pb2.FileDescriptorSet.FromString(
    Path(__file__).with_name("inference.binpb").read_bytes()
)
_POOL = DescriptorPool()
for _file in _FILES.file:
    _POOL.AddSerializedFile(_file.SerializeToString())

DESCRIPTOR = _POOL.FindFileByName("forwardpass/proto/inference.proto")


def _message_class(descriptor: Descriptor) -> type[Message]:
    message = message_factory.GetMessageClass(descriptor)
    # protobuf in pure Python leaves nested classes to generated code.
    for name, nested in descriptor.nested_types_by_name.items():
        if not hasattr(message, name):
            setattr(message, name, _message_class(nested))
    return message


globals().update(
    {
        name: _message_class(descriptor)
        for name, descriptor in DESCRIPTOR.message_types_by_name.items()
    }
)
globals().update(
    {
        name: EnumTypeWrapper(descriptor)
        for name, descriptor in DESCRIPTOR.enum_types_by_name.items()
    }
)
