"""How jobs are computed: their rows joined, run by one session, the answers split again."""

from collections.abc import Mapping, Sequence
from functools import partial
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.spec import TensorError, format_shape
from forwardpass.proto.tensors import encode_raw
from forwardpass.server.engine.drift import Drift
from forwardpass.server.engine.queue import Job, Kind, unwanted
from forwardpass.server.engine.session import (
    FixedRun,
    InputsError,
    Session,
    SessionError,
    TooLargeError,
    UnwantedError,
)
from forwardpass.server.engine.statistics import Statistics
from forwardpass.server.errors import (
    InputsNotTakenError,
    InvalidTensorError,
    RunError,
    RunTooLargeError,
)

_FIXED_BYTES = 2**12
"""Maximum size of the inputs and outputs of a run that is kept, in bytes: of a larger one, most of
the time is spent in the network."""
_MAX_FIXED = 32
"""Maximum number of such runs of a model."""


class Computation:
    """Computes the jobs of one model; from several threads at once."""

    def __init__(
        self,
        model: str,
        session: Session,
        statistics: Statistics,
        drift: Drift | None = None,
        *,
        takes_none: bool = True,
        takes_nan: bool = True,
    ) -> None:
        """Prepare; model is its name, for errors, and drift counts the inputs' values.

        takes_none: Whether inputs without elements may be run. takes_nan: Whether inputs with NaN.
        """
        self._takes_none = takes_none
        self._takes_nan = takes_nan
        self._model = model
        self._session = session
        self._statistics = statistics
        self._drift = drift
        self._fixed: dict[tuple[Kind, int], FixedRun] = {}
        """Short runs by kind and rows, those that were used last at the end."""

    def run(self, jobs: Sequence[Job]) -> None:
        """Run jobs of one kind together: their rows joined, in their order.

        Raises InvalidTensorError, InputsNotTakenError, RunTooLargeError or RunError.
        """
        arrived = perf_counter_ns()
        kind = jobs[0].kind
        if len(jobs) == 1:
            rows, tensors = jobs[0].rows, jobs[0].tensors
        else:
            rows = sum(job.rows for job in jobs)
            tensors = list(map(_joined, zip(*(job.tensors for job in jobs), strict=True)))
        # Taken out, since another thread may run the same meanwhile.
        fixed = self._fixed.pop((kind, rows), None)
        joined = perf_counter_ns()
        try:
            if fixed is not None:
                feeds, shapes, answers = fixed.feeds, fixed.shapes, fixed.run(tensors)
                self._fixed[kind, rows] = fixed
            else:
                feeds = self._feeds(kind, rows, tensors)
                joined = perf_counter_ns()
                # Otherwise one job, of which nobody knows how long it runs.
                wanted = None if kind.by_rows else partial(_wanted, jobs[0])
                arrays = self._session.run(feeds, kind.outputs, wanted)
                shapes = [array.shape for array in arrays]
                answers = list(map(_bytes, arrays))
                self._keep(kind, rows, feeds, arrays)
        except TensorError as error:
            raise InvalidTensorError(self._model, error) from error
        except UnwantedError as error:
            raise unwanted(self._model, jobs[0], running=True) or RunError(
                self._model, str(error)
            ) from None
        except TooLargeError as error:
            raise RunTooLargeError(self._model, str(error), error.limit) from error
        except InputsError as error:
            raise InputsNotTakenError(self._model, str(error)) from error
        except SessionError as error:
            raise RunError(self._model, str(error)) from error
        ran = perf_counter_ns()
        if self._drift is not None:
            self._drift.look(feeds)
        if len(jobs) == 1:
            jobs[0].answers, jobs[0].shapes = answers, shapes
        else:
            _part(jobs, rows, answers, shapes)
        self._statistics.ran(rows, joined - arrived, ran - joined, perf_counter_ns() - ran)

    def _feeds(self, kind: Kind, rows: int, tensors: Sequence[Any]) -> dict[str, NDArray[Any]]:
        """Return the inputs of a run as arrays, which are checked; raises TensorError."""
        feeds: dict[str, NDArray[Any]] = {}
        for spec, shape, tensor in zip(self._session.inputs, kind.shapes, tensors, strict=True):
            if spec.datatype != "BYTES":
                whole = (rows, *shape) if kind.by_rows else shape
                tensor = np.frombuffer(tensor, DATATYPES[spec.datatype].dtype).reshape(whole)
                if not tensor.flags.aligned:
                    # A part of a message may begin at any address; onnxruntime needs alignment.
                    tensor = tensor.copy()
            feeds[spec.name] = tensor
            if not self._takes_none and tensor.size == 0:
                raise _empty(spec.name, tensor.shape)
        if not self._takes_nan:
            _check_no_nan(feeds)
        return feeds

    def _keep(
        self, kind: Kind, rows: int, feeds: dict[str, NDArray[Any]], arrays: list[NDArray[Any]]
    ) -> None:
        """Keep a short run for the next one of the same shapes."""
        sizes = [array.nbytes for array in (*feeds.values(), *arrays)]
        # Only where rows are independent are the shapes always the same.
        short = kind.by_rows and self._takes_nan and min(sizes) and sum(sizes) <= _FIXED_BYTES
        if short and not any(array.dtype == object for array in feeds.values()):
            # The one that was not used for longest makes room: each use puts it at the end.
            for oldest in list(self._fixed)[: 1 - _MAX_FIXED]:
                self._fixed.pop(oldest, None)
            answers = dict(zip(kind.outputs, arrays, strict=True))
            self._fixed[kind, rows] = self._session.fixed(feeds, answers)


def _joined(parts: Sequence[Any]) -> Any:
    """Return the rows of several jobs as one tensor."""
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else b"".join(parts)


def _bytes(array: NDArray[Any]) -> bytes:
    return encode_raw(array, "BYTES") if array.dtype == object else array.tobytes()


def _part(
    jobs: Sequence[Job],
    rows: int,
    answers: Sequence[bytes],
    shapes: Sequence[tuple[int, ...]],
) -> None:
    """Store in each job its rows of the answers."""
    start = 0
    for job in jobs:
        end = start + job.rows
        job.answers = [
            answer[start * len(answer) // rows : end * len(answer) // rows] for answer in answers
        ]
        job.shapes = [(job.rows, *shape[1:]) for shape in shapes]
        start = end


def _wanted(job: Job) -> bool:
    return unwanted("", job) is None


def _check_no_nan(feeds: Mapping[str, NDArray[np.generic]]) -> None:
    """Raise TensorError if an input holds NaN."""
    for name, array in feeds.items():
        if array.dtype.kind == "f" and np.isnan(array).any():
            where = np.argwhere(np.isnan(array))[0].tolist()
            raise TensorError(
                f"input {name!r}",
                expected="numbers: this model rounds them to integers, and NaN with them",
                got=f"NaN at {format_shape(where)}",
                fix="leave the row out, or fill its gaps as in training",
            )


def _empty(name: str, shape: Sequence[int]) -> TensorError:
    return TensorError(
        f"input {name!r}",
        expected="at least one element: operators of this model would crash without",
        got=f"shape {format_shape(shape)}",
        fix="leave out calls of no rows",
    )
