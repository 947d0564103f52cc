"""The specification of a model's tensor, and the checks of a request against it.

Client and server make the same checks with the same error texts: the client before it sends,
the server for every caller.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.pickling import PicklableError

MAX_ELEMENTS = 2**31 - 1
"""Maximum number of elements, more than any message can hold; larger shapes are rejected."""


_MAX_QUOTED = 100
_MAX_TEXT = 1000


class TensorError(PicklableError, ValueError):
    """A tensor of a request or reply is invalid."""

    def __init__(self, tensor: str, *, expected: str, got: str, fix: str) -> None:
        super().__init__(f"{tensor}: expected {expected}, got {got}; {fix}")
        self.tensor = tensor
        """The invalid tensor, as in `input 'x'`."""
        self.expected = expected
        self.got = got
        self.fix = fix


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, datatype and shape of one input or output of a model."""

    name: str
    datatype: str
    """Wire name, as in `FP32`."""
    shape: tuple[int, ...]
    """Length of each axis; -1 for any length."""
    symbols: tuple[str | None, ...] = ()
    """Name of each axis's length in the graph; equal names mean equal lengths."""

    def __str__(self) -> str:
        return f"{self.name}: {self.datatype}{format_shape(self.shape)}"


def quote(name: object) -> str:
    """Quote a caller's word in an error text, cut to leave room for the rest."""
    if isinstance(name, str) and len(name) > _MAX_QUOTED:
        return f"{name[:_MAX_QUOTED]!r}..."
    return repr(name)


def shortened(text: str) -> str:
    """Cut a part of an error text that a file's own words may have made too long to read."""
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}..."


def nearest(name: str, names: Sequence[str]) -> str | None:
    """Return the one of the names that another one is near to; None if none is."""
    # Imported here: only errors need it, and it takes as long as half of the client.
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, names, 1)), None)


def meant(name: str, names: Sequence[str]) -> str:
    """Return a question for the name that another one is near to; empty if none is."""
    near = nearest(name, names)
    return "" if near is None else f"is {quote(name)} meant to be {quote(near)}?"


def format_shape(shape: Iterable[int]) -> str:
    """Format a shape as on the wire: `[-1, 30]`."""
    return f"[{', '.join(map(str, shape))}]"


def check_name(
    tensor: str, name: str, names: Collection[str], seen: Collection[str], *, once: str
) -> None:
    """Raise TensorError unless a name is one of the model's and not seen before.

    once: the fix for a repeated name, as in `send every input once`.
    """
    if name not in names:
        raise TensorError(
            tensor,
            expected=f"one of {', '.join(map(repr, names))}",
            got=quote(name),
            fix="use the names of ModelMetadata",
        )
    if name in seen:
        raise TensorError(tensor, expected="it once", got="it twice", fix=once)


def check_complete(names: Collection[str], given: Collection[str]) -> None:
    """Raise TensorError unless all of the model's inputs are given."""
    for name in names:
        if name not in given:
            raise TensorError(
                f"input {name!r}",
                expected=f"all of {', '.join(map(repr, names))}",
                got=", ".join(map(repr, given)) or "no input",
                fix=f"send {name!r} too",
            )


def check_datatype(tensor: str, spec: TensorSpec, datatype: str) -> None:
    """Raise TensorError unless the datatype is the one that the model declares."""
    if datatype == spec.datatype:
        return
    if datatype in DATATYPES:
        raise TensorError(
            tensor,
            expected=f"datatype {spec.datatype}",
            got=datatype,
            fix=f"convert the array to {_dtype_name(spec.datatype)} before sending",
        )
    raise TensorError(
        tensor,
        expected=f"datatype {spec.datatype}",
        got=f"{quote(datatype)}, which is not a datatype",
        fix=f"use one of {', '.join(DATATYPES)}",
    )


def check_shape(tensor: str, spec: TensorSpec, shape: Sequence[int]) -> None:
    """Raise TensorError unless the shape fits the model's: rank, fixed axes, sizes."""
    expected = f"shape {format_shape(spec.shape)}"
    if len(shape) == 1 and len(spec.shape) == 2 and shape[0] == spec.shape[1] >= 0:
        raise TensorError(
            tensor,
            expected=expected,
            got=format_shape(shape),
            fix=f"send shape [1, {shape[0]}] for one row",
        )
    if len(shape) != len(spec.shape):
        raise TensorError(
            tensor,
            expected=f"{expected} (rank {len(spec.shape)})",
            got=f"{format_shape(shape)} (rank {len(shape)})",
            fix=f"send {len(spec.shape)} dimensions",
        )
    elements = 1
    for axis, (size, wanted) in enumerate(zip(shape, spec.shape, strict=True)):
        if size < 0:
            raise TensorError(
                tensor,
                expected=f"{expected} with -1 replaced by a length",
                got=format_shape(shape),
                fix=f"send the array's own length of axis {axis}",
            )
        if wanted not in (-1, size):
            raise TensorError(
                tensor,
                expected=expected,
                got=format_shape(shape),
                fix=f"axis {axis} must be {wanted} long, not {size}",
            )
        # A zero must not hide an overflow of the other axes.
        elements *= max(size, 1)
    if elements > MAX_ELEMENTS:
        raise TensorError(
            tensor,
            expected=f"at most {MAX_ELEMENTS} elements",
            got=f"{format_shape(shape)}, which is {elements}",
            fix="send fewer rows per call",
        )


def check_symbols(specs: Mapping[str, TensorSpec], shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise TensorError unless axes with one name (such as the batch) have one length.

    specs and shapes hold the same inputs, by name.
    """
    seen: dict[str, tuple[int, str]] = {}
    for name, shape in shapes.items():
        for size, symbol in zip(shape, specs[name].symbols, strict=False):
            if symbol is None:
                continue
            first, first_name = seen.setdefault(symbol, (size, name))
            if first != size:
                raise TensorError(
                    f"input {name!r}",
                    expected=f"{symbol} = {first} as in input {first_name!r}",
                    got=f"{symbol} = {size}",
                    fix=f"send as many rows in both ({symbol} is one length in this model)",
                )


def _dtype_name(datatype: str) -> str:
    return "bytes" if datatype == "BYTES" else DATATYPES[datatype].dtype.name
