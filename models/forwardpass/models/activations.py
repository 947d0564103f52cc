"""The activation functions, and their errors in float32."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeGuard, get_args

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.checks import checked_count, checked_numbers
from forwardpass.models.errors import NetworkError
from forwardpass.models.normalization import BatchNorm, normalized

Function: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.float64]]

ActivationName: TypeAlias = Literal[
    "identity",
    "relu",
    "sigmoid",
    "tanh",
    "softmax",
    "exp",
    "leaky_relu",
    "prelu",
    "elu",
    "selu",
    "gelu",
    "gelu_tanh",
    "silu",
    "mish",
    "softplus",
    "softsign",
    "hard_sigmoid",
    "hard_swish",
    "log_softmax",
]
"""The names of the activation functions; those with a parameter have its default by name."""

FunctionName: TypeAlias = ActivationName | Literal["grouped_softmax", "layer_norm"]
"""The names of all functions, also of those that there are only with a parameter."""

UNIT_ROUNDOFF = 2.0**-24
"""Maximum relative error of rounding to the nearest float32."""

# onnxruntime 1.32 against the exact value, at every 4th float32: the error of Sigmoid is at
# most 2.99 unit roundoffs, of Tanh 5.46; they exceed their mathematical range by as much
# (1.00000012 and 1.00000024). Softmax of 10 has 2.7 on random rows, and more on wider rows
# because of its sum, which `rounding` adds. Exp has at most 1.28, relative to e^z.
_IMPLEMENTATION_ERROR = 8 * UNIT_ROUNDOFF


@dataclass(frozen=True, slots=True)
class Activation:
    """One activation function f."""

    name: FunctionName
    function: Function
    """Rows of z to rows of a, float64; elementwise except softmax and log_softmax, which are over
    a row, and grouped_softmax and layer_norm."""
    operator: str | None
    """The ONNX operator, of whatever opset; None for the identity, which needs no node."""
    lipschitz: float
    """Lipschitz constant: maximum change of a per maximum change of the z that it depends on."""
    low: float
    """Lower bound of f."""
    high: float
    """Upper bound of f."""
    error: float
    """Maximum error of a float32 implementation at an exact z, without sums: absolute, but
    relative for exp."""
    outputs_only: bool = False
    """Whether only layers that no other layer reads may use it."""
    relative_error: float = 0.0
    """Maximum further error of such an implementation, relative to |z|; for log_softmax, to |a|."""
    attributes: Mapping[str, float] = field(default_factory=dict, hash=False)
    """The operator's attributes that are numbers."""

    @property
    def span(self) -> float:
        """Maximum distance between two values of f."""
        return self.high - self.low


@dataclass(frozen=True)
class LeakyRelu:
    """z above zero, slope times z below. Raises NetworkError unless the slope is finite."""

    slope: float = 0.01
    """Rounded to float32, as in the file."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "slope", _rounded("leaky_relu", "slope", self.slope))

    def __str__(self) -> str:
        return f"leaky_relu {_short(self.slope)}"


@dataclass(frozen=True)
class Elu:
    """z above zero, alpha (e^z - 1) below. Raises NetworkError unless alpha is above zero."""

    alpha: float = 1.0
    """Rounded to float32, as in the file."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", _rounded("elu", "alpha", self.alpha, above_zero=True))

    def __str__(self) -> str:
        return f"elu {_short(self.alpha)}"


@dataclass(frozen=True)
class HardSigmoid:
    """slope z + 1/2, within 0 and 1. Raises NetworkError unless the slope is above zero."""

    slope: float = 1 / 6
    """Rounded to float32, as in the file: 1/6 in PyTorch and Keras 3, 0.2 in ONNX and Keras 2."""

    def __post_init__(self) -> None:
        slope = _rounded("hard_sigmoid", "slope", self.slope, above_zero=True)
        object.__setattr__(self, "slope", slope)

    def __str__(self) -> str:
        return f"hard_sigmoid {_short(self.slope)}"


@dataclass(frozen=True)
class PRelu:
    """z above zero, a slope for each unit times z below.

    Raises NetworkError, here or by the layer, unless the slopes are finite and one for each unit.
    """

    slopes: tuple[float, ...]
    """Rounded to float32, as in the file."""

    if TYPE_CHECKING:  # What the constructor takes is wider than what the field has then.

        def __init__(self, slopes: Iterable[float]) -> None: ...

    def __post_init__(self) -> None:
        slopes = checked_numbers("prelu", "slopes", self.slopes)
        slopes = tuple(_rounded("prelu", "slopes", slope) for slope in slopes)
        object.__setattr__(self, "slopes", slopes)

    def __str__(self) -> str:
        return "prelu"


@dataclass(frozen=True)
class GroupedSoftmax:
    """A softmax over each of several groups of neighboring units.

    For several questions of which each has one answer. Raises NetworkError, here or by the layer,
    unless each group has a unit and together they are all units of the layer.
    """

    groups: tuple[int, ...]
    """The number of units of each group."""

    if TYPE_CHECKING:  # What the constructor takes is wider than what the field has then.

        def __init__(self, groups: Iterable[int]) -> None: ...

    def __post_init__(self) -> None:
        groups = tuple(checked_count("grouped softmax", "group", each) for each in self.groups)
        object.__setattr__(self, "groups", groups)

    def __str__(self) -> str:
        return f"softmax {'+'.join(map(str, self.groups))}"

    def split(self, values: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Return the columns of each group."""
        return np.split(values, np.cumsum(self.groups)[:-1], axis=-1)


@dataclass(frozen=True)
class LayerNorm:
    """Layer normalization of a row's sums, then a function of the result.

    a = f(scale (z - mean(z)) / sqrt(variance(z) + epsilon) + bias), over the units of the layer.
    Raises NetworkError, here or by the layer, unless there are two units, a number for each or
    none, and another function than this one. Source: Ba, Kiros and Hinton, arXiv:1607.06450.
    """

    scale: tuple[float, ...] = ()
    """One for each unit, rounded to float32; none stands for ones."""
    bias: tuple[float, ...] = ()
    """One for each unit, rounded to float32; none stands for zeros."""
    epsilon: float = 1e-5
    """Rounded to float32: 1e-5 in PyTorch and ONNX, 1e-3 in Keras, 1e-6 in Flax."""
    then: "AnyActivation" = "identity"
    """The function f."""

    if TYPE_CHECKING:  # What the constructor takes is wider than what the fields have then.

        def __init__(
            self,
            scale: Iterable[float] = (),
            bias: Iterable[float] = (),
            epsilon: float = 1e-5,
            then: "AnyActivation" = "identity",
        ) -> None: ...

    def __post_init__(self) -> None:
        for what in ("scale", "bias"):
            given = checked_numbers("layer_norm", what, getattr(self, what))
            numbers = tuple(_rounded("layer_norm", what, each) for each in given)
            object.__setattr__(self, what, numbers)
        epsilon = _rounded("layer_norm", "epsilon", self.epsilon)
        if epsilon < LEAST_EPSILON:
            raise NetworkError(
                "layer_norm",
                expected=f"epsilon from {LEAST_EPSILON:g} on",
                got=repr(self.epsilon),
                fix="give the one that was trained; without one, equal sums would be no numbers",
            )
        object.__setattr__(self, "epsilon", epsilon)
        check_activation("layer_norm", self.then)
        if isinstance(self.then, LayerNorm):
            raise NetworkError(
                "layer_norm",
                expected="another function after it",
                got="layer_norm again",
                fix="leave one out: a second one hardly changes what the first gives",
            )

    def __str__(self) -> str:
        return "layer_norm" if self.then == "identity" else f"layer_norm {self.then}"

    def normalize(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what f is a function of."""
        scale, bias = self.parameters(z.shape[-1])
        return normalized(z, self.epsilon) * scale + bias

    def parameters(self, units: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return scale and bias of so many units: (units,) each."""
        return (
            np.array(self.scale) if self.scale else np.ones(units),
            np.array(self.bias) if self.bias else np.zeros(units),
        )


LEAST_EPSILON = 1e-30
"""Minimum of a LayerNorm's epsilon: float32 keeps what is divided by its root."""

WithParameter: TypeAlias = LeakyRelu | Elu | HardSigmoid | PRelu | GroupedSoftmax | LayerNorm
AnyActivation: TypeAlias = ActivationName | WithParameter
"""A function by its name, or with its parameter."""

PRELU_SLOPE = 0.25
"""The slope of every unit of a `prelu` that gives none, as PyTorch begins with."""


def is_name(value: object) -> TypeGuard[ActivationName]:
    """Whether a value is the name of an activation function."""
    return isinstance(value, str) and value in get_args(ActivationName)


def is_activation(value: object) -> bool:
    """Whether a value is an AnyActivation."""
    return is_name(value) or isinstance(value, WithParameter)


def check_activation(subject: str, activation: object) -> None:
    """Raise NetworkError unless a value is an AnyActivation."""
    if is_activation(activation):
        return
    if isinstance(activation, BatchNorm):
        raise NetworkError(
            subject,
            expected="batch normalization folded into weights",
            got="a BatchNorm",
            fix="give it to a Dense of Network.define, which folds it into the layer; one after an "
            "activation, to Dense(NAME, activation=BatchNorm(...), W=np.eye(UNITS))",
        )
    raise NetworkError(
        subject,
        expected=f"activation to be one of {', '.join(ACTIVATIONS)}",
        got=repr(activation),
        fix="choose one of them; a parameter is given as in LeakyRelu(0.2)",
    )


def canonical(subject: str, activation: AnyActivation, units: int) -> AnyActivation:
    """Return the one notation of a layer's activation: its name if the parameter is the default.

    Raises NetworkError unless it is an AnyActivation that fits so many units.
    """
    check_activation(subject, activation)
    if isinstance(activation, PRelu):
        if len(activation.slopes) != units:
            raise NetworkError(
                subject,
                expected=f"{units} slopes of prelu, one per unit",
                got=str(len(activation.slopes)),
                fix="give one per unit; LeakyRelu has one slope for all",
            )
        return "prelu" if set(activation.slopes) == {PRELU_SLOPE} else activation
    if isinstance(activation, GroupedSoftmax):
        if sum(activation.groups) != units:
            raise NetworkError(
                subject,
                expected=f"groups of a softmax that are {units} units together",
                got=f"{sum(activation.groups)}, as {activation.groups}",
                fix="give the size of every group, in the order of the units",
            )
        return "softmax" if len(activation.groups) == 1 else activation
    if isinstance(activation, LayerNorm):
        return _canonical_norm(subject, activation, units)
    for name, default in _DEFAULTS.items():
        if activation == default:
            return name
    return activation


def _canonical_norm(subject: str, norm: LayerNorm, units: int) -> LayerNorm:
    for what, numbers in (("scale", norm.scale), ("bias", norm.bias)):
        if len(numbers) not in (0, units):
            raise NetworkError(
                subject,
                expected=f"a {what} of layer_norm for each of {units} units, or none",
                got=str(len(numbers)),
                fix="give one per unit",
            )
    if units == 1:
        raise NetworkError(
            subject,
            expected="two units or more for layer_norm",
            got="1, which is its own mean",
            fix="leave layer_norm out",
        )
    return replace(
        norm,
        scale=() if set(norm.scale) == {1.0} else norm.scale,
        bias=() if not any(norm.bias) else norm.bias,
        then=canonical(subject, norm.then, units),
    )


def last_of(activation: AnyActivation) -> AnyActivation:
    """Return the function that gives a layer's activations: of a LayerNorm the one after it."""
    return activation.then if isinstance(activation, LayerNorm) else activation


@lru_cache(maxsize=1024)
def activation_of(activation: AnyActivation) -> Activation:
    """Return the function of a name, or of a function with its parameter."""
    match activation:
        case LeakyRelu(slope):
            return _leaky_relu(slope)
        case Elu(alpha):
            return _elu(alpha)
        case HardSigmoid(slope):
            return _hard_sigmoid(slope)
        case PRelu(slopes):
            return _prelu(slopes)
        case GroupedSoftmax():
            return replace(
                ACTIVATIONS["softmax"],
                name="grouped_softmax",
                function=partial(_grouped_softmax, activation),
            )
        case LayerNorm():
            return replace(
                activation_of(activation.then),
                name="layer_norm",
                function=partial(_layer_norm, activation),
                operator="LayerNormalization",
                lipschitz=1 / math.sqrt(activation.epsilon),
            )
        case name:
            return ACTIVATIONS[name]


def slopes_of(activation: AnyActivation, units: int) -> tuple[float, ...]:
    """Return the slopes of a prelu of so many units."""
    return activation.slopes if isinstance(activation, PRelu) else (PRELU_SLOPE,) * units


def _rounded(name: str, what: str, value: float, *, above_zero: bool = False) -> float:
    (number,) = checked_numbers(name, what, (value,))
    with np.errstate(over="ignore", under="ignore"):
        rounded = float(np.float32(number))
    if not math.isfinite(rounded) or (above_zero and rounded <= 0):
        raise NetworkError(
            name,
            expected=f"{what} {'above zero and ' if above_zero else ''}within float32's range",
            got=repr(value),
            fix="give the one that was trained",
        )
    return rounded


def _short(value: float) -> str:
    return str(np.float32(value)).removesuffix(".0")


def _identity(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return z


def _relu(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(z, 0.0)


def _sigmoid(z: NDArray[np.float64]) -> NDArray[np.float64]:
    # e^-|z| never overflows and keeps tiny probabilities accurate.
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, e) / (1.0 + e)


def _softmax(z: NDArray[np.float64]) -> NDArray[np.float64]:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def _grouped_softmax(f: GroupedSoftmax, z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([_softmax(each) for each in f.split(z)], axis=-1)


def _layer_norm(f: LayerNorm, z: NDArray[np.float64]) -> NDArray[np.float64]:
    return activation_of(f.then).function(f.normalize(z))


def _log_softmax(z: NDArray[np.float64]) -> NDArray[np.float64]:
    below = z - z.max(axis=-1, keepdims=True)
    return np.asarray(below - np.log(np.exp(below).sum(axis=-1, keepdims=True)))


_erfc = np.frompyfunc(math.erfc, 1, 1)


def _gelu(z: NDArray[np.float64]) -> NDArray[np.float64]:
    # 1 + erf would cancel below zero.
    return 0.5 * z * np.asarray(_erfc(z * -math.sqrt(0.5)), np.float64)


def _gelu_tanh(z: NDArray[np.float64]) -> NDArray[np.float64]:
    # (1 + tanh t) / 2 is the sigmoid of 2 t.
    with np.errstate(over="ignore"):
        inner = z + 0.044715 * z * z * z
    return z * _sigmoid(math.sqrt(8 / math.pi) * inner)


def _silu(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return z * _sigmoid(z)


def _softplus(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.logaddexp(0.0, z), np.float64)


def _mish(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(z * np.tanh(_softplus(z)))


def _softsign(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(z / (1 + np.abs(z)))


def _hard_swish(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return z * _clipped(1 / 6, z)


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def _selu(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return _SELU_SCALE * _exponential_below(_SELU_ALPHA, z)


def _sloped_below(slope: NDArray[np.float64], z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(z >= 0, z, slope * z)


def _exponential_below(alpha: float, z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0)))


def _clipped(slope: float, z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.clip(slope * z + 0.5, 0.0, 1.0))


def _leaky_relu(slope: float) -> Activation:
    steepest = max(1.0, abs(slope))
    return Activation(
        "leaky_relu",
        partial(_sloped_below, np.array(slope)),
        "LeakyRelu",
        steepest,
        -math.inf if slope > 0 else 0.0,
        math.inf,
        0.0,
        relative_error=2 * steepest * UNIT_ROUNDOFF,
        attributes={"alpha": slope},
    )


def _prelu(slopes: tuple[float, ...]) -> Activation:
    steepest = max(1.0, *map(abs, slopes))
    return Activation(
        "prelu",
        partial(_sloped_below, np.array(slopes)),
        "PRelu",
        steepest,
        -math.inf if max(slopes) > 0 else 0.0,
        math.inf,
        0.0,
        relative_error=2 * steepest * UNIT_ROUNDOFF,
    )


def _elu(alpha: float) -> Activation:
    return Activation(
        "elu",
        partial(_exponential_below, alpha),
        "Elu",
        max(1.0, alpha),
        -alpha,
        math.inf,
        alpha * _IMPLEMENTATION_ERROR,
        attributes={"alpha": alpha},
    )


def _hard_sigmoid(slope: float) -> Activation:
    return Activation(
        "hard_sigmoid",
        partial(_clipped, slope),
        "HardSigmoid",
        slope,
        0.0,
        1.0,
        _IMPLEMENTATION_ERROR,
        attributes={"alpha": slope, "beta": 0.5},
    )


_DEFAULTS: Mapping[ActivationName, AnyActivation] = {
    "leaky_relu": LeakyRelu(),
    "elu": Elu(),
    "hard_sigmoid": HardSigmoid(),
}

# What is about z far above zero is z times what is rounded already: at every 1009th float32
# onnxruntime's error is at most 4.91 unit roundoffs of |z| from 1 on, with Mish, and 3.1 of 1
# below. `tests/models/test_activation_errors.py` measures all, at fewer numbers.
_GROWING_ERROR = 8 * UNIT_ROUNDOFF


def _weighted(
    name: ActivationName, function: Function, operator: str, lipschitz: float, low: float
) -> Activation:
    """Return a smooth or clipped relative of relu, which is about z far above zero."""
    return Activation(
        name,
        function,
        operator,
        lipschitz,
        low,
        math.inf,
        _IMPLEMENTATION_ERROR,
        relative_error=_GROWING_ERROR,
    )


ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {
        activation.name: activation
        for activation in (
            Activation("identity", _identity, None, 1.0, -math.inf, math.inf, 0.0),
            Activation("relu", _relu, "Relu", 1.0, 0.0, math.inf, 0.0),
            Activation("sigmoid", _sigmoid, "Sigmoid", 0.25, 0.0, 1.0, _IMPLEMENTATION_ERROR),
            Activation("tanh", np.tanh, "Tanh", 1.0, -1.0, 1.0, _IMPLEMENTATION_ERROR),
            # The Jacobian diag(p) - p p^T has maximum-norm 2 p (1 - p), at most 1/2.
            Activation(
                "softmax",
                _softmax,
                "Softmax",
                0.5,
                0.0,
                1.0,
                _IMPLEMENTATION_ERROR,
            ),
            # For rates above zero, as in Poisson regression; too steep for a hidden layer.
            Activation(
                "exp",
                np.exp,
                "Exp",
                math.inf,
                0.0,
                math.inf,
                _IMPLEMENTATION_ERROR,
                outputs_only=True,
            ),
            _leaky_relu(LeakyRelu().slope),
            _prelu((PRELU_SLOPE,)),
            _elu(1.0),
            Activation(
                "selu",
                _selu,
                "Selu",
                _SELU_SCALE * _SELU_ALPHA,
                -_SELU_SCALE * _SELU_ALPHA,
                math.inf,
                _IMPLEMENTATION_ERROR,
                relative_error=_GROWING_ERROR,
            ),
            # The steepest places are z = sqrt(2), 1.4185, 2.3994 and 1.4906, the lowest -0.7518,
            # -0.7525, -1.2785 and -1.1924.
            _weighted("gelu", _gelu, "Gelu", 1.12891, -0.16998),
            _weighted("gelu_tanh", _gelu_tanh, "Gelu", 1.129, -0.17005),
            _weighted("silu", _silu, "Swish", 1.09984, -0.27847),
            _weighted("mish", _mish, "Mish", 1.0885, -0.30885),
            # Its slope is the sigmoid.
            _weighted("softplus", _softplus, "Softplus", 1.0, 0.0),
            Activation("softsign", _softsign, "Softsign", 1.0, -1.0, 1.0, _IMPLEMENTATION_ERROR),
            _hard_sigmoid(HardSigmoid().slope),
            # The slope is (2 z + 3) / 6 between -3 and 3.
            _weighted("hard_swish", _hard_swish, "HardSwish", 1.5, -0.375),
            # The rows of its Jacobian, I - 1 p^T, have a sum of magnitudes 2 (1 - p), at most 2.
            Activation(
                "log_softmax",
                _log_softmax,
                "LogSoftmax",
                2.0,
                -math.inf,
                0.0,
                _IMPLEMENTATION_ERROR,
                outputs_only=True,
                relative_error=_GROWING_ERROR,
            ),
        )
    }
)
"""Every activation by name."""
