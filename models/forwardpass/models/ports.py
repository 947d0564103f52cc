"""What goes into a network and what comes out: `Input` and `Output`."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.arrays import same_bits
from forwardpass.models.errors import NetworkError
from forwardpass.models.names import (
    check_name,
    check_one_each,
    checked_count,
    checked_numbers,
    checked_texts,
)
from forwardpass.models.scaling import Scaling, checked_vector


@dataclass(frozen=True, eq=False)
class Input:
    """What a caller sends: rows of raw features; the network scales them itself.

    a^(1) = (x - mean) / scale. Equal inputs have equal bits.

    Raises NetworkError unless sizes, names and values are as said below.
    """

    size: int
    """Number of features, s_1."""
    name: str = "x"
    features: tuple[str, ...] = ()
    """Empty, or one name a feature."""
    units: tuple[str, ...] = ()
    """Empty, or one unit a feature, as in `mm`; empty text where it has none."""
    mean: NDArray[Any] | None = None
    """(size,) float32, copied, read-only: subtracted from x."""
    scale: NDArray[Any] | None = None
    """(size,) float32, copied, read-only, above zero: the standard deviation, divided by."""
    scalings: tuple[Scaling, ...] = ()
    """Further scalings for layers to read, in place of mean and scale: see `merge`."""
    low: NDArray[Any] | None = None
    """(size,) float32, copied, read-only: the least value of each feature where the network was
    made. It changes no answer; a server that has it counts the values outside."""
    high: NDArray[Any] | None = None
    """The greatest, not below it: given with `low` or not at all."""

    def __post_init__(self) -> None:
        check_name("input name", self.name)
        subject = f"input {self.name!r}"
        object.__setattr__(self, "size", checked_count(subject, "size", self.size))
        features = checked_texts(subject, "feature names", self.features, distinct=True)
        units = checked_texts(subject, "units", self.units, distinct=False)
        check_one_each(subject, "feature names", features, self.size)
        check_one_each(subject, "units", units, self.size)
        object.__setattr__(self, "features", features)
        object.__setattr__(self, "units", units)
        for field in _VECTORS:
            array = checked_vector(subject, field, getattr(self, field), self.size, features)
            object.__setattr__(self, field, array)
        object.__setattr__(self, "scalings", self._checked_scalings(subject))
        self._check_range(subject)

    def _checked_scalings(self, subject: str) -> tuple[Scaling, ...]:
        if self.scalings and not (self.mean is None and self.scale is None):
            raise NetworkError(
                subject,
                expected="a mean and scale of its own, or scalings",
                got="both",
                fix="make its own one of the scalings",
            )
        return tuple(
            Scaling(
                each.name,
                checked_vector(part, "mean", each.mean, self.size, self.features),
                checked_vector(part, "scale", each.scale, self.size, self.features),
            )
            for each in self.scalings
            for part in [f"scaling {each.name!r} of {subject}"]
        )

    @property
    def scaled(self) -> "tuple[Input | Scaling, ...]":
        """What layers can read: the input, scaled or not, then its further scalings."""
        return (self, *self.scalings)

    def _check_range(self, subject: str) -> None:
        if (self.low is None) != (self.high is None):
            raise NetworkError(
                subject,
                expected="both low and high, or neither",
                got="low alone" if self.high is None else "high alone",
                fix="give x.min(axis=0) and x.max(axis=0)",
            )
        if self.low is not None and self.high is not None:
            bad = np.flatnonzero(self.low > self.high)
            if bad.size:
                index = int(bad[0])
                raise NetworkError(
                    subject,
                    expected="no low above its high",
                    got=f"{self.low[index]:g} above {self.high[index]:g} for feature {index}",
                    fix="give x.min(axis=0) and x.max(axis=0)",
                )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Input):
            return NotImplemented
        return self._key() == other._key() and all(
            same_bits(getattr(self, field), getattr(other, field)) for field in _VECTORS
        )

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return self.size, self.name, self.features, self.units, self.scalings

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor: NumPy's pickles forget that an array is read-only.
        names = self.size, self.name, self.features, self.units
        return Input, (*names, self.mean, self.scale, self.scalings, self.low, self.high)


_VECTORS = ("mean", "scale", "low", "high")


@dataclass(frozen=True)
class Output:
    """One named answer of a network: a layer's activations, or its weighted sums."""

    name: str
    layer: str
    """The name of the layer, any of them."""
    of: Literal["a", "z"] = "a"
    """`a` the activations, `z` the sums before the activation function (logits)."""
    labels: tuple[str, ...] = ()
    """Empty, or what each unit stands for."""
    units: tuple[str, ...] = ()
    """Empty, or one unit of measurement a column; empty text where it has none."""
    description: str = ""
    thresholds: tuple[float, ...] = ()
    """Empty, one number for every column, or one a column: what its value has to exceed for its
    label to hold. In the range of the layer's activation; a network has one a column."""

    def __post_init__(self) -> None:
        check_name("output name", self.name)
        subject = f"output {self.name!r}"
        if self.of not in ("a", "z"):
            raise NetworkError(
                subject,
                expected="of='a' (activations) or of='z' (weighted sums)",
                got=repr(self.of),
                fix="choose one of them",
            )
        labels = checked_texts(subject, "labels", self.labels, distinct=True)
        units = checked_texts(subject, "units", self.units, distinct=False)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "units", units)
        thresholds = checked_numbers(subject, "thresholds", self.thresholds)
        object.__setattr__(self, "thresholds", thresholds)
        if not isinstance(self.description, str):
            raise NetworkError(
                subject,
                expected="a description that is text",
                got=repr(self.description),
                fix="describe it in words",
            )
