"""What another library's model computes, written down as steps on named values.

An importer writes the steps, `assembly` makes layers of them. Parameters are float64, so that
what is folded into a layer is rounded once, with it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models.errors import UnsupportedSourceError


@dataclass(frozen=True, eq=False)
class Linear:
    """f(W a + b)."""

    W: NDArray[np.float64]
    """(s_out, s_in)."""
    b: NDArray[np.float64] | None = None
    """(s_out,); None is zero."""
    activation: str = "identity"
    """A name in ACTIVATIONS."""


@dataclass(frozen=True, eq=False)
class Normalize:
    """factor * (a - mean) / scale + offset, feature by feature: each (n,) or one number."""

    mean: ArrayLike = 0.0
    scale: ArrayLike = 1.0
    """Above zero."""
    factor: ArrayLike = 1.0
    offset: ArrayLike = 0.0


@dataclass(frozen=True)
class Activate:
    """f(a)."""

    activation: str
    """A name in ACTIVATIONS."""


@dataclass(frozen=True)
class Sum:
    """a + b + ..., the values read one by one and not side by side: each of one width."""


Operation: TypeAlias = Linear | Normalize | Activate | Sum


@dataclass(frozen=True, eq=False)
class Step:
    """One operation on earlier values: side by side, but for a Sum."""

    name: str
    """Of its value, and of the layer that it becomes if it becomes one."""
    operation: Operation
    reads: tuple[str, ...]
    """Names of earlier steps, or the input's."""
    part: str
    """What it is in the source, for errors: as in `layer 'dense_1' (Dense)`."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """One answer: values side by side."""

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


def real(part: str, what: str, values: object) -> NDArray[np.float64]:
    """Return a source's parameter as float64.

    Raises UnsupportedSourceError, which names part and what, for anything but real numbers.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise UnsupportedSourceError(
            part, f"{what} of dtype {array.dtype}", "a Network has real numbers alone"
        )
    return array.astype(np.float64)
