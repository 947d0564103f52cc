"""Networks of several inputs: numbers, categories and missing values."""

import pickle
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from forwardpass.models import (
    Categorical,
    Dense,
    Input,
    Network,
    NetworkError,
    Output,
    Scaling,
    expose,
    merge,
    propagate,
    rounding_bound,
)
from forwardpass.proto.spec import TensorError

W1 = np.arange(21, dtype=np.float64).reshape(3, 7) / 8 - 1
TABLE: dict[str, Any] = {
    "age": [30.0, None, 50.0, 20.0],
    "income": [1.0, 2.0, 3.0, 4.0],
    "color": ["red", "green", "red", "mauve"],
    "size": [3, 9, 7, 5],
}


def mixed(**changes) -> Network:
    inputs: dict[str, Any] = {
        "numbers": Input(
            2, "numbers", ["age", "income"], mean=[40, 2], scale=[10, 2], fill={"age": 35}
        ),
        "color": Categorical("color", ["red", "green", "blue"], unknown="blue"),
        "size": Categorical(
            "size", [3, 5, 9], "zeros", values=[[1.0, 0.5], [2.0, 0.25], [4.0, 0.0]]
        ),
    } | changes
    return Network.define(
        list(inputs.values()),
        [Dense("hidden", 3, "tanh", W=W1, b=[0.5, 0, 1]), Dense("y", 1, "identity", b=[0])],
        name="mixed",
    )


def by_hand(network: Network, age, color, size, income=(1, 2, 3, 4)) -> np.ndarray:
    """Answers of `mixed` for the numbers, and the rows of categories, in plain NumPy."""
    numbers = (np.stack([age, income], axis=1) - [40, 2]) / [10, 2]
    a1 = np.concatenate([numbers, color, size], axis=1).astype(np.float64)
    return np.tanh(a1 @ W1.T + [0.5, 0, 1]) @ network.layers[1].W.T.astype(np.float64)


def test_a_network_reads_numbers_categories_and_fills_in_what_is_missing() -> None:
    network = mixed()
    expected = by_hand(
        network,
        [30, 35, 50, 20],
        np.eye(3)[[0, 1, 0, 2]],
        [[1, 0.5], [4, 0], [0, 0], [2, 0.25]],
    )
    np.testing.assert_allclose(network(TABLE)["y"], expected, rtol=1e-14)
    assert network.sizes == (7, 3, 1)
    assert propagate(network, TABLE)["a1"].shape == (4, 7)
    assert {name: block.shape for name, block in network.blocks("hidden").items()} == {
        "numbers": (3, 2),
        "color": (3, 3),
        "size": (3, 2),
    }
    assert network.number("size") == 1
    assert network.width("size") == 2
    assert (rounding_bound(network, TABLE)["y"] < 1e-5).all()


def test_an_identity_layer_without_bias_is_an_embedding() -> None:
    table = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    network = Network.define(
        Categorical("color", ["red", "green", "blue"]),
        [Dense("embedding", 4, "identity", W=table.T, b=np.zeros(4))],
    )
    np.testing.assert_array_equal(
        network({"color": ["blue", "red"]})["embedding"], table[[2, 0]].astype(np.float64)
    )


def test_every_kind_of_table_is_matched_by_names() -> None:
    network = mixed()
    expected = network(TABLE)["y"]
    frame = pd.DataFrame(TABLE)
    records = [dict(zip(TABLE, row, strict=True)) for row in zip(*TABLE.values(), strict=True)]
    arrays = {
        "size": np.array(TABLE["size"])[:, np.newaxis],
        "color": np.array(TABLE["color"]),
        "numbers": np.stack([np.array(TABLE["age"], float), TABLE["income"]], axis=1),
    }
    for table in (
        frame[["size", "color", "income", "age"]],
        frame.astype({"color": "category", "age": "Float64", "size": "Int64"}),
        pl.DataFrame(TABLE),
        pa.table(TABLE),
        records,
        arrays,
    ):
        np.testing.assert_array_equal(network(table)["y"], expected)
    for row in (records[1], frame.iloc[1], {name: array[1] for name, array in arrays.items()}):
        np.testing.assert_allclose(network(row)["y"], expected[1], rtol=1e-15)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((4, 4)), r"x: expected a table, .* for the inputs 'numbers', 'color', 'size'"),
        ({**TABLE, "weight": [1] * 4}, r"x: .* got one for 'weight', which the model does not"),
        ({"color": ["red"]}, r"expected one column for each of the model's 4 columns, got none"),
        (
            {**TABLE, "color": [1, 2, 3, 4]},
            r"input 'color': expected texts, got 1 in row 0, counting from 0; write '1'",
        ),
        ({**TABLE, "size": [3.5] * 4}, r"input 'size': expected integers of 64 bits, got 3.5"),
        ({**TABLE, "size": ["3"] * 4}, r"input 'size': expected integers of 64 bits, got '3'"),
        ({**TABLE, "size": [3]}, r"input 'size': expected 4 rows as for 'numbers', got 1"),
        ({**TABLE, "size": 3}, r"input 'size': expected 4 rows as for 'numbers', got 1"),
        ({**TABLE, "size": np.ones((4, 2))}, r"input 'size': expected one column, got shape \[4, "),
        ({**TABLE, "age": ["x"] * 4}, r"input 'numbers': expected real numbers, got dtype"),
        ({**TABLE, "income": [1, 2, None, 4]}, r"input 'numbers': expected real numbers, got dtyp"),
    ],
)
def test_what_does_not_fit_is_refused(x, message) -> None:
    with pytest.raises(TensorError, match=message):
        mixed()(x)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, ""])
def test_a_missing_text_is_unknown_unless_it_counts_as_a_category(missing) -> None:
    def row(**rules) -> Any:
        source = Categorical("c", ["a", "b"], **rules)
        network = Network.define(source, [Dense("y", 2, "identity", W=np.eye(2))])
        return network({"c": [missing, "b", "unseen"]})["y"].tolist()

    none = [pytest.approx(np.nan, nan_ok=True)] * 2
    assert row() == [none, [0, 1], none]
    assert row(unknown="zeros") == [[0, 0], [0, 1], [0, 0]]
    assert row(unknown="a") == [[1, 0], [0, 1], [1, 0]]
    assert row(missing="b") == [[0, 1], [0, 1], none]
    assert row(missing="b", unknown="zeros") == [[0, 1], [0, 1], [0, 0]]
    assert Categorical("c", ["", "b"]).read(np.array([[""]], object)).tolist() == [[1, 0]]


def test_a_missing_integer_is_unknown_unless_it_counts_as_a_category() -> None:
    source = Categorical("c", np.array([0, 7]), unknown="zeros", missing=7)
    network = Network.define(source, [Dense("y", 2, "identity", W=np.eye(2))])
    answers = network({"c": pd.Series([0.0, None, 7.0, 8.0])})["y"]
    assert answers.tolist() == [[1, 0], [0, 1], [0, 1], [0, 0]]


def test_a_refused_category_leaves_answers_that_do_not_depend_on_it() -> None:
    network = Network.define(
        [Input(1), Categorical("c", ["a", "b"])],
        [
            Dense("one", 1, "relu", reads="x", W=[[2]]),
            Dense("both", 2, "softmax", reads=("x", "c")),
        ],
        ["one", "both"],
    )
    answers = network({"x": [1, 2], "c": ["b", "?"]})
    assert answers["one"].tolist() == [[2], [4]]
    assert np.isfinite(answers["both"]).all(axis=1).tolist() == [True, False]
    assert np.isnan(answers["both"][1]).all()


def test_values_that_are_filled_in_are_those_of_the_features_that_have_one() -> None:
    source = Input(3, fill=[1, np.nan, -0.0], scalings=[Scaling("half", scale=[2, 2, 2])])
    network = Network.define(
        source,
        [
            Dense("a", 3, "identity", reads="x", W=np.eye(3)),
            Dense("b", 3, "identity", reads="half", W=np.eye(3)),
        ],
        ["a", "b"],
    )
    values = propagate(network, [np.nan] * 3)
    np.testing.assert_array_equal(values["a1"], [1, np.nan, 0])
    np.testing.assert_array_equal(values["half_scaled"], [0.5, np.nan, 0])
    assert Input(2, fill=[np.nan] * 2) == Input(2)
    assert Input(2, fill=[0, 1]) != Input(2)
    with pytest.raises(NetworkError, match=r"fill of shape \(2,\), .* as in np.nanmean"):
        Input(2, fill=[1])
    with pytest.raises(NetworkError, match="expected finite fill, got inf"):
        Input(2, fill=[1, np.inf])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("c", []), "all texts or all integers, got \\[\\]"),
        (("c", "abc"), "all texts or all integers, got 'abc'"),
        (("c", ["a", 1]), "all texts or all integers"),
        (("c", [True, False]), "all texts or all integers, got True"),
        (("c", [1.5]), "all texts or all integers, got 1.5"),
        (("c", ["a", "b", "a"]), "distinct categories, got 'a' twice"),
        (("c", [2**63]), "below 2\\*\\*63, got 9223372036854775808"),
        (("c", ["\udc80"]), "categories of Unicode text"),
        (("c", ["a"], "b"), "unknown to be 'refuse' or 'zeros', or one of the categories, got 'b'"),
        (("c", ["a"], "zeros", "b"), "missing to be None, or one of the categories, got 'b'"),
        (("c", ["", "a"], "zeros", "a"), "no missing, as '' is a category itself"),
        (("c", ["a"], "zeros", None, [[1], [2]]), r"values of shape \(1,\) or \(1, width\)"),
        (("a/b", ["a"]), "input name: expected a name"),
    ],
)
def test_categories_are_checked(arguments, message) -> None:
    with pytest.raises(NetworkError, match=message):
        Categorical(*arguments)


def test_categories_are_values() -> None:
    source: Any = Categorical("c", ["a", "b"], "a", values=[[1.0, -0.0], [2.0, 3.0]])
    assert pickle.loads(pickle.dumps(source)) == source
    assert hash(replace(source)) == hash(source)
    assert replace(source, values=None) != source
    assert Categorical("c", ["a", "b"], values=np.eye(2)) == Categorical("c", ["a", "b"])
    assert Categorical("c", ["a", "b"], values=[3, 4]).width == 1
    with pytest.raises(ValueError, match="read-only"):
        source.values[0, 0] = 1


def test_the_inputs_of_a_network_are_checked() -> None:
    y = Dense("y", 1)
    color = Categorical("color", ["a", "b"])
    cases: Any = (
        ([], "inputs that are Input or Categorical, got none"),
        ([Input(1), 3], "inputs that are Input or Categorical, got 3"),
        ([Input(1), Input(1)], "inputs of different names, got 'x' twice"),
        ([Input(1, features=["color"]), color], "columns of the inputs of different names, got 'c"),
        ([Input(1), color, Categorical("y", ["a"])], "a name of its own"),
        ([Input(1), Input(1, "W1_1")], "'W1_1', which is another tensor"),
    )
    for inputs, message in cases:
        with pytest.raises(NetworkError, match=message):
            Network.define(inputs, [y])
    with pytest.raises(NetworkError, match="input 'color': expected to be read by a layer"):
        Network.define([Input(1), color], [Dense("y", 1, reads="x")])


def test_the_one_input_is_that_of_numbers_alone() -> None:
    network = mixed()
    with pytest.raises(
        NetworkError,
        match=r"network 'mixed': expected one input, of numbers, got 'numbers', 'color' of cat"
        r".*; read network.inputs",
    ):
        _ = network.input
    chain = Network.chain([3, 1])
    assert chain.inputs == (chain.input,) == (Input(3),)
    assert replace(network, name="other").inputs == network.inputs
    ranged = Input(3, low=[0] * 3, high=[1] * 3)
    assert replace(chain, inputs=(ranged,)).input == ranged
    assert pickle.loads(pickle.dumps(network)) == network
    assert repr(network) == "<Network 'mixed': 7-3-1, numbers, color, size -> y>"
    joined = Network.chain([5, 1], input=[Input(2), Categorical("c", ["a", "b", "c"])])
    assert joined.layers[0].reads == ("x", "c")
    with pytest.raises(NetworkError, match=r"inputs 'x', 'c': expected size 4, .* got 5"):
        Network.chain([4, 1], input=joined.inputs)


def test_merged_networks_have_the_same_inputs_and_their_own_scaling() -> None:
    one, other = (
        mixed(),
        mixed(numbers=Input(2, "numbers", ["age", "income"], mean=[10, 1], fill={"age": 35})),
    )
    merged = merge({"one": one, "other": other})
    assert [each.name for each in merged.inputs] == ["numbers", "color", "size"]
    for prefix, network in (("one", one), ("other", other)):
        np.testing.assert_array_equal(merged(TABLE)[f"{prefix}_y"], network(TABLE)["y"])
    assert merge({"a": one, "b": one}).inputs == one.inputs
    numbers, color, size = (cast("Any", source) for source in one.inputs)
    for changed, message in (
        ({"color": Categorical("color", ["red", "green", "bleu"])}, "an input of categories"),
        ({"color": replace(color, unknown="zeros")}, "an input of unknown 'blue'"),
        ({"color": Input(3, "color")}, "an input of 'Categorical', as 'one' has, got 'Input'"),
        ({"numbers": replace(numbers, fill=[36, np.nan])}, "an input of fill"),
        ({"size": replace(size, values=np.ones((3, 2)))}, "an input of values"),
        (
            {"size": Categorical("size", [3]), "more": Input(1, "more")},
            r"the inputs \['numbers', 'color', 'size'\], as 'one' has, got \['numbers', 'col",
        ),
    ):
        with pytest.raises(NetworkError, match=message):
            merge({"one": one, "other": mixed(**changed)})


def test_inner_values_are_exposed_beside_several_inputs() -> None:
    network = mixed()
    answers = expose(network, "a")(TABLE)
    np.testing.assert_array_equal(answers["a_2"], propagate(network, TABLE)["a2"])
    taken = Network.define([Input(1), Categorical("a_2", ["u"])], [Dense("y", 1), Dense("z", 1)])
    with pytest.raises(NetworkError, match="expected 'a_2' to be free"):
        expose(taken, "a")


def test_a_picture_names_features_and_categories() -> None:
    network = mixed(size=Categorical("size", [3, 5]))
    svg = network.to_svg({"age": None, "income": 1, "color": "red", "size": 5})
    for text in ("age", "income", "red", "blue", "5", "color", "size"):
        assert f">{text}<" in svg or f" {text}<" in svg
    assert network.to_svg() != svg
    with pytest.raises(TensorError, match=r"input 'numbers': expected one row, of shape \[2\]"):
        network.to_svg({**TABLE, "size": [3, 5, 5, 3]})


def test_an_output_may_show_what_reads_a_category_alone() -> None:
    network = Network.define(
        [Input(1), Categorical("c", ["a", "b"])],
        [Dense("y", 1, "sigmoid"), Dense("e", 2, "identity", reads="c", W=[[1, 2], [3, 4]])],
        [Output("y", "y"), Output("e", "e")],
    )
    assert network({"x": [0], "c": ["b"]})["e"].tolist() == [[2, 4]]
