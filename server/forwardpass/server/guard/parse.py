"""From bytes to a ModelProto, at a cost that the size of the bytes bounds."""

from collections.abc import Mapping
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from onnx import ModelProto

from forwardpass.server.guard.errors import GuardError

_SMALL = 2**18
"""Files up to this size are parsed unweighed: a message costs 75 times its bytes at most."""
_MAX_MESSAGES = 400_000
_MAX_FIELDS = 4_000_000
"""Both bound the seconds that reading a file in Python takes."""
_SPARE_BYTES = 2**25
_PER_BYTE = 4
"""Memory of the parsed model per byte of a file: 1 for weights, 4 for a forest's numbers."""

# Memory that protobuf's upb takes, measured, rounded up.
_MESSAGE_BYTES = 160
_TEXT_BYTES = 32
_NUMBER_BYTES = 8


def parse(content: bytes) -> ModelProto:
    """Return the model; raises GuardError for bytes that are none, or cost too much to parse."""
    # onnxruntime takes bytes with this mark for its own format and would not read the model.
    if content[4:8] == b"ORTM":
        raise _no_model("onnxruntime's own format")
    if len(content) > _SMALL:
        _weigh(content)
    try:
        model = ModelProto.FromString(content)
    except DecodeError as error:
        raise _no_model("bytes that do not parse as one") from error
    if not model.HasField("graph"):
        raise _no_model("a message without a graph")
    if model.ir_version > onnx.IR_VERSION:
        raise GuardError(
            "ir_version",
            expected=f"at most {onnx.IR_VERSION}",
            got=str(model.ir_version),
            fix="export for an older version of ONNX, or upgrade the server's onnx",
        )
    if len(UnknownFieldSet(model)) > 0:
        raise _no_model("one with bytes behind it or between that belong to no part of a model")
    return model


def _no_model(got: str) -> GuardError:
    return GuardError(
        "file", expected="an ONNX model", got=got, fix="copy the file again, whole, or export it"
    )


class _Kind:
    """What the fields of a message are, by tag."""

    # Any: the stubs know two classes of descriptors.
    def __init__(self, descriptor: Any) -> None:
        self.messages: dict[int, Any] = {}
        self.packed: set[int] = set()
        for field in descriptor.fields:
            tag = field.number << 3 | 2
            if field.message_type is not None:
                self.messages[tag] = field.message_type
            elif field.type in _VARINTS:
                self.packed.add(tag)


_VARINTS = {
    FieldDescriptor.TYPE_INT32,
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_ENUM,
}


def _kinds(root: Any) -> Mapping[str, _Kind]:
    kinds: dict[str, _Kind] = {}
    waiting = [root]
    while waiting:
        descriptor = waiting.pop()
        if descriptor.full_name not in kinds:
            kind = kinds[descriptor.full_name] = _Kind(descriptor)
            waiting.extend(kind.messages.values())
    return kinds


_ROOT = ModelProto.DESCRIPTOR
_KINDS = _kinds(_ROOT)


def _weigh(content: bytes) -> None:
    """Raise GuardError if the parsed model would be far larger than its bytes.

    An empty message takes 2 bytes of a file and 150 of memory: 500 MB could become 40 GB.
    """
    allowed = len(content) * _PER_BYTE + _SPARE_BYTES
    cost = fields = messages = 0
    waiting = [(0, len(content), _KINDS[_ROOT.full_name])]
    while waiting:
        at, end, kind = waiting.pop()
        while at < end:
            fields += 1
            tag, at = _varint(content, at, end)
            match tag & 7:
                case 0:
                    _, at = _varint(content, at, end)
                    cost += _NUMBER_BYTES
                case 1:
                    at += 8
                    cost += _NUMBER_BYTES
                case 5:
                    at += 4
                    cost += _NUMBER_BYTES
                case 2:
                    size, at = _varint(content, at, end)
                    if size > end - at:
                        raise _no_model("bytes that end within a part of it")
                    message = kind.messages.get(tag)
                    if message is not None:
                        messages += 1
                        cost += _MESSAGE_BYTES
                        waiting.append((at, at + size, _KINDS[message.full_name]))
                    else:
                        cost += _TEXT_BYTES + size * (_NUMBER_BYTES if tag in kind.packed else 1)
                    at += size
                case _:
                    raise _no_model("bytes that do not parse as one")
            if cost > allowed or fields > _MAX_FIELDS or messages > _MAX_MESSAGES:
                raise GuardError(
                    "file",
                    expected=f"a model that takes at most {allowed} bytes of memory and has "
                    f"{_MAX_MESSAGES} parts with {_MAX_FIELDS} fields",
                    got="more of one of them",
                    fix="store weights as raw_data, not as lists of numbers",
                )
        if at != end:
            raise _no_model("bytes that end within a part of it")


def _varint(content: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise _no_model("bytes that end within a number")
