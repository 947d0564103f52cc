"""What is the same for all calls that differ only in their tensors' bytes and their id."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.spec import TensorError
from forwardpass.proto.tensors import decode_raw, encode_raw
from forwardpass.server.batching import Job, Kind
from forwardpass.server.classification import classify
from forwardpass.server.errors import InvalidTensorError, ReplyTooLargeError
from forwardpass.server.model import Model
from forwardpass.server.regions import Place
from forwardpass.server.validation import Inference, RequestedOutput
from forwardpass.server.wire import join

MAX_REPLY_BYTES = 2**31 - 2**20
"""A little less than what protobuf, and so a gRPC message, can hold."""


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
    _described: tuple[Sequence[tuple[int, ...]], bytes] = field(default=((), b""))
    """The shapes of the last answers, and the reply's description of them."""

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
        return len(tensors) == len(self.sizes) and all(
            len(tensor) == size for tensor, size in zip(tensors, self.sizes, strict=True)
        )

    def tensors(self, inference: Inference) -> list[Any]:
        """Return the tensors of a valid request as a job takes them."""
        return [
            inference.inputs[name] if spec.datatype == "BYTES" else inference.inputs[name].tobytes()
            for name, spec in self.model.inputs.items()
        ]

    def in_order(self, tensors: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
        """Put the tensors of a request into the order of the model's inputs."""
        return [tensors[place] for place in self.sent]

    def reply(self, id_field: bytes, job: Job) -> bytes:
        """Write the reply to a call whose job is done.

        Raises ReplyTooLargeError, and InvalidTensorError where shared memory has no room.
        """
        size = sum(map(len, job.answers))
        if size > MAX_REPLY_BYTES:
            raise ReplyTooLargeError(self.model.name, size, MAX_REPLY_BYTES)
        if not self.plain:
            return self._special_reply(id_field, job)
        shapes, described = self._described
        if job.shapes != shapes:
            described = _describe(
                (name, self.model.outputs[name].datatype, shape, None)
                for name, shape in zip(self.kind.outputs, job.shapes, strict=True)
            )
            # One assignment: another thread sees both or neither.
            self._described = job.shapes, described
        return join(self.head, id_field, described, job.answers)

    def _special_reply(self, id_field: bytes, job: Job) -> bytes:
        described: list[_Described] = []
        tensors: list[bytes] = []
        for output, shape, answer in zip(self.outputs, job.shapes, job.answers, strict=True):
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


_Described = tuple[str, str, tuple[int, ...], Place | None]


def _describe(outputs: Iterable[_Described]) -> bytes:
    """Write the outputs of a reply: name, datatype, shape, and where in shared memory it is."""
    reply = pb.ModelInferResponse()
    for name, datatype, shape, place in outputs:
        output = reply.outputs.add(name=name, datatype=datatype, shape=shape)
        if place is not None:
            place.describe(output.parameters)
    return reply.SerializeToString()
