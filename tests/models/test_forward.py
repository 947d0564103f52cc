import math
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from forwardpass.models import Dense, Input, Network, NetworkError, Output, forward, propagate
from forwardpass.proto.spec import TensorError

SCALAR = {
    "identity": lambda z: z,
    "relu": lambda z: max(0.0, z),
    "sigmoid": lambda z: 1 / (1 + math.exp(-z)),
    "tanh": math.tanh,
}


def by_loops(network, row):
    """Forward propagation unit by unit, from the lecture's formulas: every z and a by layer."""
    mean = network.input.mean if network.input.mean is not None else [0] * network.input.size
    scale = network.input.scale if network.input.scale is not None else [1] * network.input.size
    a = {
        network.input.name: [
            (float(x) - float(m)) / float(s) for x, m, s in zip(row, mean, scale, strict=True)
        ]
    }
    z = {}
    for layer in network.layers:
        incoming = [value for name in layer.reads for value in a[name]]
        z[layer.name] = [
            sum(float(w) * value for w, value in zip(weights, incoming, strict=True)) + float(bias)
            for weights, bias in zip(layer.W, layer.b, strict=True)
        ]
        if layer.activation == "softmax":
            total = sum(math.exp(value) for value in z[layer.name])
            a[layer.name] = [math.exp(value) / total for value in z[layer.name]]
        else:
            a[layer.name] = [SCALAR[layer.activation](value) for value in z[layer.name]]
    return z, a


@pytest.fixture
def network():
    return Network.define(
        Input(4, mean=[1, -2, 3, 0.5], scale=[1, 2, 0.5, 4]),
        [
            Dense("trunk", 7, "tanh", b=np.linspace(-1, 1, 7)),
            Dense("side", 3, "sigmoid", reads="x"),
            Dense("deep", 5, "relu", reads=["trunk", "side"]),
            Dense("number", 2, "identity", reads=["deep", "x"], b=[0.5, -0.5]),
            Dense("kind", 3, "softmax", reads=["x", "deep", "trunk"]),
        ],
        ["kind", Output("value", "number"), Output("logits", "kind", "z"), Output("code", "deep")],
    )


def test_the_lectures_network_by_hand() -> None:
    W1, b1 = [[1, 0, -1], [2, 1, 0], [0, 0, 0]], [0, -1, 3]
    W2, b2 = [[1, -1, 2]], [0.25]
    network = Network.chain([3, 3, 1], "relu", "sigmoid", parameters=[(W1, b1), (W2, b2)])
    # z2 = (1 - 3, 2 + 2 - 1, 3), a2 = (0, 3, 3), z3 = -3 + 6 + 0.25
    values = propagate(network, [1.0, 2.0, 3.0])
    assert values["a1"].tolist() == [1, 2, 3]
    assert values["z2"].tolist() == [-2, 3, 3]
    assert values["a2"].tolist() == [0, 3, 3]
    assert values["z3"].tolist() == [3.25]
    assert values["y"][0] == pytest.approx(1 / (1 + math.exp(-3.25)), rel=1e-15)


def test_any_connections_agree_with_loops_over_the_lectures_formulas(network: Network) -> None:
    x = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32) * 3
    values = propagate(network, x)
    for index, row in enumerate(x):
        z, a = by_loops(network, row)
        for number, layer in enumerate(network.layers, start=2):
            for name, expected in ((f"z{number}", z), (f"a{number}", a)):
                np.testing.assert_allclose(
                    values[name][index], expected[layer.name], rtol=1e-12, atol=1e-13
                )
    np.testing.assert_allclose(values["a1"][0], by_loops(network, x[0])[1]["x"], rtol=1e-15)


def test_outputs_come_by_name_in_the_networks_order(network: Network) -> None:
    x = np.ones((2, 4))
    answers, values = forward(network, x), propagate(network, x)
    assert list(answers) == ["kind", "value", "logits", "code"]
    for output, tensor in (("kind", "a6"), ("value", "z5"), ("logits", "z6"), ("code", "a4")):
        assert (answers[output] == values[tensor]).all()
        assert answers[output].dtype == np.float64
    assert all((network(x)[name] == answers[name]).all() for name in answers)


def test_one_row_gives_answers_without_the_batch_axis(network: Network) -> None:
    x = np.random.default_rng(0).standard_normal((3, 4))
    batch, one = propagate(network, x), propagate(network, x[1])
    for name, value in one.items():
        assert value.shape == batch[name].shape[1:]
        np.testing.assert_allclose(value, batch[name][1], rtol=1e-12, atol=1e-14)
    assert forward(network, x[1].tolist())["kind"].shape == (3,)


def test_no_rows_give_no_answers(network: Network) -> None:
    assert forward(network, np.zeros((0, 4)))["kind"].shape == (0, 3)


def test_x_is_rounded_to_float32_and_nothing_else_is() -> None:
    network = Network.chain([1, 1], parameters=[([[1]], [2**-40])])
    assert network([0.1])["y"][0] == np.float64(np.float32(0.1)) + 2**-40


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_, np.float16, np.float64])
def test_every_real_dtype_will_do(network: Network, dtype) -> None:
    x = np.ones((2, 4))
    assert (forward(network, x.astype(dtype))["value"] == forward(network, x)["value"]).all()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 3)), r"input 'x': expected shape \[-1, 4\], got \[2, 3\]; axis 1 must be 4"),
        (np.zeros(3), r"input 'x': expected shape \[-1, 4\], got \[1, 3\]; axis 1 must be 4 long"),
        (np.zeros((1, 2, 4)), r"input 'x': .* got \[1, 2, 4\] \(rank 3\); send 2 dimensions"),
        (1.0, r"input 'x': .* got \[\] \(rank 0\)"),
        ([[1, 2], [3]], r"input 'x': expected an array, got .*; pass rows of one length"),
        (np.full((1, 4), "1"), r"input 'x': expected real numbers, got dtype <U1; convert"),
        (np.full((1, 4), 1j), r"input 'x': expected real numbers, got dtype complex128"),
        ([[0, 0, 1e39, 0]], r"input 'x': expected values within float32's range .* got 1e\+39"),
    ],
)
def test_x_that_does_not_fit_is_refused(network: Network, x, message) -> None:
    with pytest.raises(TensorError, match=message):
        forward(network, x)


def test_values_that_are_not_finite_are_carried_on() -> None:
    network = Network.chain([1, 1], parameters=[([[1]], [0])])
    assert np.isnan(network([np.nan])["y"]).all()
    assert network([np.inf])["y"][0] == np.inf


def test_growth_beyond_float64_is_infinite_without_a_warning() -> None:
    network = Network.chain([1, *[1] * 10], "identity", parameters=[([[3e38]], [0])] * 10)
    assert network([3e38])["y"][0] == np.inf


FEATURES = ("a", "b", "c")
NAMED = Network.chain([3, 4, 2], "tanh", "identity", input=Input(3, features=FEATURES))
ROWS = np.random.default_rng(3).normal(size=(6, 3)).astype(np.float32)
FRAME = pd.DataFrame(ROWS, columns=FEATURES)[["c", "a", "b"]]


@pytest.mark.parametrize(
    "table",
    [
        FRAME,
        pl.from_pandas(FRAME),
        pa.Table.from_pandas(FRAME),
        {name: FRAME[name].to_numpy() for name in FRAME},
        FRAME.to_dict("records"),
        FRAME.to_records(index=False),
    ],
    ids=["pandas", "polars", "arrow", "dict", "records", "structured"],
)
def test_columns_that_have_names_are_matched_by_them(table: Any) -> None:
    assert np.array_equal(forward(NAMED, table)["y"], forward(NAMED, ROWS)["y"])
    assert np.array_equal(propagate(NAMED, table)["a2"], propagate(NAMED, ROWS)["a2"])


def test_one_row_that_has_names_is_one_row() -> None:
    assert np.array_equal(NAMED(FRAME.iloc[2])["y"], NAMED(ROWS[2])["y"])
    assert NAMED(FRAME.iloc[2])["y"].shape == (2,)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (FRAME.rename(columns={"a": "A"}), "got none for 'a', and one for 'A', which the model"),
        (FRAME.assign(d=1), "leave out 'd'"),
        (FRAME[["a", "b"]], "none for 'c'"),
        ({"a": 1, "b": [1, 2], "c": 1}, "rows of one length"),
    ],
)
def test_other_names_are_refused(table: Any, text: str) -> None:
    with pytest.raises(TensorError, match=text):
        forward(NAMED, table)


def test_names_of_values_of_each_feature_are_matched_too() -> None:
    """What pandas computes of columns in another order than that of the features."""
    whole = Input(
        3,
        features=FEATURES,
        mean=FRAME.mean(),
        scale=FRAME.std(),
        low=FRAME.min(),
        high=FRAME.max(),
    )
    plain = FRAME[list(FEATURES)]
    for field, values in (("mean", plain.mean()), ("scale", plain.std()), ("low", plain.min())):
        assert np.array_equal(getattr(whole, field), values.to_numpy(np.float32)), field
    with pytest.raises(NetworkError, match=r"input 'x', mean: .*none for 'b', 'c'"):
        Input(3, features=FEATURES, mean={"a": 1.0})


def test_thresholds_are_matched_with_the_labels() -> None:
    output = Output("y", "L2", labels=("ill", "well"), thresholds={"well": 0.25, "ill": 0.5})
    assert output.thresholds == (0.5, 0.25)
    with pytest.raises(NetworkError, match=r"thresholds: .*none for 'well'"):
        Output("y", "L2", labels=("ill", "well"), thresholds=pd.Series({"ill": 0.5, "wel": 1.0}))
