"""An operator's configuration of a model, where its file leaves that open."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from forwardpass.proto.spec import TensorSpec, format_shape

Shape = tuple[int, ...]


class TermsError(Exception):
    """Terms that contradict the model's graph."""


class TensorTerms(NamedTuple):
    """An operator's configuration of one input or output."""

    datatype: str | None = None
    """The datatype, as `FP32`; None if not set."""
    shape: Shape | None = None
    """The shape for callers, -1 for any length; None if not set."""
    graph_shape: Shape | None = None
    """The shape in the graph, if that is another; with the same elements in the same order."""


@dataclass(frozen=True, slots=True)
class Terms:
    """An operator's configuration of a model."""

    max_rows: int | None = None
    """Maximum rows of one run; axis 0 of every tensor is then the axis of rows."""
    inputs: Mapping[str, TensorTerms] = field(default_factory=dict)
    outputs: Mapping[str, TensorTerms] = field(default_factory=dict)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Outputs -> labels of a row's elements; there may be fewer labels than elements."""


class Reshape(NamedTuple):
    """Two shapes of the same elements, whose lengths of -1 correspond in their order."""

    callers: Shape
    graphs: Shape

    def to_graph(self, shape: Shape) -> Shape:
        """Return the graph's shape for a caller's."""
        return _convert(shape, self.callers, self.graphs)

    def to_caller(self, shape: Shape) -> Shape:
        """Return the caller's shape for the graph's."""
        return _convert(shape, self.graphs, self.callers)


def apply(
    kind: str, specs: Sequence[TensorSpec], terms: Mapping[str, TensorTerms], *, by_rows: bool
) -> tuple[dict[str, TensorSpec], dict[str, Reshape]]:
    """Return the specs of inputs or outputs for callers, and the reshapes among them.

    kind: `input` or `output`. by_rows: Whether axis 0 has to be an axis of rows.

    Raises TermsError where the terms contradict the graph.
    """
    seen = {spec.name: spec for spec in specs}
    reshapes: dict[str, Reshape] = {}
    for name, wanted in terms.items():
        what = f"{kind} {name!r}"
        if name not in seen:
            raise TermsError(f"{what}: the graph has {', '.join(map(repr, seen)) or 'none'}")
        spec = seen[name]
        if wanted.datatype not in (None, spec.datatype):
            raise TermsError(f"{what}: configured as {wanted.datatype}, in the graph {spec}")
        if wanted.shape is None:
            continue
        if wanted.graph_shape is None:
            seen[name] = replace(spec, shape=_narrowed(what, spec, wanted.shape))
            continue
        # A length that only the configuration fixes is required of inputs, but an output of the
        # graph may have another.
        fits = _narrowed(what, spec, wanted.graph_shape)
        if fits != wanted.graph_shape or (kind == "output" and fits != spec.shape):
            raise _does_not_fit(what, spec, wanted.graph_shape)
        if _parts(wanted.shape) != _parts(wanted.graph_shape):
            raise TermsError(
                f"{what}: {format_shape(wanted.shape)} and its reshape "
                f"{format_shape(wanted.graph_shape)} differ in their elements"
            )
        seen[name] = replace(spec, shape=wanted.shape, symbols=())
        reshapes[name] = Reshape(wanted.shape, wanted.graph_shape)
    for spec in specs if by_rows else ():
        if spec.shape[:1] != (-1,):
            raise TermsError(
                f"{kind} {spec.name!r}: a maximum of rows needs an axis 0 of any length, "
                f"in the graph {spec}; leave max_batch_size out"
            )
    return seen, reshapes


def _narrowed(what: str, spec: TensorSpec, wanted: Shape) -> Shape:
    """Fix the lengths that either the graph or the configuration fixes."""
    shape = spec.shape
    if len(wanted) != len(shape) or any(
        -1 not in (a, b) and a != b for a, b in zip(wanted, shape, strict=True)
    ):
        raise _does_not_fit(what, spec, wanted)
    return tuple(max(a, b) for a, b in zip(wanted, shape, strict=True))


def _does_not_fit(what: str, spec: TensorSpec, wanted: Shape) -> TermsError:
    return TermsError(f"{what}: configured as {format_shape(wanted)}, in the graph {spec}")


def _parts(shape: Shape) -> list[int]:
    """Count the elements before, between and after the lengths of -1."""
    parts = [1]
    for length in shape:
        if length == -1:
            parts.append(1)
        else:
            parts[-1] *= length
    return parts


def _convert(shape: Shape, pattern: Shape, onto: Shape) -> Shape:
    lengths: Iterator[int] = (
        length for length, fixed in zip(shape, pattern, strict=True) if fixed == -1
    )
    converted = tuple(next(lengths) if length == -1 else length for length in onto)
    if math.prod(converted) != math.prod(shape):
        raise ValueError(f"{format_shape(shape)} does not have the elements of {onto}")
    return converted
