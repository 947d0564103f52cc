"""The messages of an ONNX file, without the package `onnx`, whose import takes 60 ms of CPU.

That package brings the definitions of all operators in C++, the number types of machine learning
and protobuf's JSON. A plain file needs none of them; what does imports `onnx` in a function. The
classes are the same either way, whichever is imported first.
"""

from typing import TYPE_CHECKING

from forwardpass.server.importing import import_alone

if TYPE_CHECKING:
    from onnx import (
        IR_VERSION,
        AttributeProto,
        FunctionProto,
        GraphProto,
        ModelProto,
        NodeProto,
        StringStringEntryProto,
        TensorProto,
        TypeProto,
        ValueInfoProto,
    )

__all__ = [
    "IR_VERSION",
    "AttributeProto",
    "FunctionProto",
    "GraphProto",
    "ModelProto",
    "NodeProto",
    "StringStringEntryProto",
    "TensorProto",
    "TypeProto",
    "ValueInfoProto",
]

if not TYPE_CHECKING:
    _messages = import_alone("onnx.onnx_ml_pb2")
    globals().update({name: getattr(_messages, name) for name in __all__})
