"""Integrated gradients: how much each feature of a row contributes to one number of an answer.

The path from the baseline to a row is cut into cells, and the derivative of each function is its
mean over a cell (`derivatives`): kinks, as those of relu, lie anywhere on the path, and points of
evaluation would miss most. Without kinks it is taken at the points of Gauss and Legendre instead.

Source: Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", arXiv:1703.01365.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from forwardpass.models import graph_names
from forwardpass.models.categorical import Categorical, check_one_of
from forwardpass.models.derivatives import Array, is_kinked, pulled_back
from forwardpass.models.errors import NetworkError
from forwardpass.models.feeds import read_feed
from forwardpass.models.forward import read_of, scaled, values_from
from forwardpass.models.ports import Input, Output
from forwardpass.models.scaling import checked_vector
from forwardpass.proto.explain import DEFAULT_STEPS
from forwardpass.proto.gradients import gauss

if TYPE_CHECKING:
    from forwardpass.models.network import Network


class Explanation(NamedTuple):
    """The attributions of the features of each row."""

    attributions: Array
    """Contribution of each feature to the difference between the row's answer and that of the
    baseline, in the answer's unit: (N, features), those of all inputs in their order; an input of
    categories is one feature."""
    error: Array
    """Completeness error (N,): sum of the attributions minus that difference. It is 0 if the
    integrals are exact."""


def explain(
    network: "Network",
    x: Any,
    output: str | None = None,
    column: int | str | None = None,
    *,
    baseline: ArrayLike | Mapping[str, Any] | None = None,
    steps: int = DEFAULT_STEPS,
) -> Explanation:
    """Return the integrated gradients of one column of an output, in float64.

    The attribution of feature i is x_i - b_i times the mean of the derivative by feature i along
    the straight line from the baseline b to x. A category is read as several columns, along which
    the line runs; its attribution is their sum.

    x: as `forward` takes it: (N, s_1) for one input of numbers. One row gives attributions without
    the axis of rows, and one error. output, column: a name, and an index or a label; None for the
    only one. baseline: (s_1,) for one input of numbers, else vectors and categories by input; None,
    or an input that is left out, for that of `baseline_of`. steps: Number of cells, or of points
    where there is no kink. Missing values that the network fills in count as filled.

    Raises NetworkError for an output, a column, a baseline or steps that there cannot be;
    TensorError like `forward`.
    """
    if steps < 1:
        raise NetworkError("steps", expected="1 or more", got=str(steps), fix="leave it out for 64")
    shown, index = _target(network, output, column)
    start = _start(network, baseline)
    feed = read_feed(network, x)
    end: dict[str, Array] = {}
    for source in network.inputs:
        end |= read_of(source, feed.rows[source.name])
    change = {name: end[name] - start[name] for name in start}
    gradients = {name: np.zeros_like(each) for name, each in change.items()}
    kinked = any(is_kinked(layer.activation) for layer in network.layers)
    cells = _cells(steps) if kinked else _points(steps)
    known: dict[float, Mapping[str, Array]] = {}
    for ends, weight in cells:
        known = {
            at: known[at]
            if at in known
            else values_from(network, {name: start[name] + at * change[name] for name in start})
            for at in ends
        }
        slopes = _gradients(network, shown, index, list(known.values()))
        for name, gradient in gradients.items():
            gradient += weight * slopes[name]
    parts = {name: change[name] * gradients[name] for name in start}
    attributions = np.concatenate([_joined(each, parts) for each in network.inputs], axis=1)
    name = graph_names.shown(shown, network.number(shown.layer))
    answers, base = (values_from(network, each)[name][:, index] for each in (end, start))
    error = attributions.sum(axis=1) - (answers - base)
    if feed.single:
        return Explanation(attributions[0], error[0])
    return Explanation(attributions, error)


def baseline_of(source: Input | Categorical) -> Array:
    """Return where explanations start for an input, (width,).

    Of numbers it is the input's baseline, else the mean that its scaling subtracts, else zeros. Of
    categories it is what layers read of the input's baseline, else of a missing value; zeros if
    that has no answer.
    """
    if isinstance(source, Categorical):
        return _category(source, source.baseline)
    if source.baseline is not None:
        return source.baseline.astype(np.float64)
    means = [each.mean for each in source.scaled if each.mean is not None]
    if len(means) == 1:
        return means[0].astype(np.float64)
    return np.zeros(source.size)


def _category(source: Categorical, value: Any) -> Array:
    asked = np.array([[source.missing_value if value is None else value]], object)
    (read,) = np.nan_to_num(source.read(asked))
    return np.asarray(read, np.float64)


def _start(network: "Network", given: ArrayLike | Mapping[str, Any] | None) -> dict[str, Array]:
    """Return what layers read of the inputs at the baseline, (1, width) each, as `read_of`."""
    read: dict[str, Array] = {}
    by_input = _by_input(network, given)
    for source in network.inputs:
        base = baseline_of(source)
        if source.name in by_input:
            base = _checked(source, by_input[source.name])
        rows = base[np.newaxis]
        if isinstance(source, Categorical):
            read[source.name] = rows
        else:
            read |= {each.name: scaled(rows, each) for each in source.scaled}
    return read


def _by_input(network: "Network", given: ArrayLike | Mapping[str, Any] | None) -> Mapping[str, Any]:
    if given is None:
        return {}
    names = [source.name for source in network.inputs]
    if isinstance(given, Mapping) and {*given} <= {*names}:
        return given
    (first, *others) = network.inputs
    if others or isinstance(first, Categorical):
        got = ", ".join(map(repr, given)) if isinstance(given, Mapping) else type(given).__name__
        raise NetworkError(
            "baseline",
            expected=f"a mapping by input ({', '.join(names)})",
            got=got,
            fix="give {name: row}; an input that is left out starts at its own",
        )
    return {first.name: given}


def _checked(source: Input | Categorical, baseline: Any) -> Array:
    subject = f"input {source.name!r}"
    if isinstance(source, Categorical):
        check_one_of(subject, "baseline", baseline, source.categories, "left out")
        return _category(source, baseline)
    array = checked_vector(subject, "baseline", baseline, source.size, source.features)
    return np.asarray(array, np.float64)


def _joined(source: Input | Categorical, parts: Mapping[str, Array]) -> Array:
    """Return the attributions of an input (N, features), from those of what layers read of it."""
    read = np.stack([parts[each.name] for each in source.scaled])
    total: Array = read.sum(axis=2).T if isinstance(source, Categorical) else read.sum(axis=0)
    return total


def _cells(steps: int) -> Iterator[tuple[Sequence[float], float]]:
    for cell in range(steps):
        yield (cell / steps, (cell + 1) / steps), 1 / steps


def _points(steps: int) -> Iterator[tuple[Sequence[float], float]]:
    for point, weight in zip(*gauss(steps), strict=True):
        yield (float(point),), float(weight)


def _gradients(
    network: "Network", shown: Output, index: int, ends: Sequence[Mapping[str, Array]]
) -> dict[str, Array]:
    """Return the derivatives of a column by what layers read (N, width), from z of all layers."""
    count = len(ends[0][graph_names.a(1)])
    widths = {layer.name: layer.units for layer in network.layers}
    for source in network.inputs:
        widths |= {each.name: source.width for each in source.scaled}
    upstream = {name: np.zeros((count, width)) for name, width in widths.items()}
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
    return upstream


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
