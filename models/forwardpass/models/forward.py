"""Forward propagation in NumPy with float64: the reference for everything else.

a^(1) = x; z^(l+1) = W^(l) a^(l) + b^(l); a^(l+1) = f(z^(l+1)), in the notation of the UFLDL
tutorial. If a layer reads several, a^(l) is their concatenation.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.models import graph_names
from forwardpass.models.activations import activation_of
from forwardpass.models.categorical import Categorical
from forwardpass.models.feeds import Feed, Rows, read_feed
from forwardpass.models.ports import Input
from forwardpass.models.scaling import Scaling

if TYPE_CHECKING:
    from forwardpass.models.network import Network


def forward(network: "Network", x: Any) -> dict[str, NDArray[np.float64]]:
    """Return the outputs by name, in the network's order: (N, s_1) -> (N, width) each.

    x: of one input of numbers, its rows. Otherwise, or if columns have names, a table or a dict of
    columns by the names of features and of categorical inputs, or a dict of arrays by input name.
    A single row, as (s_1,), gives outputs without the batch axis. Numbers are rounded to float32
    first, as on the wire; everything after that is float64.

    Raises TensorError if x has other columns or another shape, is not numeric or does not fit
    float32. Values that are not finite, or overflow float64, follow IEEE 754.
    """
    feed = read_feed(network, x)
    return _shaped_like(feed, _outputs(network, values_of(network, feed.rows)))


def propagate(network: "Network", x: Any) -> dict[str, NDArray[np.float64]]:
    """Return every z^(l) and a^(l) by the lecture's names, `a1`, `z2`, `a2`, ..., and the outputs.

    `a1` is what layers read of the input, or of the inputs side by side: x after scaling. Shapes,
    rounding and errors are those of `forward`.
    """
    feed = read_feed(network, x)
    values = values_of(network, feed.rows)
    return _shaped_like(feed, values | _outputs(network, values))


def filled(rows: NDArray[Any], source: Input) -> NDArray[Any]:
    """Return rows with the values of `fill` in place of NaN."""
    return rows if source.fill is None else np.where(np.isnan(rows), source.fill, rows)


def scaled(x: NDArray[np.float64], source: Input | Scaling) -> NDArray[np.float64]:
    """Return (x - mean) / scale, as far as a scaling has them."""
    if source.mean is not None:
        x = x - source.mean
    return x if source.scale is None else x / source.scale


def read_of(source: Input | Categorical, rows: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Return what layers read of an input, by the names of the input and its scalings."""
    if isinstance(source, Categorical):
        return {source.name: source.read(rows)}
    x = filled(rows, source).astype(np.float64)
    return {each.name: scaled(x, each) for each in source.scaled}


def values_of(network: "Network", rows: Rows) -> dict[str, NDArray[np.float64]]:
    """Return z and a of every layer, by the lecture's names, for the rows of each input."""
    read: dict[str, NDArray[np.float64]] = {}
    with np.errstate(over="ignore", invalid="ignore"):
        for source in network.inputs:
            read |= read_of(source, rows[source.name])
    return values_from(network, read)


def values_from(
    network: "Network", given: Mapping[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    """Return the same for what layers read of the inputs, as `read_of` returns."""
    read = dict(given)
    # Overflow gives infinity, and NaN from two of them: no warning helps.
    with np.errstate(over="ignore", invalid="ignore"):
        whole = [read[source.name] for source in network.inputs]
        values = {graph_names.a(1): np.concatenate(whole, axis=1)}
        for source in network.inputs:
            for each in source.scaled:
                name = (
                    graph_names.of_input(source.name, len(network.inputs))
                    if each is source
                    else graph_names.scaled(each.name)
                )
                values[name] = read[each.name]
        for number, layer in enumerate(network.layers, start=2):
            sources = [read[name] for name in layer.reads]
            a = sources[0] if len(sources) == 1 else np.concatenate(sources, axis=1)
            z = a @ layer.W.T.astype(np.float64) + layer.b
            values[graph_names.z(number)] = z
            read[layer.name] = activation_of(layer.activation).function(z)
            values[graph_names.a(number)] = read[layer.name]
    return values


def _outputs(
    network: "Network", values: dict[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    return {
        output.name: values[graph_names.shown(output, network.number(output.layer))]
        for output in network.outputs
    }


def _shaped_like(
    feed: Feed, values: dict[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    return {name: rows[0] for name, rows in values.items()} if feed.single else values
