"""The errors of onnxruntime's float32 activations, against the exact function at many numbers."""

import numpy as np
import pytest
import scipy.special
from numpy.typing import NDArray

from forwardpass.models import (
    ACTIVATIONS,
    AnyActivation,
    Elu,
    HardSigmoid,
    LeakyRelu,
    Network,
    to_onnx,
)
from forwardpass.models.activations import UNIT_ROUNDOFF, activation_of, is_name
from forwardpass.models.file.graph import serialize
from forwardpass.models.file.runner import load_graph

LARGEST = float(np.finfo(np.float32).max)
OVER_ROWS = ("softmax", "log_softmax")


def floats(step: int, low: float, high: float) -> NDArray[np.float32]:
    """Every step-th float32 from low to high, and their negatives."""
    first, last = (int(np.float32(each).view(np.uint32)) for each in (low, high))
    positive = np.arange(first, last + 1, step).astype(np.uint32).view(np.float32)
    return np.concatenate([positive, -positive])


# Half of all numbers are below 2^-63, where every function is nearly linear.
ENDS = np.array([LARGEST, -LARGEST], np.float32)
Z = np.concatenate([floats(40_009, 0, LARGEST), floats(2_003, 2**-9, 128), ENDS])

EXACT = {
    "identity": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "sigmoid": scipy.special.expit,
    "tanh": np.tanh,
    "leaky_relu": lambda z: np.where(z > 0, z, np.float64(np.float32(0.01)) * z),
    "prelu": lambda z: np.where(z > 0, z, z / 4),
    "elu": lambda z: np.where(z > 0, z, np.expm1(z)),
    "selu": lambda z: 1.0507009873554805 * np.where(z > 0, z, 1.6732632423543772 * np.expm1(z)),
    "gelu": lambda z: z * scipy.special.ndtr(z),
    "gelu_tanh": lambda z: z * scipy.special.expit(np.sqrt(8 / np.pi) * (z + 0.044715 * z**3)),
    "silu": lambda z: z * scipy.special.expit(z),
    "mish": lambda z: z * np.tanh(scipy.special.softplus(z)),
    "softplus": scipy.special.softplus,
    "softsign": lambda z: z / (1 + np.abs(z)),
    "hard_sigmoid": lambda z: np.clip(z + 3, 0, 6) / 6,
    "hard_swish": lambda z: z * np.clip(z + 3, 0, 6) / 6,
}


def answers(activation: AnyActivation, z: NDArray[np.float32]) -> NDArray[np.float64]:
    """onnxruntime's, as a network of one unit computes them."""
    network = Network.chain([1, 1], output_activation=activation, parameters=[([[1]], [0])])
    graph = load_graph(serialize(to_onnx(network)))
    return graph.run(z[:, np.newaxis])["y"][:, 0].astype(np.float64)


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name not in (*OVER_ROWS, "exp")])
def test_the_reference_is_the_function(name: str) -> None:
    z = Z.astype(np.float64)
    with np.errstate(all="ignore"):
        exact = EXACT[name](z)
    values = ACTIVATIONS[name].function(z[:, np.newaxis])[:, 0]
    # hard_sigmoid's slope is rounded to float32, as it is in the file.
    near = 2**-25 if name == "hard_sigmoid" else 1e-14
    np.testing.assert_allclose(values, exact, rtol=1e-13, atol=near)


GIVEN: list[AnyActivation] = [
    *(name for name in ACTIVATIONS if is_name(name) and name not in (*OVER_ROWS, "exp")),
    LeakyRelu(0.3),
    LeakyRelu(-2.5),
    LeakyRelu(1e-30),
    Elu(0.1),
    Elu(7.0),
    HardSigmoid(0.2),
    HardSigmoid(50.0),
]


@pytest.mark.parametrize("activation", GIVEN, ids=str)
def test_the_error_is_at_most_what_the_bound_counts_on_and_nothing_overflows(
    activation: AnyActivation,
) -> None:
    f = activation_of(activation)
    z = Z.astype(np.float64)
    exact = f.function(z[:, np.newaxis])[:, 0]
    got = answers(activation, Z)
    inside = np.abs(exact) < LARGEST * (1 - 1e-6)
    assert np.isfinite(got[inside]).all()
    assert inside.mean() > 0.99
    allowed = f.error + f.relative_error * np.abs(z) + 2.0**-125
    # A margin, since other versions and processors may round in another way.
    assert (np.abs(got - exact) <= 0.8 * allowed)[inside].all()
    assert (exact >= f.low).all()
    assert (exact <= f.high).all()


@pytest.mark.parametrize("name", [f for f in ACTIVATIONS if f not in (*OVER_ROWS, "exp")])
def test_a_lipschitz_constant_is_the_steepest_slope(name: str) -> None:
    f = ACTIVATIONS[name]
    z = np.arange(-40, 40, 1e-4)[:, np.newaxis]
    slopes = np.abs(np.diff(f.function(z)[:, 0])) / 1e-4
    assert slopes.max() <= f.lipschitz * (1 + 1e-9)
    assert slopes.max() >= f.lipschitz * (1 - 2e-4)


def test_the_error_of_log_softmax_is_relative_to_its_values() -> None:
    rng = np.random.default_rng(0)
    f = ACTIVATIONS["log_softmax"]
    for width in (1, 2, 10, 1000):
        for spread in (1e-3, 1.0, 30.0, 1e4, 1e37):
            z = (rng.standard_normal((200, width)) * spread).astype(np.float32)
            network = Network.chain(
                [width, width],
                output_activation="log_softmax",
                parameters=[(np.eye(width), np.zeros(width))],
            )
            got = load_graph(serialize(to_onnx(network))).run(z)["y"]
            exact = scipy.special.log_softmax(z.astype(np.float64), axis=1)
            sums = (width + 2) * UNIT_ROUNDOFF
            allowed = f.error + f.relative_error * np.abs(exact) + sums
            assert (np.abs(got - exact) <= 0.8 * allowed).all()
