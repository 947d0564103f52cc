"""A model version that answers: its session, its signature, its queue."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from onnx import GraphProto, TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

from forwardpass.proto import metadata
from forwardpass.proto.metadata import MetadataError
from forwardpass.proto.spec import TensorError, TensorSpec
from forwardpass.server.batching import BatchQueue, Job, QueueLimits
from forwardpass.server.computation import Computation
from forwardpass.server.drift import Drift
from forwardpass.server.errors import ModelFailedError
from forwardpass.server.proof import WrongAnswerError, prove
from forwardpass.server.repository import ModelFile
from forwardpass.server.runtime import Session, SessionError
from forwardpass.server.statistics import Statistics
from forwardpass.server.tuning import tune

_SHORT_S = 0.001
"""A run that takes longer is worth a thread's turn, of some 50 us."""
_PIECE_S = 0.003
"""Of the pieces of a large call: others wait so long for their turn, and each costs some 30 us."""


class Model:
    """One version of one model, loaded and proven."""

    def __init__(
        self,
        file: ModelFile,
        content: bytes,
        graph: GraphProto,
        queue: QueueLimits = QueueLimits(),  # noqa: B008 - frozen
        *,
        watch_inputs: bool = False,
    ) -> None:
        """Load the file and let it answer its own samples, or a warm-up row if it has none.

        content is what was read from the file, graph the graph in it; watch_inputs: whether to
        look at what callers send.

        Raises ModelFailedError with the reason.
        """
        self.name = file.name
        self.version = file.version
        try:
            self.session = Session(file.path, content)
            prove(self.session)
            _check_ranks(graph)
            self.batching = tune(self.session, graph)
            self.short_rows = self.batching.rows_within(_SHORT_S)
            """So many rows may run on a thread that has other things to do."""
            self.piece_rows = max(self.batching.max_rows, self.batching.rows_within(_PIECE_S))
            """A call of more rows runs in pieces of so many."""
            self.labels = _labels(self.session)
            """Labels of the outputs' columns, where the file names them."""
            columns = _input_columns(self.session)
        except (SessionError, MetadataError, TensorError, WrongAnswerError) as error:
            raise ModelFailedError(file.name, file.version, str(error)) from error
        self.inputs: Mapping[str, TensorSpec] = MappingProxyType(
            {spec.name: spec for spec in self.session.inputs}
        )
        self.outputs: Mapping[str, TensorSpec] = MappingProxyType(
            {spec.name: spec for spec in self.session.outputs}
        )
        self.properties = {
            **metadata.published(self.session.metadata),
            metadata.BATCH_INVARIANT: self.batching.invariance,
        }
        """For ModelMetadata: what the file says of itself, and what was found out here."""
        self.statistics = Statistics()
        """What it has answered, and how long that took."""
        self.drift = Drift(self.session.inputs, columns) if watch_inputs else None
        self.constant_bytes = sum(map(_bytes, graph.initializer))
        """Memory that the constants take."""
        # The queue knows the computation and not the model: in a cycle the session's memory
        # would outlive its last call, until Python looks for garbage.
        computation = Computation(self.name, self.session, self.statistics, self.drift)
        self.queue = BatchQueue(
            self.name, computation.run, max_rows=self.batching.max_rows, limits=queue
        )

    @property
    def waiting(self) -> int:
        """How many calls wait for a run now."""
        return self.queue.waiting

    @property
    def max_waiting(self) -> int:
        """How many may wait."""
        return self.queue.max_waiting

    def run(self, jobs: Sequence[Job]) -> None:
        """Return when every job of one kind has its answers or its error.

        Their rows run together with what waits, as many at once as pay.
        """
        limit = self.batching.max_rows
        together: list[Job] = []
        rows = 0
        for job in jobs:
            if together and (rows + job.rows > limit or not job.kind.by_rows):
                self.queue.run(together)
                together, rows = [], 0
            if job.rows > self.piece_rows and job.kind.by_rows:
                self._run_in_pieces(job)
            else:
                together.append(job)
                rows += job.rows
        if together:
            self.queue.run(together)

    def _run_in_pieces(self, job: Job) -> None:
        pieces = self.pieces(job)
        for piece in pieces:
            self.queue.run([piece])
            if piece.error is not None:
                break
        put_together(job, pieces)

    def pieces(self, job: Job) -> list[Job]:
        """Cut a job of many rows: others get their turn between its pieces."""
        starts = range(0, job.rows, self.piece_rows)
        return [self._piece(job, start) for start in starts]

    def _piece(self, job: Job, start: int) -> Job:
        end = min(start + self.piece_rows, job.rows)
        tensors = [
            memoryview(tensor)[start * len(tensor) // job.rows : end * len(tensor) // job.rows]
            for tensor in job.tensors
        ]
        return Job(job.kind, tensors, end - start, job.deadline, job.active)


def put_together(job: Job, pieces: Sequence[Job]) -> None:
    """Give a job the answers of its pieces, or the error of the one that failed."""
    job.error = next((piece.error for piece in pieces if piece.error is not None), None)
    if job.error is not None:
        return
    job.answers = [b"".join(parts) for parts in zip(*(p.answers for p in pieces), strict=True)]
    job.shapes = [(job.rows, *shape[1:]) for shape in pieces[0].shapes]
    job.waited_ns = sum(piece.waited_ns for piece in pieces)
    job.ran_ns = sum(piece.ran_ns for piece in pieces)


def _check_ranks(graph: GraphProto) -> None:
    # onnxruntime tells an input of any rank and a scalar alike.
    for value in graph.input:
        if not value.type.tensor_type.HasField("shape"):
            raise SessionError(f"input {value.name!r} has no rank; export it with a shape")


def _bytes(constant: TensorProto) -> int:
    return math.prod(constant.dims) * int(tensor_dtype_to_np_dtype(constant.data_type).itemsize)


def _input_columns(session: Session) -> dict[str, metadata.ColumnNames]:
    columns = metadata.load_columns(metadata.INPUTS, session.metadata.get(metadata.INPUTS, "{}"))
    for spec in session.inputs:
        column = columns.get(spec.name, metadata.ColumnNames())
        width = spec.shape[-1] if spec.shape else 1
        if column.low and width != len(column.low):
            raise MetadataError(
                metadata.INPUTS,
                f"a range for {len(column.low)} of the {width} columns of {spec.name!r}",
            )
    return columns


def _labels(session: Session) -> dict[str, tuple[str, ...]]:
    text = session.metadata.get(metadata.OUTPUTS, "{}")
    columns = metadata.load_columns(metadata.OUTPUTS, text)
    for spec in session.outputs:
        column = columns.get(spec.name, metadata.ColumnNames())
        width = spec.shape[-1] if spec.shape else 1
        for what, entries in (("labels", column.labels), ("thresholds", column.thresholds)):
            if entries and width not in (-1, len(entries)):
                raise MetadataError(
                    metadata.OUTPUTS,
                    f"{len(entries)} {what} for the {width} columns of {spec.name!r}",
                )
    return {name: column.labels for name, column in columns.items() if column.labels}
