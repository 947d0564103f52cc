"""Shapes whose lengths are numbers, or free: names of lengths that a caller chooses."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

from forwardpass.server.guard.errors import NodeError, NotPlainError

Shape = tuple[int | str, ...]
"""A string is a free length: axes with the same string have the same length, others may differ."""


class Elements(NamedTuple):
    """How many elements a shape has: `fixed` times the lengths in `free`."""

    fixed: int
    free: Counter[str]


def elements(shape: Sequence[int | str]) -> Elements:
    """Count the elements of a shape."""
    fixed = math.prod(size for size in shape if isinstance(size, int))
    return Elements(fixed, Counter(size for size in shape if isinstance(size, str)))


def format_lengths(shape: Shape) -> str:
    """Write a shape for people: `[batch, 30]`."""
    return f"[{', '.join(map(str, shape))}]"


def broadcast(*shapes: Shape) -> Shape:
    """Return the shape that tensors broadcast to, as in NumPy.

    Raises NodeError if they never fit. Raises NotPlainError if the result could be larger than
    each of them times a fixed number: [n, 1] against [1, n].
    """
    lengths: list[int | str] = []
    for sizes in zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1):
        longer = {size for size in sizes if size != 1}
        fixed = {size for size in longer if isinstance(size, int)}
        if len(fixed) > 1:
            raise NodeError(
                expected="shapes that broadcast", got=" and ".join(map(format_lengths, shapes))
            )
        # Against a fixed length a free one has to be that, or 1.
        candidates = fixed or longer
        if len(candidates) > 1:
            raise NotPlainError(f"the lengths {' and '.join(map(str, candidates))} may differ")
        lengths.append(candidates.pop() if candidates else 1)
    result = tuple(reversed(lengths))
    free = elements(result).free
    if not any(free <= elements(shape).free for shape in shapes):
        raise NotPlainError(f"{format_lengths(result)} may be larger than its inputs")
    return result


def merge(shape: Sequence[int | str]) -> int | str:
    """Return the length of one axis made of several.

    Raises NotPlainError if that is neither a number nor one free length.
    """
    fixed, free = elements(shape)
    if not free:
        return fixed
    if fixed == 1 and free.total() == 1:
        return next(iter(free))
    raise NotPlainError(f"nothing is known of the product of {format_lengths(tuple(shape))}")


def reshape(shape: Shape, wanted: Sequence[int]) -> Shape:
    """Return the shape after ONNX's Reshape: 0 keeps an axis, -1 takes what is left.

    Raises NodeError if the elements do not fit, NotPlainError if that depends on the caller.
    """
    if any(size < -1 for size in wanted) or list(wanted).count(-1) > 1:
        raise NodeError(expected="sizes of which one may be -1", got=str(list(wanted)))
    kept: list[int | str] = []
    for axis, size in enumerate(wanted):
        if size == 0 and axis >= len(shape):
            raise NodeError(expected=f"at most {len(shape)} axes to keep", got=str(list(wanted)))
        kept.append(shape[axis] if size == 0 else size)
    whole, part = elements(shape), elements([size for size in kept if size != -1])
    if not part.free <= whole.free:
        raise NotPlainError("it keeps an axis that it takes apart")
    left = whole.free - part.free
    if -1 not in kept:
        if left:
            # Only one length that a caller may choose fits.
            raise NotPlainError(f"it gives {format_lengths(shape)} a fixed size")
        if whole.fixed != part.fixed:
            raise NodeError(expected=f"{whole.fixed} elements", got=str(list(wanted)))
        return tuple(kept)
    if part.fixed == 0 or whole.fixed % part.fixed:
        if left:
            raise NotPlainError("whether it fits depends on the rows sent")
        raise NodeError(expected=f"a part of {whole.fixed} elements", got=str(list(wanted)))
    rest = merge([whole.fixed // part.fixed, *left.elements()])
    return tuple(rest if size == -1 else size for size in kept)
