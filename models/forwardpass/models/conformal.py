"""Conformal prediction: intervals and sets of labels that have the truth as often as asked for.

Split conformal: of the n scores of rows that the network was not trained on, the
ceil((n + 1)(1 - alpha))-th smallest bounds the score of a new row with a probability of at least
1 - alpha, whatever the distribution, if all rows are exchangeable. After Vovk et al., Algorithmic
Learning in a Random World (2005); Lei et al., Distribution-Free Predictive Inference for Regression
(2018); Sadinle et al., Least Ambiguous Set-Valued Classifiers (2019).
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, floor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models.activations import activation_of, last_of
from forwardpass.models.errors import NetworkError
from forwardpass.models.layers import Layer
from forwardpass.models.network import Network
from forwardpass.models.ports import Output
from forwardpass.models.truth import answers, class_labels, class_numbers, columns, is_classes


@dataclass(frozen=True, slots=True)
class Coverage:
    """How often intervals or sets have what is true, over rows of which that is known."""

    rows: int
    share: tuple[float, ...]
    """The share of rows in whose interval the truth is, for each column; or in whose set it is."""
    size: tuple[float, ...]
    """Mean width of the intervals, for each column; or mean number of labels in the sets."""

    def __str__(self) -> str:
        shares = ", ".join(f"{share:.1%}" for share in self.share)
        sizes = ", ".join(f"{size:.4g}" for size in self.size)
        return f"{self.rows} rows: {shares} covered, mean size {sizes}"


def conformal(
    network: Network,
    x: Any,
    y: ArrayLike,
    alpha: float,
    output: str | None = None,
    *,
    spread: str | None = None,
    held_out: tuple[Any, ArrayLike] | None = None,
) -> Network:
    """Return the network with intervals or sets that have the truth of 1 - alpha of all rows.

    x: rows, as `forward` takes them, that the network was not trained on and that are like those to
    come. y: what is true of them. output: what is to be bounded; None is the only one.

    An output that measures, of any activation but softmax and sigmoid, gets two further outputs
    `NAME_low` and `NAME_high`, the answer -/+ a quantile of |y - answer|, each column by itself. y
    has its shape. spread names an output above zero, of one column or as many, by which residuals
    are divided and intervals multiplied: they are wide where it is.

    A softmax, or a sigmoid of one column, gets one further output `NAME_set`: probabilities of all
    classes, with thresholds, above which are the labels of the set (LAC). Sets may be empty. y is
    the number or the label of each row's class.

    The provenance has alpha, the number of rows, and the quantile; and for held_out, further rows
    (x, y), what `coverage` finds.

    Raises NetworkError for an output or a y that does not fit, an alpha that is not between 0 and
    1, or too few rows for it; TensorError like `forward`.
    """
    shown = network.output(output)
    bounded = _with_sets if _has_classes(network, shown) else _with_intervals
    if bounded is _with_sets and spread is not None:
        raise NetworkError(
            f"spread of output {shown.name!r}",
            expected="none, since the output has classes",
            got=repr(spread),
            fix="leave it out",
        )
    after, text = bounded(network, shown, x, y, alpha, spread)
    notes = {f"{shown.name}: conformal": f"alpha {alpha:g}, {text}"}
    seen = None if held_out is None else coverage(after, *held_out, shown.name)
    notes[f"{shown.name}: conformal, held-out rows"] = "none given" if seen is None else str(seen)
    return replace(after, provenance={**network.provenance, **notes})


def coverage(network: Network, x: Any, y: ArrayLike, output: str | None = None) -> Coverage:
    """Return how often the intervals or sets of `conformal` have the truth.

    x, y and output are those of `conformal`.

    Raises NetworkError for an output without them or a y that does not fit, TensorError like
    `forward`.
    """
    outputs = {each.name: each for each in network.outputs}
    names = [name for name in outputs if _bounds(name) <= set(outputs)]
    sets = [name for name in outputs if f"{name}_set" in outputs]
    if output is None and len(names + sets) == 1:
        (output,) = names + sets
    if output in sets:
        shown = outputs[f"{output}_set"]
        p = answers(network, shown, x)["a"]
        chosen = p > np.array(shown.thresholds)
        truth = class_numbers(shown, p.shape[1], y, len(p))
        covered = float(chosen[np.arange(len(p)), truth].mean())
        return Coverage(len(p), (covered,), (float(chosen.sum(axis=1).mean()),))
    if output not in names:
        raise NetworkError(
            f"network {network.name!r}",
            expected=f"an output with intervals or sets ({', '.join(names + sets) or 'none has'})",
            got="none" if output is None else repr(output),
            fix="name one of them, or make them by conformal",
        )
    low, high = (answers(network, outputs[f"{output}_{end}"], x)["a"] for end in ("low", "high"))
    true = columns(outputs[output], low.shape[1], y, len(low))
    within = ((low <= true) & (true <= high)).mean(axis=0)
    width = (high - low).mean(axis=0)
    return Coverage(len(low), tuple(within.tolist()), tuple(width.tolist()))


def _bounds(name: str) -> set[str]:
    return {f"{name}_low", f"{name}_high"}


def _has_classes(network: Network, output: Output) -> bool:
    layer = network.layer(output.layer)
    name = activation_of(last_of(layer.activation)).name
    sigmoid = name == "sigmoid"
    if (sigmoid and layer.units > 1) or name == "grouped_softmax":
        raise NetworkError(
            f"output {output.name!r}",
            expected="one column, or classes of which one is true (softmax)",
            got=f"{layer.units} {layer.activation} columns",
            fix="bound each by a network that has it alone",
        )
    return sigmoid or is_classes(network, output)


def _with_intervals(
    network: Network,
    output: Output,
    x: Any,
    y: ArrayLike,
    alpha: float,
    spread: str | None,
) -> tuple[Network, str]:
    layer = _readable(network, output)
    answer = answers(network, output, x)["a"]
    scores = np.abs(columns(output, layer.units, y, len(answer)) - answer)
    reads, of, part = [layer.name], "", None
    if spread is not None:
        scores, unit, part = _divided(network, network.output(spread), x, scores)
        reads, of = [layer.name, unit.name], f" / {spread}"
    rank, quantile = _quantile(output, scores, alpha)
    # Up, so that rounding makes no interval narrower.
    q = _next_float32(quantile, np.inf)
    layers, outputs = list(network.layers), list(network.outputs)
    for end, sign in (("low", -1), ("high", 1)):
        name, W, b = f"{output.name}_{end}", np.eye(layer.units), sign * q
        if part is None:
            layers.append(Layer(name, W, b, "identity", reads))
        else:
            W = np.hstack([W, b[:, np.newaxis] * part])
            layers.append(Layer(name, W, np.zeros(layer.units), "identity", reads))
        description = f"{end} end of an interval that has the true {output.name} of "
        description += f"{1 - alpha:.4g} of all rows"
        outputs.append(Output(name, name, "a", output.labels, output.units, description))
    numbers = ", ".join(f"{each:.6g}" for each in q.tolist())
    return replace(network, layers=tuple(layers), outputs=tuple(outputs)), (
        f"split conformal: of {len(scores)} rows the {rank}. smallest |y - answer|{of} is {numbers}"
    )


def _divided(
    network: Network, spread: Output, x: Any, scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], Layer, NDArray[np.float64]]:
    """Return scores / spread, the layer of the spread, and its part in each column: 0 or 1."""
    layer = _readable(network, spread)
    values, width = answers(network, spread, x)["a"], scores.shape[1]
    if layer.units not in (1, width) or not (values > 0).all():
        raise NetworkError(
            f"spread {spread.name!r}",
            expected=f"numbers above zero, of one column or {width}",
            got=f"{layer.units} columns, of which the least number is {values.min():.4g}",
            fix="give the layer activation 'softplus'",
        )
    part = np.ones((width, 1)) if layer.units == 1 else np.eye(width)
    return scores / values, layer, part


def _readable(network: Network, output: Output) -> Layer:
    layer = network.layer(output.layer)
    if output.of == "z" or activation_of(layer.activation).outputs_only:
        raise NetworkError(
            f"output {output.name!r}",
            expected="activations that a layer may read, as those of an identity layer",
            got=f"{output.of} of a layer of {layer.activation}",
            fix="bound an output of another layer",
        )
    return layer


def _with_sets(
    network: Network,
    output: Output,
    x: Any,
    y: ArrayLike,
    alpha: float,
    _: str | None,
) -> tuple[Network, str]:
    layer, layers = network.layer(output.layer), network.layers
    truth = class_numbers(output, layer.units, y, len(answers(network, output, x)["z"]))
    labels = class_labels(output, layer.units)
    if layer.units == 1:
        # The two columns 1 - p and p: sigmoid(-z) and sigmoid(z).
        W, b = np.vstack([-layer.W, layer.W]), np.concatenate([-layer.b, layer.b])
        layer = Layer(f"{output.name}_set", W, b, "sigmoid", layer.reads)
        layers = (*layers, layer)
    shown = Output(
        f"{output.name}_set",
        layer.name,
        labels=labels,
        description=f"labels above their thresholds: a set that has the true {output.name} of "
        f"{1 - alpha:.4g} of all rows",
    )
    after = replace(network, layers=layers, outputs=(*network.outputs, shown))
    true = answers(after, shown, x)["a"][np.arange(len(truth)), truth]
    # The largest p are the smallest scores 1 - p; of a log_softmax they are logarithms.
    rank, quantile = _quantile(output, -true[:, np.newaxis], alpha)
    # Down: the label of an equal probability belongs to the set.
    threshold = _next_float32(-quantile, -np.inf).item()
    threshold = max(threshold, activation_of(layer.activation).low)
    shown = replace(shown, thresholds=(threshold,) * layer.units)
    return replace(after, outputs=(*network.outputs, shown)), (
        f"split conformal (LAC): of {len(true)} rows the {rank}. largest answer for the true class "
        f"is {-quantile.item():.6g}"
    )


def _quantile(
    output: Output, scores: NDArray[np.float64], alpha: float
) -> tuple[int, NDArray[np.float64]]:
    """Return the rank ceil((n + 1)(1 - alpha)), and the score (width,) of this rank of (n, width).

    Raises NetworkError if alpha is not between 0 and 1, or n too small for it.
    """
    subject = f"conformal {output.name!r}"
    if not (isinstance(alpha, int | float) and 0 < alpha < 1):
        raise NetworkError(
            subject,
            expected="alpha between 0 and 1, the share of rows that may be missed",
            got=repr(alpha),
            fix="write alpha=0.1 for 90 % that are covered",
        )
    # As it is written: in binary, 1 - 0.1 is a little more than 0.9.
    share, rows = Fraction(repr(float(alpha))), len(scores)
    rank = rows + 1 - floor((rows + 1) * share)
    if rank > rows:
        raise NetworkError(
            subject,
            expected=f"at least {ceil(1 / share) - 1} rows for alpha {alpha:g}",
            got=str(rows),
            fix="give more rows, or a larger alpha",
        )
    return rank, np.sort(scores, axis=0)[rank - 1]


def _next_float32(values: NDArray[np.float64], towards: float) -> NDArray[np.float32]:
    """Return the float32 numbers beyond values, on the side of an infinity."""
    return np.nextafter(values.astype(np.float32), np.float32(towards))
