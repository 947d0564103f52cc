"""Bad requests: a good one, the change to it, and the answer that the server has to give."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from forwardpass.proto import inference_pb2 as pb
from support.rpc import Stub
from support.served import GOOD, assert_answered

Change = Callable[[pb.ModelInferRequest], None]

LONG = 100_000
"""Length of names that no model has."""


@dataclass(frozen=True)
class Bad:
    """One row of a table."""

    id: str
    good: str
    """The good call from which it is made; that one is sent again afterwards."""
    change: Change
    says: tuple[str, ...]
    """Fragments that the message has to contain."""
    field: str | None = None
    """The field that google.rpc.BadRequest has to name; the message has to name it too."""
    code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT


def assert_refused(stub: Stub, bad: Bad) -> None:
    request = GOOD[bad.good].request()
    bad.change(request)

    refusal = stub.refusal("ModelInfer", request)

    assert refusal.code is bad.code, refusal.message
    for fragment in bad.says:
        assert fragment in refusal.message
    if bad.code is grpc.StatusCode.INVALID_ARGUMENT:
        # The details alone have to name the field, and what came.
        ((field, description),) = refusal.violations.items()
        assert bad.field in (None, field)
        if not refusal.message.endswith("..."):
            assert field in refusal.message
            assert description in refusal.message
    else:
        assert not refusal.violations
    assert_answered(stub, GOOD[bad.good])


def message(**fields: Any) -> Change:
    def change(request: pb.ModelInferRequest) -> None:
        for name, value in fields.items():
            setattr(request, name, value)

    return change


def tensor(index: int = 0, *, shape: list[int] | None = None, **fields: str) -> Change:
    def change(request: pb.ModelInferRequest) -> None:
        if shape is not None:
            request.inputs[index].shape[:] = shape
        for name, value in fields.items():
            setattr(request.inputs[index], name, value)

    return change


def raw(*entries: bytes) -> Change:
    def change(request: pb.ModelInferRequest) -> None:
        request.raw_input_contents[:] = entries

    return change


def contents(index: int = 0, **fields: list[Any]) -> Change:
    """Replace the typed contents of one input; raw entries stay."""

    def change(request: pb.ModelInferRequest) -> None:
        request.inputs[index].contents.CopyFrom(pb.InferTensorContents(**fields))

    return change


def no_contents(index: int = 0) -> Change:
    return lambda request: request.inputs[index].ClearField("contents")


def without(index: int) -> Change:
    def change(request: pb.ModelInferRequest) -> None:
        del request.inputs[index]
        del request.raw_input_contents[index : index + 1]

    return change


def twice(index: int, **fields: str) -> Change:
    """Send one input again, under another name if `fields` say so."""

    def change(request: pb.ModelInferRequest) -> None:
        copy = request.inputs.add()
        copy.CopyFrom(request.inputs[index])
        request.raw_input_contents.extend(request.raw_input_contents[index : index + 1])
        for name, value in fields.items():
            setattr(copy, name, value)

    return change


def outputs(*names: str, **parameters: dict[str, Any]) -> Change:
    """Ask for outputs, each with the parameters."""

    def change(request: pb.ModelInferRequest) -> None:
        for name in names:
            asked = request.outputs.add(name=name)
            for key, choice in parameters.items():
                asked.parameters[key].CopyFrom(pb.InferParameter(**choice))

    return change


def parameter(key: str, **choice: Any) -> Change:
    return lambda request: request.parameters[key].CopyFrom(pb.InferParameter(**choice))


def tensor_parameter(key: str, **choice: Any) -> Change:
    return lambda request: request.inputs[0].parameters[key].CopyFrom(pb.InferParameter(**choice))


def both(*changes: Change) -> Change:
    def change(request: pb.ModelInferRequest) -> None:
        for each in changes:
            each(request)

    return change
