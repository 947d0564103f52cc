"""Validation of requests: ModelInferRequest -> arrays that fit the model, or an error.

Everything is checked before onnxruntime sees it, so that a caller's mistake is answered
INVALID_ARGUMENT with the tensor, what was expected, what came and the fix (protocol.md,
section 5), and before anything of the size that a caller states is allocated.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from forwardpass.proto.explain import names
from forwardpass.proto.inference_pb2 import InferParameter, ModelInferRequest
from forwardpass.proto.metadata import CONDITIONS
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
from forwardpass.proto.tensors import decode_raw, element_count
from forwardpass.server.engine.model import Model
from forwardpass.server.errors import (
    InvalidRequestError,
    InvalidTensorError,
    ModelChangedError,
    TooManyRowsError,
)
from forwardpass.server.rpc.contents import decode
from forwardpass.server.rpc.regions import Place, Regions
from forwardpass.server.rpc.scan import Scanned

_CLASSIFICATION = "classification"
_LENGTH_BYTES = 4
"""Size of the length before each BYTES element, in bytes."""
_INTEGERS = ("priority", "timeout")


class RequestedOutput(NamedTuple):
    """One requested output."""

    name: str
    classes: int | None = None
    """Number of highest columns to return instead of the tensor; None: the tensor."""
    place: Place | None = None
    """Place in shared memory for the tensor; None: in the reply."""


class ValidRequest(NamedTuple):
    """A valid request."""

    inputs: Mapping[str, NDArray[Any]]
    """Arrays by input name; dtype and shape fit the model."""
    outputs: tuple[RequestedOutput, ...]
    """Outputs in the requested order, or all in the graph's order."""
    shared: bool
    """Whether any input or output is in shared memory."""
    batch: bool = False
    """Whether its class is batch: parameter `priority` of 2 or more."""


def validate(model: Model, scanned: Scanned, regions: Regions, max_rows: int) -> ValidRequest:
    """Check a request against its model and read its tensors, if need be from shared memory.

    Raises InvalidRequestError, ModelChangedError, InvalidTensorError, TooManyRowsError, and the
    errors of Regions.source.
    """
    request = scanned.request
    batch = _check_parameters(model, request.parameters)
    try:
        places = [
            regions.source(f"input {quote(sent.name)}", sent.parameters) for sent in request.inputs
        ]
        inputs = _inputs(model, scanned, places, max_rows)
        outputs = _outputs(model, request, regions)
        places += [output.place for output in outputs]
        shared = any(place is not None for place in places)
        return ValidRequest(inputs, outputs, shared, batch)
    except TensorError as error:
        raise InvalidTensorError(model.name, error) from error


def _check_parameters(model: Model, parameters: Mapping[str, InferParameter]) -> bool:
    """Check what Triton's protocol and ours define; return whether the class is batch."""
    if not parameters:
        return False
    for key, name in CONDITIONS.items():
        if name in parameters:
            known = parameters[name].string_param
            if known != model.properties[key]:
                raise ModelChangedError(model.name, model.version, name, known)
    for name in _INTEGERS:
        kind = parameters[name].WhichOneof("parameter_choice") if name in parameters else None
        if kind not in (None, "int64_param", "uint64_param"):
            raise InvalidRequestError(
                f"parameter {name!r}", f"expected an integer, got {kind}; send int64_param"
            )
    if "priority" not in parameters:
        return False
    sent = parameters["priority"]
    # In Triton 0 is the default, and 1 the first of all.
    return max(sent.int64_param, sent.uint64_param) > 1


def _inputs(
    model: Model,
    scanned: Scanned,
    places: Sequence[Place | None],
    max_rows: int,
) -> dict[str, NDArray[Any]]:
    request, raw, budget = scanned.request, scanned.raw, scanned.budget
    for sent, place in zip(request.inputs, places, strict=True):
        if sent.HasField("contents") and (raw or place is not None):
            raise _both_ways(model, sent.name, "raw_input_contents" if raw else "shared memory")
    sent_here = places.count(None)
    if raw and len(raw) != sent_here:
        raise InvalidRequestError(
            "raw_input_contents",
            f"expected {sent_here} entries, one per input, got {len(raw)}; "
            "send all inputs raw or all typed, never mixed",
        )
    rest = iter(raw)
    specs = model.inputs
    arrays: dict[str, NDArray[Any]] = {}
    for sent, place, typed in zip(request.inputs, places, scanned.contents, strict=True):
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
            arrays[sent.name] = decode(tensor, typed, sent.datatype, shape, budget)
        else:
            if place is None:
                data = next(rest)
            else:
                data = place.read()
                budget.grow(len(data))
            if spec.datatype == "BYTES":
                # Of a shape that says more, the lengths tell.
                count = min(element_count(shape), len(data) // _LENGTH_BYTES)
                budget.take_texts(tensor, count)
            arrays[sent.name] = decode_raw(tensor, data, sent.datatype, shape, budget.text)
    check_complete(specs, arrays)
    check_symbols(specs, {name: array.shape for name, array in arrays.items()})
    return arrays


def _both_ways(model: Model, name: str, alone: str) -> TensorError:
    # The end is in Triton's words, which programs look for.
    return TensorError(
        f"input {quote(name)}",
        expected=f"{alone} alone",
        got="typed contents as well",
        fix="send all inputs raw or all typed, never mixed: contents field must not be specified "
        f"when using {alone} for {quote(name)} for model {model.name!r}",
    )


def _check_typed(
    tensor: str, sent: ModelInferRequest.InferInputTensor, shape: tuple[int, ...]
) -> None:
    if not sent.HasField("contents") and 0 not in shape:
        raise TensorError(
            tensor,
            expected="data in raw_input_contents or in contents",
            got="none",
            fix="send the array's bytes in raw_input_contents, or, in JSON, its elements in data",
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
    if model.explains is not None:
        for name in names(model.explains.output):
            wanted.setdefault(name, RequestedOutput(name))
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
