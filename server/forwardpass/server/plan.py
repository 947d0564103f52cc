"""What is the same for all calls that differ only in their tensors' bytes and their id."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.spec import TensorError
from forwardpass.proto.tensors import decode_raw, encode_raw
from forwardpass.server.batching import Job, Kind
from forwardpass.server.classification import classify
from forwardpass.server.errors import InvalidTensorError, ReplyTooLargeError
from forwardpass.server.model import Model
from forwardpass.server.regions import Place
from forwardpass.server.validation import Inference, RequestedOutput
from forwardpass.server.wire import Parts, join, raw_output_start

MAX_REPLY_BYTES = 2**31 - 2**20
"""A little less than what protobuf, and so a gRPC message, can hold."""


_MAX_PLANS = 4096
_MAX_HEAD_BYTES = 2048
_MAX_FORM_BYTES = 2**16
"""Bounds what callers that never repeat themselves can make us keep."""


@dataclass(slots=True, eq=False)
class Plan:
    """How to compute and answer calls of one form; made from the first valid one."""

    model: Model
    kind: Kind
    rows: int
    outputs: tuple[RequestedOutput, ...]
    sent: tuple[int, ...]
    """For each input of the model its place in the request."""
    sizes: tuple[int, ...]
    """Bytes of each tensor, in the request's order."""
    repeatable: bool
    """Whether a call with the same head and tensors of these sizes is as valid as the first:
    not so for BYTES, whose sizes say nothing of their number, nor where shared memory is used."""
    head: bytes
    """Of every reply: the model's name and version."""
    timed: bool
    """Whether the caller wants to know where the time went."""
    plain: bool
    """Whether the reply has every output as the model gives it: not its highest columns, nor
    put into shared memory."""
    _frame: "_Frame | None" = None
    """Of the last replies."""

    @classmethod
    def of(cls, model: Model, inference: Inference, sent: Sequence[str], *, timed: bool) -> "Plan":
        """Make the plan of a valid request whose inputs came in the order `sent`."""
        shapes = tuple(inference.inputs[name].shape for name in model.inputs)
        # Inputs of one row and of many may stand side by side in a graph that broadcasts.
        by_rows = model.batching.max_rows > 1 and len({shape[0] for shape in shapes}) == 1
        by_rows = by_rows and shapes[0][0] > 0
        return cls(
            model=model,
            kind=Kind(
                tuple(output.name for output in inference.outputs),
                tuple(shape[1:] for shape in shapes) if by_rows else shapes,
                by_rows,
            ),
            rows=shapes[0][0] if by_rows else 1,
            outputs=inference.outputs,
            sent=tuple(sent.index(name) for name in model.inputs),
            sizes=tuple(inference.inputs[name].nbytes for name in sent),
            repeatable=not inference.shared
            and all(spec.datatype != "BYTES" for spec in model.inputs.values()),
            head=pb.ModelInferResponse(
                model_name=model.name, model_version=str(model.version)
            ).SerializeToString(),
            timed=timed,
            plain=all(
                output.classes is None and output.place is None for output in inference.outputs
            ),
        )

    def fits(self, tensors: Sequence[bytes | memoryview]) -> bool:
        """Tell whether tensors of a request of this form, in its order, have the right sizes."""
        return tuple(map(len, tensors)) == self.sizes

    def tensors(self, inference: Inference) -> list[Any]:
        """Return the tensors of a valid request as a job takes them."""
        return [
            inference.inputs[name] if spec.datatype == "BYTES" else inference.inputs[name].tobytes()
            for name, spec in self.model.inputs.items()
        ]

    def in_order(self, tensors: Sequence[bytes | memoryview]) -> Sequence[bytes | memoryview]:
        """Put the tensors of a request into the order of the model's inputs."""
        return tensors if len(tensors) == 1 else [tensors[place] for place in self.sent]

    def replies(self, id_fields: Sequence[bytes], job: Job) -> list[bytes]:
        """Write the replies to calls of this form whose rows were one job; an id field for each.

        Raises ReplyTooLargeError, and InvalidTensorError where shared memory has no room.
        """
        count = len(id_fields)
        shapes = job.shapes if count == 1 else [(self.rows, *shape[1:]) for shape in job.shapes]
        sizes = [len(answer) // count for answer in job.answers]
        if sum(sizes) > MAX_REPLY_BYTES:
            raise ReplyTooLargeError(self.model.name, sum(sizes), MAX_REPLY_BYTES)
        if not self.plain:
            return [
                self._special_reply(id_field, shapes, _part(job.answers, sizes, index))
                for index, id_field in enumerate(id_fields)
            ]
        frame = self._frame
        if frame is None or frame.shapes != shapes:
            # One assignment: another thread sees all of it or nothing.
            frame = self._frame = _Frame(shapes, self._describe(shapes), sizes)
        if len(sizes) == 1:
            # By far the most common, and the fastest way to write many.
            (answer,), (size,), (start,) = job.answers, sizes, frame.starts
            head, middle = self.head, frame.described + start
            return [
                b"".join((head, id_field, middle, answer[index * size : index * size + size]))
                for index, id_field in enumerate(id_fields)
            ]
        return [
            join(self.head, id_field, frame.described, _part(job.answers, sizes, index))
            for index, id_field in enumerate(id_fields)
        ]

    def _describe(self, shapes: Sequence[tuple[int, ...]]) -> bytes:
        return _describe(
            (name, self.model.outputs[name].datatype, shape, None)
            for name, shape in zip(self.kind.outputs, shapes, strict=True)
        )

    def _special_reply(
        self, id_field: bytes, shapes: Sequence[tuple[int, ...]], answers: Sequence[bytes]
    ) -> bytes:
        described: list[_Described] = []
        tensors: list[bytes] = []
        for output, shape, answer in zip(self.outputs, shapes, answers, strict=True):
            place = output.place
            datatype = self.model.outputs[output.name].datatype
            if output.classes is not None:
                scores = decode_raw(output.name, answer, datatype, shape)
                labels = self.model.labels.get(output.name, ())
                texts = classify(scores, output.classes, labels)
                datatype, shape, answer = "BYTES", texts.shape, encode_raw(texts, "BYTES")
            if place is not None:
                try:
                    place.write(answer)
                except TensorError as error:
                    raise InvalidTensorError(self.model.name, error) from error
                place, answer = replace(place, byte_size=len(answer)), b""
            described.append((output.name, datatype, shape, place))
            tensors.append(answer)
        return join(self.head, id_field, _describe(described), tensors)


class _Frame:
    """What replies with answers of the same shapes share."""

    __slots__ = ("described", "shapes", "starts")

    def __init__(
        self, shapes: Sequence[tuple[int, ...]], described: bytes, sizes: Sequence[int]
    ) -> None:
        self.shapes = shapes
        self.described = described
        """The outputs, but their tensors."""
        self.starts = [raw_output_start(size) for size in sizes]
        """What comes before each tensor."""


def _part(answers: Sequence[bytes], sizes: Sequence[int], index: int) -> list[bytes]:
    """Return one call's share of answers."""
    return [
        answer[index * size : (index + 1) * size]
        for answer, size in zip(answers, sizes, strict=True)
    ]


_Described = tuple[str, str, tuple[int, ...], Place | None]


def _describe(outputs: Iterable[_Described]) -> bytes:
    """Write the outputs of a reply: name, datatype, shape, and where in shared memory it is."""
    reply = pb.ModelInferResponse()
    for name, datatype, shape, place in outputs:
        output = reply.outputs.add(name=name, datatype=datatype, shape=shape)
        if place is not None:
            place.describe(output.parameters)
    return reply.SerializeToString()


class Form(NamedTuple):
    """Messages of one length that differ in the bytes of their only tensor alone."""

    prefix: bytes
    """All before the tensor; what follows is the tensor, whole."""
    plan: Plan
    id_field: bytes


class Plans:
    """The plans made so far, found by a request's bytes; for as long as no model changes."""

    def __init__(self) -> None:
        self.forms: dict[int, Form] = {}
        """By the length of the message, which tells most forms apart: the quickest way."""
        self._by_head: dict[bytes, Plan] = {}

    def find(self, parts: Parts) -> Plan | None:
        """Return the plan of a request, if one like it was valid."""
        plan = self._by_head.get(parts.head)
        return plan if plan is not None and plan.fits(parts.tensors) else None

    def keep(self, plan: Plan, parts: Parts, message: bytes | memoryview) -> None:
        """Keep a plan for the next request like this one, if that is as valid as this one."""
        if not plan.repeatable or len(parts.head) > _MAX_HEAD_BYTES:
            return
        if len(self._by_head) >= _MAX_PLANS:
            self._by_head.clear()
            self.forms.clear()
        self._by_head[parts.head] = plan
        size = len(message)
        if len(parts.tensors) == 1 and size < _MAX_FORM_BYTES:
            prefix = bytes(message[: size - len(parts.tensors[0])])
            self.forms.setdefault(size, Form(prefix, plan, parts.id_field))
