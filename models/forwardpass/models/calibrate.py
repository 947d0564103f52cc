"""Calibration: probabilities that are as often right as they say, folded into the last layer.

A sum z of a sigmoid or softmax layer becomes t z + c, with the t and c of the highest likelihood:
W and b of the layer are multiplied and shifted, and the graph stays as it is. After Guo et al.,
On Calibration of Modern Neural Networks (2017), and Platt, Probabilistic Outputs for Support
Vector Machines (1999).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models.activations import activation_of
from forwardpass.models.checks import checked_count
from forwardpass.models.errors import NetworkError
from forwardpass.models.layers import Layer
from forwardpass.models.network import Network
from forwardpass.models.ports import Output
from forwardpass.models.truth import answers, class_numbers, flags, is_classes

Method: TypeAlias = Literal["temperature", "platt", "vector"]

_Floats: TypeAlias = NDArray[np.float64]
_Loss: TypeAlias = Callable[[_Floats], tuple[float, _Floats, _Floats]]
"""Parameters -> mean log loss, its gradient, its Hessian."""

BINS = 15
"""Bins of the calibration error, as in Guo et al."""
_ROWS_PER_NUMBER = 10
"""Minimum rows for each number that is fitted, the usual rule for logistic regression."""
_ROWS_PER_CLASS = 5
"""Minimum rows of each class where a class has numbers of its own."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far probabilities can be believed, over rows of which the truth is known."""

    rows: int
    log_loss: float
    """Mean of -ln p of what is true; for columns decided one by one, over rows and columns."""
    brier: float
    """Mean over rows of the squared distances of p from 0 and 1: their sum over classes, or their
    mean over columns decided one by one."""
    error: float
    """Expected calibration error (ECE): the mean distance, over rows, of p from the share that is
    true in its bin. p is that of the most probable class, or of the column, whose mean is taken if
    there are several; bins of equal width."""

    def __str__(self) -> str:
        return (
            f"log loss {self.log_loss:.4g}, Brier score {self.brier:.4g}, "
            f"calibration error {self.error:.4g}"
        )


def calibration(
    network: Network, x: Any, y: ArrayLike, output: str | None = None, *, bins: int = BINS
) -> Calibration:
    """Return how far an output's probabilities can be believed.

    x: rows, as `forward` takes them. y: the number or label of each row's class (N,), or 0 and 1
    for each row and column. output: one of a sigmoid or softmax layer; None is the only one.

    Raises NetworkError for another output or a y that does not fit, TensorError like `forward`.
    """
    bins = checked_count("calibration", "bins", bins)
    shown = _probabilities(network, output)
    z = answers(network, shown, x)["z"]
    if is_classes(network, shown):
        truth = class_numbers(shown, z.shape[1], y, len(z))
        log_p = _log_softmax(z)
        p, true = np.exp(log_p), np.eye(z.shape[1])[truth]
        loss = -float(log_p[np.arange(len(z)), truth].mean())
        brier = float(((p - true) ** 2).sum(axis=1).mean())
        right = p.argmax(axis=1) == truth
        error = _distance(p.max(axis=1), right, bins)
        return Calibration(len(z), loss, brier, error)
    true = flags(shown, z.shape[1], y, len(z)).astype(np.float64)
    p = np.exp(-np.logaddexp(0, -z))
    loss = float((np.logaddexp(0, z) - true * z).mean())
    error = float(np.mean([_distance(*each, bins) for each in zip(p.T, true.T, strict=True)]))
    return Calibration(len(z), loss, float(((p - true) ** 2).mean()), error)


def calibrate(
    network: Network,
    x: Any,
    y: ArrayLike,
    method: Method = "temperature",
    output: str | None = None,
    *,
    held_out: tuple[Any, ArrayLike] | None = None,
) -> Network:
    """Return the network with probabilities fitted to rows that it was not trained on.

    x, y and output are those of `calibration`. method: `temperature` divides all sums by one
    number, and keeps the order of classes; `platt` is a z + b for each column of a sigmoid layer,
    fitted to Platt's targets; `vector` is t z + c for each class of a softmax layer. The numbers
    are those of the highest likelihood, found in float64; W and b of the layer are rounded to
    float32 once. The provenance has the figures of `calibration` before and after, for x and for
    held_out, further rows (x, y).

    Raises NetworkError for a method that the output does not have, a layer that others read, a y
    that does not fit, has a single class or too few rows, rows for which no likelihood is the
    highest or that the sums order the wrong way round, and a higher log loss on held_out than
    before; TensorError like `forward`.
    """
    shown = _probabilities(network, output)
    layer = network.layer(shown.layer)
    if any(layer.name in each.reads for each in network.layers):
        raise NetworkError(
            f"layer {layer.name!r}",
            expected="one that no other reads, to calibrate",
            got="one that others read",
            fix="calibrate an output behind it",
        )
    z = answers(network, shown, x)["z"]
    if is_classes(network, shown):
        t, c = _fit_classes(shown, z, class_numbers(shown, z.shape[1], y, len(z)), method)
    else:
        t, c = _fit_columns(shown, z, flags(shown, z.shape[1], y, len(z)), method)
    if not (t > 0).all():
        raise NetworkError(
            f"calibration of {shown.name!r}",
            expected="sums that rise with their class",
            got=f"a best factor of {t.min():.3g}",
            fix="check the order of the classes in y, and that x has its rows",
        )
    W = t[:, np.newaxis] * layer.W.astype(np.float64)
    folded = Layer(layer.name, W, t * layer.b + c, layer.activation, layer.reads)
    layers = [folded if each is layer else each for each in network.layers]
    after = replace(network, layers=tuple(layers))
    texts = {
        "": f"{_NAMES[method]}, {_numbers(t, c, method)}",
        ", fitted rows": _before_and_after(network, after, x, y, shown),
        ", held-out rows": "none given"
        if held_out is None
        else _before_and_after(network, after, *held_out, shown, check=True),
    }
    notes = {f"{shown.name}: calibration{key}": text for key, text in texts.items()}
    return replace(after, provenance={**network.provenance, **notes})


_NAMES = {
    "temperature": "temperature scaling",
    "platt": "Platt scaling",
    "vector": "vector scaling",
}


def _probabilities(network: Network, name: str | None) -> Output:
    output = network.output(name)
    activation = network.layer(output.layer).activation
    if activation_of(activation).name not in ("sigmoid", "softmax", "log_softmax"):
        raise NetworkError(
            f"output {output.name!r}",
            expected="probabilities: an output of a sigmoid or softmax layer",
            got=str(activation),
            fix="name another output",
        )
    return output


def _fit_classes(
    output: Output, z: _Floats, truth: NDArray[np.intp], method: Method
) -> tuple[_Floats, _Floats]:
    """Return t and c of each class, for sums z (N, K) and the class of each row."""
    rows, width = z.shape
    counts = np.bincount(truth, minlength=width)
    if method == "temperature":
        _check_rows(output, rows, 1, int(np.sort(counts)[-2]), 1)
        z, size = _sized(z, None)
        theta = _newton(output, partial(_softmax_loss, z, truth, common=True), np.ones(1))
        return np.full(width, theta[0] / size), np.zeros(width)
    if method != "vector":
        raise _no_method(output, method, "'temperature' or 'vector', for a softmax layer")
    _check_rows(output, rows, 2 * width, int(counts.min()), _ROWS_PER_CLASS)
    z, size = _sized(z, 0)
    start = np.concatenate([np.ones(width), np.zeros(width - 1)])
    theta = _newton(output, partial(_softmax_loss, z, truth, common=False), start)
    # One c is free: softmax knows only differences.
    c = np.append(theta[width:], 0.0)
    return theta[:width] / size, c - c.mean()


def _fit_columns(
    output: Output, z: _Floats, truth: NDArray[np.intp], method: Method
) -> tuple[_Floats, _Floats]:
    """Return t and c of each column, for sums z (N, K) and the 0 and 1 of each."""
    rows, width = z.shape
    counts = np.minimum(truth.sum(axis=0), rows - truth.sum(axis=0))
    if method == "temperature":
        _check_rows(output, rows, 1, int(counts.min()), 1)
        z, size = _sized(z, None)
        factors, targets = z.reshape(-1, 1), truth.ravel().astype(np.float64)
        theta = _newton(output, partial(_sigmoid_loss, factors, targets), np.ones(1))
        return np.full(width, theta[0] / size), np.zeros(width)
    if method != "platt":
        raise _no_method(output, method, "'temperature' or 'platt', for a sigmoid layer")
    _check_rows(output, rows, 2, int(counts.min()), _ROWS_PER_CLASS)
    fitted, (z, size) = [], _sized(z, 0)
    for column, flag in zip(z.T, truth.T, strict=True):
        factors = np.stack([column, np.ones(rows)], axis=1)
        # Platt's targets: those of a rule that has seen one more row of each class.
        positive = flag.sum()
        high, low = (positive + 1) / (positive + 2), 1 / (rows - positive + 2)
        targets = np.where(flag, high, low)
        fitted.append(
            _newton(output, partial(_sigmoid_loss, factors, targets), np.array([1.0, 0.0]))
        )
    t, c = np.array(fitted).T
    return t / size, c


def _sized(z: _Floats, axis: int | None) -> tuple[_Floats, _Floats]:
    """Return sums of size 1, where probabilities are far from 0 and 1, and what they were."""
    size = np.asarray(z.std(axis=axis))
    size = np.where(size > 0, size, 1.0)
    return z / size, size


def _no_method(output: Output, method: str, expected: str) -> NetworkError:
    return NetworkError(
        f"calibration of {output.name!r}",
        expected=f"method {expected}",
        got=repr(method),
        fix="choose one of them",
    )


def _check_rows(output: Output, rows: int, numbers: int, rarest: int, of_each: int) -> None:
    """Raise NetworkError unless rows are enough to fit so many numbers, and have each class."""
    if rarest < of_each:
        raise NetworkError(
            f"y for output {output.name!r}",
            expected="rows of more than one class"
            if of_each == 1
            else f"at least {of_each} rows of each class",
            got="rows of a single one" if of_each == 1 else f"{rarest} of one",
            fix="give rows of all classes, or fit fewer numbers by method 'temperature'",
        )
    if rows < _ROWS_PER_NUMBER * numbers:
        raise NetworkError(
            f"y for output {output.name!r}",
            expected=f"at least {_ROWS_PER_NUMBER * numbers} rows, {_ROWS_PER_NUMBER} for each "
            "number that is fitted",
            got=str(rows),
            fix="give more rows, or fit fewer numbers by method 'temperature'",
        )


def _newton(output: Output, loss: _Loss, theta: _Floats) -> _Floats:
    """Return the minimum of a convex loss; raises NetworkError if there is none."""
    for _ in range(_MAX_STEPS):
        value, gradient, hessian = loss(theta)
        try:
            step = np.linalg.solve(hessian, gradient)
        except np.linalg.LinAlgError:
            break
        decrease, size = float(gradient @ step), 1.0
        while size > _SMALLEST_STEP:
            if loss(theta - size * step)[0] <= value - 1e-4 * size * decrease + 1e-15 * abs(value):
                break
            size /= 2
        theta = theta - size * step
        if np.abs(step).max() <= 1e-9 * (1 + np.abs(theta).max()):
            return theta
    raise NetworkError(
        f"calibration of {output.name!r}",
        expected="rows of which some are answered wrong, so that one fit is the most likely",
        got="a likelihood that rises without end",
        fix="give more rows that the network was not trained on",
    )


_MAX_STEPS = 100
"""Newton's method takes some ten; towards infinity it never ends."""
_SMALLEST_STEP = 2.0**-40


def _sigmoid_loss(
    factors: _Floats, targets: _Floats, theta: _Floats
) -> tuple[float, _Floats, _Floats]:
    """Return the loss of sigmoid(factors theta): factors (N, p), targets (N,) from 0 to 1."""
    z = factors @ theta
    p = np.exp(-np.logaddexp(0, -z))
    value = float((np.logaddexp(0, z) - targets * z).mean())
    gradient = factors.T @ (p - targets) / len(z)
    hessian = (factors * (p * (1 - p))[:, np.newaxis]).T @ factors / len(z)
    return value, gradient, hessian


def _softmax_loss(
    z: _Floats, truth: NDArray[np.intp], theta: _Floats, *, common: bool
) -> tuple[float, _Floats, _Floats]:
    """Return the loss of softmax(t z + c), theta being one common t, or t and all c but the last.

    z: (N, K), truth: (N,).
    """
    rows, width = z.shape
    t, c = (theta, 0.0) if common else (theta[:width], np.append(theta[width:], 0.0))
    log_p = _log_softmax(t * z + c)
    value = -float(log_p[np.arange(rows), truth].mean())
    p = np.exp(log_p)
    wrong = p - np.eye(width)[truth]
    if common:
        mean = (p * z).sum(axis=1)
        curvature = float(((p * z * z).sum(axis=1) - mean**2).mean())
        return value, np.array([(wrong * z).sum() / rows]), np.array([[curvature]])
    gradient = np.concatenate([(wrong * z).mean(axis=0), wrong.mean(axis=0)])
    both = np.hstack([p * z, p])
    hessian = -both.T @ both / rows
    own = np.arange(width)
    hessian[own, own] += (p * z * z).mean(axis=0)
    hessian[own, own + width] += (p * z).mean(axis=0)
    hessian[own + width, own] += (p * z).mean(axis=0)
    hessian[own + width, own + width] += p.mean(axis=0)
    return value, gradient[:-1], hessian[:-1, :-1]


def _log_softmax(z: _Floats) -> _Floats:
    z = z - z.max(axis=1, keepdims=True)
    return np.asarray(z - np.log(np.exp(z).sum(axis=1, keepdims=True)))


def _distance(p: _Floats, true: NDArray[np.generic], bins: int) -> float:
    """Return the calibration error of p (N,), of which true (N,) are 1."""
    # Bins are open below, closed above, and the first has zero.
    numbers = np.clip(np.ceil(p * bins).astype(int) - 1, 0, bins - 1)
    apart = np.bincount(numbers, p, bins) - np.bincount(numbers, true.astype(np.float64), bins)
    return float(np.abs(apart).sum() / len(p))


def _numbers(t: _Floats, c: _Floats, method: Method) -> str:
    if method == "temperature":
        return f"sums divided by {1 / t[0]:.4g}"
    if len(t) == 1:
        return f"sum z to {t[0]:.4g} z {c[0]:+.4g}"
    return (
        f"sums multiplied by {t.min():.4g} to {t.max():.4g} and shifted by {c.min():.4g} to "
        f"{c.max():.4g}"
    )


def _before_and_after(
    before: Network,
    after: Network,
    x: Any,
    y: ArrayLike,
    output: Output,
    *,
    check: bool = False,
) -> str:
    """Return the figures of both as text; check raises NetworkError for a higher log loss after."""
    was, now = (calibration(each, x, y, output.name) for each in (before, after))
    if check and now.log_loss > was.log_loss:
        raise NetworkError(
            f"calibration of {output.name!r}",
            expected=f"a log loss of at most {was.log_loss:.4g} on held-out rows, as before",
            got=f"{now.log_loss:.4g}",
            fix="fit to more rows, fit fewer numbers by method 'temperature', or do not calibrate",
        )
    return f"{was.rows} rows: {was} before; {now} after; {BINS} bins of equal width"
