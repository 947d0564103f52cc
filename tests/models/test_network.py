import copy
import pickle
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from forwardpass.models import Dense, Input, Layer, Network, NetworkError, Output


def two_heads(**options):
    """A trunk, a head that also reads the input, and one that reads the trunk alone."""
    return Network.define(
        Input(4, features=["a", "b", "c", "d"], mean=[1, 2, 3, 4], scale=[1, 1, 2, 2]),
        [
            Dense("trunk", 5),
            Dense("price", 2, "identity"),
            Dense("sold", 1, "sigmoid", reads=["trunk", "x"]),
        ],
        ["sold", Output("eur", "price", units=["EUR", "EUR"]), Output("logit", "sold", "z")],
        **options,
    )


def layer(name="L2", shape=(2, 3), activation="relu", reads=("x",)):
    return Layer(name, np.ones(shape), np.zeros(shape[0]), activation, reads)


def test_a_chain_is_one_line():
    network = Network.chain([3, 3, 1], "sigmoid", "sigmoid")
    assert network.n_layers == 3
    assert network.sizes == (3, 3, 1)
    assert network.parameter_count == 3 * 3 + 3 + 3 + 1
    assert [each.name for each in network.layers] == ["L2", "L3"]
    assert [each.activation for each in network.layers] == ["sigmoid", "sigmoid"]
    assert network.outputs == (Output("y", "L3"),)
    assert repr(network) == "<Network 'network': 3-3-1, x -> y>"


def test_a_chain_takes_an_activation_a_hidden_layer_and_describes_its_output():
    network = Network.chain(
        [2, 3, 4, 2],
        ["tanh", "relu"],
        "softmax",
        input=Input(2, "measured", ["width", "height"], ["mm", "mm"]),
        output="kind",
        labels=["good", "bad"],
        units=["", ""],
        name="sorter",
        provenance={"by": "hand"},
    )
    assert [each.activation for each in network.layers] == ["tanh", "relu", "softmax"]
    assert network.layers[0].reads == ("measured",)
    assert network.outputs == (Output("kind", "L4", "a", ("good", "bad"), ("", "")),)
    assert (network.name, dict(network.provenance)) == ("sorter", {"by": "hand"})


def test_a_chain_takes_its_parameters_as_arrays():
    W1, b1 = np.arange(6).reshape(2, 3), [1, 2]
    W2, b2 = [[7.0, 8.0]], [0.5]
    network = Network.chain([3, 2, 1], parameters=[(W1, b1), (W2, b2)])
    assert (network.layers[0].W == W1).all()
    assert (network.layers[1].b == b2).all()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([3],), {}, r"chain: expected at least two sizes, .* got \[3\]"),
        (([3, 2, 1], ["relu", "tanh"]), {}, r"chain: expected 1 activations, .* got 2"),
        (([3, 1],), {"parameters": []}, r"chain: expected 1 pairs \(W, b\), .* got 0"),
        (([3, 1],), {"input": Input(4)}, r"input 'x': expected size 3, .* got 4"),
        (([3, 0],), {}, r"layer 'L2': expected units to be a whole number from 1 on, got 0"),
        (([0, 1],), {}, r"input 'x': expected size to be a whole number from 1 on, got 0"),
        (
            ([3, 2],),
            {"parameters": [(np.ones((3, 2)), [0, 0])]},
            r"layer 'L2': expected W of shape \(2, 3\): .* got shape \(3, 2\); pass W\.T",
        ),
    ],
)
def test_a_chain_that_does_not_fit_is_refused(arguments, options, message):
    with pytest.raises(NetworkError, match=message):
        Network.chain(*arguments, **options)


def test_layers_read_what_they_name_or_the_one_before():
    network = two_heads()
    assert [each.reads for each in network.layers] == [("x",), ("trunk",), ("trunk", "x")]
    assert network.layer("sold").W.shape == (1, 5 + 4)
    blocks = network.blocks("sold")
    assert list(blocks) == ["trunk", "x"]
    assert (np.hstack(list(blocks.values())) == network.layer("sold").W).all()


def test_layers_are_numbered_as_in_the_lecture():
    network = two_heads()
    assert [network.number(name) for name in ("x", "trunk", "price", "sold")] == [1, 2, 3, 4]
    assert network.layer("trunk") is network.layers[0]
    for lookup in (network.layer, network.number, network.blocks):
        with pytest.raises(
            NetworkError, match=r"one of its layers \(trunk, price, sold\), got 'y'"
        ):
            lookup("y")


def test_without_outputs_the_last_layer_is_the_output():
    assert Network.define(2, [Dense("a", 3), Dense("b", 1)]).outputs == (Output("b", "b"),)


def test_units_may_be_left_to_the_weights():
    assert Network.define(2, [Dense("a", W=np.ones((3, 2)))]).sizes == (2, 3)


def test_z_of_an_identity_layer_is_its_a():
    network = Network.define(2, [Dense("a", 3, "identity")], [Output("y", "a", "z")])
    assert network.outputs[0].of == "a"


def test_equal_networks_have_equal_bits():
    assert two_heads() == two_heads()
    assert hash(two_heads()) == hash(two_heads())
    assert two_heads() != two_heads(name="other")
    assert two_heads() != two_heads(provenance={"by": "hand"})
    assert replace(two_heads(), input=replace(two_heads().input, mean=[1, 2, 3, 5])) != two_heads()
    assert replace(two_heads().input, mean=None) != two_heads().input


def test_replace_makes_a_changed_network_and_checks_it():
    renamed = replace(two_heads(), name="other")
    assert renamed.name == "other"
    assert renamed.layers == two_heads().layers
    with pytest.raises(NetworkError, match="layer 'trunk'"):
        replace(two_heads(), input=Input(5))


def test_a_network_cannot_be_changed():
    network = two_heads(provenance={"by": "hand"})
    with pytest.raises(FrozenInstanceError):
        network.name = "other"
    with pytest.raises(TypeError):
        network.provenance["by"] = "machine"
    with pytest.raises(ValueError, match="read-only"):
        network.input.mean[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        network.blocks("trunk")["x"][0] = 0


def test_provenance_is_a_copy():
    mine = {"by": "hand"}
    network = two_heads(provenance=mine)
    mine["by"] = "machine"
    assert network.provenance["by"] == "hand"


def test_copies_and_pickles_are_equal():
    network = two_heads(provenance={"by": "hand"})
    assert copy.deepcopy(network) == network
    assert pickle.loads(pickle.dumps(network)) == network


def test_numpys_texts_become_plain_ones():
    given = Input(2, features=np.array(["a", "b"]))
    assert given.features == ("a", "b")
    assert type(given.features[0]) is str


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, r"input 'x': expected size to be a whole number from 1 on, got 0"),
        ({"name": "a/b"}, r"input name: expected a name .* got 'a/b'"),
        ({"features": ["a"]}, r"input 'x': expected 2 feature names, one per column, got 1"),
        ({"features": ["a", "a"]}, r"distinct feature names, got 'a' twice"),
        ({"features": ["a", ""]}, r"distinct feature names, got an empty one"),
        ({"features": "ab"}, r"expected a sequence of texts as feature names, got the text 'ab'"),
        ({"features": [1, 2]}, r"expected texts as feature names, got 1; write '1'"),
        ({"units": ["mm"]}, r"input 'x': expected 2 units, one per column, got 1"),
        ({"mean": [1.0]}, r"input 'x': expected mean of shape \(2,\), .* got shape \(1,\)"),
        ({"mean": [1.0, np.nan]}, r"input 'x': expected finite mean, got nan at \[1\]"),
        ({"scale": [[1.0, 2.0]]}, r"expected scale of shape \(2,\), .* x\.std\(axis=0\)"),
        (
            {"scale": [1.0, 0.0], "features": ["a", "b"]},
            r"scale of at least .* got 0 for feature 1 \('b'\); use 1 for a feature that does not",
        ),
        ({"scale": [1.0, -1.0]}, r"expected a scale of at least .*, got -1 for feature 1;"),
        ({"scale": [1.0, 1e-40]}, r"expected a scale of at least .*e-38 for every feature, got"),
        ({"low": [0.0, 0.0]}, r"input 'x': expected both low and high, .* got low alone"),
        ({"high": [0.0, 0.0]}, r"input 'x': expected both low and high, .* got high alone"),
        ({"low": [0.0], "high": [1.0]}, r"expected low of shape \(2,\), .* x\.min\(axis=0\)"),
        ({"low": [0, 2], "high": [1, 1]}, r"no low above its high, got 2 above 1 for feature 1;"),
    ],
)
def test_an_input_that_does_not_fit_is_refused(options, message):
    with pytest.raises(NetworkError, match=message):
        Input(**({"size": 2} | options))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("y/", "L2"), {}, r"output name: expected a name .* got 'y/'"),
        (("y", "L2", "logits"), {}, r"output 'y': expected of='a' .* got 'logits'"),
        (("y", "L2"), {"labels": "ab"}, r"output 'y': .* as labels, got the text 'ab'"),
        (
            ("y", "L2"),
            {"labels": ["a", "a"]},
            r"output 'y': expected distinct labels, got 'a' twice",
        ),
        (("y", "L2"), {"units": [None]}, r"output 'y': expected texts as units, got None"),
        (("y", "L2"), {"thresholds": 0.5}, r"a sequence of numbers .* got 0\.5; write \(0\.5,\)"),
        (("y", "L2"), {"thresholds": [np.nan]}, r"finite numbers as thresholds, got nan"),
        (("y", "L2"), {"thresholds": ["0.5"]}, r"finite numbers as thresholds, got '0\.5'"),
        (("y", "L2"), {"thresholds": [True]}, r"finite numbers as thresholds, got True"),
        (("y", "L2"), {"description": 3}, r"output 'y': expected a description that is text"),
    ],
)
def test_an_output_that_does_not_fit_is_refused(arguments, options, message):
    with pytest.raises(NetworkError, match=message):
        Output(*arguments, **options)


X = Input(3)
Y = (Output("y", "L2"),)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ((X, (), Y), r"network: expected at least one layer, got none"),
        ((X, (layer(),), ()), r"network: expected at least one output, got none"),
        ((X, (layer(), layer()), Y), r"layers .* of different names, got 'L2' twice"),
        ((X, (layer("x"),), Y), r"layers \(the input is one\) of different names, got 'x' twice"),
        ((X, (layer(),), Y * 2), r"expected tensors of different names, got 'y' twice"),
        ((X, (layer(),), [Output("x", "L2")]), r"tensors of different names, got 'x' twice"),
        (
            (X, (layer(shape=(2, 4)),), Y),
            r"layer 'L2': expected W of shape \(2, 3\), .* x \(3\), got shape \(2, 4\); fit W's",
        ),
        (
            (X, (layer(), layer("L3", (2, 3), reads=("L2", "x"))), [Output("y", "L3")]),
            r"layer 'L3': expected W of shape \(2, 5\), .* L2 \(2\) and x \(3\), got shape \(2, 3",
        ),
        ((X, (layer(shape=(2, 3), reads=("L3",)),), Y), r"layer 'L2': .* got 'L3'; there is no"),
        ((X, (layer(),), [Output("y", "L3")]), r"output 'y': .* layers L2, got 'L3'"),
        (
            (X, (layer(),), [Output("y", "L2", labels=["a"])]),
            r"output 'y': expected 2 labels, one per column, got 1",
        ),
        (
            (X, (layer(),), [Output("y", "L2", units=["a", "b", "c"])]),
            r"output 'y': expected 2 units, one per column, got 3",
        ),
        (
            (X, (layer(shape=(4, 3)),), [Output("y", "L2", thresholds=[1, 2, 3])]),
            r"output 'y': expected 4 thresholds, one per column, or one for all, got 3",
        ),
        (
            (X, (layer(activation="sigmoid"),), [Output("y", "L2", thresholds=[0.5, 1.5])]),
            r"output 'y': expected thresholds from 0 to 1, the range of sigmoid, got 1\.5",
        ),
        (
            (X, (layer(),), [Output("y", "L2", thresholds=[-1])]),
            r"output 'y': expected thresholds from 0 to inf, the range of relu, got -1",
        ),
        (
            (X, (layer(), layer("L3", (1, 2), reads=("L2",))), Y),
            r"layer 'L3': expected to be read by a layer or shown by an output, got neither",
        ),
        (
            (X, (layer(),), [Output("y", "L2", "z")]),
            r"layer 'L2': expected its activations to be read or shown, got an output of its z",
        ),
        (
            (X, (layer(activation="log_softmax"), layer("L3", (1, 2), reads=("L2",))), [*Y]),
            r"layer 'L2': expected log_softmax only on a layer that no other reads",
        ),
        (
            (X, (layer(activation="exp"), layer("L3", (1, 2), reads=("L2",))), [*Y]),
            r"layer 'L2': expected exp only on a layer that no other reads",
        ),
        ((X, (layer(),), Y, "a/b"), r"network name: expected a name .* got 'a/b'"),
        ((X, (layer(),), Y, "n", {"r2": 0.9}), r"provenance: expected texts by name, got 'r2': 0"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(network, message):
    with pytest.raises(NetworkError, match=message):
        Network(*network)


def test_one_threshold_is_that_of_every_column():
    one, each = (
        Network.chain([3, 2], "relu", "sigmoid", labels=["a", "b"], thresholds=thresholds)
        for thresholds in ([0.25], np.array([0.25, 0.25], np.float32))
    )
    assert one.outputs[0].thresholds == (0.25, 0.25)
    assert one == each


def test_sums_before_an_activation_have_thresholds_of_any_size():
    outputs = [Output("y", "L2"), Output("logit", "L2", "z", thresholds=[-7])]
    network = Network(X, (layer(activation="sigmoid"),), outputs)
    assert network.outputs[1].thresholds == (-7, -7)


@pytest.mark.parametrize("name", ["z2", "a1", "a3", "W1", "b1", "W2_1", "z3_1", "x_mean"])
def test_an_output_must_not_take_the_name_of_another_tensor(name):
    skipping = layer("L3", (1, 5), reads=("L2", "x"))
    with pytest.raises(NetworkError, match=f"output '{name}': expected a name of its own"):
        Network(
            Input(3, mean=[0, 0, 0]), (layer(), skipping), [Output(name, "L2"), Output("y", "L3")]
        )


def test_an_output_may_have_the_lectures_name_of_its_own_tensor():
    outputs = [Output("a2", "L2"), Output("z2", "L2", "z")]
    assert [output.name for output in Network(X, (layer(),), outputs).outputs] == ["a2", "z2"]


@pytest.mark.parametrize("name", ["z2", "a1", "W1", "b1"])
def test_the_input_must_not_take_the_name_of_another_tensor(name):
    with pytest.raises(NetworkError, match=f"input '{name}': expected a name of its own"):
        Network(Input(3, name), (layer(reads=(name,)),), Y)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([Dense("a", 2), Dense("a", 2)], r"layer 'a': expected a name of its own"),
        ([Dense("x", 2)], r"layer 'x': expected a name of its own"),
        ([Dense("a")], r"layer 'a': expected a number of units or W, got neither"),
        ([Dense("a", 3, W=np.ones((2, 2)))], r"layer 'a': expected W of shape \(3, 2\): .*\(2, 2"),
        ([Dense("a", W=np.ones(2))], r"layer 'a': expected W of shape \(units, 2\): .* got shape"),
        ([Dense("a", W=np.ones((3, 4)))], r"layer 'a': expected W of shape \(3, 2\)"),
        ([Dense("a", 2, b=[1])], r"layer 'a': expected b of shape \(2,\)"),
        ([], r"network: expected at least one layer, got none"),
    ],
)
def test_a_definition_that_does_not_fit_is_refused(layers, message):
    with pytest.raises(NetworkError, match=message):
        Network.define(2, layers)


@pytest.mark.parametrize(
    ("activation", "of", "threshold"),
    [("sigmoid", "a", 0.5), ("sigmoid", "z", 0.0), ("tanh", "a", 0.0), ("identity", "a", 0.5)],
)
def test_two_classes_of_one_column_have_a_threshold(activation, of, threshold):
    def outputs(**settings):
        output = Output("y", "L2", of, labels=("no", "yes"), **settings)
        layers = [Dense("L2", 1, activation), Dense("L3", 1)]
        return Network.define(Input(2), layers, [output, "L3"]).outputs

    assert outputs()[0].thresholds == (threshold,)
    assert outputs(thresholds=(0.75,))[0].thresholds == (0.75,)


def test_an_output_is_found_by_its_name_and_the_only_one_without() -> None:
    one = Network.chain([3, 2])
    assert one.output() is one.output("y") is one.outputs[0]
    two = Network.define(3, [Dense("a", 2), Dense("b", 2)], ["a", "b"])
    for name, got in ((None, "none"), ("c", "'c'")):
        with pytest.raises(NetworkError, match=rf"one of its outputs \(a, b\), got {got}; name"):
            two.output(name)
