"""Dense layers: what a user writes (`Dense`) and what a network is made of (`Layer`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models.activations import ACTIVATIONS
from forwardpass.models.arrays import parameter, same_bits
from forwardpass.models.errors import NetworkError
from forwardpass.models.initializers import INITIALIZERS
from forwardpass.models.names import check_name, checked_count


@dataclass(frozen=True, eq=False, repr=False)
class Layer:
    """One dense layer: z = W a + b, then its activations f(z).

    a is what the layer reads: the activations of the layers in `reads`, one after the other,
    so W's columns are split among them in that order. Equal layers have equal bits.

    Raises NetworkError unless name, shapes and values are as said below.
    """

    name: str
    W: NDArray[np.float32]
    """(s_out, s_in), finite: W[i, j] is the weight from unit j to unit i. Copied, read-only."""
    b: NDArray[np.float32]
    """(s_out,), finite. Copied, read-only."""
    activation: str
    """A name in ACTIVATIONS."""
    reads: tuple[str, ...]
    """Names of earlier layers, or the input's."""

    def __post_init__(self) -> None:
        check_name("layer name", self.name)
        subject = f"layer {self.name!r}"
        _check_activation(subject, self.activation)
        object.__setattr__(self, "reads", _checked_reads(subject, self.reads))
        W = parameter(subject, "W", self.W)
        if W.ndim != 2 or 0 in W.shape:
            raise NetworkError(
                subject,
                expected="W of shape (s_out, s_in)",
                got=f"shape {W.shape}",
                fix="pass a matrix with one row per unit of this layer",
            )
        b = parameter(subject, "b", self.b)
        if b.shape != (len(W),):
            raise NetworkError(
                subject,
                expected=f"b of shape ({len(W)},), one a row of W",
                got=f"shape {b.shape}",
                fix="pass one bias per unit",
            )
        object.__setattr__(self, "W", W)
        object.__setattr__(self, "b", b)

    @property
    def units(self) -> int:
        """Number of neurons, s_out."""
        return len(self.b)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Layer):
            return NotImplemented
        return self._key() == other._key() and (
            same_bits(self.W, other.W) and same_bits(self.b, other.b)
        )

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return self.name, self.activation, self.reads, self.W.shape

    def __repr__(self) -> str:
        return (
            f"<Layer {self.name!r}: {self.units} {self.activation} units "
            f"that read {', '.join(self.reads)}>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor: NumPy's pickles forget that an array is read-only.
        return Layer, (self.name, self.W, self.b, self.activation, self.reads)


@dataclass(frozen=True, eq=False)
class Dense:
    """A layer as it is written down: parameters that are not given are initialised.

    Raises NetworkError, here or when the network is defined, unless it fits the others.
    """

    name: str
    units: int | None = None
    """s_out; None where W says it."""
    activation: str = "relu"
    reads: str | Sequence[str] | None = None
    """One earlier layer, or several, whose activations are concatenated; None reads the layer
    before this one, the first layer the input."""
    W: ArrayLike | None = None
    """(s_out, s_in); None draws it."""
    b: ArrayLike | None = None
    """(s_out,); None is zero."""
    init: str | None = None
    """A name in INITIALIZERS; None takes the one that fits the activation."""

    def __post_init__(self) -> None:
        check_name("layer name", self.name)
        subject = f"layer {self.name!r}"
        _check_activation(subject, self.activation)
        if self.units is not None:
            object.__setattr__(self, "units", checked_count(subject, "units", self.units))
        if self.init is not None and self.init not in INITIALIZERS:
            raise NetworkError(
                subject,
                expected=f"init to be one of {', '.join(INITIALIZERS)}",
                got=repr(self.init),
                fix="choose one, or leave it out for the one that fits the activation",
            )
        if self.reads is not None:
            object.__setattr__(self, "reads", _checked_reads(subject, self.reads))


def _check_activation(subject: str, activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise NetworkError(
            subject,
            expected=f"activation to be one of {', '.join(ACTIVATIONS)}",
            got=repr(activation),
            fix="choose one of them",
        )


def _checked_reads(subject: str, reads: str | Sequence[str]) -> tuple[str, ...]:
    names = (reads,) if isinstance(reads, str) else tuple(reads)
    if not names:
        raise NetworkError(
            subject,
            expected="at least one layer to read",
            got="none",
            fix="name an earlier layer or the input",
        )
    for index, name in enumerate(names):
        if name in names[:index]:
            raise NetworkError(
                subject,
                expected="every layer read once",
                got=f"{name!r} twice",
                fix="add the two blocks of W's columns",
            )
    return names
