"""Messages for the tests, written and read without the code under test.

The tables and encodings below say again, from the protocol's text, what `forwardpass.proto` says.
"""

import struct
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto import inference_pb2 as pb

DTYPES = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype("O"),
}

TYPED_FIELDS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Datatypes -> fields of typed contents; FP16 is only sent as raw bytes."""


def datatype_name(dtype: np.dtype[Any]) -> str:
    return next(name for name, known in DTYPES.items() if known == dtype)


def texts(*elements: bytes) -> NDArray[Any]:
    """A BYTES tensor of one axis."""
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array


def raw_bytes(array: NDArray[Any]) -> bytes:
    if array.dtype.kind == "O":
        return b"".join(struct.pack("<I", len(item)) + item for item in array.ravel().tolist())
    return array.tobytes()


def from_raw(raw: bytes, datatype: str, shape: Iterable[int]) -> NDArray[Any]:
    if datatype != "BYTES":
        return np.frombuffer(raw, DTYPES[datatype]).reshape(tuple(shape))
    elements = []
    while raw:
        (size,) = struct.unpack_from("<I", raw)
        elements.append(raw[4 : 4 + size])
        raw = raw[4 + size :]
    return texts(*elements).reshape(tuple(shape))


def infer_request(
    model: str,
    inputs: Mapping[str, NDArray[Any]],
    *,
    typed: bool = False,
    outputs: Iterable[str] = (),
    **fields: Any,
) -> pb.ModelInferRequest:
    """A request as a well-behaved client sends it; `fields` are further ones of the message."""
    request = pb.ModelInferRequest(model_name=model, **fields)
    for name, array in inputs.items():
        datatype = datatype_name(array.dtype)
        tensor = request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        if typed:
            tensor.contents.SetInParent()
            getattr(tensor.contents, TYPED_FIELDS[datatype]).extend(array.ravel().tolist())
        else:
            request.raw_input_contents.append(raw_bytes(array))
    for name in outputs:
        request.outputs.add(name=name)
    return request


def arrays(reply: pb.ModelInferResponse) -> dict[str, NDArray[Any]]:
    """The outputs of a reply, in its order."""
    assert len(reply.outputs) == len(reply.raw_output_contents)
    return {
        output.name: from_raw(raw, output.datatype, output.shape)
        for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=True)
    }


def assert_same_bits(got: NDArray[Any], expected: NDArray[Any]) -> None:
    """Equal in dtype, shape and every bit: NaN payloads and the sign of zero included."""
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    assert raw_bytes(got) == raw_bytes(expected)
