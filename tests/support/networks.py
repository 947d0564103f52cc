"""Random networks and rows: any connections, widths to 512, depth to 6, extreme weights."""

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from forwardpass.models import (
    ACTIVATIONS,
    AnyActivation,
    Elu,
    GroupedSoftmax,
    HardSigmoid,
    Input,
    Layer,
    LayerNorm,
    LeakyRelu,
    Network,
    Output,
    PRelu,
)
from forwardpass.models.activations import activation_of, is_name

# Mostly small, so that many are tried.
WIDTHS = st.one_of(*[st.integers(1, 6)] * 5, st.integers(1, 40), st.sampled_from([100, 512]))
EXPONENTS = st.one_of(st.just(0), st.integers(-2, 2), st.integers(-30, 30))


def values(rng: np.random.Generator, shape: tuple[int, ...], exponent: int) -> NDArray[np.float32]:
    """Normal numbers of a magnitude, a tenth of them zero, kept within float32."""
    drawn = rng.standard_normal(shape) * 10.0**exponent * (rng.random(shape) > 0.1)
    return np.clip(drawn, -3e38, 3e38).astype(np.float32)


def functions(rng: np.random.Generator, units: int, *, hidden: bool) -> list[AnyActivation]:
    """Every activation that a layer of so many units may have, with a parameter too."""
    named: list[AnyActivation] = [
        name for name, f in ACTIVATIONS.items() if is_name(name) and not (hidden and f.outputs_only)
    ]
    slope, *slopes = rng.standard_normal(1 + units)
    alpha = abs(slope) + 0.1
    ends = [0, *sorted(rng.choice(range(1, units), (units - 1) // 2, replace=False)), units]
    groups = GroupedSoftmax(np.diff(ends))
    given: list[AnyActivation]
    given = [LeakyRelu(slope), Elu(alpha), HardSigmoid(alpha), PRelu(slopes), groups]
    if units > 1:
        then = [*named, *given][rng.integers(len(named) + len(given))]
        given.append(LayerNorm(slopes if slope > 0 else (), rng.standard_normal(units), then=then))
    return [*named, *given]


@st.composite
def networks(draw: st.DrawFn, exponents: st.SearchStrategy[int] = EXPONENTS) -> Network:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(WIDTHS)
    scaled = draw(st.sampled_from(["", "mean", "scale", "mean scale"]))
    source = Input(
        size,
        draw(st.sampled_from(["x", "measurements"])),
        features=[f"feature {i}" for i in range(size)] if draw(st.booleans()) else (),
        mean=values(rng, (size,), draw(exponents)) if "mean" in scaled else None,
        scale=10.0 ** draw(exponents) * (rng.random(size) + 0.5) if "scale" in scaled else None,
    )
    depth = draw(st.integers(1, 6))
    names = [f"layer {k}" for k in range(depth)]
    widths = {source.name: size} | {name: draw(WIDTHS) for name in names}
    reads = []
    for k in range(depth):
        before = [source.name, *names[:k]]
        others = draw(st.sets(st.sampled_from(before), max_size=2)) - {before[-1]}
        last = draw(st.booleans()) or not others
        reads.append((*sorted(others), *([before[-1]] if last else [])))
    read = {name for sources in reads for name in sources}
    layers, outputs = [], []
    for name, sources in zip(names, reads, strict=True):
        activation = draw(st.sampled_from(functions(rng, widths[name], hidden=name in read)))
        columns = sum(widths[source] for source in sources)
        W = values(rng, (widths[name], columns), draw(exponents))
        b = values(rng, (widths[name],), draw(exponents))
        layers.append(Layer(name, W, b, activation, sources))
        if name not in read or draw(st.booleans()):
            labels = [f"{i}" for i in range(len(b))]
            thresholds = [min(0.5, activation_of(activation).high)] if draw(st.booleans()) else ()
            outputs.append(Output(f"a of {name}", name, labels=labels, thresholds=thresholds))
        if draw(st.booleans()):
            outputs.append(Output(f"z of {name}", name, "z", description="sums"))
    return Network(source, layers, outputs, "random", {"made by": "hypothesis"})


@st.composite
def rows(draw: st.DrawFn, network: Network) -> NDArray[np.float32]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = values(rng, (draw(st.integers(1, 5)), network.input.size), draw(EXPONENTS))
    edge = draw(st.sampled_from([None, 0.0, -0.0, 1e-45, -1e-40, 1.0, 3e38, -3e38]))
    if edge is not None:
        x[0] = edge
    return x
