"""Parameter arrays: finite, read-only float32."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models.errors import NetworkError
from forwardpass.proto.spec import TensorError
from forwardpass.proto.tables import in_order


def parameter(
    subject: str, what: str, values: ArrayLike, *, allow_nan: bool = False
) -> NDArray[np.float32]:
    """Return a read-only float32 copy of values, rounded to nearest.

    subject and what name it in errors, as in `layer 'L2'` and `W`. allow_nan: whether NaN is
    accepted, as one NaN of all.

    Raises NetworkError for values that are not an array of real numbers, not finite, or outside
    float32.
    """
    try:
        given = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise NetworkError(
            subject, expected=f"{what} as an array", got=str(error), fix="pass rows of one length"
        ) from error
    if given.dtype.kind not in "biuf":
        raise NetworkError(
            subject,
            expected=f"{what} of real numbers",
            got=f"dtype {given.dtype}",
            fix="convert it to float32",
        )
    with np.errstate(over="ignore", under="ignore"):
        array = np.array(given, dtype=np.float32, order="C")
    bad = ~np.isfinite(array)
    if allow_nan:
        array[np.isnan(array)] = np.nan
        bad &= ~np.isnan(array)
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        overflowed = bool(np.isfinite(given[index]))
        raise NetworkError(
            subject,
            expected=f"{what} within float32's range (up to 3.4e38)"
            if overflowed
            else f"finite {what}",
            got=f"{given[index]} at {list(index)}",
            fix="rescale it" if overflowed else "find out where training went wrong",
        )
    array.setflags(write=False)
    return array


def by_name(
    subject: str, what: str, names: Sequence[str], values: Any, kind: str = "features"
) -> Any:
    """Return one value for each name if the values have names, as those of a Series; else them.

    subject, what and kind name them in errors, as in `input 'x'`, `mean` and `features`. Raises
    NetworkError for other names.
    """
    try:
        return in_order(
            f"{subject}, {what}", names, values, otherwise="give them in that order", what=kind
        )
    except TensorError as error:
        raise NetworkError(
            f"{subject}, {what}", expected=error.expected, got=error.got, fix=error.fix
        ) from error


def same_bits(a: NDArray[Any] | None, b: NDArray[Any] | None) -> bool:
    """Whether two float32 arrays have equal bits, including the sign of zero."""
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and bool((a.view(np.uint32) == b.view(np.uint32)).all())
