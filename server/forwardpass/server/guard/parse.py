"""From bytes to a ModelProto, at a cost that the size of the bytes bounds.

The weights of a large file stay where they are: the ModelProto has in their place where that is.
"""

import os
from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from forwardpass.proto.varint import VarintError, read_varint, write_varint
from forwardpass.server.guard.errors import GuardError
from forwardpass.server.guard.files import ModelBytes, check_fits, to_load
from forwardpass.server.onnx_messages import (
    IR_VERSION,
    ModelProto,
    StringStringEntryProto,
    TensorProto,
)

_SMALL = 2**18
"""Files up to this size are parsed unweighed: a message costs 75 times its bytes at most."""
_LEFT_OUT = 2**12
"""Values of a tensor from this size on are left where they are."""
_PLACE = os.urandom(16).hex()
"""Marks in a tensor where its values are; no file can know it."""
_MAX_MESSAGES = 400_000
_MAX_FIELDS = 4_000_000
"""Maximum number of fields; this and the maximum of messages bound the time of `_weigh`."""
_SPARE_BYTES = 2**25
_PER_BYTE = 4
"""Maximum memory of the parsed model per byte of a file: weights take 1, a forest's numbers 4."""

# Memory that protobuf's upb takes, measured, rounded up.
_MESSAGE_BYTES = 160
_TEXT_BYTES = 32
_NUMBER_BYTES = 8


def parse(content: ModelBytes, *, checked: bool = False) -> ModelProto:
    """Return the model; raises GuardError for bytes that are none, or cost too much to parse.

    `raw_data` gives the values of its tensors, which in large files are not in it. checked:
    Whether the same bytes were parsed elsewhere.
    """
    view = content.view
    # onnxruntime takes bytes with this mark for its own format and would not read the model.
    if bytes(view[4:8]) == b"ORTM":
        raise _no_model("onnxruntime's own format")
    light: bytes | memoryview = view
    if len(view) > _SMALL:
        try:
            light = bytes(_Rewritten(view))
            cost = 0 if checked else _weigh(light, len(view))
        except VarintError as error:
            raise _no_model(str(error)) from error
        if not checked:
            check_fits("file", len(view), to_load(len(view) - len(light), lists=cost))
    try:
        model = ModelProto.FromString(light)  # type: ignore[arg-type]
    except DecodeError as error:
        raise _no_model("bytes that do not parse as one") from error
    if not model.HasField("graph"):
        raise _no_model("a message without a graph")
    if model.ir_version > IR_VERSION:
        raise GuardError(
            "ir_version",
            expected=f"at most {IR_VERSION}",
            got=str(model.ir_version),
            fix="export for an older version of ONNX, or upgrade the server's onnx",
        )
    if len(UnknownFieldSet(model)) > 0:
        raise _no_model("one with bytes after it or within it that belong to no part of a model")
    return model


def raw_data(tensor: TensorProto, content: ModelBytes) -> bytes | memoryview | None:
    """Return the values of a tensor as raw bytes; None if it has none, or others beside them."""
    places = [entry for entry in tensor.external_data if entry.key == _PLACE]
    if not places:
        return tensor.raw_data if tensor.HasField("raw_data") else None
    tag, start, length = map(int, places[0].value.split())
    if len(tensor.external_data) > 1 or tensor.HasField("raw_data"):
        return None
    # A list of floats is written as raw bytes are.
    if _VALUES[tag] not in (None, tensor.data_type):
        return None
    return content.view[start : start + length]


def has_external_data(tensor: TensorProto) -> bool:
    """Whether a tensor names data outside of its file."""
    return any(entry.key != _PLACE for entry in tensor.external_data)


def _no_model(got: str) -> GuardError:
    return GuardError(
        "file", expected="an ONNX model", got=got, fix="copy the file again, whole, or export it"
    )


class _Kind:
    """The kinds of a message's fields, by tag."""

    # Any: the stubs know two classes of descriptors.
    def __init__(self, descriptor: Any) -> None:
        self.name: str = descriptor.full_name
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
_TENSOR = TensorProto.DESCRIPTOR.full_name
RAW_TAG = TensorProto.RAW_DATA_FIELD_NUMBER << 3 | 2
_PLACE_TAG = TensorProto.EXTERNAL_DATA_FIELD_NUMBER << 3 | 2
_VALUES: Mapping[int, int | None] = {
    RAW_TAG: None,
    TensorProto.FLOAT_DATA_FIELD_NUMBER << 3 | 2: TensorProto.FLOAT,
    TensorProto.DOUBLE_DATA_FIELD_NUMBER << 3 | 2: TensorProto.DOUBLE,
}
"""Fields with the values of tensors as they are in memory -> the only data type, if it has one."""
_MAX_DEPTH = 100
"""As protobuf reads at most."""


class _Rewritten:
    """A model's bytes, with the place of the values of large tensors in the place of those.

    No function within a function: what they refer to would stay until Python looks for garbage.
    """

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._pieces: list[bytes | memoryview] = []
        self._fields = 0
        self._copy(0, len(view), _KINDS[_ROOT.full_name], 0)

    def __bytes__(self) -> bytes:
        return b"".join(self._pieces)

    def _add(self, piece: bytes | memoryview) -> int:
        self._pieces.append(piece)
        return len(piece)

    def _copy(self, at: int, end: int, kind: _Kind, depth: int) -> int:
        """Add a message; return its new length."""
        view = self._view
        copied, length = at, 0
        while at < end:
            self._fields += 1
            if self._fields > _MAX_FIELDS:
                raise _too_much(len(view))
            start = at
            tag, at = read_varint(view, at, end)
            match tag & 7:
                case 0:
                    _, at = read_varint(view, at, end)
                    continue
                case 1:
                    at += 8
                    continue
                case 5:
                    at += 4
                    continue
                case 2:
                    size, at = read_varint(view, at, end)
                case _:
                    raise _no_model("bytes that do not parse as one")
            if size > end - at:
                raise _no_model("bytes that end within a part of it")
            inner = kind.messages.get(tag)
            if size >= _LEFT_OUT and inner is not None:
                if depth == _MAX_DEPTH:
                    raise _no_model("one that is nested too deep")
                length += self._add(view[copied:start]) + self._add(write_varint(tag))
                place = len(self._pieces)
                self._pieces.append(b"")
                written = self._copy(at, at + size, _KINDS[inner.full_name], depth + 1)
                self._pieces[place] = write_varint(written)
                length += len(self._pieces[place]) + written
                copied = at + size
            elif size >= _LEFT_OUT and kind.name == _TENSOR and tag in _VALUES:
                entry = StringStringEntryProto(key=_PLACE, value=f"{tag} {at} {size}")
                length += self._add(view[copied:start])
                length += self._add(as_field(_PLACE_TAG, entry.SerializeToString()))
                copied = at + size
            at += size
        if at != end:
            raise _no_model("bytes that end within a part of it")
        return length + self._add(view[copied:end])


def as_field(tag: int, content: bytes) -> bytes:
    """Write a field of bytes, or a message."""
    return write_varint(tag) + write_varint(len(content)) + content


def _weigh(content: bytes, size: int) -> int:
    """Return the memory of the parsed model.

    Raises GuardError if it is far larger than the bytes of its file, of which there are `size`:
    an empty message takes 2 bytes of a file and 150 of memory, so 500 MB could become 40 GB.
    """
    allowed = size * _PER_BYTE + _SPARE_BYTES
    cost = fields = messages = 0
    waiting = [(0, len(content), _KINDS[_ROOT.full_name])]
    while waiting:
        at, end, kind = waiting.pop()
        while at < end:
            fields += 1
            tag, at = read_varint(content, at, end)
            match tag & 7:
                case 0:
                    _, at = read_varint(content, at, end)
                    cost += _NUMBER_BYTES
                case 1:
                    at += 8
                    cost += _NUMBER_BYTES
                case 5:
                    at += 4
                    cost += _NUMBER_BYTES
                case 2:
                    length, at = read_varint(content, at, end)
                    if length > end - at:
                        raise _no_model("bytes that end within a part of it")
                    message = kind.messages.get(tag)
                    if message is not None:
                        messages += 1
                        cost += _MESSAGE_BYTES
                        waiting.append((at, at + length, _KINDS[message.full_name]))
                    else:
                        cost += _TEXT_BYTES + length * (_NUMBER_BYTES if tag in kind.packed else 1)
                    at += length
                case _:
                    raise _no_model("bytes that do not parse as one")
            if cost > allowed or fields > _MAX_FIELDS or messages > _MAX_MESSAGES:
                raise _too_much(size)
        if at != end:
            raise _no_model("bytes that end within a part of it")
    return cost


def _too_much(size: int) -> GuardError:
    return GuardError(
        "file",
        expected=f"a model that takes at most {size * _PER_BYTE + _SPARE_BYTES} bytes of memory "
        f"and has {_MAX_MESSAGES} parts with {_MAX_FIELDS} fields",
        got="more of one of them",
        fix="store weights as raw_data, not as lists of numbers",
    )
