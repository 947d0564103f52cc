"""Integrated gradients: how much each feature of a row contributes to one number of an answer.

The path from the baseline to a row is cut into cells, and the derivative of each function is its
mean over a cell (`derivatives`): kinks, as those of relu, lie anywhere on the path, and points of
evaluation would miss most. Without kinks it is taken at the points of Gauss and Legendre instead.

Source: Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", arXiv:1703.01365.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models import graph_names
from forwardpass.models.derivatives import Array, is_kinked, pulled_back
from forwardpass.models.errors import NetworkError
from forwardpass.models.feeds import read_feed
from forwardpass.models.forward import filled, values_of
from forwardpass.models.ports import Output
from forwardpass.models.scaling import checked_vector
from forwardpass.proto.explain import DEFAULT_STEPS
from forwardpass.proto.gradients import gauss

if TYPE_CHECKING:
    from forwardpass.models.network import Network


class Explanation(NamedTuple):
    """The attributions of the features of each row."""

    attributions: Array
    """Contribution of each feature to the difference between the row's answer and that of the
    baseline, in the answer's unit: (N, s_1)."""
    error: Array
    """Completeness error (N,): sum of the attributions minus that difference. It is 0 if the
    integrals are exact."""


def explain(
    network: "Network",
    x: Any,
    output: str | None = None,
    column: int | str | None = None,
    *,
    baseline: ArrayLike | None = None,
    steps: int = DEFAULT_STEPS,
) -> Explanation:
    """Return the integrated gradients of one column of an output, in float64.

    The attribution of feature i is x_i - b_i times the mean of the derivative by feature i along
    the straight line from the baseline b to x.

    x: (N, s_1), or one row (s_1,), which gives attributions (s_1,) and one error. output, column:
    a name, and an index or a label; None for the only one. baseline: (s_1,); None for that of the
    network. steps: Number of cells, or of points where there is no kink. Missing values that the
    network fills in count as filled.

    Raises NetworkError for an output, a column, a baseline or steps that there cannot be, or a
    network with other inputs than one of numbers; TensorError like `forward`.
    """
    if steps < 1:
        raise NetworkError("steps", expected="1 or more", got=str(steps), fix="leave it out for 64")
    shown, index = _target(network, output, column)
    base = baseline_of(network) if baseline is None else _checked(network, baseline)
    feed = read_feed(network, x)
    source = network.input
    rows = filled(feed.rows[source.name], source).astype(np.float64)
    change = rows - base
    gradients = np.zeros_like(rows)
    kinked = any(is_kinked(layer.activation) for layer in network.layers)
    cells = _cells(steps) if kinked else _points(steps)
    known: dict[float, Mapping[str, Array]] = {}
    for ends, weight in cells:
        known = {
            end: known[end]
            if end in known
            else values_of(network, {source.name: base + end * change})
            for end in ends
        }
        gradients += weight * _gradient(network, shown, index, list(known.values()))
    attributions = change * gradients
    name = graph_names.shown(shown, network.number(shown.layer))
    both = {source.name: np.concatenate([base[np.newaxis], rows])}
    answers = values_of(network, both)[name][:, index]
    error = attributions.sum(axis=1) - (answers[1:] - answers[0])
    if feed.single:
        return Explanation(attributions[0], error[0])
    return Explanation(attributions, error)


def baseline_of(network: "Network") -> Array:
    """Return the row from which explanations start, (s_1,).

    It is the input's baseline, else the mean that its scaling subtracts, else zeros.
    """
    if network.input.baseline is not None:
        return network.input.baseline.astype(np.float64)
    means = [each.mean for each in network.input.scaled if each.mean is not None]
    if len(means) == 1:
        return means[0].astype(np.float64)
    return np.zeros(network.input.size)


def _cells(steps: int) -> Iterator[tuple[Sequence[float], float]]:
    for cell in range(steps):
        yield (cell / steps, (cell + 1) / steps), 1 / steps


def _points(steps: int) -> Iterator[tuple[Sequence[float], float]]:
    for point, weight in zip(*gauss(steps), strict=True):
        yield (float(point),), float(weight)


def _gradient(
    network: "Network", shown: Output, index: int, ends: Sequence[Mapping[str, Array]]
) -> Array:
    """Return the derivative of a column by the features (N, s_1), from z of all layers."""
    count = len(ends[0][graph_names.a(1)])
    upstream = {layer.name: np.zeros((count, layer.units)) for layer in network.layers}
    for source in network.input.scaled:
        upstream[source.name] = np.zeros((count, network.input.size))
    for number, layer in reversed(list(enumerate(network.layers, start=2))):
        is_shown = layer.name == shown.layer
        if is_shown and shown.of == "a":
            upstream[layer.name][:, index] += 1
        z = [values[graph_names.z(number)] for values in ends]
        delta = pulled_back(layer.activation, upstream[layer.name], *z)
        if is_shown and shown.of == "z":
            delta[:, index] += 1
        for name, W in network.blocks(layer.name).items():
            upstream[name] += delta @ W.astype(np.float64)
    total = np.zeros((count, network.input.size))
    for source in network.input.scaled:
        by = upstream[source.name]
        total += by if source.scale is None else by / source.scale
    return total


def _target(network: "Network", output: str | None, column: int | str | None) -> tuple[Output, int]:
    names = [each.name for each in network.outputs]
    if output is None and len(names) == 1:
        output = names[0]
    if output not in names:
        raise NetworkError(
            f"network {network.name!r}",
            expected=f"one of its outputs ({', '.join(names)})",
            got=repr(output),
            fix="name one of them",
        )
    shown = network.outputs[names.index(output)]
    width = network.layer(shown.layer).units
    labels = shown.labels if len(shown.labels) == width else ()
    if column is None and width == 1:
        return shown, 0
    if isinstance(column, str) and column in labels:
        return shown, labels.index(column)
    if isinstance(column, int) and 0 <= column < width:
        return shown, column
    named = f" or label ({', '.join(labels)})" if labels else ""
    raise NetworkError(
        f"output {shown.name!r}",
        expected=f"a column of 0 to {width - 1}{named}",
        got=repr(column),
        fix="explain one column at a time",
    )


def _checked(network: "Network", baseline: ArrayLike) -> NDArray[np.float64]:
    source = network.input
    subject = f"input {source.name!r}"
    array = checked_vector(subject, "baseline", baseline, source.size, source.features)
    return np.asarray(array, np.float64)
