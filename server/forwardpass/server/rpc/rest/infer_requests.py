"""JSON and Triton's binary tensors -> ModelInferRequest; what is in it is validated with gRPC's.

Tensors become raw_input_contents, so that plans find calls by their bytes. JSON whose elements do
not fit its shape becomes typed contents instead, which are then refused with gRPC's own texts.
"""

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import numpy as np
import orjson

from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.spec import quote
from forwardpass.proto.varint import write_varint
from forwardpass.server.errors import InvalidRequestError
from forwardpass.server.rpc.rest.decimals import (
    Number,
    TextNeededError,
    are_unusual,
    check_read,
    has_minus_zero,
    read_numbers,
    split_numbers,
)
from forwardpass.server.rpc.rest.long_texts import (
    FLOATS,
    LONG_BYTES,
    NUMERIC,
    WORDS,
    Parts,
    Word,
    check_long,
    cut_long,
    has_infinity,
    pack_long,
)
from forwardpass.server.rpc.wire import length_delimited

T = TypeVar("T")

_ID = pb.ModelInferRequest.ID_FIELD_NUMBER
_RAW = pb.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER
_INT64 = 2**63
_STEP_BYTES = 2**18
"""Bytes that are copied together."""
_MAX_TENSORS = 2**12
_MAX_AXES = 2**6
_MAX_FORMS = 1024
_MAX_FORM_CHARS = 2**11
HEADER_SIZE = "Inference-Header-Content-Length"
BINARY_SIZE = "binary_data_size"
BINARY = "binary_data"
BINARY_OUTPUTS = "binary_data_output"
JSON_SHARE = 8
"""Maximum memory of an answer as JSON, in bytes for each of the reply: six of text, as of FP32 with
17 digits, of INT8 and of characters that are escaped; and twice the reply."""
_PLACE = "shared_memory_region"

CODES: Mapping[str, str] = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP32": "f",
    "FP64": "d",
}
"""Formats of struct by datatype."""
_TAKEN: Mapping[str, set[type]] = {
    code: {bool} if code == "?" else {int, float} if code in "fd" else {int}
    for code in CODES.values()
}
"""Types of the elements by format."""
_DATA = b'"data"'
_SHORT_TEXT = 2**12
"""Maximum size of JSON that is looked up by its text, in bytes."""
_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    Number: "a number",
    Word: "a number",
    type(None): "null",
}


class Wanted(NamedTuple):
    """How the outputs of a call are to be written."""

    binary: bool = False
    """Whether as bytes after the JSON, unless `outputs` says otherwise."""
    outputs: Mapping[str, bool] = {}
    """The same by name; of all that are asked for, if it is said of one."""
    answer_share: int = JSON_SHARE
    """Memory of the answer, in bytes for each of the reply."""

    def is_binary(self, output: str) -> bool:
        """Return whether an output is to be written as bytes."""
        return self.outputs.get(output, self.binary)


class _RequestForm(NamedTuple):
    """What requests have in common that differ in id and elements alone."""

    head: bytes
    """The message without id and tensors."""
    start: bytes
    """The message before the elements of its only tensor; empty if it is not the only one."""
    pack: Callable[..., bytes] | None
    """Packs these; None if they come as bytes, or are texts."""
    doubles: Callable[..., bytes] | None
    """Packs them as FP64, if they are FP32."""
    kinds: set[type]
    """What they may be in JSON."""
    wanted: Wanted
    sources: Sequence["_Source"]


class _Source(NamedTuple):
    """Where the elements of an input are."""

    at: int
    """Which of the inputs it is."""
    size: int | None
    """Bytes after the JSON; None: they are in it."""
    elements: int
    """Elements of the shape."""
    datatype: str
    shared: bool
    """Whether it is in shared memory, and nothing of it is sent."""


class InferRequests:
    """Reads requests, and remembers their forms; for any thread."""

    def __init__(self, max_message_bytes: int) -> None:
        self._max_bytes = max_message_bytes
        self._forms: dict[tuple[str, str, str], _RequestForm] = {}
        self._texts: dict[tuple[str, str, bytes, bytes], _RequestForm] = {}
        """The same by all text but the elements of the only input that has some in JSON: found
        without parsing the rest."""

    def read(
        self, model: str, version: str, body: bytes | memoryview, json_size: int | None = None
    ) -> tuple[bytes | memoryview, Wanted]:
        """Return a serialized ModelInferRequest, and how the answer is to be written.

        json_size: Size of the JSON at the body's beginning, in bytes; None: all of it.

        Raises InvalidRequestError, JsonTooLargeError and MessageTooLargeError.
        """
        if json_size is None:
            json_size = len(body)
        elif json_size > len(body):
            raise InvalidRequestError(
                HEADER_SIZE, f"expected at most the body's {len(body)} bytes, got {json_size}"
            )
        text, binary = body[:json_size], body[json_size:]
        cut = _cut(text, elements=not binary) if json_size < _SHORT_TEXT else None
        form = None if cut is None else self._texts.get((model, version, *cut))
        if form is not None and cut is not None:
            message = _quick(form, text[len(cut[0]) : json_size - len(cut[1])], binary)
            if message is not None:
                return message, form.wanted
        kept: bytes | memoryview = text
        parts: Parts = {}
        if json_size >= LONG_BYTES:
            kept, parts = _parsed(lambda: cut_long(text, self._max_bytes))
        sent = load_object(kept)
        try:
            return self.write(model, version, sent, parts, binary, cut, text)
        except TextNeededError:
            return self.write(model, version, _with_texts(kept), parts, binary, cut)

    def write(
        self,
        model: str,
        version: str,
        sent: dict[str, Any],
        parts: Parts | None = None,
        binary: bytes | memoryview = b"",
        cut: tuple[bytes, bytes] | None = None,
        text: bytes | memoryview | None = None,
    ) -> tuple[bytes | memoryview, Wanted]:
        """Write the request of a body that was parsed, which is used up; returns as `read`.

        parts: See `cut_long`. binary: What came after the JSON. cut: See `_cut`. text: The JSON,
        if its numbers were read without their texts; TextNeededError says that these are needed.
        """
        parts = parts or {}
        inputs = sent.get("inputs")
        if type(inputs) is not list or len(inputs) > _MAX_TENSORS:
            raise _wrong("inputs", f"a list of at most {_MAX_TENSORS} objects", inputs)
        data: list[Any] = []
        for index, tensor in enumerate(inputs):
            if type(tensor) is not dict:
                raise _wrong(f"inputs[{index}]", "an object", tensor)
            data.append(tensor.pop("data", None))
        identifier = sent.pop("id", "")
        if type(identifier) is not str:
            raise _wrong("id", "a string", identifier)
        # Unambiguous: texts are quoted, and True is not 1.
        key = model, version, repr(sent)
        form = self._forms.get(key)
        if cut is not None and not identifier and form is not None:
            self._keep(key, cut, form, data)
        if form is None:
            form = _form(model, version, sent)
            if len(key[2]) <= _MAX_FORM_CHARS:
                if len(self._forms) >= _MAX_FORMS:
                    self._forms.clear()
                self._forms[key] = form
        if parts and text is not None:
            for source in form.sources:
                if source.datatype in FLOATS:
                    check_long(data[source.at], source.datatype, text)
        written: list[bytes | memoryview] = [form.head]
        if identifier:
            written.append(length_delimited(_ID, check_text("id", identifier)))
        position = 0
        for source in form.sources:
            size, elements = source.size, data[source.at]
            if source.shared and size is None and elements is None:
                continue
            if size is None:
                packed: bytes | memoryview | None = (
                    pack_long(
                        model,
                        inputs[source.at],
                        source.datatype,
                        elements,
                        parts,
                        self._max_bytes,
                    )
                    if parts and type(elements) is list and source.datatype in NUMERIC
                    else _pack(source, inputs[source.at], elements, parts, text)
                )
                if packed is None and binary:
                    raise InvalidRequestError(
                        f"inputs[{source.at}]",
                        f"expected {source.elements} elements of {source.datatype} as data, or all "
                        "inputs as bytes after the JSON",
                    )
                if packed is None:
                    return self._typed(form, identifier, data), form.wanted
                written += (_raw_start(len(packed)), packed)
            else:
                if elements is not None:
                    raise InvalidRequestError(
                        f"inputs[{source.at}]",
                        f"expected data or parameter {BINARY_SIZE!r}, got both; send one of them",
                    )
                part = binary[position : position + size]
                written += (_raw_start(len(part)), part)
                position += size
        if position != len(binary):
            raise InvalidRequestError(
                BINARY_SIZE,
                f"expected the sizes of all inputs to be the {len(binary)} bytes after the JSON, "
                f"got {position} together",
            )
        return _joined(written), form.wanted

    def _keep(
        self,
        key: tuple[str, str, str],
        cut: tuple[bytes, bytes],
        form: _RequestForm,
        data: Sequence[Any],
    ) -> None:
        """Keep a form by its texts, if all its elements are where `_quick` looks for them."""
        in_json = form.pack is not None
        if form.start and in_json == bool(cut[1]) and (not in_json or _is_flat(data[0])):
            if len(self._texts) >= _MAX_FORMS:
                self._texts.clear()
            self._texts[*key[:2], *cut] = form

    def _typed(self, form: _RequestForm, identifier: str, data: Sequence[Any]) -> bytes:
        """Write a request that gRPC refuses, as gRPC would get it."""
        request = pb.ModelInferRequest.FromString(form.head)
        request.id = identifier
        for tensor, elements in zip(request.inputs, data, strict=True):
            if elements is None:
                continue
            spec = DATATYPES.get(tensor.datatype)
            # FP16 has no field, and is refused in any.
            field = "fp32_contents" if spec is None else spec.contents_field or "fp32_contents"
            flat = _flat(elements)
            if tensor.datatype == "BYTES":
                flat = [check_text(tensor.name, text) for text in flat]
            elif spec is None or spec.contents_field is None:
                flat = [0.0] if flat else []
            try:
                tensor.contents.SetInParent()
                getattr(tensor.contents, field).extend(flat)
            except (TypeError, ValueError, OverflowError):
                raise _out_of_range(tensor.name, tensor.datatype) from None
        return request.SerializeToString()


def _cut(text: bytes | memoryview, *, elements: bool) -> tuple[bytes, bytes] | None:
    """Return the text before and after the elements of the only input; None if that is not sure.

    elements: Whether there are elements; if not, all is before them. Without a backslash a text in
    quotes with a colon after it is a name; and what replaces one list by another stays JSON.
    """
    text = bytes(text)
    if b"\\" in text:
        return None
    if not elements:
        return (text, b"") if _DATA not in text else None
    name = text.find(_DATA)
    if name < 0 or text.find(_DATA, name + 1) >= 0:
        return None
    after = name + len(_DATA)
    at = text.find(b"[", after)
    if text[after:at] not in (b":", b": "):
        return None
    end = text.find(b"]", at) + 1
    return (text[:at], text[end:]) if end else None


def _is_flat(elements: Any) -> bool:
    """Return whether what `_cut` found are an input's elements, as they were parsed.

    Not those of another "data", which the input had none beside, nor a part of nested lists.
    """
    return type(elements) is list and (not elements or type(elements[0]) is not list)


def _joined(parts: Sequence[bytes | memoryview]) -> bytes | memoryview:
    """Join parts; many bytes in steps, since a copy holds Python's lock."""
    size = sum(map(len, parts))
    if size < _STEP_BYTES:
        return b"".join(parts)
    # Not a bytearray, which would be filled with zeros at once.
    joined = np.empty(size, np.uint8).data
    position = 0
    for part in parts:
        for start in range(0, len(part), _STEP_BYTES):
            step = part[start : start + _STEP_BYTES]
            joined[position : position + len(step)] = step
            position += len(step)
    return joined.toreadonly()


def _quick(
    form: _RequestForm, data: bytes | memoryview, binary: bytes | memoryview
) -> bytes | memoryview | None:
    """Write a request whose form is known; None if its elements are not as usual."""
    if form.pack is None:
        return _joined((form.start, binary)) if form.sources[0].size == len(binary) else None
    try:
        flat = orjson.loads(data)
        kinds = set(map(type, flat))
        if not kinds <= form.kinds:
            return None
        if float in form.kinds:
            doubles = form.doubles
            odd = doubles is not None and are_unusual(doubles(*flat))
            if odd or (int in kinds and has_minus_zero(data)):
                texts = split_numbers(str(data, "ascii").strip()[1:-1])
                flat = read_numbers(texts, "FP64" if doubles is None else "FP32")
        return form.start + form.pack(*flat)
    except (ValueError, TypeError, struct.error, OverflowError):
        # Whatever is wrong is found again, and named; another number of elements is.
        pass
    return None


def load_object(text: bytes | memoryview) -> dict[str, Any]:
    """Parse a JSON object; raises InvalidRequestError."""
    return _object(load_json(text))


def _with_texts(text: bytes | memoryview) -> dict[str, Any]:
    """Parse a body whose inputs of FP32 and FP64 have texts as numbers."""
    sent, texts = load_object(text), load_json(text, read=Number)
    for tensor, other in zip(sent["inputs"], texts["inputs"], strict=True):
        if tensor.get("datatype") in FLOATS:
            tensor["data"] = other.get("data")
    return sent


def load_json(
    text: bytes | memoryview,
    make: Callable[[list[tuple[str, Any]]], dict[str, Any]] | None = None,
    read: Callable[[str], Any] | None = None,
) -> Any:
    """Parse JSON; make: Makes the objects. read: Reads numbers. Raises InvalidRequestError."""
    return _parsed(
        lambda: json.loads(
            str(text, "utf-8"),
            parse_constant=Word,
            parse_int=read,
            parse_float=read,
            object_pairs_hook=make,
        )
    )


def _parsed(parse: Callable[[], T]) -> T:
    try:
        return parse()
    # Also texts that are not UTF-8, and integers of thousands of digits.
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(
            "body", f"expected JSON, got bytes that are none: {error}"
        ) from None


def _object(loaded: Any) -> dict[str, Any]:
    if type(loaded) is not dict:
        raise _wrong("body", "an object", loaded)
    return loaded


def set_parameter(place: str, parameter: Any, value: Any) -> None:
    """Write a value into an InferParameter; raises InvalidRequestError."""
    if type(value) is bool:
        parameter.bool_param = value
    elif type(value) is int and -_INT64 <= value < _INT64:
        parameter.int64_param = value
    elif type(value) is int and 0 <= value < 2 * _INT64:
        parameter.uint64_param = value
    elif type(value) in (float, Word):
        parameter.double_param = float(value)
    elif type(value) is str:
        parameter.string_param = check_text(place, value).decode()
    else:
        raise _wrong(place, "a boolean, a number or a string", value)


def _form(model: str, version: str, sent: dict[str, Any]) -> _RequestForm:
    """Read all but id and elements."""
    request = pb.ModelInferRequest(model_name=model, model_version=version)
    binary = False
    for name, value in _parameters("parameters", sent).items():
        if name == BINARY_OUTPUTS:
            binary = _flag(name, value)
        else:
            set_parameter(f"parameter {quote(name)}", request.parameters[name], value)
    sources: list[_Source] = []
    for index, tensor in enumerate(sent["inputs"]):
        place = f"inputs[{index}]"
        shape = tensor.get("shape")
        if type(shape) is not list or not all(
            type(size) is int and -_INT64 <= size < _INT64 for size in shape
        ):
            raise _wrong(f"{place}.shape", "a list of integers of 64 bits", shape)
        written = request.inputs.add(
            name=_text(f"{place}.name", tensor.get("name")),
            datatype=_text(f"{place}.datatype", tensor.get("datatype")),
            shape=shape,
        )
        size = None
        for name, value in _parameters(place, tensor).items():
            if name == BINARY_SIZE:
                if type(value) is not int or value < 0:
                    raise _wrong(f"{place}, parameter {BINARY_SIZE!r}", "a size in bytes", value)
                size = value
            else:
                set_parameter(f"{place}, parameter {quote(name)}", written.parameters[name], value)
        # No model has that many axes, and their product would take long.
        count = math.prod(shape) if len(shape) <= _MAX_AXES else -1
        shared = _PLACE in written.parameters
        sources.append(_Source(index, size, count, written.datatype, shared))
    asked: dict[str, bool] = {}
    outputs = sent.get("outputs")
    if outputs is not None and (type(outputs) is not list or len(outputs) > _MAX_TENSORS):
        raise _wrong("outputs", f"a list of at most {_MAX_TENSORS} objects", outputs)
    for index, output in enumerate(outputs or ()):
        place = f"outputs[{index}]"
        if type(output) is not dict:
            raise _wrong(place, "an object", output)
        named = request.outputs.add(name=_text(f"{place}.name", output.get("name")))
        for name, value in _parameters(place, output).items():
            if name == BINARY:
                asked[named.name] = _flag(name, value)
            else:
                set_parameter(f"{place}, parameter {quote(name)}", named.parameters[name], value)
    if asked:
        asked = {output.name: asked.get(output.name, binary) for output in request.outputs}
    in_json = not all(asked.values()) if asked else not binary
    wanted = Wanted(binary, asked, JSON_SHARE if in_json else 1)
    return _form_of(request.SerializeToString(), wanted, sources)


def _form_of(head: bytes, wanted: Wanted, sources: Sequence[_Source]) -> _RequestForm:
    if len(sources) == 1 and not sources[0].shared:
        ((_, size, elements, datatype, _),) = sources
        code = CODES.get(datatype)
        if size is not None:
            return _RequestForm(head, head + _raw_start(size), None, None, set(), wanted, sources)
        if code is not None and 0 <= elements < _SHORT_TEXT:
            packer = struct.Struct(f"<{elements}{code}")
            start = head + _raw_start(packer.size)
            doubles = struct.Struct(f"<{elements}d").pack if datatype == "FP32" else None
            return _RequestForm(head, start, packer.pack, doubles, _TAKEN[code], wanted, sources)
    return _RequestForm(head, b"", None, None, set(), wanted, sources)


def _raw_start(size: int) -> bytes:
    """Return the bytes before a tensor of `size` bytes."""
    return write_varint(_RAW << 3 | 2) + write_varint(size)


def _pack(
    source: _Source,
    tensor: dict[str, Any],
    data: Any,
    parts: Parts,
    text: bytes | memoryview | None,
) -> bytes | None:
    """Return elements as raw bytes; None for what is refused as gRPC does.

    Raises InvalidRequestError for elements that gRPC could not have been sent, and TextNeededError,
    see `write`.
    """
    place, datatype = f"input {quote(tensor['name'])}", source.datatype
    if data is None and source.elements:
        # No data at all is refused, as over gRPC.
        return None
    if data is not None and type(data) is not list:
        raise _wrong(f"{place}, data", "a list", data)
    if source.shared:
        return None
    flat = data or ()
    if flat and type(flat[0]) is list:
        flat = _nested(place, tensor["shape"], flat)
    if datatype not in DATATYPES:
        return b""
    code = CODES.get(datatype)
    if code is None and datatype != "BYTES":
        return None
    if parts and not parts.keys().isdisjoint(flat):
        raise InvalidRequestError(f"{place}, data", f"expected {datatype}, got numbers")
    kinds = set(map(type, flat))
    if Number in kinds:
        flat = read_numbers(flat, datatype)
        kinds = set(map(type, flat))
    if code is None:
        if kinds - {str}:
            raise _elements(place, "strings", flat, (str,))
        return _texts(place, flat) if len(flat) == source.elements else None
    if datatype in FLOATS:
        if has_infinity(flat):
            raise _out_of_range(tensor["name"], datatype)
        numbers = flat
        if kinds - {int, float}:
            numbers = [each for each in flat if type(each) in (int, float)]
            flat = [WORDS.get(each, each) if isinstance(each, str) else each for each in flat]
            if set(map(type, flat)) - {int, float}:
                raise _elements(place, "numbers", flat, (int, float))
    elif datatype == "BOOL":
        if kinds - {bool}:
            raise _elements(place, "booleans", flat, (bool,))
    elif kinds - {int}:
        raise _elements(place, "integers", flat, (int,))
    if len(flat) != source.elements:
        return None
    try:
        if text is not None and datatype in FLOATS:
            check_read(numbers, kinds, datatype, text)
        return struct.pack(f"<{len(flat)}{code}", *flat)
    except OverflowError:
        raise _out_of_range(tensor["name"], datatype) from None
    except struct.error:
        return None


def _texts(place: str, texts: Sequence[str]) -> bytes:
    parts: list[bytes] = []
    for text in texts:
        data = check_text(place, text)
        parts += (struct.pack("<I", len(data)), data)
    return b"".join(parts)


def _nested(place: str, shape: Sequence[int], data: Sequence[Any]) -> list[Any]:
    """Return the elements of nested lists, which have to have the shape."""
    level: list[Any] = [data]
    for size in shape:
        for each in level:
            if type(each) is not list or len(each) != size:
                got = f"{len(each)} elements" if type(each) is list else kind_of(each)
                raise InvalidRequestError(
                    f"{place}, data",
                    f"expected nested lists of shape {shape}, or one flat list, got {got} where "
                    f"the shape has {size}",
                )
        level = list(chain.from_iterable(level))
    return level


def _flat(data: Any) -> list[Any]:
    while type(data) is list and data and all(type(each) is list for each in data):
        data = list(chain.from_iterable(data))
    return data if type(data) is list else [data]


def _parameters(place: str, owner: dict[str, Any]) -> dict[str, Any]:
    parameters = owner.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise _wrong(f"{place}, parameters", "an object", parameters)
    for name in parameters:
        check_text(f"{place}, parameters", name)
    return parameters


def _flag(name: str, value: Any) -> bool:
    if type(value) is not bool:
        raise _wrong(f"parameter {name!r}", "a boolean", value)
    return value


def _text(place: str, value: Any) -> str:
    if type(value) is not str:
        raise _wrong(place, "a string", value)
    return check_text(place, value).decode()


def check_text(place: str, text: str) -> bytes:
    """Return a text in UTF-8; raises InvalidRequestError for half of a character."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidRequestError(place, "expected Unicode text, got half of a character") from None


def kind_of(value: Any) -> str:
    """Return what a value of JSON is, in words."""
    return _NAMES.get(type(value), "something else")


def _wrong(place: str, expected: str, value: Any) -> InvalidRequestError:
    # What is misspelled is missing, and looks like null.
    got = "none" if value is None else kind_of(value)
    return InvalidRequestError(place, f"expected {expected}, got {got}")


def _elements(
    place: str, expected: str, data: Sequence[Any], kinds: tuple[type, ...]
) -> InvalidRequestError:
    wrong = next(each for each in data if type(each) not in kinds)
    return InvalidRequestError(f"{place}, data", f"expected {expected}, got {kind_of(wrong)}")


def _out_of_range(name: str, datatype: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"input {quote(name)}",
        f"expected {datatype} values within its range, got one outside; send values in range; "
        "they are never wrapped",
    )
