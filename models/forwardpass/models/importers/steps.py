"""The computation of another library's model as steps on named values.

An importer writes the steps, `assembly` makes layers of them. Parameters are float64, so that
those folded into a layer are rounded once, with it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models.activations import (
    AnyActivation,
    HardSigmoid,
    LayerNorm,
    LeakyRelu,
    PRelu,
)
from forwardpass.models.errors import NetworkError, UnsupportedSourceError


@dataclass(frozen=True, eq=False)
class Linear:
    """f(W a + b)."""

    W: NDArray[np.float64]
    """The weights (s_out, s_in)."""
    b: NDArray[np.float64] | None = None
    """The bias (s_out,); None is zero."""
    activation: AnyActivation = "identity"


@dataclass(frozen=True, eq=False)
class Normalize:
    """factor * (a - mean) / scale + offset, feature by feature: each (n,) or one number."""

    mean: ArrayLike = 0.0
    scale: ArrayLike = 1.0
    """The scale, above zero."""
    factor: ArrayLike = 1.0
    offset: ArrayLike = 0.0
    apart: bool = False
    """Whether it becomes a scaling of the input beside others, where not all read it, instead of
    being folded into weights. No step may then read the input in two ways."""


@dataclass(frozen=True)
class Activate:
    """f(a)."""

    activation: AnyActivation


@dataclass(frozen=True)
class Sum:
    """a + b + ...: the values that the step reads are added, not joined; all have one width."""


@dataclass(frozen=True, eq=False)
class Select:
    """Columns of a, in any order, also some of them twice."""

    columns: NDArray[np.intp]
    """Their numbers, from 0."""


Operation: TypeAlias = Linear | Normalize | Activate | Sum | Select


@dataclass(frozen=True, eq=False)
class Step:
    """One operation on earlier values, which are joined, except for a Sum."""

    name: str
    """The name of its value, and of its layer if it becomes one."""
    operation: Operation
    reads: tuple[str, ...]
    """Names of earlier steps, or the input's."""
    part: str
    """The part of the source, for errors, as in `layer 'dense_1' (Dense)`."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """One output: values that are joined."""

    name: str
    reads: tuple[str, ...]
    labels: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    description: str = ""
    thresholds: tuple[float, ...] = ()


def chain(source: str, operations: Iterable[tuple[str, Operation, str]]) -> list[Step]:
    """Return steps, each on the one before it; operations are (name, operation, part)."""
    steps: list[Step] = []
    for name, operation, part in operations:
        steps.append(Step(name, operation, (steps[-1].name if steps else source,), part))
    return steps


def needed(steps: Sequence[Step], heads: Iterable[Head]) -> list[Step]:
    """Return the steps that lead to a head."""
    names = {name for head in heads for name in head.reads}
    kept = []
    for step in reversed(steps):
        if step.name in names:
            names.update(step.reads)
            kept.append(step)
    return kept[::-1]


_Parameter = TypeVar("_Parameter")


def parametrized(
    part: str, function: Callable[[_Parameter], AnyActivation], parameter: _Parameter
) -> AnyActivation:
    """Return an activation with its parameter.

    Raises UnsupportedSourceError, which names part, for one that no Network has.
    """
    try:
        return function(parameter)
    except NetworkError as error:
        why = f"{error.subject} whose parameter is {error.got}"
        raise UnsupportedSourceError(part, why, f"expected {error.expected}") from error


def sloped(part: str, slopes: NDArray[np.float64]) -> AnyActivation:
    """Return z above zero and a slope times z below: of one slope, or one for each value."""
    if slopes.size == 1:
        return parametrized(part, LeakyRelu, slopes.item())
    return parametrized(part, PRelu, slopes.reshape(-1).tolist())


def layer_norm(
    part: str,
    scale: NDArray[np.float64] | None,
    bias: NDArray[np.float64] | None,
    epsilon: float,
) -> Activate:
    """Return a layer normalization of each row; a scale or bias of None is none.

    Raises UnsupportedSourceError, which names part, for parameters that no Network has.
    """
    scales, biases = (() if each is None else each.reshape(-1).tolist() for each in (scale, bias))
    try:
        return Activate(LayerNorm(scales, biases, epsilon))
    except NetworkError as error:
        why = f"{error.subject} whose parameter is {error.got}"
        raise UnsupportedSourceError(part, why, f"expected {error.expected}") from error


def clipping(part: str, low: NDArray[np.float64], high: NDArray[np.float64]) -> list[Operation]:
    """Return what keeps values within bounds (n,), of which all of one side may be infinite.

    Between two bounds it is a hard sigmoid, whose float32 is off by at most 2e-7 of their distance.
    Raises UnsupportedSourceError, which names part, for bounds that a Network cannot represent.
    """
    below, above = np.isfinite(low), np.isfinite(high)
    distance = high - low
    if below.all() and above.all() and ((distance > 0) & (distance < _FAR)).all():
        return [
            Normalize(mean=(low + high) / 2, scale=distance),
            Activate(HardSigmoid(1.0)),
            Normalize(factor=distance, offset=low),
        ]
    if below.all() and np.isposinf(high).all():
        if not low.any():
            return [Activate("relu")]
        return [Normalize(mean=low), Activate("relu"), Normalize(mean=-low)]
    if above.all() and np.isneginf(low).all():
        mirrored = Normalize(factor=-1.0, offset=high)
        return [mirrored, Activate("relu"), mirrored]
    if np.isneginf(low).all() and np.isposinf(high).all():
        return []
    raise UnsupportedSourceError(
        part,
        f"bounds of {_range(low)} to {_range(high)}",
        "a Network clips all values of one place, to a range above zero",
    )


_FAR = 2.0**126
"""A distance that float32 can still divide by."""


def _range(bounds: NDArray[np.float64]) -> str:
    least, largest = bounds.min(), bounds.max()
    return f"{least:g}" if least == largest else f"{least:g}..{largest:g}"


def real(part: str, what: str, values: object) -> NDArray[np.float64]:
    """Return a source's parameter as float64.

    Raises UnsupportedSourceError, which names part and what, for anything but real numbers.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise UnsupportedSourceError(
            part, f"{what} of dtype {array.dtype}", "a Network has only real numbers"
        )
    return array.astype(np.float64)
