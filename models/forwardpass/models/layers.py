"""Dense layers: as a user writes them (`Dense`) and as a network has them (`Layer`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models.activations import AnyActivation, canonical, check_activation
from forwardpass.models.arrays import parameter, same_bits
from forwardpass.models.checks import check_name, checked_count
from forwardpass.models.errors import NetworkError
from forwardpass.models.initializers import INITIALIZERS
from forwardpass.models.normalization import BatchNorm


@dataclass(frozen=True, eq=False, repr=False)
class Layer:
    """One dense layer: z = W a + b, then its activations f(z).

    a is the concatenation of the activations of the layers in `reads`, so W's columns are
    split among them in that order. Equal layers have equal bits.

    Raises NetworkError unless name, shapes and values are as described below.
    """

    name: str
    W: NDArray[np.float32]
    """Weights (s_out, s_in), finite, copied, read-only; W[i, j] leads from unit j to unit i."""
    b: NDArray[np.float32]
    """Biases (s_out,), finite, copied, read-only."""
    activation: AnyActivation
    """Name in ACTIVATIONS, or a function with another parameter than its name stands for."""
    reads: tuple[str, ...]
    """Names of earlier layers, or of inputs."""

    if TYPE_CHECKING:  # What the constructor takes is wider than what the fields have then.

        def __init__(
            self,
            name: str,
            W: ArrayLike,
            b: ArrayLike,
            activation: AnyActivation,
            reads: str | Sequence[str],
        ) -> None: ...

    def __post_init__(self) -> None:
        check_name("layer name", self.name)
        subject = f"layer {self.name!r}"
        check_activation(subject, self.activation)
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
                expected=f"b of shape ({len(W)},), one per row of W",
                got=f"shape {b.shape}",
                fix="pass one bias per unit",
            )
        activation = canonical(subject, self.activation, len(W))
        object.__setattr__(self, "activation", activation)
        object.__setattr__(self, "W", W)
        object.__setattr__(self, "b", b)

    @property
    def units(self) -> int:
        """The number of neurons, s_out."""
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
        # Through the constructor, since NumPy's pickles lose the read-only flag.
        return Layer, (self.name, self.W, self.b, self.activation, self.reads)


@dataclass(frozen=True, eq=False)
class Dense:
    """A layer as a user writes it: missing parameters are initialized.

    Raises NetworkError, here or when the network is defined, unless it is valid.
    """

    name: str
    units: int | None = None
    """Number of neurons, s_out; None takes it from W."""
    activation: AnyActivation | BatchNorm = "relu"
    """Name in ACTIVATIONS, or a function with its parameter, as in LeakyRelu(0.2); a BatchNorm is
    folded into W and b."""
    reads: str | Sequence[str] | None = None
    """One earlier layer, or several, whose activations are concatenated; None reads the previous
    layer, or all inputs for the first layer."""
    W: ArrayLike | None = None
    """Weights (s_out, s_in); None draws them."""
    b: ArrayLike | None = None
    """Biases (s_out,); None is zero."""
    init: str | None = None
    """Name in INITIALIZERS; None takes the default of the activation."""

    def __post_init__(self) -> None:
        check_name("layer name", self.name)
        subject = f"layer {self.name!r}"
        check_activation(subject, self.function)
        if self.units is not None:
            object.__setattr__(self, "units", checked_count(subject, "units", self.units))
        if self.init is not None and self.init not in INITIALIZERS:
            raise NetworkError(
                subject,
                expected=f"init to be one of {', '.join(INITIALIZERS)}",
                got=repr(self.init),
                fix="choose one, or leave it out for the default of the activation",
            )
        if self.reads is not None:
            object.__setattr__(self, "reads", _checked_reads(subject, self.reads))

    @property
    def function(self) -> AnyActivation:
        """The activation of the layer, once a BatchNorm is folded into it."""
        return self.activation.then if isinstance(self.activation, BatchNorm) else self.activation


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
