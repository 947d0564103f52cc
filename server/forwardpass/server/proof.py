"""The proof at load: a model answers its own samples, or a warm-up row, before it is ready."""

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto import metadata
from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.metadata import MetadataError, Samples
from forwardpass.proto.spec import TensorSpec, check_shape
from forwardpass.server.runtime import Session, SessionError

_WARM_UP_SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 16, 28, 32, 64, 128)
"""Lengths to try for axes of any length: a Reshape in the graph may take only some."""


class WrongAnswerError(Exception):
    """A model does not give the answers stored in its file."""


def prove(session: Session) -> None:
    """Let a session answer the samples of its file, or one row of zeros if it has none.

    Raises WrongAnswerError, MetadataError for samples that are not of the contract's form or
    of another model, TensorError for samples of a wrong shape, SessionError if a run fails.
    """
    text = session.metadata.get(metadata.SAMPLES)
    if text is None:
        _warm_up(session)
    else:
        _replay(session, Samples.load(text))


def _warm_up(session: Session) -> None:
    """Run a row, or as few as the graph lets it be: the first call of a session is its slowest.

    Zeros are tried first, then ones (an integer cannot be divided by zero).
    """
    names = [spec.name for spec in session.outputs]
    failure: SessionError | None = None
    for size, value in product(_WARM_UP_SIZES, (0, 1)):
        try:
            session.run({spec.name: _filled(spec, size, value) for spec in session.inputs}, names)
        except SessionError as error:
            failure = failure or error
        else:
            return
    if failure is not None:
        raise failure


def _filled(spec: TensorSpec, any_size: int, value: int) -> NDArray[Any]:
    shape = [any_size if size < 0 else size for size in spec.shape]
    check_shape(f"input {spec.name!r}", spec, shape)
    if spec.datatype == "BYTES":
        return np.full(shape, b"%d" % value, dtype=object)
    return np.full(shape, value, DATATYPES[spec.datatype].dtype)


def _replay(session: Session, samples: Samples) -> None:
    for spec in session.inputs:
        if spec.name not in samples.inputs:
            raise MetadataError(metadata.SAMPLES, f"no sample of input {spec.name!r}")
        if spec.datatype == "BYTES":
            raise MetadataError(metadata.SAMPLES, f"samples are numbers, {spec.name!r} is BYTES")
        check_shape(f"sample of input {spec.name!r}", spec, samples.inputs[spec.name].shape)
    unknown = samples.outputs.keys() - {spec.name for spec in session.outputs}
    if unknown:
        raise MetadataError(metadata.SAMPLES, f"no output {sorted(unknown)[0]!r} in the graph")
    feeds = {spec.name: samples.inputs[spec.name] for spec in session.inputs}
    answers = session.run(feeds, list(samples.outputs))
    for (name, expected), got in zip(samples.outputs.items(), answers, strict=True):
        tolerance = samples.tolerance[name]
        if got.shape != expected.shape:
            raise WrongAnswerError(
                f"output {name!r} of its samples: expected shape {list(expected.shape)}, "
                f"got {list(got.shape)}"
            )
        if got.dtype.kind != "f":
            raise WrongAnswerError(f"output {name!r} of its samples: expected floats")
        difference = np.abs(got.astype(np.float64) - expected)
        # Written so that a NaN counts as wrong.
        wrong = ~(difference <= tolerance)
        if wrong.any():
            at = tuple(map(int, np.argwhere(wrong)[0]))
            raise WrongAnswerError(
                f"output {name!r} at {list(at)} of its samples: expected "
                f"{expected[at]:.9g} within {tolerance:.3g}, got {got[at]:.9g}"
            )
