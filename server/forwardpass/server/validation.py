"""Where a request is validated: ModelInferRequest -> arrays that fit the model, or an error.

Everything is checked before onnxruntime sees it, so that a caller's mistake is answered
INVALID_ARGUMENT with the tensor, what was expected, what came and the fix (protocol.md,
section 5), and before anything of the size that a caller states is allocated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from forwardpass.proto.inference_pb2 import InferParameter, ModelInferRequest
from forwardpass.proto.spec import (
    TensorError,
    TensorSpec,
    check_complete,
    check_datatype,
    check_name,
    check_shape,
    check_symbols,
    quote,
)
from forwardpass.proto.tensors import decode_raw, decode_typed
from forwardpass.server.errors import InvalidRequestError, InvalidTensorError, TooManyRowsError
from forwardpass.server.model import Model
from forwardpass.server.regions import Place, Regions

_CLASSIFICATION = "classification"
_INTEGERS = ("priority", "timeout")


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """One output that a caller wants."""

    name: str
    classes: int | None = None
    """How many of the highest columns to answer instead of the tensor; None: the tensor."""
    place: Place | None = None
    """Where in shared memory to put the tensor; None: into the reply."""


@dataclass(frozen=True, slots=True)
class Inference:
    """A valid request."""

    inputs: Mapping[str, NDArray[Any]]
    """By input name; dtype and shape are the model's."""
    outputs: tuple[RequestedOutput, ...]
    """In the order asked, else all in the graph's order."""
    shared: bool
    """Whether an input came, or an output is to go, through shared memory."""


def validate(
    model: Model, request: ModelInferRequest, regions: Regions, max_rows: int
) -> Inference:
    """Check a request against its model and read its tensors, some of them from regions.

    Raises InvalidRequestError, InvalidTensorError, TooManyRowsError, and what Regions.source does.
    """
    _check_parameters(request.parameters)
    try:
        places = [
            regions.source(f"input {quote(sent.name)}", sent.parameters) for sent in request.inputs
        ]
        inputs = _inputs(model, request, places, max_rows)
        outputs = _outputs(model, request, regions)
        places += [output.place for output in outputs]
        return Inference(inputs, outputs, shared=any(place is not None for place in places))
    except TensorError as error:
        raise InvalidTensorError(model.name, error) from error


def _check_parameters(parameters: Mapping[str, InferParameter]) -> None:
    if not parameters:
        return
    for name in _INTEGERS:
        kind = parameters[name].WhichOneof("parameter_choice") if name in parameters else None
        if kind not in (None, "int64_param", "uint64_param"):
            raise InvalidRequestError(
                f"parameter {name!r}", f"expected an integer, got {kind}; send int64_param"
            )


def _inputs(
    model: Model,
    request: ModelInferRequest,
    places: Sequence[Place | None],
    max_rows: int,
) -> dict[str, NDArray[Any]]:
    raw = request.raw_input_contents
    sent_here = places.count(None)
    if raw and len(raw) != sent_here:
        raise InvalidRequestError(
            "raw_input_contents",
            f"expected {sent_here} entries, one an input, got {len(raw)}; "
            "send all inputs raw or all typed, never mixed",
        )
    rest = iter(raw)
    specs = model.inputs
    arrays: dict[str, NDArray[Any]] = {}
    for sent, place in zip(request.inputs, places, strict=True):
        tensor = f"input {quote(sent.name)}"
        check_name(tensor, sent.name, specs, arrays, once="send every input once")
        spec = specs[sent.name]
        check_datatype(tensor, spec, sent.datatype)
        shape = tuple(sent.shape)
        check_shape(tensor, spec, shape)
        if spec.shape[:1] == (-1,) and shape[0] > max_rows:
            raise TooManyRowsError(model.name, shape[0], max_rows)
        if place is None and not raw:
            _check_typed(tensor, sent, shape)
            arrays[sent.name] = decode_typed(tensor, sent.contents, sent.datatype, shape)
        elif sent.HasField("contents"):
            raise TensorError(
                tensor,
                expected=f"{'raw_input_contents' if place is None else 'shared memory'} alone",
                got="typed contents as well",
                fix="send all inputs raw or all typed, never mixed",
            )
        else:
            data = next(rest) if place is None else place.read()
            arrays[sent.name] = decode_raw(tensor, data, sent.datatype, shape)
    check_complete(specs, arrays)
    check_symbols(specs, {name: array.shape for name, array in arrays.items()})
    return arrays


def _check_typed(
    tensor: str, sent: ModelInferRequest.InferInputTensor, shape: tuple[int, ...]
) -> None:
    if not sent.HasField("contents") and 0 not in shape:
        raise TensorError(
            tensor,
            expected="data in raw_input_contents or in contents",
            got="none",
            fix="send the array's bytes in raw_input_contents",
        )


def _outputs(
    model: Model, request: ModelInferRequest, regions: Regions
) -> tuple[RequestedOutput, ...]:
    if not request.outputs:
        return tuple(RequestedOutput(name) for name in model.outputs)
    wanted: dict[str, RequestedOutput] = {}
    for asked in request.outputs:
        tensor = f"output {quote(asked.name)}"
        check_name(tensor, asked.name, model.outputs, wanted, once="ask for every output once")
        classes = _classes(tensor, model.outputs[asked.name], asked.parameters)
        place = regions.place(tensor, asked.parameters)
        if classes is not None and place is not None:
            raise TensorError(
                tensor,
                expected="classification or shared memory",
                got="both",
                fix="take the classes in the reply",
            )
        wanted[asked.name] = RequestedOutput(asked.name, classes, place)
    return tuple(wanted.values())


def _classes(tensor: str, spec: TensorSpec, parameters: Mapping[str, InferParameter]) -> int | None:
    if _CLASSIFICATION not in parameters:
        return None
    if spec.datatype == "BYTES":
        raise TensorError(
            tensor,
            expected="classification of an output of numbers",
            got="BYTES",
            fix="take the output itself",
        )
    parameter = parameters[_CLASSIFICATION]
    kind = parameter.WhichOneof("parameter_choice")
    if kind != "int64_param" or parameter.int64_param < 1:
        got = parameter.int64_param if kind == "int64_param" else kind
        raise TensorError(
            tensor,
            expected="classification as an int64 of at least 1",
            got=str(got),
            fix="ask for the number of classes that you want, highest first",
        )
    return parameter.int64_param
