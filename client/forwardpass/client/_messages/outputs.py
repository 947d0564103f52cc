"""A server's reply -> the requested outputs."""

from collections.abc import Iterable, Mapping
from typing import Any

from numpy.typing import NDArray

from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.inference_pb2 import ModelInferResponse
from forwardpass.proto.spec import TensorError, TensorSpec, format_shape
from forwardpass.proto.tensors import decode_raw, decode_typed


def read_outputs(message: ModelInferResponse) -> dict[str, NDArray[Any]]:
    """Return all outputs of a reply in its order, read-only, from raw or typed contents.

    Raises TensorError, or another ValueError of NumPy's for a shape that it cannot make, if
    the reply contradicts itself.
    """
    # A slice copies a repeated field at once, while iteration makes an object for each element.
    raw = message.raw_output_contents[:]
    if raw and len(raw) != len(message.outputs):
        raise TensorError(
            "raw_output_contents",
            expected=f"{len(message.outputs)} entries, one for each output",
            got=str(len(raw)),
            fix="this is a fault of the server",
        )
    arrays: dict[str, NDArray[Any]] = {}
    for index, output in enumerate(message.outputs):
        name, datatype, shape = output.name, output.datatype, tuple(output.shape[:])
        tensor = f"output {name!r}"
        if datatype not in DATATYPES or name in arrays or min(shape, default=0) < 0:
            raise TensorError(
                tensor,
                expected=f"it once, with a shape and one of {', '.join(DATATYPES)}",
                got=f"{datatype!r} {format_shape(shape)}{' again' if name in arrays else ''}",
                fix="this is a fault of the server",
            )
        array = (
            decode_raw(tensor, raw[index], datatype, shape)
            if raw
            else decode_typed(tensor, output.contents, datatype, shape)
        )
        array.flags.writeable = False
        arrays[name] = array
    return arrays


def select(arrays: Mapping[str, NDArray[Any]], names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Return the arrays of these names, in their order.

    Raises TensorError if one is missing.
    """
    try:
        return {name: arrays[name] for name in names}
    except KeyError as error:
        (name,) = error.args
        raise TensorError(
            f"output {name!r}",
            expected="it in the reply",
            got=", ".join(map(repr, arrays)) or "no output",
            fix="this is a fault of the server, or it serves another model by now",
        ) from None


def drop_row_axes(
    outputs: Mapping[str, NDArray[Any]], specs: Mapping[str, TensorSpec]
) -> dict[str, NDArray[Any]]:
    """Return the outputs for one row without the row axis, if the model returns them by row.

    Raises TensorError if there is not one row.
    """
    return {name: _drop_row_axis(name, array, specs.get(name)) for name, array in outputs.items()}


def _drop_row_axis(name: str, array: NDArray[Any], spec: TensorSpec | None) -> NDArray[Any]:
    by_row = spec is None or spec.shape[:1] in ((-1,), (1,))
    if by_row and array.shape[:1] == (1,):
        return array.reshape(array.shape[1:])
    if spec is None or not by_row:
        return array
    raise TensorError(
        f"output {name!r}",
        expected="one row for the one sent",
        got=f"shape {format_shape(array.shape)}",
        fix="send x with its row axis, as [1, ...], to get such outputs as they are",
    )
