"""The scaling of raw features, (x - mean) / scale, which is part of the network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models.arrays import by_name, parameter, same_bits
from forwardpass.models.checks import check_name
from forwardpass.models.errors import NetworkError

SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)
"""The least number by which a scaling may divide."""
_METHOD = {
    "mean": "x.mean(axis=0)",
    "scale": "x.std(axis=0)",
    "low": "x.min(axis=0)",
    "high": "x.max(axis=0)",
    "baseline": "x.mean(axis=0)",
    "fill": "np.nanmean(x, axis=0)",
}


@dataclass(frozen=True, eq=False)
class Scaling:
    """One of several scalings of an input, which layers read by its name.

    For parts of a network that were trained separately, on differently scaled features. Equal
    scalings have equal bits.

    Raises NetworkError if mean and scale are both missing; its input checks the sizes.
    """

    name: str
    mean: NDArray[Any] | None = None
    scale: NDArray[Any] | None = None

    if TYPE_CHECKING:  # The input that it belongs to makes arrays of them.

        def __init__(
            self, name: str, mean: ArrayLike | None = None, scale: ArrayLike | None = None
        ) -> None: ...

    def __post_init__(self) -> None:
        check_name("scaling name", self.name)
        if self.mean is None and self.scale is None:
            raise NetworkError(
                f"scaling {self.name!r}",
                expected="a mean, a scale or both",
                got="neither",
                fix="make the layers read the input itself",
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
        # Through the constructor, since NumPy's pickles lose the read-only flag.
        return Scaling, (self.name, self.mean, self.scale)


def checked_vector(
    subject: str, what: str, values: ArrayLike | None, size: int, features: Sequence[str]
) -> NDArray[np.float32] | None:
    """Return one value per feature as read-only float32 of shape (size,); None stays None.

    Values that have names, as those of a Series, are matched by them with the features.

    Raises NetworkError for another shape or other names, or a scale that is not above zero.
    """
    if values is None:
        return None
    array = parameter(subject, what, by_name(subject, what, features, values))
    _check_shape(subject, what, array, size)
    if what == "scale":
        _check_scale(subject, array, features)
    return array


def checked_fill(
    subject: str,
    values: ArrayLike | Mapping[str, float] | None,
    size: int,
    features: Sequence[str],
) -> NDArray[np.float32] | None:
    """Return one value, or NaN for none, per feature: (size,) float32; None if all are NaN.

    A mapping may leave features out. Raises NetworkError as `checked_vector` does.
    """
    if values is None:
        return None
    if isinstance(values, Mapping):
        values = {**dict.fromkeys(features, float("nan")), **values}
    array = parameter(subject, "fill", by_name(subject, "fill", features, values), allow_nan=True)
    _check_shape(subject, "fill", array, size)
    return None if np.isnan(array).all() else array


def _check_shape(subject: str, what: str, array: NDArray[np.float32], size: int) -> None:
    if array.shape != (size,):
        raise NetworkError(
            subject,
            expected=f"{what} of shape ({size},), one per feature",
            got=f"shape {array.shape}",
            fix=f"compute it over the rows, as in {_METHOD[what]}",
        )


def _check_scale(subject: str, scale: NDArray[np.float32], features: Sequence[str]) -> None:
    # A runtime that flushes subnormals treats a subnormal divisor as zero.
    bad = np.flatnonzero(scale < SMALLEST_NORMAL)
    if bad.size:
        index = int(bad[0])
        feature = f" ({features[index]!r})" if features else ""
        raise NetworkError(
            subject,
            expected=f"a scale of at least {SMALLEST_NORMAL:.3g} for every feature",
            got=f"{scale[index]:g} for feature {index}{feature}",
            fix="use 1 for a feature that does not vary",
        )
