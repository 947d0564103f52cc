"""The message classes of `inference.proto`, in a descriptor pool of their own.

protobuf's default pool refuses a second `inference.ModelInferRequest`: with our
messages there, importing this client beside tritonclient, kserve or mlserver would
end in "duplicate symbol". The classes are built from a serialized descriptor set
instead of generated Python, which would tie us to one major version of protobuf.
"""

from pathlib import Path

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pool import DescriptorPool

_FILES = descriptor_pb2.FileDescriptorSet.FromString(
    Path(__file__).with_name("inference.binpb").read_bytes()
)
_POOL = DescriptorPool()
for _file in _FILES.file:
    _POOL.AddSerializedFile(_file.SerializeToString())

DESCRIPTOR = _POOL.FindFileByName("forwardpass/proto/inference.proto")

globals().update(
    {
        name: message_factory.GetMessageClass(descriptor)
        for name, descriptor in DESCRIPTOR.message_types_by_name.items()
    }
)
