"""Plans: what calls share that differ only in their tensors' bytes and their id."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.metadata import ColumnNames
from forwardpass.proto.spec import TensorError, format_shape
from forwardpass.proto.tensors import decode_raw, encode_raw
from forwardpass.proto.verdicts import decides_alone
from forwardpass.server.engine.model import Model
from forwardpass.server.engine.queue import Job, Kind
from forwardpass.server.errors import InvalidTensorError, ReplyTooLargeError, UnequalRowsError
from forwardpass.server.rpc.classification import MAX_RANKED, MAX_TEXTS, by_row, classify
from forwardpass.server.rpc.regions import Place
from forwardpass.server.rpc.request import RequestedOutput, ValidRequest
from forwardpass.server.rpc.scan import Most
from forwardpass.server.rpc.wire import LARGE_BYTES, Parts, join, raw_output_start

MAX_REPLY_BYTES = 2**31 - 2**20
"""Maximum size of a reply, in bytes: slightly less than a protobuf message can hold."""


_MAX_PLANS = 4096
_MAX_FORM_BYTES = 2**16
"""Maximum size of the messages of a cached form, in bytes."""
_DESCRIBED_BYTES = 2**7
"""Size of a reply beside its tensors and names, in bytes for each output."""
_TEXT_BYTES = 2**6, 2**9
"""Maximum size of a class in a reply without its label, in bytes; the second: of FP64."""
_SHORT_ANSWER_BYTES = 2**12
"""Maximum size of answers that are written quickly whatever is made of them, in bytes."""


@dataclass(slots=True, eq=False)
class Plan:
    """How to compute and answer calls of one form; made from the first valid one."""

    model: Model
    kind: Kind
    """The kind of its jobs; the class is the one that the request asks for."""
    batch_kind: Kind
    """The same with the class batch."""
    batch: bool
    """Whether the request asks for that class."""
    rows: int
    outputs: tuple[RequestedOutput, ...]
    sent: tuple[int, ...]
    """Index in the request of each input of the model."""
    sizes: tuple[int, ...]
    """Size of each tensor in bytes, in the request's order."""
    repeatable: bool
    """Whether every call with the same head and tensor sizes is valid like the first: False for
    BYTES, whose sizes do not give their number, with shared memory, and for explanations."""
    head: bytes
    """Start of every reply: the model's name and version."""
    timed: bool
    """Whether the caller asked for the phases of the time."""
    plain: bool
    """Whether the reply has every output as computed: no classification, no shared memory."""
    answer_bytes: int
    """Maximum size of a reply, in bytes; if it is `open_ended`, that of the largest one so far."""
    open_ended: bool
    """Whether the size of a reply is only known once it was computed."""
    _frame: "_Frame | None" = None
    """The frame of the latest replies."""

    @classmethod
    def of(cls, model: Model, request: ValidRequest, sent: Sequence[str], *, timed: bool) -> "Plan":
        """Make the plan of a valid request whose inputs came in the order `sent`.

        Raises UnequalRowsError.
        """
        shapes = tuple(request.inputs[name].shape for name in model.inputs)
        if model.reshapes_inputs:
            shapes = tuple(map(model.in_graph, model.inputs, shapes))
        # A graph that broadcasts may mix inputs of one row and of many.
        by_rows = model.batching.max_rows > 1 and len({shape[0] for shape in shapes}) == 1
        by_rows = by_rows and shapes[0][0] > 0
        if model.batching.max_rows > 1 and not by_rows:
            rows = max(shape[0] for shape in shapes)
            if rows > model.whole_rows:
                raise UnequalRowsError(model.name, rows, model.whole_rows)
        kind = Kind(
            tuple(output.name for output in request.outputs),
            tuple(shape[1:] for shape in shapes) if by_rows else shapes,
            by_rows,
            request.batch,
        )
        rows = shapes[0][0] if by_rows else 1
        answer_bytes, open_ended = _answer_bytes(model, request.outputs, rows if by_rows else None)
        return cls(
            model=model,
            kind=kind,
            batch_kind=kind._replace(batch=True),
            batch=request.batch,
            rows=rows,
            outputs=request.outputs,
            sent=tuple(sent.index(name) for name in model.inputs),
            sizes=tuple(request.inputs[name].nbytes for name in sent),
            repeatable=not request.shared
            # It would keep what explains a model as long as the model.
            and model.explains is None
            and all(spec.datatype != "BYTES" for spec in model.inputs.values()),
            head=pb.ModelInferResponse(
                model_name=model.name, model_version=str(model.version)
            ).SerializeToString(),
            timed=timed,
            plain=all(
                output.classes is None and output.place is None for output in request.outputs
            ),
            answer_bytes=answer_bytes,
            open_ended=open_ended,
        )

    def fits(self, tensors: Sequence[bytes | memoryview]) -> bool:
        """Return whether tensors of a request of this form, in its order, have the right sizes."""
        return tuple(map(len, tensors)) == self.sizes

    def tensors(self, request: ValidRequest) -> list[Any]:
        """Return the tensors of a valid request for a job."""
        return [
            self._texts(name, request) if spec.datatype == "BYTES" else _bytes(request.inputs[name])
            for name, spec in self.model.inputs.items()
        ]

    def _texts(self, name: str, request: ValidRequest) -> NDArray[Any]:
        texts = request.inputs[name]
        return texts.reshape(self.model.in_graph(name, texts.shape))

    def in_order(self, tensors: Sequence[bytes | memoryview]) -> Sequence[bytes | memoryview]:
        """Put the tensors of a request into the order of the model's inputs."""
        return tensors if len(tensors) == 1 else [tensors[place] for place in self.sent]

    def slow_to_answer(self, job: Job) -> bool:
        """Return whether the replies take long to write: texts, or writes to shared memory."""
        return not self.plain and sum(map(len, job.answers)) > _SHORT_ANSWER_BYTES

    def replies(self, id_fields: Sequence[bytes], job: Job) -> list[bytes]:
        """Write the replies to calls of this form that were one job; an id field for each.

        Raises ReplyTooLargeError, and InvalidTensorError if shared memory has no room.
        """
        count = len(id_fields)
        shapes = job.shapes if count == 1 else [(self.rows, *shape[1:]) for shape in job.shapes]
        if self.model.reshapes_outputs:
            named = zip(self.kind.outputs, shapes, strict=True)
            shapes = [self.model.for_callers(name, shape) for name, shape in named]
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
            # A single assignment, so that other threads see all of it or nothing.
            frame = self._frame = _Frame(shapes, self._describe(shapes), sizes)
        if len(sizes) == 1:
            # By far the most common case, and the fastest way to write many.
            (answer,), (size,), (start,) = job.answers, sizes, frame.starts
            head, middle = self.head, frame.described + start
            if id_fields.count(id_fields[0]) == count:
                # Nearly always: clients leave it out.
                head += id_fields[0] + middle
                if count == 1:
                    return [head + answer]
                return [head + answer[at * size : at * size + size] for at in range(count)]
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
            spec = self.model.outputs[output.name]
            datatype = spec.datatype
            if output.classes is not None:
                scores = decode_raw(output.name, answer, datatype, shape)
                names = self.model.columns.get(output.name, ColumnNames())
                # A column of the file's that decides alone does so at any rank.
                if output.name in self.model.terms.labels or not (
                    shape[-1:] == (1,) and decides_alone(names)
                ):
                    scores = by_row(scores, batched=spec.shape[:1] == (-1,))
                self._check_texts(output.name, scores.shape, output.classes)
                texts = classify(scores, output.classes, names)
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

    def _check_texts(self, name: str, shape: Sequence[int], classes: int) -> None:
        elements = math.prod(shape)
        texts = elements // shape[-1] * min(classes, shape[-1]) if elements and shape else elements
        for what, count, most in (("scores", elements, MAX_RANKED), ("classes", texts, MAX_TEXTS)):
            if count > most:
                error = TensorError(
                    f"output {name!r}",
                    expected=f"classification of at most {most} {what}",
                    got=f"{count} in shape {format_shape(shape)}",
                    fix="send fewer rows per call, or take the output itself",
                )
                raise InvalidTensorError(self.model.name, error)


class _Frame:
    """The part that replies with equal shapes share."""

    __slots__ = ("described", "shapes", "starts")

    def __init__(
        self, shapes: Sequence[tuple[int, ...]], described: bytes, sizes: Sequence[int]
    ) -> None:
        self.shapes = shapes
        self.described = described
        """The outputs without their tensors."""
        self.starts = [raw_output_start(size) for size in sizes]
        """The bytes before each tensor."""


def _bytes(tensor: NDArray[Any]) -> bytes | memoryview:
    """Return a tensor's bytes; many of them as a view, of the message if they were raw in it."""
    if tensor.nbytes < LARGE_BYTES:
        return tensor.tobytes()
    return tensor.reshape(-1).view(np.uint8).data


def _answer_bytes(
    model: Model, outputs: Sequence[RequestedOutput], rows: int | None
) -> tuple[int, bool]:
    """Return the size of a reply as far as the signature says it, and whether that is not all.

    rows: Of the answer; None where nobody knows how they follow from those of the request.
    """
    size, open_ended = 0, False
    for output in outputs:
        spec = model.outputs[output.name]
        shape = spec.shape if rows is None else (rows, *spec.shape[1:])
        size += _DESCRIBED_BYTES + len(output.name)
        if output.place is not None:
            continue
        if -1 in shape or (spec.datatype == "BYTES" and output.classes is None):
            open_ended = True
        elif output.classes is None:
            size += math.prod(shape) * DATATYPES[spec.datatype].dtype.itemsize
        else:
            labels = model.columns.get(output.name, ColumnNames()).labels
            longest = max((len(label.encode()) for label in labels), default=0)
            ranked = shape[0] if len(shape) > 1 else 1
            texts = min(math.prod(shape), ranked * output.classes, MAX_TEXTS)
            size += texts * (_TEXT_BYTES[spec.datatype == "FP64"] + longest)
    return size, open_ended


def _part(answers: Sequence[bytes], sizes: Sequence[int], index: int) -> list[bytes]:
    """Return one call's share of answers."""
    return [
        answer[index * size : (index + 1) * size]
        for answer, size in zip(answers, sizes, strict=True)
    ]


_Described = tuple[str, str, tuple[int, ...], Place | None]


def _describe(outputs: Iterable[_Described]) -> bytes:
    """Write the outputs of a reply: name, datatype, shape, and place in shared memory."""
    reply = pb.ModelInferResponse()
    for name, datatype, shape, place in outputs:
        output = reply.outputs.add(name=name, datatype=datatype, shape=shape)
        if place is not None:
            place.describe(output.parameters)
    return reply.SerializeToString()


class Form(NamedTuple):
    """Messages of one length that differ only in the bytes of their single tensor."""

    prefix: bytes
    """All bytes before the tensor, which is the rest."""
    size: int
    """The length of the prefix."""
    plan: Plan
    id_field: bytes


class Plans:
    """The plans made so far, found by a request's bytes; valid until a model changes."""

    def __init__(self, most: Most) -> None:
        """Begin without plans; most: maximum numbers of a request of any of the models."""
        self.most = most
        self.forms: dict[int, Form] = {}
        """Forms by length of the message, which differs for most: the fastest lookup."""
        self._by_head: dict[bytes, Plan] = {}

    def find(self, parts: Parts) -> Plan | None:
        """Return the plan of a request, if one like it was valid."""
        plan = self._by_head.get(parts.head)
        return plan if plan is not None and plan.fits(parts.tensors) else None

    def keep(self, plan: Plan, parts: Parts, message: bytes | memoryview) -> None:
        """Keep a plan for further requests like this one, if they are valid too."""
        if not plan.repeatable:
            return
        if len(self._by_head) >= _MAX_PLANS:
            self._by_head.clear()
            self.forms.clear()
        self._by_head[parts.head] = plan
        size = len(message)
        if len(parts.tensors) == 1 and size < _MAX_FORM_BYTES:
            prefix = bytes(message[: size - len(parts.tensors[0])])
            self.forms.setdefault(size, Form(prefix, len(prefix), plan, parts.id_field))
