"""The message and enum classes of `inference.proto`, in a descriptor pool of their own.

protobuf's default pool refuses a second `inference.ModelInferRequest`: with our
messages there, importing this client beside tritonclient, kserve or mlserver would
end in "duplicate symbol". The classes are built from a serialized descriptor set
instead of generated Python, which would tie us to one major version of protobuf.
"""

from os.path import dirname, join

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message


def _only_file(descriptor_set: bytes) -> bytes:
    """Return the FileDescriptorProto in a FileDescriptorSet that has no other.

    Cut out of its bytes: what would read them takes as long to import as all of our messages.
    """
    # The set's field 1, a message: a tag, the message's length in groups of 7 bits, the message.
    start = 1
    while descriptor_set[start] & 0x80:
        start += 1
    return descriptor_set[start + 1 :]


with open(join(dirname(__file__), "inference.binpb"), "rb") as _descriptor_set:
    _POOL = DescriptorPool()
    _POOL.AddSerializedFile(_only_file(_descriptor_set.read()))

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
