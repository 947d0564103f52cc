"""ModelInferResponse -> JSON, and Triton's binary tensors after it.

The JSON is strict: NaN and the infinities are the strings "NaN", "Infinity" and "-Infinity", as in
protobuf's JSON, since browsers refuse them as bare words.
"""

import json
import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson

from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.spec import quote
from forwardpass.proto.tensors import decode_raw
from forwardpass.server.errors import InvalidRequestError
from forwardpass.server.rpc.rest.infer_requests import BINARY, BINARY_SIZE, CODES, Wanted

_SHORT_BYTES = 2**12
"""Maximum size of answers whose form is remembered, in bytes."""
_MAX_FORMS = 1024
_MAX_JSON_BYTES = 2**26
"""Maximum size of a tensor that is written as JSON, in bytes; it is several times as large then."""
_STEP = 4096
"""Elements that are written together."""
_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False)
dumps = _JSON.encode
"""Writes strict JSON; raises ValueError for NaN and the infinities."""


class Body(NamedTuple):
    """The body of an answer."""

    parts: Sequence[bytes]
    json_size: int | None = None
    """Size of the JSON at its beginning, in bytes; None: it is all of it."""


class InferReplies:
    """Writes answers, and remembers their forms; for any thread."""

    def __init__(self) -> None:
        self._forms: dict[tuple[str, int, bool], _ReplyForm] = {}

    def write(self, model: str, message: bytes, wanted: Wanted) -> Body:
        """Write the answer to a call of a model.

        Raises InvalidRequestError for an output that has no JSON.
        """
        if wanted.outputs or len(message) > _SHORT_BYTES:
            return write_reply(message, wanted)
        # Equal but for the elements are most answers of one length.
        key = model, len(message), wanted.binary
        form = self._forms.get(key)
        if form is not None and message.startswith(form.prefix):
            raw = message[len(form.prefix) :]
            if form.elements is None:
                return Body([form.before, raw], len(form.before))
            text = orjson.dumps(form.elements.unpack(raw))
            # NaN and the infinities become null.
            if b"n" not in text:
                return Body([form.before, text, b"}]}"])
        elif len(self._forms) < _MAX_FORMS:
            form = _form(message, wanted)
            if form is not None:
                self._forms[key] = form
        else:
            self._forms.clear()
        return write_reply(message, wanted)


class _ReplyForm(NamedTuple):
    """What answers have in common that differ in the elements of their only output alone."""

    prefix: bytes
    """All of the message before them."""
    before: bytes
    """All of the JSON before them; all of it if they come after it."""
    elements: struct.Struct | None
    """Reads the elements; None: they come after the JSON."""


def _form(message: bytes, wanted: Wanted) -> _ReplyForm | None:
    reply = pb.ModelInferResponse.FromString(message)
    raws = reply.raw_output_contents
    if len(raws) != 1 or len(reply.outputs) != 1 or not message.endswith(raws[0]):
        return None
    prefix = message[: len(message) - len(raws[0])]
    if wanted.binary:
        parts = write_reply(message, wanted).parts
        # More than the JSON and the tensor: long JSON.
        return _ReplyForm(prefix, parts[0], None) if len(parts) == len(raws) + 1 else None
    (output,) = reply.outputs
    code = CODES.get(output.datatype, "?")
    if code == "?":
        return None
    count = len(raws[0]) // struct.calcsize(f"<{code}")
    zeros = write_reply(prefix + bytes(len(raws[0])), wanted).parts
    before, found, after = zeros[0].rpartition(b'"data":')
    if len(zeros) > 1 or not after.endswith(b"}]}"):
        return None
    return _ReplyForm(prefix, before + found, struct.Struct(f"<{count}{code}"))


def write_reply(message: bytes, wanted: Wanted) -> Body:
    """Write the answer to a call.

    Raises InvalidRequestError for an output that has no JSON.
    """
    reply = pb.ModelInferResponse.FromString(message)
    written: dict[str, Any] = {
        "model_name": reply.model_name,
        "model_version": reply.model_version,
    }
    if reply.id:
        written["id"] = reply.id
    if reply.parameters:
        written["parameters"] = _parameters(reply.parameters)
    before = dumps(written)[:-1] + ',"outputs":['
    texts: list[bytes] = [before.encode()]
    tensors: list[bytes] = []
    raw: bytes
    for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=True):
        name, datatype, shape = output.name, output.datatype, list(output.shape)
        entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        parameters = _parameters(output.parameters) if output.parameters else {}
        elements: list[bytes] = []
        if "shared_memory_region" not in parameters:
            if wanted.is_binary(name):
                parameters[BINARY_SIZE] = len(raw)
                tensors.append(raw)
            else:
                elements = [b',"data":[', *_elements(name, datatype, tuple(shape), raw), b"]"]
        if parameters:
            entry["parameters"] = parameters
        comma = b"," if len(texts) > 1 else b""
        texts += [comma + dumps(entry)[:-1].encode(), *elements, b"}"]
    texts.append(b"]}")
    json_size = sum(map(len, texts))
    if json_size < _SHORT_BYTES:
        texts = [b"".join(texts)]
    return Body([*texts, *tensors], json_size if tensors else None)


def _elements(name: str, datatype: str, shape: tuple[int, ...], raw: bytes) -> Iterator[bytes]:
    """Yield an output's elements as JSON, with commas between them.

    In parts: Python's lock is held for the whole of one.
    """
    if len(raw) > _MAX_JSON_BYTES:
        raise _binary_alone(name, f"{len(raw)} bytes")
    elements: Any
    if datatype == "BYTES":
        try:
            texts = decode_raw(name, raw, datatype, shape).ravel().tolist()
            elements = [text.decode() for text in texts]
        except UnicodeDecodeError:
            raise _binary_alone(name, "BYTES that are not UTF-8") from None
    elif datatype not in DATATYPES or datatype == "FP16":
        raise _binary_alone(name, datatype)
    else:
        elements = np.frombuffer(raw, DATATYPES[datatype].dtype)
    comma = b""
    for start in range(0, len(elements), _STEP):
        part = elements[start : start + _STEP]
        listed: list[Any] = part if type(part) is list else part.tolist()
        try:
            text = dumps(listed)
        except ValueError:
            text = dumps(list(map(word, listed)))
        yield comma + text[1:-1].encode()
        comma = b","


def _binary_alone(name: str, what: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"output {quote(name)}",
        f"expected parameter {BINARY!r}, since {what} are not written as JSON, got none; ask for "
        "the output with it",
    )


def word(element: Any) -> Any:
    """Return what JSON has for an element."""
    if type(element) is not float or math.isfinite(element):
        return element
    return "NaN" if math.isnan(element) else "Infinity" if element > 0 else "-Infinity"


def _parameters(parameters: Any) -> dict[str, Any]:
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "string_param")
        for name, value in parameters.items()
    }
