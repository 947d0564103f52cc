"""Calls to bytes and replies to values: all the work of a client apart from its socket.

All clients share this module; nothing here waits or knows where bytes go.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple, Self, TypeVar

from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from forwardpass.client._messages.casting import cast
from forwardpass.client._messages.inputs import Given, Inputs, read_inputs, undeclared
from forwardpass.client._messages.layout import Layout, bytes_field
from forwardpass.client._messages.missing import Missing
from forwardpass.client._messages.outputs import drop_row_axes, read_outputs, select
from forwardpass.client._messages.pieces import row_bytes
from forwardpass.client.errors import InvalidInputError, ProtocolError
from forwardpass.client.model import ModelSpec
from forwardpass.client.prediction import Prediction
from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.explain import PARAMETER as PARAMETER_EXPLAIN
from forwardpass.proto.explain import STEPS_PARAMETER, read_target
from forwardpass.proto.explain import feature_names as explained_features
from forwardpass.proto.explain import names as explain_names
from forwardpass.proto.inference_pb2 import ModelInferRequest, ModelInferResponse
from forwardpass.proto.spec import TensorError, TensorSpec, check_name, check_shape, quote
from forwardpass.proto.tensors import encode_raw
from forwardpass.proto.timing import PARAMETER

MAX_MESSAGE_BYTES = 2**31 - 1
"""Maximum bytes of a protobuf message, whatever limit the server sets."""

_LAYOUTS = 256
"""Maximum lengths of replies whose layouts are kept: more than the batch sizes in usual use."""

M = TypeVar("M", bound=Message)


def parse(message: type[M], reply: bytes, *, target: str, model: str = "") -> M:
    """Read a reply.

    Raises ProtocolError if the bytes are not such a message.
    """
    try:
        return message.FromString(reply)
    except DecodeError as error:
        raise ProtocolError(
            f"expected a {message.DESCRIPTOR.name}, got {len(reply)} bytes that are not one; "
            "check that the target is an Open Inference Protocol server",
            target=target,
            model=model,
        ) from error


@dataclass(frozen=True, slots=True)
class Request:
    """One ModelInferRequest, and what is needed to read its reply."""

    data: bytes
    outputs: tuple[str, ...]
    """Names of the outputs in the requested order; empty for all."""
    single_row: bool
    """Whether a row axis was added to x, and has to be removed from the outputs."""
    index: Any = field(default=None, compare=False)
    """The labels of the rows; None if they have none."""
    explained: str = ""
    """Name of the output that is explained; empty for none."""


class Answer(NamedTuple):
    """A reply that is not read yet, with its request."""

    version: str
    reply: bytes
    request: Request


class OtherVersionError(ProtocolError):
    """The reply is of another version than the metadata with which it would be read."""

    def __init__(self, answer: Answer, expected: str, *, target: str, model: str) -> None:
        super().__init__(
            f"expected an answer of version {expected!r}, got one of {answer.version!r}; ask for "
            "a version that the server serves, or check that it keeps to the version asked for",
            target=target,
            model=model,
        )
        self.answer = answer


class ModelCodec:
    """Requests to one model and its replies."""

    def __init__(
        self,
        spec: ModelSpec,
        model: str,
        version: str,
        target: str,
        answering: str | None = None,
    ) -> None:
        """Prepare with the model's metadata, and the names with which the caller requests it.

        version: empty for the server's choice. target: for the errors' texts. answering: the
        version whose metadata they are, and whose replies are read; empty if it is not known,
        None to read those of any.
        """
        # Imported here, with JSON and the contract of files: not needed before the first model.
        from forwardpass.client._messages.columns import (
            feature_names,
            input_columns,
            output_columns,
        )
        from forwardpass.proto.metadata import CONDITIONS, CONTENT, SIGNATURE

        self.spec = spec
        self.model = model
        self.version = version
        self.answering = answering
        self._target = target
        self._outputs = {output.name: output for output in spec.outputs}
        signed = spec.properties.get(SIGNATURE)
        self._conditions = () if signed is None else ((CONDITIONS[SIGNATURE], signed),)
        """Parameters of a request that only a model with these metadata may answer."""
        self._content_parameter = CONDITIONS[CONTENT]
        self.content = spec.properties.get(CONTENT, "")
        """The hash of the file that these metadata are of; empty if the server does not say."""
        self._features = feature_names(spec)
        self._rules = input_columns(spec)
        self._columns = output_columns(spec)
        self.row_bytes = row_bytes(spec)
        """Bytes of a row, if rows may be cut into several calls; else None."""
        self._layouts: dict[int, Layout] = {}
        """The last layout of the replies of each length."""

    @property
    def names_columns(self) -> bool:
        """Whether requests or answers depend on names that only the metadata have."""
        return bool(self._features or self._rules or self._columns)

    def asked_as(self, version: str, answering: str | None) -> Self:
        """Return this codec for callers that request another version, or label."""
        codec = copy(self)
        codec.version, codec.answering = version, answering
        return codec

    def read(self, x: Inputs, missing: Missing = "refuse") -> Given:
        """Return the arrays of x for the model's inputs; missing: how such values are treated.

        Raises InvalidInputError if x is not of a kind that fits the model.
        """
        try:
            specs = self.spec.inputs or undeclared(x, missing)
            return read_inputs(specs, x, self._features, missing, self._rules)
        except TensorError as error:
            raise self._refusal(error) from error

    def write(
        self,
        given: Given,
        outputs: Sequence[str] | None = None,
        *,
        version: str = "",
        timing: bool = False,
        content: str = "",
        explain: str = "",
        explain_steps: int | None = None,
    ) -> Request:
        """Write the request for what `read` returned, or rows of it.

        version: replaces the one that the caller requests; empty for that one. content: Hash of the
        file that alone may answer; empty for any. explain: `OUTPUT` or `OUTPUT:COLUMN`; empty for
        no explanation.

        Raises InvalidInputError if the arrays or outputs do not fit the model.
        """
        specs = given.specs
        try:
            wanted = () if outputs is None else self._check_outputs(outputs)
            explained = self._check_explained(explain, explain_steps)
            arrays = [cast(spec, array) for spec, array in zip(specs, given.arrays, strict=True)]
            shapes = tuple(array.shape for array in arrays)
            conditions = self._conditions
            if content:
                conditions = (*conditions, (self._content_parameter, content))
            if explain:
                conditions = (*conditions, (PARAMETER_EXPLAIN, explain))
            parts = [
                _head(
                    self.model,
                    version or self.version,
                    specs,
                    shapes,
                    wanted,
                    conditions,
                    timing,
                    explain_steps,
                )
            ]
            for spec, array in zip(specs, arrays, strict=True):
                raw = encode_raw(array, spec.datatype)
                parts += _before_raw(len(raw)), raw
        except (TensorError, UnicodeEncodeError) as error:
            raise self._refusal(error) from error
        return Request(b"".join(parts), wanted, given.single_row, given.index, explained)

    def decode(self, reply: bytes, request: Request) -> Prediction:
        """Read the reply to a request: the requested outputs, else all, in the model's order.

        Outputs that the model does not declare come last. Raises OtherVersionError if another
        version answered than the one whose replies are read here, ProtocolError if the reply is
        not whole: an output is missing, or its data do not fit its shape and datatype.
        """
        layout = self._layouts.get(len(reply))
        try:
            if layout is not None and layout.fits(reply):
                arrays = layout.read(reply)
                answered = layout.model, layout.version, ""
            else:
                message = parse(ModelInferResponse, reply, target=self._target, model=self.model)
                arrays = read_outputs(message)
                answered = message.model_name, message.model_version, message.id
                self._keep_layout(reply, message, arrays)
            if answered[1] != self.answering and self.answering is not None and answered[1]:
                raise OtherVersionError(
                    Answer(answered[1], reply, request),
                    self.answering,
                    target=self._target,
                    model=self.model,
                )
            names = [*(request.outputs or self._outputs)]
            if request.explained:
                names += explain_names(request.explained)
            outputs = select(arrays, names)
            if not request.outputs:
                outputs.update(arrays)
            if request.single_row:
                outputs = drop_row_axes(outputs, self._outputs)
        except ValueError as error:
            raise ProtocolError(str(error), target=self._target, model=self.model) from error
        return Prediction(
            outputs,
            *answered,
            columns=self._columns,
            single_row=request.single_row,
            explained=request.explained,
            _index=request.index,
            _features=self._feature_names() if request.explained else (),
        )

    def _feature_names(self) -> tuple[str, ...]:
        return explained_features(self.spec.inputs, self._features)

    def _check_explained(self, explain: str, steps: int | None) -> str:
        if not explain:
            if steps is not None:
                raise TensorError(
                    "explain_steps", expected="explain", got="none", fix="say what to explain"
                )
            return ""
        return read_target(explain, self.spec.outputs, self._columns).output

    def _refusal(self, error: ValueError) -> InvalidInputError:
        return InvalidInputError(
            f"model {self.model!r}, {error}", target=self._target, model=self.model
        )

    def _keep_layout(
        self, reply: bytes, message: ModelInferResponse, arrays: Mapping[str, NDArray[Any]]
    ) -> None:
        layout = Layout.of(reply, message, arrays)
        if layout is not None:
            if len(self._layouts) >= _LAYOUTS:
                self._layouts.clear()
            self._layouts[layout.size] = layout

    def _check_outputs(self, outputs: Sequence[str]) -> tuple[str, ...]:
        if isinstance(outputs, str) or not outputs:
            raise TensorError(
                "outputs",
                expected="a list with at least one name",
                got=repr(outputs),
                fix="send [name, ...], or leave it out for all",
            )
        for position, name in enumerate(outputs):
            # A server that does not report its outputs may have any.
            names = self._outputs or outputs
            seen = outputs[:position]
            check_name(f"output {quote(name)}", name, names, seen, once="ask for every output once")
        return tuple(outputs)


@lru_cache(maxsize=1024)
def _head(
    model: str,
    version: str,
    specs: tuple[TensorSpec, ...],
    shapes: tuple[tuple[int, ...], ...],
    outputs: tuple[str, ...],
    conditions: tuple[tuple[str, str], ...],
    timing: bool,
    explain_steps: int | None,
) -> bytes:
    """Write a request up to its raw contents, which have the highest field number.

    It is the same for every call with arrays of these shapes, so that a caller's usual
    shapes are checked and written once. Raises TensorError if a shape does not fit.
    """
    request = ModelInferRequest(model_name=model, model_version=version)
    for spec, shape in zip(specs, shapes, strict=True):
        check_shape(f"input {spec.name!r}", spec, shape)
        request.inputs.add(name=spec.name, datatype=spec.datatype, shape=shape)
    _check_size(specs, shapes)
    for name in outputs:
        request.outputs.add(name=name)
    for name, value in conditions:
        request.parameters[name].string_param = value
    if timing:
        request.parameters[PARAMETER].bool_param = True
    if explain_steps is not None:
        request.parameters[STEPS_PARAMETER].int64_param = explain_steps
    return request.SerializeToString()


@lru_cache(maxsize=1024)
def _before_raw(size: int) -> bytes:
    return bytes_field(ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER, size)


def _check_size(specs: Sequence[TensorSpec], shapes: Sequence[tuple[int, ...]]) -> None:
    size = sum(
        prod(shape) * DATATYPES[spec.datatype].dtype.itemsize
        for spec, shape in zip(specs, shapes, strict=True)
    )
    if size > MAX_MESSAGE_BYTES:
        raise TensorError(
            ", ".join(f"input {spec.name!r}" for spec in specs),
            expected=f"at most {MAX_MESSAGE_BYTES} bytes, as one message holds",
            got=str(size),
            fix="send fewer rows a call",
        )
