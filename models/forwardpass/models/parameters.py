"""Turns layers as users write them (`Dense`) into layers with parameters (`Layer`)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models.activations import AnyActivation, WithParameter, activation_of, last_of
from forwardpass.models.arrays import parameter
from forwardpass.models.categorical import Categorical
from forwardpass.models.connections import check_connections
from forwardpass.models.errors import NetworkError
from forwardpass.models.initializers import DEFAULT_INITIALIZER, INITIALIZERS, generators
from forwardpass.models.layers import Dense, Layer
from forwardpass.models.normalization import BatchNorm
from forwardpass.models.ports import Input


def build_layers(
    inputs: Sequence[Input | Categorical], layers: Sequence[Dense], seed: int | None
) -> tuple[Layer, ...]:
    """Resolve what each layer reads, and draw missing parameters.

    The first layer reads all inputs unless it says otherwise.

    Raises NetworkError for connections that are not feed-forward, and if units differ from the
    rows of W.
    """
    widths = {each.name: source.width for source in inputs for each in source.scaled}
    reads: dict[str, tuple[str, ...]] = {}
    previous = tuple(source.name for source in inputs)
    for dense in layers:
        if dense.name in reads or dense.name in widths:
            raise NetworkError(
                f"layer {dense.name!r}",
                expected="a name of its own",
                got="one that the input or an earlier layer has",
                fix="rename one",
            )
        reads[dense.name] = previous if dense.reads is None else tuple(dense.reads)
        previous = (dense.name,)
    check_connections(widths, reads)

    built = []
    for dense, rng in zip(layers, generators(seed, len(layers)), strict=True):
        fan_in = sum(widths[name] for name in reads[dense.name])
        layer = _build(dense, reads[dense.name], fan_in, rng)
        widths[layer.name] = layer.units
        built.append(layer)
    return tuple(built)


def chain_layers(
    sizes: Sequence[int],
    activation: AnyActivation | BatchNorm | Sequence[AnyActivation | BatchNorm],
    output_activation: AnyActivation | BatchNorm,
    parameters: Sequence[tuple[ArrayLike, ArrayLike]] | None,
    init: str | None,
) -> list[Dense]:
    """Return the layers L2, L3, ... of a chain; for the arguments see `Network.chain`.

    Raises NetworkError unless there is one activation per hidden layer and one pair of
    parameters per layer.
    """
    if len(sizes) < 2:
        raise NetworkError(
            "chain",
            expected="at least two sizes, of the input and of one layer",
            got=str(list(sizes)),
            fix="write for example [3, 3, 1]",
        )
    hidden = len(sizes) - 2
    activations = _for_each(activation, hidden)
    pairs = [(None, None)] * (hidden + 1) if parameters is None else list(parameters)
    for what, count, wanted in (
        ("activations, one per hidden layer", len(activations), hidden),
        ("pairs (W, b), one per layer after the input", len(pairs), hidden + 1),
    ):
        if count != wanted:
            raise NetworkError(
                "chain",
                expected=f"{wanted} {what}, for sizes {list(sizes)}",
                got=str(count),
                fix="give as many as the sizes say",
            )
    return [
        Dense(f"L{number}", units, function, W=W, b=b, init=init)
        for number, (units, function, (W, b)) in enumerate(
            zip(sizes[1:], [*activations, output_activation], pairs, strict=True), start=2
        )
    ]


def _for_each(
    activation: AnyActivation | BatchNorm | Sequence[AnyActivation | BatchNorm], hidden: int
) -> list[AnyActivation | BatchNorm]:
    if isinstance(activation, str | WithParameter | BatchNorm):
        return [activation] * hidden
    return list(activation)


def _build(dense: Dense, reads: tuple[str, ...], fan_in: int, rng: np.random.Generator) -> Layer:
    W = _drawn(dense, fan_in, rng) if dense.W is None else _given(dense, dense.W, fan_in)
    b = np.zeros(len(W), np.float32) if dense.b is None else dense.b
    subject = f"layer {dense.name!r}"
    b = parameter(subject, "b", b)
    if isinstance(dense.activation, BatchNorm):
        W, b = (
            parameter(subject, what, values)
            for what, values in zip("Wb", dense.activation.folded(subject, W, b), strict=True)
        )
    return Layer(dense.name, W, b, dense.function, reads)


def _drawn(dense: Dense, fan_in: int, rng: np.random.Generator) -> NDArray[np.float32]:
    if dense.units is None:
        raise NetworkError(
            f"layer {dense.name!r}",
            expected="a number of units or W",
            got="neither",
            fix="give units, as in Dense('hidden', 16)",
        )
    name = activation_of(last_of(dense.function)).name
    init = DEFAULT_INITIALIZER[name] if dense.init is None else dense.init
    return INITIALIZERS[init].draw((dense.units, fan_in), rng)


def _given(dense: Dense, values: ArrayLike, fan_in: int) -> NDArray[np.float32]:
    subject = f"layer {dense.name!r}"
    W = parameter(subject, "W", values)
    if W.ndim != 2 or (dense.units is not None and W.shape != (dense.units, fan_in)):
        units = "units" if dense.units is None else dense.units
        raise NetworkError(
            subject,
            expected=f"W of shape ({units}, {fan_in}): (s_out, s_in)",
            got=f"shape {W.shape}",
            fix="pass W.T" if W.shape == (fan_in, dense.units) else "fit W to the sizes",
        )
    return W
