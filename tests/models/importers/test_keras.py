"""`.keras` files written by hand: Keras is not needed to read them.

What Keras itself writes is read in `libraries/test_keras.py`.
"""

import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from support.imported import assert_imported
from support.keras_files import (
    call,
    dense,
    functional,
    input_layer,
    keras_file,
    layer,
    sequential,
)

from forwardpass.models import (
    ACTIVATIONS,
    Categorical,
    Input,
    LayerNorm,
    NetworkError,
    forward,
)
from forwardpass.models.errors import MissingLibraryError, UnsupportedSourceError
from forwardpass.models.file.export import proven
from forwardpass.models.importers.keras import from_keras

RNG = np.random.default_rng(0)
X = np.random.default_rng(1).standard_normal((40, 3)).astype(np.float32)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def positive(*shape):
    return RNG.uniform(0.5, 2, shape).astype(np.float32)


K1, B1, K2, B2 = normal(3, 4), normal(4), normal(4, 2), normal(2)
TWO = {"dense/vars/0": K1, "dense/vars/1": B1, "dense_1/vars/0": K2, "dense_1/vars/1": B2}


def f(name, z):
    return ACTIVATIONS[name].function(z)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.keras"


def test_a_chain_with_everything_that_vanishes_from_it(path) -> None:
    mean, variance = normal(3), np.array([1.5, 0.0, 1e-20], np.float32)
    gamma, beta, moving_mean, moving_variance = normal(4), normal(4), normal(4), positive(4)
    x = X.copy()
    x[:, 1:] = mean[1:]
    model = sequential(
        input_layer(3, name="measured"),
        layer("Normalization", "norm", axis=[-1], invert=False, mean=None, variance=None),
        layer("GaussianNoise", "noise", stddev=0.1),
        dense("first", activation="tanh"),
        layer("BatchNormalization", "bn", axis=-1, epsilon=1e-3, center=True, scale=True),
        layer("Dropout", "drop", rate=0.5),
        dense("second", activation=None),
        layer("Activation", "p", activation="softmax"),
    )
    weights = TWO | {
        "normalization/vars/0": mean,
        "normalization/vars/1": variance,
        "batch_normalization/vars/0": gamma,
        "batch_normalization/vars/1": beta,
        "batch_normalization/vars/2": moving_mean,
        "batch_normalization/vars/3": moving_variance,
    }
    network = from_keras(keras_file(path, model, weights))
    assert [each.name for each in network.layers] == ["first", "second"]
    assert (network.input.name, network.provenance) == (
        "measured",
        {"source": "Keras 3.15.1: Sequential"},
    )
    a = (x.astype(np.float64) - mean) / np.maximum(np.sqrt(np.float64(variance)), 1e-7)
    a = f("tanh", a @ K1 + B1)
    a = gamma * (a - moving_mean) / np.sqrt(np.float64(moving_variance) + 1e-3) + beta
    assert_imported(network, x, {"p": f("softmax", a @ K2 + B2)})


def test_layer_normalization_is_a_part_of_the_layer_before(path) -> None:
    gamma, beta = normal(4), normal(4)
    options: dict[str, Any]
    options = {"axis": [-1], "epsilon": 1e-3, "center": True, "scale": True, "rms_scaling": False}
    model = sequential(
        input_layer(3),
        dense("first", activation=None),
        layer("LayerNormalization", "norm", **options),
        layer("Activation", "a", activation="relu"),
        dense("second", activation=None),
    )
    weights = TWO | {"layer_normalization/vars/0": gamma, "layer_normalization/vars/1": beta}
    network = from_keras(keras_file(path, model, weights))
    assert network.layers[0].activation == LayerNorm(gamma, beta, 1e-3, "relu")
    z = X.astype(np.float64) @ K1 + B1
    d = z - z.mean(axis=1, keepdims=True)
    n = d / np.sqrt((d * d).mean(axis=1, keepdims=True) + 1e-3)
    assert_imported(network, X, {"second": f("relu", n * gamma + beta) @ K2 + B2})
    options["rms_scaling"] = True
    model = sequential(input_layer(3), dense("d"), layer("LayerNormalization", "n", **options))
    with pytest.raises(UnsupportedSourceError, match="rms_scaling=True"):
        from_keras(keras_file(path, model, weights))


def test_heads_with_skip_connections_and_a_layer_called_twice(path) -> None:
    shared, head = normal(4, 4), normal(7, 1)
    model = functional(
        dense("risk", call("side"), activation="sigmoid", use_bias=False),  # before what it reads
        input_layer(3, name="x"),
        dense("trunk", call("x"), activation="relu"),
        layer("Concatenate", "side", call("trunk", "x", listed=True), axis=-1),
        dense("shared", call("trunk"), call("shared"), use_bias=False),
        layer("Add", "sum", call("trunk", ("shared", 1, 0), listed=True)),
        inputs=[["x", 0, 0]],
        outputs={"risk of it": ["risk", 0, 0], "profile": ["sum", 0, 0]},
    )
    weights = {
        "dense/vars/0": head,
        "dense_1/vars/0": K1,
        "dense_1/vars/1": B1,
        "dense_2/vars/0": shared,
    }
    network = from_keras(keras_file(path, model, weights), labels={"risk of it": ("ill",)})
    assert [output.labels for output in network.outputs] == [("ill",), ()]
    x = X.astype(np.float64)
    trunk = f("relu", x @ K1 + B1)
    expected = {
        "risk of it": f("sigmoid", np.hstack([trunk, x]) @ head),
        "profile": trunk + trunk @ shared @ shared,
    }
    assert_imported(network, X, expected)


def test_means_and_differences_are_weighted_sums(path) -> None:
    model = functional(
        input_layer(3, name="x"),
        dense("a", call("x"), activation="tanh", use_bias=False),
        layer("Average", "mean", call("a", "x", "x", listed=True)),
        layer("Subtract", "off", call("mean", "a", listed=True)),
        inputs=[["x", 0, 0]],
        outputs=[["off", 0, 0], ["mean", 0, 0]],
    )
    W = normal(3, 3)
    network = from_keras(keras_file(path, model, {"dense/vars/0": W}))
    x = X.astype(np.float64)
    a = np.tanh(x @ np.float64(W))
    mean = (a + 2 * x) / 3
    assert_imported(network, X, {"off": mean - a, "mean": mean})


def test_several_inputs_are_those_of_the_network(path) -> None:
    W = normal(5, 2)
    model = functional(
        input_layer(2, name="b"),
        input_layer(3, name="a"),
        layer("Concatenate", "both", call("a", "b", listed=True), axis=-1),
        dense("d", call("both"), use_bias=False, activation="tanh"),
        inputs=[["b", 0, 0], ["a", 0, 0]],
        outputs=["d", 0, 0],
    )
    saved = keras_file(path, model, {"dense/vars/0": W})
    network = from_keras(saved)
    assert [each.name for each in network.inputs] == ["b", "a"]
    x = {"a": X, "b": X[:, 1:]}
    expected = np.tanh(np.hstack([X, X[:, 1:]]).astype(np.float64) @ W)
    np.testing.assert_allclose(network(x)["d"], expected, atol=1e-6)

    mean = np.array([1, 2], np.float32)
    scaled = from_keras(saved, input=[Input(2, "right", mean=mean), Input(3, "left")])
    moved = scaled({"left": X, "right": X[:, 1:] + mean})["d"]
    np.testing.assert_allclose(moved, expected, atol=1e-5)
    with pytest.raises(NetworkError, match="one for each of 'b', 'a', in this order, got 1"):
        from_keras(saved, input=Input(5))


def test_an_input_that_nothing_reads_is_refused(path) -> None:
    model = functional(
        input_layer(3, name="a"),
        input_layer(3, name="b"),
        dense("d", call("a"), use_bias=False),
        inputs=[["a", 0, 0], ["b", 0, 0]],
        outputs=["d", 0, 0],
    )
    with pytest.raises(NetworkError, match="input 'b': expected to be read by a layer"):
        from_keras(keras_file(path, model, {"dense/vars/0": normal(3, 2)}))


def test_a_model_in_a_model_and_two_outputs_of_it(path) -> None:
    inner = functional(
        input_layer(4),
        dense("b", call("input_layer"), activation="relu"),
        dense("a", call("input_layer"), use_bias=False),
        inputs=["input_layer", 0, 0],
        outputs={"z": ["a", 0, 0], "y": ["b", 0, 0]},  # Keras numbers y first
        calls=(call("first", mask=None),),
    )
    model = functional(
        input_layer(3),
        dense("first", call("input_layer")),
        inner,
        dense("last", call(("functional", 0, 1))),
        inputs=["input_layer", 0, 0],
        outputs=[["last", 0, 0], ["functional", 1, 0]],  # counted from 1 here alone
    )
    a, b, c = normal(4, 2), normal(4, 3), normal(2, 2)
    weights = {
        "dense/vars/0": K1,
        "dense/vars/1": B1,
        "functional/layers/dense/vars/0": b,
        "functional/layers/dense/vars/1": normal(3) * 0,
        "functional/layers/dense_1/vars/0": a,
        "dense_1/vars/0": c,
        "dense_1/vars/1": B2,
    }
    network = from_keras(keras_file(path, model, weights))
    assert [each.name for each in network.layers] == [
        "first",
        "functional.b",
        "functional.a",
        "last",
    ]
    first = X.astype(np.float64) @ K1 + B1
    assert_imported(network, X, {"last": first @ a @ c + B2, "functional": f("relu", first @ b)})


def test_images_are_rescaled_flattened_and_sent_as_rows(path) -> None:
    model = sequential(
        input_layer(1, 3),
        layer("Rescaling", "bytes", scale=1 / 255, offset=-0.5),
        layer("Flatten", "flat", data_format="channels_last"),
        dense("rate", activation="exponential"),
    )
    network = from_keras(keras_file(path, model, {"dense/vars/0": K1, "dense/vars/1": B1}))
    assert network.sizes == (3, 4)
    assert network.input.scale is not None
    np.testing.assert_allclose(network.input.scale, [255] * 3)
    x = X * 255
    expected = f("exp", (x.astype(np.float64) / 255 - 0.5) @ K1 + B1)
    assert_imported(network, x, {"rate": expected})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (layer("Rescaling", "r", scale=[2, -1, 0], offset=[1, 2, 3]), X * [2.0, -1, 0] + [1, 2, 3]),
        (
            layer("Normalization", "n", axis=[], invert=False, mean=2.0, variance=4.0),
            (X - 2.0) / 2.0,
        ),
        (
            layer("Normalization", "n", axis=[1], invert=False, mean=[[1, 2, 3]], variance=[4] * 3),
            (X - [1.0, 2.0, 3.0]) / 2.0,
        ),
        (layer("ReLU", "r", max_value=None, negative_slope=0.0, threshold=0.0), f("relu", X * 1.0)),
        (layer("Softmax", "s", axis=-1), f("softmax", X.astype(np.float64))),
        (layer("ReLU", "r", negative_slope=0.5), np.where(X > 0, X, X / 2)),
        (layer("LeakyReLU", "r", negative_slope=0.25), np.where(X > 0, X, X / 4)),
        (layer("ELU", "e", alpha=0.5), np.where(X > 0, X, np.expm1(np.float64(X)) / 2)),
    ],
)
def test_layers_without_weights(given, expected, path) -> None:
    model = sequential(input_layer(3), given)
    assert_imported(
        from_keras(keras_file(path, model, {})), X, {given["config"]["name"]: np.float64(expected)}
    )


def test_a_given_input_brings_its_names_and_its_scaling(path) -> None:
    model = sequential(input_layer(3), dense("d"))
    source = Input(3, "raw", ["a", "b", "c"], mean=[1, 2, 3], scale=[4, 5, 6])
    network = from_keras(
        keras_file(path, model, TWO), input=source, units={"d": ("mm",) * 4}, name="mine"
    )
    assert (network.input, network.name, network.outputs[0].units) == (source, "mine", ("mm",) * 4)
    with pytest.raises(NetworkError, match="labels: expected those of the outputs d, got"):
        from_keras(path, labels={"y": ()})


CODE = layer("Lambda", "twice", function={"class_name": "__lambda__", "config": {"code": "4wE="}})
MINE = layer("Dense", "own", module="my.code") | {"registered_name": "my>Dense"}


def after_dense(given):
    return sequential(input_layer(3), dense("d"), given)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (after_dense(CODE), r"layer 'twice' \(Lambda\): no part of a Network; expected one of Act"),
        (after_dense(MINE), r"layer 'own' \(my.code.Dense\): not one of Keras' own layers"),
        (
            after_dense(layer("Dense", "own") | {"registered_name": "pkg>Dense"}),
            r"layer 'own' .* not one of Keras' own",
        ),
        (
            layer("MyModel", "m", module="my.code", layers=[]),
            r"layer 'm' \(my.code.MyModel\): not one of Keras' own",
        ),
        (
            functional(
                input_layer(3, name="x"),
                layer("Multiply", "both", call("x", "x", listed=True)),
                inputs=[["x", 0, 0]],
                outputs=[["both", 0, 0]],
            ),
            r"layer 'both' \(Multiply\): no part of a Network",
        ),
        (after_dense(layer("GRU", "gru")), r"layer 'gru' \(GRU\): no part of"),
        (
            after_dense(layer("Flatten", "f", data_format="channels_first")),
            "data_format='channels_f",
        ),
        (after_dense(layer("ReLU", "r", max_value=6)), r"layer 'r' \(ReLU\): max_value=6; a Netw"),
        (after_dense(layer("ReLU", "r", threshold=0.1)), r"threshold=0.1"),
        (
            after_dense(layer("ELU", "e", alpha=-1)),
            r"layer 'e' \(ELU\): elu whose parameter is -1; expected alpha",
        ),
        (after_dense(layer("Softmax", "s", axis=0)), r"layer 's' \(Softmax\): axis=0"),
        (
            after_dense(dense("e", activation="celu")),
            r"'e' \(Dense\): activation 'celu'; exp",
        ),
        (
            after_dense(dense("e", activation={"class_name": "function", "config": "mine"})),
            r"layer 'e' \(Dense\): activation 'mine'",
        ),
        (
            after_dense(dense("e", dtype={"class_name": "QuantizedDTypePolicy", "config": {}})),
            r"layer 'e' \(Dense\): quantized weights",
        ),
        (
            after_dense(layer("Normalization", "n", axis=[-1], invert=True)),
            r"layer 'n' \(Normalization\): invert=True",
        ),
        (sequential(dense("d")), r"layer 'sequential' \(Sequential\): not built: no input"),
        (sequential(input_layer(None), dense("d")), r"\(InputLayer\): of shape \(None,\)"),
        (
            sequential(input_layer(4, 3), dense("d")),
            r"layer 'd' \(Dense\): reads values of shape \(4, 3\); .* Flatten first",
        ),
        (
            functional(
                input_layer(3, name="x"),
                dense("d", call("x")),
                layer("Dropout", "drop", call("d", training=True), rate=0.5),
                inputs=["x", 0, 0],
                outputs=["drop", 0, 0],
            ),
            r"layer 'drop' \(Dropout\): called with training=True",
        ),
        (
            functional(
                input_layer(3, name="x"),
                layer("Add", "add", {"args": [1.5], "kwargs": {}}, module="keras.src.ops.numpy"),
                inputs=["x", 0, 0],
                outputs=["add", 0, 0],
            ),
            r"layer 'add' \(Add\): called with 1.5",
        ),
        (
            functional(
                input_layer(3, name="x"),
                dense("d", call("x")),
                layer("Add", "add", call("d", "x", listed=True)),
                inputs=["x", 0, 0],
                outputs=["add", 0, 0],
            ),
            r"layer 'add' \(Add\): of widths \[4, 3\]",
        ),
        (
            sequential(input_layer(2, 3), layer("Rescaling", "r", scale=2.0, offset=[1, 2, 3])),
            r"layer 'r' \(Rescaling\): reads values of shape \(2, 3\)",
        ),
        (
            functional(
                input_layer(3, name="x"),
                dense("d", call("nowhere")),
                inputs=["x", 0, 0],
                outputs=["d", 0, 0],
            ),
            r"layer 'd' \(Dense\): reads a tensor of no layer",
        ),
        (after_dense(dense("third")), r"layer 'third' \(Dense\): no kernel in model.weights.h5"),
        (sequential(input_layer(3), {}), r"file '.*model.keras': not of Keras 3's form \(KeyErr"),
    ],
)
def test_what_a_network_cannot_represent_is_refused_by_name(model, message, path) -> None:
    weights = {"dense/vars/0": K1, "dense/vars/1": B1}
    with pytest.raises(UnsupportedSourceError, match=message):
        from_keras(keras_file(path, model, weights))


COLOR = layer("InputLayer", "color", batch_shape=[None, 1], dtype="string")
SIZE = layer("InputLayer", "size", batch_shape=[None], dtype="int64")
WEIGHT = layer("InputLayer", "weight", batch_shape=[None, 1])


def lookup(kind, name, *calls, vocabulary=None, **options):
    """A lookup as Keras 3.15.1 writes it."""
    own = {
        "invert": False,
        "mask_token": None,
        "max_tokens": None,
        "num_oov_indices": 1,
        "oov_token": "[UNK]" if kind == "StringLookup" else -1,
        "output_mode": "int",
        "pad_to_max_tokens": False,
        "vocabulary": vocabulary,
        "vocabulary_size": None,
    }
    return layer(kind, name, *calls, **own | options)


def looked_up(*layers, output, inputs=(COLOR,)):
    names = [each["config"]["name"] for each in inputs]
    return functional(
        *inputs, *layers, inputs=[[name, 0, 0] for name in names], outputs=[[output, 0, 0]]
    )


def texts(*values):
    return {"color": np.array(values, object).reshape(-1, 1)}


def test_unknown_texts_are_read_as_the_category_that_keras_has_for_them(path) -> None:
    model = looked_up(
        lookup("StringLookup", "hot", call("color"), output_mode="one_hot", vocabulary_size=3),
        dense("y", call("hot"), use_bias=False),
        output="y",
    )
    W = normal(3, 2)
    vocabularies = {"string_lookup": "[UNK]\nred\nGröße"}
    network = from_keras(keras_file(path, model, {"dense/vars/0": W}, vocabularies=vocabularies))
    assert network.inputs == (Categorical("color", ["[UNK]", "red", "Größe"], "[UNK]"),)
    assert [each.name for each in network.layers] == ["y"]
    rows = texts("red", "Größe", "RED", "", "[UNK]")
    np.testing.assert_array_equal(forward(network, rows)["y"], W[[1, 2, 0, 0, 0]])
    proven(network)


def test_a_masked_text_is_an_index_and_no_one_hot(path) -> None:
    model = looked_up(
        lookup(
            "StringLookup", "index", call("color"), vocabulary=["", "[UNK]", "a", "b"],
            mask_token="", vocabulary_size=4,
        ),
        lookup(
            "StringLookup", "hot", call("color"), vocabulary=["b", "a"], mask_token="",
            output_mode="multi_hot", max_tokens=5, pad_to_max_tokens=True,
        ),
        layer("Embedding", "rows", call("index"), input_dim=6, output_dim=2),
        layer("Reshape", "flat", call("rows"), target_shape=[-1]),
        layer("CategoryEncoding", "wide", call("index"), num_tokens=4, output_mode="one_hot"),
        layer("Concatenate", "y", call("flat", "hot", "wide", listed=True), axis=-1),
        output="y",
    )  # fmt: skip
    E = normal(6, 2)
    network = from_keras(keras_file(path, model, {"embedding/vars/0": E}))
    expected = np.hstack([E[[2, 0, 1, 3]], np.eye(5)[[2, 0, 0, 1]], np.eye(4)[[2, 0, 1, 3]]])
    expected[1, 2:7] = 0
    np.testing.assert_array_equal(forward(network, texts("a", "", "z", "b"))["y"], expected)
    proven(network)


def test_texts_integers_and_numbers_are_inputs_of_one_network(path) -> None:
    encoder = functional(
        layer("InputLayer", "given", batch_shape=[None], dtype="int64"),
        lookup("IntegerLookup", "index", call("given"), mask_token=0, vocabulary_size=4),
        layer("Embedding", "rows", call("index"), input_dim=4, output_dim=2),
        inputs=[["given", 0, 0]],
        outputs=[["rows", 0, 0]],
        calls=(call("size"),),
    )
    model = looked_up(
        encoder,
        lookup(
            "StringLookup", "hot", call("color"), vocabulary=["a"], num_oov_indices=0,
            output_mode="one_hot",
        ),
        layer("Normalization", "scaled", call("weight"), axis=[], mean=3.0, variance=4.0),
        layer("Concatenate", "y", call(("functional", 0, 0), "hot", "scaled", listed=True)),
        inputs=(COLOR, SIZE, WEIGHT),
        output="y",
    )  # fmt: skip
    E = normal(4, 2)
    saved = keras_file(
        path,
        model,
        {"functional/layers/embedding/vars/0": E},
        vocabularies={"functional/layers/integer_lookup": "0\n-1\n70\n-5"},
    )
    network = from_keras(saved)
    assert [each.name for each in network.inputs] == ["color", "size", "weight"]
    rows = texts("a", "a", "b") | {"size": [[70], [0], [5]], "weight": [[3.0], [5.0], [3.0]]}
    answers = network(rows)["y"]
    np.testing.assert_allclose(answers[:2], [[*E[2], 1, 0], [*E[0], 1, 1]], rtol=1e-6)
    assert np.isnan(answers[2]).all()

    given = from_keras(saved, input=Input(1, "kg"))
    assert [each.name for each in given.inputs] == ["color", "size", "kg"]
    for wrong in (Categorical("c", ["a"]), [Input(1, "a"), Input(1, "b")]):
        with pytest.raises(NetworkError, match="input: expected one for each of 'weight', in this"):
            from_keras(saved, input=wrong)


def test_integers_without_a_lookup_have_no_answer_beyond_their_number(path) -> None:
    model = looked_up(
        layer("CategoryEncoding", "y", call("size"), num_tokens=3, output_mode="one_hot"),
        inputs=(SIZE,),
        output="y",
    )
    network = from_keras(keras_file(path, model, {}))
    assert network.inputs == (Categorical("size", [0, 1, 2]),)


ONE_HOT: dict[str, Any] = {"vocabulary": ["a", "b"], "output_mode": "one_hot"}


REFUSED_OPTIONS: list[tuple[dict[str, Any], str]] = [
    (
        {"num_oov_indices": 2},
        r"'y' \(StringLookup\): num_oov_indices=2; a Network has only",
    ),
    ({"output_mode": "count"}, "output_mode='count'"),
    ({"output_mode": "int"}, "'functional' .*: reads the index of a category as a number"),
    ({"invert": True}, "invert=True"),
    ({"vocabulary": None}, "no vocabulary in the file"),
    ({"vocabulary": "/etc/passwd"}, "a vocabulary '/etc/passwd'"),
    ({"vocabulary": ["a", 1]}, "a vocabulary not only of str"),
    ({"vocabulary_size": 4}, "of 2 tokens, where 3 were learned; .* from memory"),
    ({"vocabulary": ["[UNK]"]}, "of 0 tokens; expected 1 to"),
    (
        {"vocabulary": ["a", "[UNK]"]},
        r"oov_token='\[UNK\]', which is no category of its own",
    ),
    ({"oov_token": "zeros"}, "oov_token='zeros'"),
    ({"max_tokens": 2**40, "pad_to_max_tokens": True}, "one-hots of 1099511627776 columns"),
]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([lookup("StringLookup", "y", call("color"), **ONE_HOT | each)], message)
        for each, message in REFUSED_OPTIONS
    ]
    + [
        (
            [layer("Hashing", "y", call("color"), num_bins=3)],
            r"'y' \(Hashing\).*keras.Model\(LAYER",
        ),
        ([layer("Dropout", "y", call("color"))], r"'color' \(InputLayer\): of dtype string"),
        ([lookup("IntegerLookup", "y", call("color"))], "reads input 'color' of dtype string"),
        ([layer("Embedding", "y", call("color"), input_dim=3)], "3 categories of .* dtype string"),
        (
            [
                lookup("StringLookup", "a", call("color"), vocabulary=["a", "b", "c"]),
                layer("CategoryEncoding", "y", call("a"), num_tokens=3, output_mode="one_hot"),
            ],
            "3 rows for the indices 0 to 3; give it as many as the lookup's vocabulary_size",
        ),
        (
            [
                lookup("StringLookup", "a", call("color"), vocabulary=["a", "b"]),
                lookup("StringLookup", "y", call("a"), **ONE_HOT),
            ],
            "looks up the indices of another lookup",
        ),
        (
            [
                lookup("StringLookup", "a", call("color"), **ONE_HOT),
                lookup("StringLookup", "y", call("color"), **ONE_HOT | {"vocabulary": ["c", "b"]}),
            ],
            "other categories of input 'color' than another layer has",
        ),
    ],
)
def test_lookups_that_a_network_cannot_represent_are_refused_by_name(layers, message, path) -> None:
    with pytest.raises(UnsupportedSourceError, match=message):
        from_keras(keras_file(path, looked_up(*layers, output="y"), {}))


def test_a_column_is_a_category_or_a_number(path) -> None:
    hot = layer("CategoryEncoding", "hot", call("weight"), num_tokens=3, output_mode="one_hot")
    both = layer("Concatenate", "y", call("hot", "weight", listed=True), axis=-1)
    with pytest.raises(UnsupportedSourceError, match=r"'weight' .*: read as a category and as a n"):
        from_keras(keras_file(path, looked_up(hot, both, inputs=(WEIGHT,), output="y"), {}))
    wide = layer("InputLayer", "wide", batch_shape=[None, 3])
    several = layer("CategoryEncoding", "y", call("wide"), num_tokens=3, output_mode="multi_hot")
    with pytest.raises(
        UnsupportedSourceError, match=r"reads values of shape \(3,\); .* one column"
    ):
        from_keras(keras_file(path, looked_up(several, inputs=(wide,), output="y"), {}))
    rows = layer("CategoryEncoding", "y", call("size"), num_tokens=3, output_mode="multi_hot")
    with pytest.raises(UnsupportedSourceError, match="rows without an axis of values; give the in"):
        from_keras(keras_file(path, looked_up(rows, inputs=(SIZE,), output="y"), {}))


PLAIN = sequential(input_layer(3), dense("d", use_bias=False))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"version": "2.15.0"}, "written by Keras 2.15.0"),
        ({"metadata__json": "{}"}, r"not of Keras 3's form \(KeyError\('keras_version'"),
        ({"metadata__json": None}, "not of Keras 3's form .*metadata.json"),
        ({"config__json": "[" * 100_000}, "not of Keras 3's form"),
        ({"config__json": "no json"}, "not of Keras 3's form"),
        ({"config__json": "[]"}, "not of Keras 3's form"),
        ({"model__weights__h5": None}, "not of Keras 3's form .*model.weights.h5"),
        ({"model__weights__h5": b"no hdf5"}, "model.weights.h5 is not HDF5"),
        ({"model__weights__h5": bytes(10**7)}, "claims 10000000 bytes"),
    ],
)
def test_a_file_of_another_form_is_refused(members, message, path) -> None:
    with pytest.raises(UnsupportedSourceError, match=message):
        from_keras(keras_file(path, PLAIN, {"dense/vars/0": K1}, **members))


def test_what_is_no_archive_is_refused(path) -> None:
    path.write_bytes(b"no zip")
    with pytest.raises(UnsupportedSourceError, match="not of Keras 3's form"):
        from_keras(path)


def test_no_dataset_reads_another_file_or_is_larger_than_the_file(path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(K1.tobytes())

    def elsewhere(file):
        source = [(str(tmp_path / "secret"), 0, K1.nbytes)]
        file.create_dataset("layers/dense/vars/0", K1.shape, "f4", external=source)

    def virtual(file):
        layout = h5py.VirtualLayout(K1.shape, "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret"), "d", K1.shape)
        file.create_virtual_dataset("layers/dense/vars/0", layout)

    def huge(file):
        file.create_dataset("layers/dense/vars/0", (10**7, 10**7), "f4")

    for write in (elsewhere, virtual, huge):
        with pytest.raises(UnsupportedSourceError, match=r"'layers/dense/vars/0' .* in one piece"):
            from_keras(keras_file(path, PLAIN, write))

    def linked(file):
        file["layers/dense/vars/0"] = h5py.ExternalLink(str(tmp_path / "secret"), "d")

    with pytest.raises(UnsupportedSourceError, match=r"layer 'd' \(Dense\): no kernel"):
        from_keras(keras_file(path, PLAIN, linked))


def test_weights_of_no_real_numbers_are_refused(path) -> None:
    def write(file):
        file["layers/dense/vars/0"] = np.zeros(K1.shape, "V2")

    with pytest.raises(UnsupportedSourceError, match=r"layer 'd' \(Dense\): kernel of dtype"):
        from_keras(keras_file(path, PLAIN, write))


@pytest.mark.parametrize(
    ("name", "message"),
    [("m.pkl", "a pickle, which runs"), ("m.h5", "not a .keras file"), ("m", "not a .keras file")],
)
def test_no_other_file_is_read(name, message, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedSourceError, match=message):
        from_keras(tmp_path / name)


def test_a_missing_library_is_named(path, monkeypatch: pytest.MonkeyPatch) -> None:
    keras_file(path, PLAIN, {"dense/vars/0": K1})
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingLibraryError, match=r"takes h5py, .* 'forwardpass\[import\]'"):
        from_keras(path)
