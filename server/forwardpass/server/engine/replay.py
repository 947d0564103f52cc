"""The proof at load: a model answers its own samples, or a warm-up row, before it is ready."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto import metadata
from forwardpass.proto.datatypes import DATATYPES, datatype_of
from forwardpass.proto.metadata import MetadataError, Samples
from forwardpass.proto.spec import TensorError, TensorSpec, check_shape
from forwardpass.server.engine.session import Session, SessionError
from forwardpass.server.engine.warm_up import Feeds, suggest
from forwardpass.server.onnx_messages import GraphProto, NodeProto

_CONVERTED = (
    "if another tool converted or quantized the file, leave its samples out "
    "(forwardpass describe FILE --output NEW --drop-samples)"
)
ALLOW_UNPROVEN = (
    "have the operator serve it unproven, if it is trusted (--general-models --unproven-models)"
)

_STATIC = {"QuantizeLinear"}
"""Operators to which NaN is a number like another."""
_DYNAMIC = {"DynamicQuantizeLinear", "DynamicQuantizeMatMul"}
"""The same, and a NaN among numbers changes how those are rounded."""


class WrongAnswerError(Exception):
    """A model does not return the answers stored in its file."""


class Answered(NamedTuple):
    """The inputs and answers of a session when it was proven."""

    inputs: Feeds
    outputs: Mapping[str, NDArray[Any]]


class NoAnswerError(SessionError):
    """A model without samples answers none of the inputs that were tried."""


def prove(session: Session, graph: GraphProto) -> Answered:
    """Run the samples of the file, or inputs of our own if it has none.

    Raises WrongAnswerError, MetadataError for samples that are not of the contract's form or of
    another model, TensorError for samples of a wrong shape, SessionError if a run with samples
    fails, and NoAnswerError.
    """
    text = session.metadata.get(metadata.SAMPLES)
    return _warm_up(session, graph) if text is None else _replay(session, Samples.load(text))


def loses_nan(session: Session, graph: GraphProto) -> bool:
    """Return whether NaN may come out as a number because a node rounds it to an integer.

    A model without such a node may mean something by NaN, as trees do. One with such a node is
    run on NaN: what `quantize` writes passes it on beside the integers. What its file says to fill
    in has to give the answer of the value in its place.
    """
    operators = {node.op_type for node in _nodes(graph)}
    if operators & _DYNAMIC:
        return True
    if not operators & _STATIC:
        return False
    names = [spec.name for spec in session.outputs]
    fills = _fills(session)

    def answers(of: Callable[[NDArray[Any]], NDArray[Any]]) -> list[NDArray[Any]]:
        feeds = {spec.name: _row(spec, of(fills[spec.name])) for spec in session.inputs}
        return session.run(feeds, names)

    try:
        if any(np.isnan(fill).any() for fill in fills.values()):
            unknown = answers(lambda fill: fill)
            if not all(each.dtype.kind == "f" and np.isnan(each).all() for each in unknown):
                return True
        filled = answers(lambda fill: np.where(np.isnan(fill), 0, np.nan))
        return not all(map(_same, filled, answers(np.nan_to_num)))
    except (SessionError, TensorError):
        return True


def _fills(session: Session) -> dict[str, NDArray[np.float64]]:
    """Return the values that the file says to fill in, by input; NaN for none."""
    text = session.metadata.get(metadata.INPUTS, "{}")
    columns = metadata.load_columns(metadata.INPUTS, text)
    fills = {}
    for spec in session.inputs:
        fill = columns.get(spec.name, metadata.ColumnNames()).fill
        fits = spec.shape[1:] == (len(fill),)
        fills[spec.name] = np.array(fill if fits else None, np.float64)
    return fills


def prove_steady(session: Session, answered: Answered, others: Iterable[Feeds]) -> None:
    """Raise WrongAnswerError if answers depend on inputs that were run before: on `others`.

    These may spoil a model for good: use a session that answers no callers.
    """
    names = list(answered.outputs)
    for feeds in others:
        # A run that fails may leave a trace as well.
        with suppress(SessionError):
            session.run(feeds, names)
    for name, again in zip(names, session.run(answered.inputs, names), strict=True):
        if not _same(answered.outputs[name], again):
            raise WrongAnswerError(
                f"output {name!r}: expected the same answer to the same row whatever ran before, "
                "got another one; export the model for inference, without state or random numbers"
            )


def _same(once: NDArray[Any], again: NDArray[Any]) -> bool:
    if once.dtype == object:
        return bool(np.array_equal(once, again))
    return once.shape == again.shape and once.tobytes() == again.tobytes()


def other_rows(session: Session, feeds: Feeds) -> Iterator[Feeds]:
    """Yield inputs like `feeds` with other numbers, then with more rows."""
    yield {
        name: (np.arange(array.size) % 7 * 10 + 1).astype(array.dtype).reshape(array.shape)
        if array.dtype.kind == "f"
        else array
        for name, array in feeds.items()
    }
    free = {spec.name for spec in session.inputs if spec.shape[:1] == (-1,)}
    if free:
        yield {
            name: np.repeat(array, 2, axis=0) if name in free else array
            for name, array in feeds.items()
        }


def no_rows(session: Session, feeds: Feeds) -> Iterator[Feeds]:
    """Yield inputs without elements: no rows, rows of no length, and neither."""
    kinds: Sequence[Callable[[int], bool]] = (
        lambda axis: axis == 0,
        lambda axis: axis > 0,
        lambda _: True,
    )
    tried = [{name: array.shape for name, array in feeds.items()}]
    for is_wanted in kinds:
        empty = {}
        for spec in session.inputs:
            cut = [
                slice(0) if size < 0 and is_wanted(axis) else slice(None)
                for axis, size in enumerate(spec.shape)
            ]
            # With an ellipsis a scalar stays an array.
            empty[spec.name] = feeds[spec.name][(*cut, ...)]
        shapes = {name: array.shape for name, array in empty.items()}
        if shapes not in tried:
            tried.append(shapes)
            yield empty


def _warm_up(session: Session, graph: GraphProto) -> Answered:
    """Run as few rows as the graph allows: the first run of a session is its slowest."""
    names = [spec.name for spec in session.outputs]
    failure = ""
    tries = 0
    for feeds in suggest(session.inputs, session.outputs, graph):
        tries += 1
        try:
            answers = session.run(feeds, names)
        except SessionError as error:
            failure = failure or str(error)
        else:
            return Answered(feeds, dict(zip(names, answers, strict=True)))
    raise NoAnswerError(
        f"{failure}, at each of {tries} inputs tried; export it with the lengths that it takes, "
        f"or {ALLOW_UNPROVEN}"
    )


def _replay(session: Session, samples: Samples) -> Answered:
    for spec in session.inputs:
        if spec.name not in samples.inputs:
            raise MetadataError(metadata.SAMPLES, f"no sample of input {spec.name!r}")
        _check_datatype("input", spec, samples.inputs[spec.name])
        check_shape(f"sample of input {spec.name!r}", spec, samples.inputs[spec.name].shape)
    unknown = samples.outputs.keys() - {spec.name for spec in session.outputs}
    if unknown:
        raise MetadataError(metadata.SAMPLES, f"no output {sorted(unknown)[0]!r} in the graph")
    for spec in session.outputs:
        if spec.name in samples.outputs:
            _check_datatype("output", spec, samples.outputs[spec.name])
    feeds = {spec.name: samples.inputs[spec.name] for spec in session.inputs}
    answers = dict(zip(samples.outputs, session.run(feeds, list(samples.outputs)), strict=True))
    if wrong := samples.difference(answers):
        raise WrongAnswerError(f"{wrong}; {_CONVERTED}")
    return Answered(feeds, answers)


def _check_datatype(kind: str, spec: TensorSpec, sample: NDArray[Any]) -> None:
    if DATATYPES[spec.datatype].dtype != sample.dtype:
        raise MetadataError(
            metadata.SAMPLES,
            f"expected the sample of {kind} {spec.name!r} to be {spec.datatype} as in the graph, "
            f"got {datatype_of(sample.dtype).name}; {_CONVERTED}",
        )


def _row(spec: TensorSpec, numbers: NDArray[np.float64]) -> NDArray[np.generic]:
    """Return one row of numbers, or of anything else where an input takes no floats."""
    shape = [1 if size < 0 else size for size in spec.shape]
    dtype = DATATYPES[spec.datatype].dtype
    if dtype.kind == "f":
        return np.broadcast_to(numbers, shape).astype(dtype)
    return np.full(shape, b"", object) if spec.datatype == "BYTES" else np.ones(shape, dtype)


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Yield the nodes of a graph and of the graphs in their attributes."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)
