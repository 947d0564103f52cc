"""How jobs are computed: their rows side by side through one session, the answers parted again."""

from collections.abc import Sequence
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.spec import TensorError
from forwardpass.proto.tensors import encode_raw
from forwardpass.server.batching import Job
from forwardpass.server.drift import Drift
from forwardpass.server.errors import InvalidTensorError, RunError
from forwardpass.server.runtime import Session, SessionError
from forwardpass.server.statistics import Statistics


class Computation:
    """Computes the jobs of one model; from several threads at once."""

    def __init__(
        self, model: str, session: Session, statistics: Statistics, drift: Drift | None = None
    ) -> None:
        """Prepare; model is its name, for errors, and drift looks at the inputs."""
        self._model = model
        self._session = session
        self._statistics = statistics
        self._drift = drift

    def run(self, jobs: Sequence[Job]) -> None:
        """Run jobs of one kind together: their rows side by side, in their order.

        Raises InvalidTensorError or RunError.
        """
        arrived = perf_counter_ns()
        kind = jobs[0].kind
        rows = sum(job.rows for job in jobs)
        feeds: dict[str, NDArray[Any]] = {}
        for index, (spec, shape) in enumerate(zip(self._session.inputs, kind.shapes, strict=True)):
            if len(jobs) == 1:
                tensor = jobs[0].tensors[index]
            else:
                tensor = b"".join([job.tensors[index] for job in jobs])
            if spec.datatype != "BYTES":
                whole = (rows, *shape) if kind.by_rows else shape
                tensor = np.frombuffer(tensor, DATATYPES[spec.datatype].dtype).reshape(whole)
                if not tensor.flags.aligned:
                    # A part of a message begins at any address; onnxruntime reads whole words.
                    tensor = tensor.copy()
            feeds[spec.name] = tensor
        joined = perf_counter_ns()
        try:
            arrays = self._session.run(feeds, kind.outputs)
        except TensorError as error:
            raise InvalidTensorError(self._model, error) from error
        except SessionError as error:
            raise RunError(self._model, str(error)) from error
        ran = perf_counter_ns()
        if self._drift is not None:
            self._drift.look(feeds)
        self._part(jobs, rows, arrays)
        self._statistics.ran(rows, joined - arrived, ran - joined, perf_counter_ns() - ran)

    def _part(self, jobs: Sequence[Job], rows: int, arrays: Sequence[NDArray[Any]]) -> None:
        """Give each job its rows of the answers."""
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
