"""A model version that answers: its session, its signature, its queue."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from forwardpass.proto import metadata
from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.metadata import MetadataError
from forwardpass.proto.spec import TensorError, TensorSpec
from forwardpass.proto.tensors import encode_raw
from forwardpass.server.batching import BatchQueue, Job
from forwardpass.server.errors import InvalidTensorError, ModelFailedError, RunError
from forwardpass.server.proof import WrongAnswerError, prove
from forwardpass.server.repository import ModelFile
from forwardpass.server.runtime import Session, SessionError
from forwardpass.server.tuning import tune


class Model:
    """One version of one model, loaded and proven."""

    def __init__(self, file: ModelFile) -> None:
        """Load the file and let it answer its own samples, or a warm-up row if it has none.

        Raises ModelFailedError with the reason.
        """
        self.name = file.name
        self.version = file.version
        try:
            self.session = Session(file.path)
            prove(self.session)
            graph = onnx.load(file.path).graph
            _check_ranks(graph)
            self.batching = tune(self.session, graph)
            self.labels = _labels(self.session)
            """Labels of the outputs' columns, where the file names them."""
        except (SessionError, MetadataError, TensorError, WrongAnswerError) as error:
            raise ModelFailedError(file.name, file.version, str(error)) from error
        self.inputs: Mapping[str, TensorSpec] = MappingProxyType(
            {spec.name: spec for spec in self.session.inputs}
        )
        self.outputs: Mapping[str, TensorSpec] = MappingProxyType(
            {spec.name: spec for spec in self.session.outputs}
        )
        self.properties = metadata.published(self.session.metadata)
        """What the file says of itself, for ModelMetadata."""
        self._queue = BatchQueue(
            self.name, self._compute, max_rows=self.batching.max_rows, max_waiting=1024, runners=1
        )

    def run(self, job: Job) -> None:
        """Return when the job has its answers: together with what waits, or in pieces.

        Raises ServingError.
        """
        if job.rows <= self.batching.max_rows or not job.kind.by_rows:
            self._queue.run(job)
            return
        # The rows of others get their turn between the pieces.
        pieces = [self._piece(job, start) for start in range(0, job.rows, self.batching.max_rows)]
        for piece in pieces:
            self._queue.run(piece)
        job.answers = [b"".join(parts) for parts in zip(*(p.answers for p in pieces), strict=True)]
        job.shapes = [(job.rows, *shape[1:]) for shape in pieces[0].shapes]
        job.waited_ns = sum(piece.waited_ns for piece in pieces)
        job.ran_ns = sum(piece.ran_ns for piece in pieces)
        job.batch_rows = max(piece.batch_rows for piece in pieces)

    def _piece(self, job: Job, start: int) -> Job:
        end = min(start + self.batching.max_rows, job.rows)
        tensors = [
            memoryview(tensor)[start * len(tensor) // job.rows : end * len(tensor) // job.rows]
            for tensor in job.tensors
        ]
        return Job(job.kind, tensors, end - start, job.deadline, job.active)

    def _compute(self, jobs: Sequence[Job]) -> None:
        """Run jobs of one kind together: their rows side by side, in their order."""
        kind = jobs[0].kind
        rows = sum(job.rows for job in jobs)
        feeds: dict[str, NDArray[Any]] = {}
        for index, (spec, shape) in enumerate(zip(self.session.inputs, kind.shapes, strict=True)):
            if len(jobs) == 1:
                tensor = jobs[0].tensors[index]
            else:
                tensor = b"".join([job.tensors[index] for job in jobs])
            if spec.datatype != "BYTES":
                whole = (rows, *shape) if kind.by_rows else shape
                tensor = np.frombuffer(tensor, DATATYPES[spec.datatype].dtype).reshape(whole)
            feeds[spec.name] = tensor
        try:
            arrays = self.session.run(feeds, kind.outputs)
        except TensorError as error:
            raise InvalidTensorError(self.name, error) from error
        except SessionError as error:
            raise RunError(self.name, str(error)) from error
        tensors = [
            encode_raw(array, "BYTES") if array.dtype == object else array.tobytes()
            for array in arrays
        ]
        if len(jobs) == 1:
            jobs[0].answers = tensors
            jobs[0].shapes = [array.shape for array in arrays]
            return
        start = 0
        for job in jobs:
            end = start + job.rows
            job.answers = [
                tensor[start * len(tensor) // rows : end * len(tensor) // rows]
                for tensor in tensors
            ]
            job.shapes = [(job.rows, *array.shape[1:]) for array in arrays]
            start = end


def _check_ranks(graph: onnx.GraphProto) -> None:
    # onnxruntime tells an input of any rank and a scalar alike.
    for value in graph.input:
        if not value.type.tensor_type.HasField("shape"):
            raise SessionError(f"input {value.name!r} has no rank; export it with a shape")


def _labels(session: Session) -> dict[str, tuple[str, ...]]:
    text = session.metadata.get(metadata.OUTPUTS, "{}")
    columns = metadata.load_columns(metadata.OUTPUTS, text)
    for spec in session.outputs:
        labels = columns.get(spec.name, metadata.ColumnNames()).labels
        width = spec.shape[-1] if spec.shape else 1
        if labels and width not in (-1, len(labels)):
            raise MetadataError(
                metadata.OUTPUTS, f"{len(labels)} labels for the {width} columns of {spec.name!r}"
            )
    return {name: column.labels for name, column in columns.items() if column.labels}
