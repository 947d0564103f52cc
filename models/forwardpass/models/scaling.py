"""(x - mean) / scale: the scaling of raw features, which belongs to the network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models.arrays import parameter, same_bits
from forwardpass.models.errors import NetworkError
from forwardpass.models.names import check_name

_SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)
_METHOD = {"mean": "mean", "scale": "std", "low": "min", "high": "max"}


@dataclass(frozen=True, eq=False)
class Scaling:
    """One of several scalings of an input, which layers read by its name.

    For parts of one network that were trained apart, each on features scaled its own way.
    Equal ones have equal bits.

    Raises NetworkError unless it scales; the input that it belongs to checks the sizes.
    """

    name: str
    mean: NDArray[Any] | None = None
    scale: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        check_name("scaling name", self.name)
        if self.mean is None and self.scale is None:
            raise NetworkError(
                f"scaling {self.name!r}",
                expected="a mean, a scale or both",
                got="neither",
                fix="let the layers read the input itself",
            )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Scaling):
            return NotImplemented
        return self.name == other.name and (
            same_bits(self.mean, other.mean) and same_bits(self.scale, other.scale)
        )

    def __hash__(self) -> int:
        return hash(self.name)

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor: NumPy's pickles forget that an array is read-only.
        return Scaling, (self.name, self.mean, self.scale)


def checked_vector(
    subject: str, what: str, values: ArrayLike | None, size: int, features: Sequence[str]
) -> NDArray[np.float32] | None:
    """Return what there is of each feature as read-only float32 of shape (size,); None is none.

    Raises NetworkError for another shape, and for a scale that is not above zero.
    """
    if values is None:
        return None
    array = parameter(subject, what, values)
    if array.shape != (size,):
        raise NetworkError(
            subject,
            expected=f"{what} of shape ({size},), one a feature",
            got=f"shape {array.shape}",
            fix=f"compute it over the rows, as in x.{_METHOD[what]}(axis=0)",
        )
    if what == "scale":
        _check_scale(subject, array, features)
    return array


def _check_scale(subject: str, scale: NDArray[np.float32], features: Sequence[str]) -> None:
    # A subnormal divisor is zero to a runtime that flushes subnormals.
    bad = np.flatnonzero(scale < _SMALLEST_NORMAL)
    if bad.size:
        index = int(bad[0])
        feature = f" ({features[index]!r})" if features else ""
        raise NetworkError(
            subject,
            expected=f"a scale of at least {_SMALLEST_NORMAL:.3g} for every feature",
            got=f"{scale[index]:g} for feature {index}{feature}",
            fix="use 1 for a feature that does not vary",
        )
