"""Parameter arrays: finite float32 that nobody can change."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models.errors import NetworkError


def parameter(subject: str, what: str, values: ArrayLike) -> NDArray[np.float32]:
    """Return a read-only float32 copy of values, of the same shape, rounded to nearest.

    subject and what name it in the error, as in `layer 'L2'` and `W`. Raises NetworkError
    for what is not an array of real numbers, is not finite, or does not fit float32.
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


def same_bits(a: NDArray[Any] | None, b: NDArray[Any] | None) -> bool:
    """Whether two float32 arrays are equal to the last bit, the sign of zero included."""
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and bool((a.view(np.uint32) == b.view(np.uint32)).all())
