"""A ModelInferRequest, read at a cost that its bytes bound: counted before objects are made.

An input without a name takes 2 bytes of a message and over 100 of memory once protobuf has parsed
it. `scan` therefore walks over the fields first: it refuses too many of anything and leaves tensors
where they are. protobuf parses what remains, which is small: names, shapes and parameters.
"""

import codecs
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.varint import VarintError, read_varint
from forwardpass.server.engine.model import Model
from forwardpass.server.errors import InvalidRequestError
from forwardpass.server.rpc.budget import Budget
from forwardpass.server.rpc.method import malformed, parse
from forwardpass.server.rpc.wire import LARGE_BYTES, length_delimited

_HEAD_BYTES = 2**18
"""Maximum size of names, shapes and parameters, in bytes."""
_HEAD_BYTES_PER_TENSOR = 2**10
"""What is added to it for each input and output of the model that has the most."""
_TENSORS = 64
"""Maximum number of inputs, and of outputs, where no model has more."""
_PARAMETERS = 64
_TENSOR_PARAMETERS = 16
_DIMENSIONS = 64
"""NumPy's arrays have no more."""
_OTHERS = 16
"""Maximum number of fields that should occur once, or that the protocol does not have."""
_RUNS = 2**16
"""Maximum number of fields in typed contents, of types that can be packed into one."""
_UTF8_STEP = 2**16
_VARINT_BYTES = 10

_VARINT, _FIXED64, _DELIMITED, _GROUP, _END_GROUP, _FIXED32 = range(6)

_REQUEST = pb.ModelInferRequest
_INPUT = _REQUEST.InferInputTensor
_OUTPUT = _REQUEST.InferRequestedOutputTensor
_CONTENTS = pb.InferTensorContents
_ID = _REQUEST.ID_FIELD_NUMBER
_RAW = _REQUEST.RAW_INPUT_CONTENTS_FIELD_NUMBER
_SHAPE = _INPUT.SHAPE_FIELD_NUMBER
_ELEMENTS = _CONTENTS.BYTES_CONTENTS_FIELD_NUMBER
_ELEMENTS_TAG = _ELEMENTS << 3 | _DELIMITED
_NUMBERS: Mapping[int, tuple[str, int]] = {
    _CONTENTS.BOOL_CONTENTS_FIELD_NUMBER: ("bool_contents", _VARINT),
    _CONTENTS.INT_CONTENTS_FIELD_NUMBER: ("int_contents", _VARINT),
    _CONTENTS.INT64_CONTENTS_FIELD_NUMBER: ("int64_contents", _VARINT),
    _CONTENTS.UINT_CONTENTS_FIELD_NUMBER: ("uint_contents", _VARINT),
    _CONTENTS.UINT64_CONTENTS_FIELD_NUMBER: ("uint64_contents", _VARINT),
    _CONTENTS.FP32_CONTENTS_FIELD_NUMBER: ("fp32_contents", _FIXED32),
    _CONTENTS.FP64_CONTENTS_FIELD_NUMBER: ("fp64_contents", _FIXED64),
}
"""Typed contents that are numbers, by field: name, and type of an element on the wire."""


class Most(NamedTuple):
    """Maximum numbers of a request, whatever its model."""

    inputs: int
    outputs: int
    head_bytes: int

    @classmethod
    def of(cls, models: Iterable[Model]) -> "Most":
        """Return the numbers of the largest model, or those of many a model."""
        inputs = outputs = _TENSORS
        for model in models:
            inputs = max(inputs, len(model.inputs))
            outputs = max(outputs, len(model.outputs))
        more = inputs + outputs - 2 * _TENSORS
        return cls(inputs, outputs, _HEAD_BYTES + more * _HEAD_BYTES_PER_TENSOR)


Numbers = bytes | bytearray | memoryview
"""Elements as packed on the wire."""


class TypedContents(NamedTuple):
    """Typed contents of an input, by the names of their fields: those that are not empty."""

    numbers: dict[str, Numbers]
    texts: dict[str, list[bytes]]
    """Elements of bytes_contents."""


class Scanned(NamedTuple):
    """A ModelInferRequest in parts."""

    request: pb.ModelInferRequest
    """Without id, raw_input_contents and the elements of typed contents."""
    id_field: bytes
    """The request's id with tag and length, as in the reply; empty without one."""
    raw: list[bytes | memoryview]
    """raw_input_contents; large ones are views of the message."""
    contents: list[TypedContents]
    """Typed contents of each input."""
    budget: Budget


def scan(message: bytes | memoryview, most: Most) -> Scanned:
    """Read a serialized ModelInferRequest.

    Raises InvalidRequestError for too many of anything, and for bytes that are no message.
    """
    try:
        return _scan(message, most)
    except VarintError as error:
        raise malformed(_REQUEST) from error


def _scan(message: bytes | memoryview, most: Most) -> Scanned:
    walk = _Walk(message)
    budget = Budget(len(message))
    limits = {
        _REQUEST.PARAMETERS_FIELD_NUMBER: ("parameters", _PARAMETERS),
        _REQUEST.INPUTS_FIELD_NUMBER: ("inputs", most.inputs),
        _REQUEST.OUTPUTS_FIELD_NUMBER: ("outputs", most.outputs),
        _RAW: ("raw_input_contents", most.inputs),
    }
    head = _Head(most.head_bytes)
    id_field = b""
    raw: list[bytes | memoryview] = []
    contents: list[TypedContents] = []
    outputs = 0
    for field in walk.fields(0, len(message), "", limits):
        if field.kind != _DELIMITED:
            head.add(message[field.start : field.end])
        elif field.number == _RAW:
            raw.append(walk.part(field.at, field.end))
        elif field.number == _ID:
            id_field = _id_field(message[field.at : field.end])
        elif field.number == _REQUEST.INPUTS_FIELD_NUMBER:
            typed, rest = _input(walk, field, f"inputs[{len(contents)}].", budget)
            contents.append(typed)
            head.add(message[field.start : field.end] if rest is None else rest)
        else:
            if field.number == _REQUEST.OUTPUTS_FIELD_NUMBER:
                _output(walk, field, f"outputs[{outputs}].")
                outputs += 1
            head.add(message[field.start : field.end])
    request = parse(pb.ModelInferRequest, b"".join(head.parts))
    return Scanned(request, id_field, raw, contents, budget)


def names(message: bytes | memoryview) -> tuple[str, bytes]:
    """Return model_name and the id as a field, of a request that may be refused.

    Either is empty if it is not among the first fields.
    """
    name, id_field = "", b""
    try:
        for field in _Walk(message).fields(0, len(message), "", {}):
            if field.kind == _DELIMITED and field.number == _REQUEST.MODEL_NAME_FIELD_NUMBER:
                name = bytes(message[field.at : field.end]).decode()
            elif field.kind == _DELIMITED and field.number == _ID:
                id_field = _id_field(message[field.at : field.end])
    except (InvalidRequestError, UnicodeDecodeError, VarintError):
        # What came before is still of use.
        pass
    return name, id_field


def _input(
    walk: "_Walk", tensor: "_Field", place: str, budget: Budget
) -> tuple[TypedContents, bytes | None]:
    """Return an input's typed contents, and the field without them; None if it has none."""
    limits = {
        _SHAPE: ("shape", _DIMENSIONS),
        _INPUT.PARAMETERS_FIELD_NUMBER: ("parameters", _TENSOR_PARAMETERS),
    }
    contents = TypedContents({}, {})
    parts: list[bytes | memoryview] = []
    typed = False
    for field in walk.fields(tensor.at, tensor.end, place, limits):
        if field.kind == _DELIMITED and field.number == _INPUT.CONTENTS_FIELD_NUMBER:
            _typed(walk, field, place + "contents", contents, budget)
            if not typed:
                # That there are contents is a part of the message, too.
                parts.append(length_delimited(field.number))
            typed = True
            continue
        if field.kind == _DELIMITED and field.number == _SHAPE:
            _check_packed(walk.message[field.at : field.end], place + "shape")
        parts.append(walk.message[field.start : field.end])
    return contents, length_delimited(tensor.number, *parts) if typed else None


def _output(walk: "_Walk", asked: "_Field", place: str) -> None:
    limits = {_OUTPUT.PARAMETERS_FIELD_NUMBER: ("parameters", _TENSOR_PARAMETERS)}
    for _ in walk.fields(asked.at, asked.end, place, limits):
        pass


def _check_packed(sizes: bytes | memoryview, field: str) -> None:
    # The last byte of each is below 0x80.
    if len(sizes) > _DIMENSIONS and (
        len(sizes) > _DIMENSIONS * _VARINT_BYTES or sum(byte < 0x80 for byte in sizes) > _DIMENSIONS
    ):
        raise _too_many(field, _DIMENSIONS)


def _typed(
    walk: "_Walk",
    whole: "_Field",
    place: str,
    contents: TypedContents,
    budget: Budget,
) -> None:
    """Add the elements of one field `contents` to those before it."""
    message, position, end = walk.message, whole.at, whole.end
    while position < end:
        if message[position] != _ELEMENTS_TAG:
            position = _numbers(walk, position, end, place, contents)
            continue
        # One field for each element: there may be many.
        elements = contents.texts.setdefault("bytes_contents", [])
        budget.take_texts(f"{place}.bytes_contents", 0)
        while position < end and message[position] == _ELEMENTS_TAG:
            size, start = read_varint(message, position + 1, end)
            position = start + size
            if position > end:
                raise malformed(_REQUEST)
            elements.append(budget.placed_text(message[start:position]))


def _numbers(
    walk: "_Walk",
    start: int,
    end: int,
    place: str,
    contents: TypedContents,
) -> int:
    """Add the elements of one field of typed contents; return where it ends."""
    field = walk.field(start, end)
    walk.runs += 1
    if walk.runs > _RUNS:
        raise _too_many(place, _RUNS, "pack the elements, or send raw_input_contents")
    name, kind = _NUMBERS.get(field.number, ("", _VARINT))
    if not name or field.kind not in (kind, _DELIMITED):
        walk.others += 1
        if walk.others > _OTHERS:
            raise _too_many(f"{place}, fields unknown to the protocol", _OTHERS)
    elif field.at < field.end:
        part = walk.part(field.at, field.end)
        packed = contents.numbers.get(name)
        if packed is None:
            contents.numbers[name] = part
        else:
            joined = packed if isinstance(packed, bytearray) else bytearray(packed)
            joined += part
            contents.numbers[name] = joined
    return field.end


class _Head:
    """The bytes that protobuf parses, up to a maximum."""

    def __init__(self, most: int) -> None:
        self.parts: list[bytes | memoryview] = []
        self._size = 0
        self._most = most

    def add(self, part: bytes | memoryview) -> None:
        self._size += len(part)
        if self._size > self._most:
            raise InvalidRequestError(
                "ModelInferRequest",
                f"expected at most {self._most} bytes besides tensors and id, got {self._size} or "
                "more; send tensors in raw_input_contents, and names and parameters alone beside",
            )
        self.parts.append(part)


class _Field(NamedTuple):
    number: int
    kind: int
    start: int
    """Where the tag begins."""
    at: int
    """Where the content begins."""
    end: int


class _Walk:
    """Reads the fields of one message without making objects of them."""

    def __init__(self, message: bytes | memoryview) -> None:
        self.message = message
        self.runs = 0
        """Number of fields with numbers of typed contents."""
        self.others = 0
        """Number of fields that the protocol does not have, in typed contents."""

    def fields(
        self, start: int, end: int, place: str, limits: Mapping[int, tuple[str, int]]
    ) -> Iterator[_Field]:
        """Yield the fields of a message.

        limits: name and maximum number, by the number of a repeated field; there may be few of
        all others together. Raises InvalidRequestError.
        """
        counts = dict.fromkeys(limits, 0)
        others = 0
        while start < end:
            field = self.field(start, end)
            number = field.number
            if number in counts and field.kind in (_DELIMITED, _VARINT):
                counts[number] += 1
                name, most = limits[number]
                if counts[number] > most:
                    raise _too_many(place + name, most)
            else:
                others += 1
                if others > _OTHERS:
                    raise _too_many(
                        (place or "ModelInferRequest, ") + "fields that occur once or are unknown",
                        _OTHERS,
                    )
            yield field
            start = field.end

    def field(self, start: int, end: int) -> _Field:
        """Read a field, of which there is at least a byte."""
        message = self.message
        tag, at = message[start], start + 1
        if tag >= 0x80:
            tag, at = read_varint(message, start, end)
        number, kind = tag >> 3, tag & 7
        if kind == _DELIMITED:
            # Nearly always one byte.
            if at < end and (size := message[at]) < 0x80:
                at += 1
            else:
                size, at = read_varint(message, at, end)
            stop = at + size
        elif kind == _VARINT:
            _, stop = read_varint(message, at, end)
        elif kind == _FIXED32:
            stop = at + 4
        elif kind == _FIXED64:
            stop = at + 8
        elif kind == _GROUP:
            stop = self._group(number, at, end)
        else:
            raise malformed(_REQUEST)
        if stop > end or not 0 < number < 2**29:
            raise malformed(_REQUEST)
        return _Field(number, kind, start, at, stop)

    def _group(self, number: int, start: int, end: int) -> int:
        """Return where a group ends; the protocol has none."""
        message = self.message
        open_groups = [number]
        for _ in range(_OTHERS):
            tag, at = read_varint(message, start, end)
            if tag & 7 == _GROUP:
                open_groups.append(tag >> 3)
                start = at
            elif tag & 7 == _END_GROUP:
                if open_groups.pop() != tag >> 3:
                    break
                start = at
                if not open_groups:
                    return start
            else:
                start = self.field(start, end).end
        else:
            raise _too_many("ModelInferRequest, fields of a group", _OTHERS)
        raise malformed(_REQUEST)

    def part(self, start: int, end: int) -> bytes | memoryview:
        """Return bytes of the message; many of them as a view."""
        if end - start < LARGE_BYTES:
            return bytes(self.message[start:end])
        return memoryview(self.message)[start:end]


def _id_field(identifier: bytes | memoryview) -> bytes:
    """Write the id of a reply; raises InvalidRequestError if it is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(identifier), _UTF8_STEP):
            decoder.decode(identifier[start : start + _UTF8_STEP])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise malformed(_REQUEST) from error
    return length_delimited(_ID, identifier) if identifier else b""


def _too_many(field: str, most: int, fix: str = "no model here needs more") -> InvalidRequestError:
    return InvalidRequestError(field, f"expected at most {most}, got {most + 1} or more; {fix}")
