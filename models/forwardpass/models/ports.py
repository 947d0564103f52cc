"""Inputs of numbers and outputs of a network: `Input` and `Output`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models.arrays import by_name, same_bits
from forwardpass.models.checks import (
    check_name,
    check_one_each,
    checked_count,
    checked_numbers,
    checked_texts,
)
from forwardpass.models.errors import NetworkError
from forwardpass.models.scaling import Scaling, checked_fill, checked_vector


@dataclass(frozen=True, eq=False)
class Input:
    """An input of numbers: rows of raw features, which the network scales itself.

    a^(1) = (x - mean) / scale, after a missing value was replaced by that of `fill`. Equal inputs
    have equal bits.

    Raises NetworkError unless sizes, names and values are as described below.
    """

    size: int
    """Number of features, s_1."""
    name: str = "x"
    features: tuple[str, ...] = ()
    """One name per feature, or empty."""
    units: tuple[str, ...] = ()
    """One unit per feature, as in `mm`, or empty; empty text for a feature without one."""
    mean: NDArray[Any] | None = None
    """Mean that is subtracted from x: (size,) float32, copied, read-only."""
    scale: NDArray[Any] | None = None
    """Standard deviation by which x is divided: (size,) float32, above zero, copied, read-only."""
    scalings: tuple[Scaling, ...] = ()
    """Scalings that layers can read, instead of mean and scale: see `merge`."""
    low: NDArray[Any] | None = None
    """Minimum of each feature in the training data: (size,) float32, copied, read-only. It changes
    no answer; a server counts values outside the range."""
    high: NDArray[Any] | None = None
    """Maximum of each feature, not below `low`; given only together with it."""
    fill: NDArray[Any] | None = None
    """Value in place of a missing one, NaN, of each feature: (size,) float32, copied, read-only;
    NaN for a feature whose missing values stay missing."""
    baseline: NDArray[Any] | None = None
    """The row from which explanations start: (size,) float32, copied, read-only. None is the mean,
    or zeros if there is none; it changes no answer."""

    if TYPE_CHECKING:  # What the constructor takes is wider than what the fields have then.

        def __init__(
            self,
            size: int,
            name: str = "x",
            features: Iterable[str] = (),
            units: Iterable[str] = (),
            mean: ArrayLike | Mapping[str, float] | None = None,
            scale: ArrayLike | Mapping[str, float] | None = None,
            scalings: Sequence[Scaling] = (),
            low: ArrayLike | Mapping[str, float] | None = None,
            high: ArrayLike | Mapping[str, float] | None = None,
            fill: ArrayLike | Mapping[str, float] | None = None,
            baseline: ArrayLike | Mapping[str, float] | None = None,
        ) -> None: ...

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
        object.__setattr__(self, "fill", checked_fill(subject, self.fill, self.size, features))
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
    def width(self) -> int:
        """The number of columns that layers read: `size`."""
        return self.size

    @property
    def scaled(self) -> "tuple[Input | Scaling, ...]":
        """The sources that layers can read: the input, scaled or not, then its further scalings."""
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
            same_bits(getattr(self, field), getattr(other, field)) for field in (*_VECTORS, "fill")
        )

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return self.size, self.name, self.features, self.units, self.scalings

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor, since NumPy's pickles lose the read-only flag.
        names = self.size, self.name, self.features, self.units
        rest = self.low, self.high, self.fill, self.baseline
        return Input, (*names, self.mean, self.scale, self.scalings, *rest)


_VECTORS = ("mean", "scale", "low", "high", "baseline")


@dataclass(frozen=True)
class Output:
    """One named answer of a network: a layer's activations, or its weighted sums."""

    name: str
    layer: str
    """Name of any layer."""
    of: Literal["a", "z"] = "a"
    """`a` for the activations, `z` for the sums before the activation function (logits)."""
    labels: tuple[str, ...] = ()
    """Meaning of each unit, or empty. Two labels of a layer of one unit are its two classes: the
    second above the threshold, otherwise the first."""
    units: tuple[str, ...] = ()
    """One unit of measurement per column, or empty; empty text for a column without one."""
    description: str = ""
    thresholds: tuple[float, ...] = ()
    """Value above which a column's label holds: one per column, by label or in order, one for all,
    or empty. In the range of the layer's activation; a network has one per column. The default for
    two classes of one column is 0.5, or 0 where that is the middle of the range."""

    if TYPE_CHECKING:  # As for `Input`.

        def __init__(
            self,
            name: str,
            layer: str,
            of: Literal["a", "z"] = "a",
            labels: Iterable[str] = (),
            units: Iterable[str] = (),
            description: str = "",
            thresholds: Iterable[float] | Mapping[str, float] = (),
        ) -> None: ...

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
        given = by_name(subject, "thresholds", labels, self.thresholds, "labels")
        thresholds = checked_numbers(subject, "thresholds", given)
        object.__setattr__(self, "thresholds", thresholds)
        if not isinstance(self.description, str):
            raise NetworkError(
                subject,
                expected="a description that is text",
                got=repr(self.description),
                fix="describe it in words",
            )
