"""Models of Keras 3, in memory and as it saves them, against their own answers in float64."""

import numpy as np
import pytest
from support.imported import assert_imported

from forwardpass.models import Input
from forwardpass.models.errors import NetworkError, UnsupportedSourceError
from forwardpass.models.keras import from_keras

keras = pytest.importorskip("keras")
layers = keras.layers

# Of Keras' own making, with NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

X = np.random.default_rng(0).standard_normal((60, 6)).astype(np.float32)


@pytest.fixture(autouse=True)
def true_float64(monkeypatch):
    """Let Keras multiply float64 as such: on most backends it rounds it to float32 in between."""
    from keras.src.backend.common import dtypes

    monkeypatch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")


def chain(*inside):
    return keras.Sequential([keras.Input((6,), name="measured"), *inside])


def heads():
    """Two heads on a shared trunk, one of which sees the input as well."""
    x = keras.Input((6,), name="measured")
    trunk = layers.Dense(8, activation="relu", name="trunk")(x)
    both = layers.Concatenate()([trunk, x])
    risk = layers.Dense(1, activation="sigmoid", name="risk")(both)
    profile = layers.Dense(3, name="profile")(layers.Dropout(0.5)(trunk))
    return keras.Model(x, [risk, profile])


def heads_by_key():
    model = heads()
    risk, profile = model.outputs
    return keras.Model(model.inputs[0], {"z of it": risk, "a of it": profile})


def residual():
    """Sums and concatenations, as layers and as operators."""
    x = keras.Input((6,))
    a = layers.Dense(6, activation="tanh")(x)
    b = layers.Add()([x, a])
    c = layers.BatchNormalization()(layers.Activation("relu")(b))
    d = keras.ops.concatenate([a + c, b], axis=1)
    return keras.Model(x, layers.Dense(2, activation="softmax", name="last")(d))


def normalized_where_something_else_reads_too():
    x = keras.Input((6,))
    a = layers.Dense(4, name="sums")(layers.BatchNormalization()(x))
    b = layers.BatchNormalization()(a)
    c = layers.ReLU()(a)
    d = layers.Concatenate()([b, c, x])
    e = layers.BatchNormalization(name="e")(d)
    return keras.Model(x, [layers.Activation("tanh", name="t")(b), e, c])


def shared_and_nested():
    x = keras.Input((6,))
    layer = layers.Dense(6, activation="sigmoid", name="again")
    part = keras.Sequential([keras.Input((6,)), layers.Dense(4), layers.ReLU()], name="part")
    inner = keras.Input((4,))
    both = keras.Model(
        inner,
        [layers.Dense(3, name="p")(inner), layers.Dense(2, name="q")(inner)],
        name="both",
    )
    p, q = both(part(layer(layer(x))))
    return keras.Model(x, layers.Dense(2)(layers.Concatenate()([q, part(x), p])))


def several_outputs_of_one_layer():
    x = keras.Input((6,))
    layer = layers.Dense(6, name="again")
    inner = keras.Input((6,))
    both = keras.Model(inner, [layers.Dense(2)(inner), layers.ReLU()(inner)], name="both")
    return keras.Model(x, [layer(x), layer(layer(x)), *both(x)])


def image():
    return keras.Sequential(
        [
            keras.Input((2, 3)),
            layers.Rescaling(1 / 255, offset=-0.5),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


MODELS = {
    "one layer": lambda: chain(layers.Dense(3)),
    "every activation": lambda: chain(
        layers.Dense(7, activation="relu"),
        layers.Dense(6, activation="sigmoid"),
        layers.Dense(5, activation="tanh", use_bias=False),
        layers.Dense(4, activation="linear"),
        layers.Dense(3, activation="softmax"),
    ),
    "activations as layers": lambda: chain(
        layers.Dense(7),
        layers.ReLU(),
        layers.Dense(6),
        layers.Activation("sigmoid"),
        layers.Dense(5),
        layers.Activation("linear"),
        layers.Activation(keras.activations.tanh),
        layers.Dense(3),
        layers.Softmax(),
    ),
    "a rate": lambda: chain(layers.Dense(2, activation="exponential")),
    "what training alone needs": lambda: chain(
        layers.GaussianNoise(0.1),
        layers.Dense(5, kernel_regularizer="l2", activation="relu"),
        layers.Dropout(0.5),
        layers.AlphaDropout(0.1),
        layers.GaussianDropout(0.1),
        layers.ActivityRegularization(0.1),
        layers.Identity(),
        layers.Dense(2),
    ),
    "normalized input": lambda: chain(layers.Normalization(), layers.Dense(4), layers.Dense(2)),
    "input normalized by given figures": lambda: chain(
        layers.Normalization(mean=[1, 2, 3, 4, 5, 6], variance=[1, 4, 9, 16, 0, 36]),
        layers.Dense(2),
    ),
    "input normalized as one": lambda: chain(layers.Normalization(axis=None), layers.Dense(2)),
    "batch normalization everywhere": lambda: chain(
        layers.BatchNormalization(),
        layers.Dense(7),
        layers.BatchNormalization(center=False),
        layers.ReLU(),
        layers.BatchNormalization(scale=False, epsilon=0.1),
        layers.Dense(5, activation="tanh"),
        layers.BatchNormalization(trainable=False),
    ),
    "heads": heads,
    "heads by key": heads_by_key,
    "residual": residual,
    "normalized where something else reads too": normalized_where_something_else_reads_too,
    "shared and nested": shared_and_nested,
    "several outputs of one layer": several_outputs_of_one_layer,
    "image": image,
}


def built(name, dtype):
    """The model with weights such as training leaves behind: the same ones for every dtype."""
    keras.utils.clear_session()
    keras.config.set_dtype_policy(dtype)
    try:
        model = MODELS[name]()
    finally:
        keras.config.set_dtype_policy("float32")
    rng = np.random.default_rng(0)
    for variable in model.weights:
        values = rng.standard_normal(variable.shape)
        if "variance" in variable.name:
            values = np.exp(values)
        if variable.name != "count":
            # Exact in float32, so that both models are one.
            variable.assign(values.astype(np.float32))
    for layer in model.layers:
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()
    return model


def answers(name, network, x):
    """float64 answers by output name."""
    exact = built(name, "float64")
    given = x.astype(np.float64).reshape(len(x), *exact.input_shape[1:])
    results = exact(keras.ops.convert_to_tensor(given, "float64"), training=False)
    if not isinstance(results, dict):
        results = results if isinstance(results, list | tuple) else [results]
        results = dict(zip([each.name for each in network.outputs], results, strict=True))
    return {each.name: keras.ops.convert_to_numpy(results[each.name]) for each in network.outputs}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_and_its_file_become_one_network_with_its_answers(name, tmp_path):
    model = built(name, "float32")
    path = tmp_path / "model.keras"
    model.save(path)
    network = from_keras(model)
    assert network == from_keras(path)
    x = X * 255 if name == "image" else X
    assert_imported(network, x, answers(name, network, x))


def test_names_are_those_of_keras():
    model = built("heads", "float32")
    network = from_keras(model, labels={"risk": ("ill",)}, units={"profile": ("mm", "mm", "g")})
    assert [layer.name for layer in network.layers] == ["trunk", "risk", "profile"]
    assert network.layer("risk").reads == ("trunk", "measured")
    assert network.input.name == "measured"
    risk, profile = network.outputs
    assert (risk.name, risk.labels, profile.name) == ("risk", ("ill",), "profile")
    assert profile.units == ("mm", "mm", "g")
    assert network.provenance == {"source": f"Keras {keras.__version__}: Functional"}
    kernel = keras.ops.convert_to_numpy(model.get_layer("trunk").kernel)
    assert network.layers[0].W.tobytes() == kernel.T.tobytes()
    with pytest.raises(NetworkError, match="labels: expected those of the outputs risk, profile"):
        from_keras(model, labels={"trunk": ()})


def test_several_outputs_of_one_layer_are_numbered():
    network = from_keras(built("several outputs of one layer", "float32"))
    names = [output.name for output in network.outputs]
    assert names == ["again", "again.2", "both", "both.1"]


def test_a_given_input_brings_its_names_and_its_scaling():
    source = Input(6, "lab", [f"f{k}" for k in range(6)], mean=np.arange(6), scale=[2] * 6)
    network = from_keras(built("one layer", "float32"), input=source)
    assert network.input == source
    x = X * 2 + np.arange(6, dtype=np.float32)
    scaled = ((x.astype(np.float64) - np.arange(6)) / 2).astype(np.float64)
    expected = keras.ops.convert_to_numpy(built("one layer", "float64")(scaled))
    assert_imported(network, x, {network.outputs[0].name: expected})


def test_weights_of_half_precision_are_read_to_the_bit(tmp_path):
    for policy in ("float16", "bfloat16", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        try:
            model = chain(layers.Dense(3, bias_initializer="normal"))
        finally:
            keras.config.set_dtype_policy("float32")
        kernel = keras.ops.convert_to_numpy(keras.ops.cast(model.layers[0].kernel, "float32"))
        assert from_keras(model).layers[0].W.tobytes() == kernel.T.tobytes()


def test_adapters_of_low_rank_are_part_of_the_kernel(tmp_path):
    model = built("one layer", "float32")
    model.layers[0].enable_lora(2)
    model.layers[0].lora_kernel_b.assign(np.ones((2, 3)))
    model.save(tmp_path / "m.keras")
    kernel = keras.ops.convert_to_numpy(model.layers[0].kernel)
    for network in (from_keras(model), from_keras(tmp_path / "m.keras")):
        assert network.layers[0].W.tobytes() == kernel.T.tobytes()


@keras.saving.register_keras_serializable("tests")
class Doubled(layers.Dense):
    def call(self, x):
        return 2 * super().call(x)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


def two_inputs():
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    return keras.Model([a, b], layers.Concatenate()([a, b]))


def always_random():
    x = keras.Input((6,))
    return keras.Model(x, layers.Dropout(0.5, name="drop")(x, training=True))


def quantized():
    model = chain(layers.Dense(4, name="q"))
    model.layers[0].quantize("int8")
    return model


def operator():
    x = keras.Input((6,))
    return keras.Model(x, keras.ops.sin(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: chain(layers.Lambda(lambda x: x, name="twice")), r"layer 'twice' \(Lambda\): no"),
        (lambda: chain(Doubled(2, name="own")), r"layer 'own' \(Doubled\): not one of Keras' own"),
        (lambda: chain(layers.Dense(2, "gelu", name="g")), r"layer 'g' \(Dense\): activation 'ge"),
        (lambda: chain(layers.LeakyReLU(name="leaky")), r"layer 'leaky' \(LeakyReLU\): no part of"),
        (lambda: chain(layers.Reshape((2, 3), name="r")), r"layer 'r' \(Reshape\): no part of"),
        (lambda: chain(layers.ReLU(6.0, name="six")), r"layer 'six' \(ReLU\): max_value=6.0"),
        (
            lambda: chain(layers.Dense(2, activation="softmax", name="s"), layers.Dense(2)),
            r"layer 's' \(Dense\): softmax, which layer .* reads",
        ),
        (two_inputs, r"\(Functional\): 2 inputs \(a, b\)"),
        (always_random, r"layer 'drop' \(Dropout\): called with training=True"),
        (quantized, r"layer 'q' \(Dense\): quantized"),
        (operator, r"\(keras.src.ops.numpy.Sin\)|\(Sin\): no part of a Network"),
        (lambda: keras.Sequential([layers.Dense(2)]), r"\(Sequential\): not built: no input"),
        (
            lambda: keras.Sequential([keras.Input((4, 6)), layers.Dense(2, name="d")]),
            r"layer 'd' \(Dense\): reads values of shape \(4, 6\)",
        ),
        (Subclassed, r"model \(Subclassed\): not one of Keras' own classes"),
        (lambda: layers.Dense(2), r"model \(Dense\): not one of Keras' own"),
        (dict, r"model \(dict\): not one of Keras' own classes"),
    ],
)
def test_what_a_network_cannot_represent_is_refused_by_name(make, message, tmp_path):
    model = make()
    with pytest.raises(UnsupportedSourceError, match=message):
        from_keras(model)


def test_a_file_that_holds_code_is_refused_and_the_code_not_run(tmp_path):
    path = tmp_path / "m.keras"
    chain(layers.Lambda(lambda x: x + 1, name="twice")).save(path)
    with pytest.raises(UnsupportedSourceError, match=r"layer 'twice' \(Lambda\): no part of a Net"):
        from_keras(path)
    chain(Doubled(2, name="own")).save(path)
    with pytest.raises(UnsupportedSourceError, match=r"layer 'own' .* not one of Keras' own"):
        from_keras(path)
    quantized().save(path)
    with pytest.raises(UnsupportedSourceError, match=r"layer 'q' \(Dense\): quantized"):
        from_keras(path)
