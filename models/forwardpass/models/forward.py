"""Forward propagation in NumPy, float64 inside: the reference for everything else.

a^(1) = x; z^(l+1) = W^(l) a^(l) + b^(l); a^(l+1) = f(z^(l+1)), in the notation of the UFLDL
tutorial. Where a layer reads several, a^(l) is theirs side by side.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models import graph_names
from forwardpass.models.activations import ACTIVATIONS
from forwardpass.models.ports import Input
from forwardpass.models.scaling import Scaling
from forwardpass.proto.spec import TensorError, TensorSpec, check_shape

if TYPE_CHECKING:
    from forwardpass.models.network import Network


def forward(network: "Network", x: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """Return the outputs by name, in the network's order: (N, s_1) -> (N, width) each.

    A single row (s_1,) gives outputs without the batch axis. x is rounded to float32 first,
    as it is on the wire; everything after that is float64.

    Raises TensorError if x has another shape, is not numeric or does not fit float32. Values
    that are not finite, or grow beyond float64, are carried on as IEEE 754 says.
    """
    return _shaped_like(x, _outputs(network, _values(network, as_rows(network, x))))


def propagate(network: "Network", x: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """Return every z^(l) and a^(l) by the lecture's names, `a1`, `z2`, `a2`, ..., and the outputs.

    `a1` is what the first layer computes with: x after its scaling. Shapes, rounding and
    errors are those of `forward`.
    """
    values = _values(network, as_rows(network, x))
    return _shaped_like(x, values | _outputs(network, values))


def as_rows(network: "Network", x: ArrayLike) -> NDArray[np.float32]:
    """Return x as float32 rows (N, s_1); one row (s_1,) becomes (1, s_1).

    Raises TensorError if x has another shape, is not numeric or does not fit float32.
    """
    subject = f"input {network.input.name!r}"
    try:
        given = np.asarray(x)
    except ValueError as error:  # rows of different lengths
        raise TensorError(
            subject, expected="an array", got=str(error), fix="pass rows of one length"
        ) from error
    if given.dtype.kind not in "biuf":
        raise TensorError(
            subject,
            expected="real numbers",
            got=f"dtype {given.dtype}",
            fix="convert the array to float32",
        )
    if given.ndim == 1:
        given = given[np.newaxis]
    spec = TensorSpec(network.input.name, "FP32", (-1, network.input.size))
    check_shape(subject, spec, given.shape)
    with np.errstate(over="ignore", under="ignore"):
        rows = given.astype(np.float32)
    overflowed = np.isinf(rows) & np.isfinite(given)
    if overflowed.any():
        raise TensorError(
            subject,
            expected="values within float32's range (up to 3.4e38)",
            got=str(given[overflowed][0]),
            fix="rescale the feature",
        )
    return rows


def _values(network: "Network", rows: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
    """Return z and a of every layer, by the lecture's names, for rows (N, s_1)."""
    # Beyond float64 there is only infinity, and NaN where two of them meet: no warning helps.
    with np.errstate(over="ignore", invalid="ignore"):
        x = rows.astype(np.float64)
        read = {each.name: _scaled(x, each) for each in network.input.scaled}
        values = {graph_names.a(1): read[network.input.name]}
        for scaling in network.input.scalings:
            values[graph_names.scaled(scaling.name)] = read[scaling.name]
        for number, layer in enumerate(network.layers, start=2):
            sources = [read[name] for name in layer.reads]
            a = sources[0] if len(sources) == 1 else np.concatenate(sources, axis=1)
            z = a @ layer.W.T.astype(np.float64) + layer.b
            values[graph_names.z(number)] = z
            read[layer.name] = ACTIVATIONS[layer.activation].function(z)
            values[graph_names.a(number)] = read[layer.name]
    return values


def _scaled(x: NDArray[np.float64], source: Input | Scaling) -> NDArray[np.float64]:
    if source.mean is not None:
        x = x - source.mean
    return x if source.scale is None else x / source.scale


def _outputs(
    network: "Network", values: dict[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    return {
        output.name: values[graph_names.shown(output, network.number(output.layer))]
        for output in network.outputs
    }


def _shaped_like(
    x: ArrayLike, values: dict[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    return {name: rows[0] for name, rows in values.items()} if np.ndim(x) == 1 else values
