"""Models of Keras 3, in memory and as it saves them, against their own answers in float64."""

from pathlib import Path

import numpy as np
import pytest
from support.imported import assert_imported

from forwardpass.models import Input, forward
from forwardpass.models.errors import NetworkError, UnsupportedSourceError
from forwardpass.models.importers.keras import from_keras

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


def means_and_differences():
    x = keras.Input((6,))
    a = layers.Dense(6, activation="tanh")(x)
    b = layers.Dense(6)(x)
    mean = layers.Average()([a, b, x])
    return keras.Model(
        x, layers.Dense(2)(layers.Concatenate()([layers.Subtract()([mean, a]), b - x]))
    )


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
    "the rectifiers": lambda: chain(
        layers.Dense(7, activation="leaky_relu"),
        layers.Dense(6, activation="elu"),
        layers.Dense(6, activation="selu"),
        layers.Dense(6),
        layers.LeakyReLU(0.1),
        layers.Dense(6),
        layers.ELU(0.5),
        layers.Dense(6),
        layers.ReLU(negative_slope=0.25),
        layers.Dense(6),
        layers.PReLU(),
        layers.Dense(6),
        layers.PReLU(shared_axes=[1]),
        layers.Dense(3, activation="log_softmax"),
    ),
    "the smooth ones": lambda: chain(
        layers.Dense(7, activation="gelu"),
        layers.Dense(6, activation="silu"),
        layers.Dense(6, activation="swish"),
        layers.Dense(6, activation="mish"),
        layers.Dense(6, activation="softplus"),
        layers.Dense(6, activation="softsign"),
        layers.Dense(6, activation="hard_sigmoid"),
        layers.Dense(6),
        layers.Activation("hard_silu"),
        layers.Dense(3),
    ),
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
    "layer normalization": lambda: chain(
        layers.LayerNormalization(),
        layers.Dense(7, activation="relu"),
        layers.LayerNormalization(center=False, epsilon=0.01),
        layers.Dense(5),
        layers.LayerNormalization(scale=False),
        layers.Activation("tanh"),
    ),
    "heads": heads,
    "heads by key": heads_by_key,
    "residual": residual,
    "means and differences": means_and_differences,
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
def test_a_model_and_its_file_become_one_network_with_its_answers(name, tmp_path: Path) -> None:
    model = built(name, "float32")
    path = tmp_path / "model.keras"
    model.save(path)
    network = from_keras(model)
    assert network == from_keras(path)
    x = X * 255 if name == "image" else X
    assert_imported(network, x, answers(name, network, x))


def test_names_are_those_of_keras() -> None:
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


def test_several_outputs_of_one_layer_are_numbered() -> None:
    network = from_keras(built("several outputs of one layer", "float32"))
    names = [output.name for output in network.outputs]
    assert names == ["again", "again.2", "both", "both.1"]


def test_a_given_input_brings_its_names_and_its_scaling() -> None:
    source = Input(6, "lab", [f"f{k}" for k in range(6)], mean=np.arange(6), scale=[2] * 6)
    network = from_keras(built("one layer", "float32"), input=source)
    assert network.input == source
    x = np.asarray(X * 2 + np.arange(6, dtype=np.float32), np.float32)
    scaled = ((x.astype(np.float64) - np.arange(6)) / 2).astype(np.float64)
    expected = keras.ops.convert_to_numpy(built("one layer", "float64")(scaled))
    assert_imported(network, x, {network.outputs[0].name: expected})


def test_weights_of_half_precision_are_read_to_the_bit(tmp_path: Path) -> None:
    for policy in ("float16", "bfloat16", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        try:
            model = chain(layers.Dense(3, bias_initializer="normal"))
        finally:
            keras.config.set_dtype_policy("float32")
        kernel = keras.ops.convert_to_numpy(keras.ops.cast(model.layers[0].kernel, "float32"))
        assert from_keras(model).layers[0].W.tobytes() == kernel.T.tobytes()


def test_adapters_of_low_rank_are_part_of_the_kernel(tmp_path: Path) -> None:
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


class Dense(layers.Dense):
    """By its name and its module one of Keras' own."""

    __module__ = layers.Dense.__module__

    def call(self, inputs):
        return -super().call(inputs)


def relu(z):
    return z * 2


def with_a_call_of_its_own():
    model = chain(layers.Dense(2, name="patched"))
    model.layers[0].call = lambda inputs: inputs[:, :2]
    return model


def of_whole_numbers():
    return keras.Sequential([keras.Input((6,), dtype="int32", name="counts"), layers.Dense(2)])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


def always_random():
    x = keras.Input((6,))
    return keras.Model(x, layers.Dropout(0.5, name="drop")(x, training=True))


def quantized():
    model = chain(layers.Dense(4, name="q"))
    model.layers[0].quantize("int8")
    return model


def product(kind):
    x = keras.Input((6,))
    return keras.Model(x, kind(name="both")([x, layers.Dense(6)(x)]))


def operator():
    x = keras.Input((6,))
    return keras.Model(x, keras.ops.sin(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: chain(layers.Lambda(lambda x: x, name="twice")), r"layer 'twice' \(Lambda\): no"),
        (lambda: chain(Doubled(2, name="own")), r"layer 'own' \(Doubled\): not one of Keras' own"),
        (lambda: chain(layers.Dense(2, "celu", name="c")), r"layer 'c' \(Dense\): activation 'ce"),
        (
            lambda: chain(layers.Dropout(0.1), layers.UnitNormalization(name="u")),
            r"layer 'u' \(Unit",
        ),
        (
            lambda: chain(layers.Reshape((2, 3), name="r")),
            r"layer 'r' \(Reshape\): target_shape=\(2, 3\) of 6 values; .* reshape them to \(6,\)",
        ),
        (lambda: chain(layers.ReLU(6.0, name="six")), r"layer 'six' \(ReLU\): max_value=6.0"),
        (
            lambda: chain(layers.Dense(2, activation="log_softmax", name="s"), layers.Dense(2)),
            r"layer 's' \(Dense\): log_softmax, which layer .* reads",
        ),
        (lambda: product(layers.Multiply), r"layer 'both' \(Multiply\): no part of a Network"),
        (lambda: product(layers.Minimum), r"layer 'both' \(Minimum\): no part of a Network"),
        (always_random, r"layer 'drop' \(Dropout\): called with training=True"),
        (quantized, r"layer 'q' \(Dense\): quantized"),
        (operator, r"\(keras.src.ops.numpy.Sin\)|\(Sin\): no part of a Network"),
        (lambda: keras.Sequential([layers.Dense(2)]), r"\(Sequential\): not built: no input"),
        (
            lambda: keras.Sequential([keras.Input((4, 6)), layers.Dense(2, name="d")]),
            r"layer 'd' \(Dense\): reads values of shape \(4, 6\)",
        ),
        (lambda: chain(Dense(2, name="own")), r"layer 'own' \(Dense\): not one of Keras' own"),
        (lambda: chain(layers.Dense(2, relu, name="r")), r"'r' \(Dense\): activation '.*\.relu'"),
        (lambda: chain(layers.Activation(relu, name="r")), r"\(Activation\): activation '.*\.relu"),
        (
            lambda: chain(layers.Dense(2, activation=layers.ReLU(), name="r")),
            r"layer 'r' \(Dense\): activation '.*\.ReLU'",
        ),
        (with_a_call_of_its_own, r"layer 'patched' \(Dense\): a call of its own"),
        (of_whole_numbers, r"layer 'counts' \(InputLayer\): of dtype int32, to which it rounds"),
        (
            lambda: chain(layers.Rescaling(2, dtype="int32", name="whole"), layers.Dense(2)),
            r"layer 'whole' \(Rescaling\): of dtype int32",
        ),
        (Subclassed, r"model \(Subclassed\): not one of Keras' own classes"),
        (lambda: layers.Dense(2), r"model \(Dense\): not one of Keras' own"),
        (dict, r"model \(dict\): not one of Keras' own classes"),
    ],
)
def test_what_a_network_cannot_represent_is_refused_by_name(make, message, tmp_path: Path) -> None:
    model = make()
    with pytest.raises(UnsupportedSourceError, match=message):
        from_keras(model)


def test_a_file_that_holds_code_is_refused_and_the_code_not_run(tmp_path: Path) -> None:
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


def live_answers(model, x=X):
    """float32, as a caller of Keras gets them."""
    return keras.ops.convert_to_numpy(model(x, training=False))


def drawn(model):
    rng = np.random.default_rng(0)
    for variable in model.weights:
        values = rng.standard_normal(variable.shape)
        variable.assign(np.exp(values) if "variance" in variable.name else values)
    return model


def assert_live(model, x=X):
    network = from_keras(model)
    answers = forward(network, x)[network.outputs[0].name]
    np.testing.assert_allclose(answers, live_answers(model, x), rtol=1e-5, atol=1e-5)
    return network


def test_a_layer_that_is_twice_in_a_sequential_model_is_applied_twice():
    layer, activation = layers.Dense(6, name="again"), layers.Activation("tanh")
    part = keras.Sequential([keras.Input((6,)), layer, activation], name="part")
    model = drawn(chain(layer, activation, layer, part, activation, part, layers.Dense(2)))
    network = assert_live(model)
    assert [each.name for each in network.layers][:2] == ["again", "again.1"]
    assert len(network.layers) == 6


def test_what_was_set_after_a_layer_was_made_is_read():
    model = drawn(
        chain(
            layers.Dense(6, "relu", name="d"),
            layers.BatchNormalization(name="n"),
            layers.ReLU(name="r"),
            layers.Rescaling(2.0, name="s"),
        )
    )
    dense, norm, rectified, rescaled = model.layers
    dense.activation = keras.activations.tanh
    norm.epsilon, norm.scale = 0.5, False
    rescaled.scale, rescaled.offset = [1.0, 2, 3, 4, 5, 6], -3.0
    assert_live(model)
    rectified.max_value = 0.1
    with pytest.raises(UnsupportedSourceError, match=r"layer 'r' \(ReLU\): max_value=0.1"):
        from_keras(model)


def test_keras_own_functions_are_read_under_each_of_their_names():
    ops = keras.ops
    for function in (ops.relu, ops.sigmoid, ops.tanh, ops.softmax, keras.activations.exponential):
        assert_live(drawn(chain(layers.Dense(3, function))))
    for function in (ops.elu, ops.selu, ops.silu, ops.softplus, ops.softsign, ops.hard_sigmoid):
        assert_live(drawn(chain(layers.Dense(3, function))))
    for function in (ops.leaky_relu, ops.log_softmax, ops.hard_silu, ops.gelu):
        assert_live(drawn(chain(layers.Dense(3, function))))


def test_gelu_is_approximated_where_keras_does() -> None:
    for function, ours in ((keras.ops.gelu, "gelu_tanh"), (keras.activations.gelu, "gelu")):
        network = assert_live(drawn(chain(layers.Dense(3, function))))
        assert network.layers[0].activation == ours


def test_the_least_deviation_is_that_of_the_session():
    keras.config.set_epsilon(0.5)
    try:
        model = chain(layers.Normalization(mean=0.0, variance=1e-4), layers.Dense(2))
        network = assert_live(model)
    finally:
        keras.config.set_epsilon(1e-7)
    assert (network.input.scale == 0.5).all()


def test_a_model_is_compared_with_its_own_answers(monkeypatch):
    model = drawn(heads())
    # Nothing that the model's objects tell of.
    own = layers.Dropout.call
    monkeypatch.setattr(layers.Dropout, "call", lambda self, x, **_: own(self, x, training=True))
    with pytest.raises(
        UnsupportedSourceError,
        match=r"output 'profile', column 0, probe row \d \(.*own prediction, got .*rounding explai",
    ):
        from_keras(model)


def test_a_model_is_left_as_it_is():
    model = drawn(chain(layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(2)))
    before = [keras.ops.convert_to_numpy(each).copy() for each in model.variables]
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    from_keras(model)
    after = [keras.ops.convert_to_numpy(each) for each in model.variables]
    assert all((a == b).all() for a, b in zip(after, before, strict=True))
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes


def test_features_far_from_zero_are_no_disagreement():
    model = drawn(chain(layers.BatchNormalization(), layers.Dense(4, "tanh"), layers.Dense(2)))
    model.layers[0].moving_mean.assign(np.full(6, 1e5))
    model.layers[0].moving_variance.assign(np.full(6, 1e-2))
    from_keras(model)


@pytest.mark.parametrize("policy", ["float16", "mixed_float16", "mixed_bfloat16", "float64"])
def test_other_precisions_are_no_disagreement_and_hide_none(policy, monkeypatch):
    keras.config.set_dtype_policy(policy)
    try:
        model = drawn(chain(layers.Dense(8, "tanh"), layers.Dense(2)))
    finally:
        keras.config.set_dtype_policy("float32")
    from_keras(model)
    monkeypatch.setattr(layers.Dense, "call", lambda self, x: x @ self.kernel)
    with pytest.raises(UnsupportedSourceError, match="own prediction"):
        from_keras(model)


def test_rows_with_their_answers_are_compared_too(tmp_path):
    model = drawn(chain(layers.Dense(3, "relu", name="d")))
    y = live_answers(model)
    model.save(tmp_path / "m.keras")
    for source in (model, tmp_path / "m.keras"):
        from_keras(source, check=(X, y))
        with pytest.raises(UnsupportedSourceError, match="output 'd', column"):
            from_keras(source, check=(X, y - 1))


@pytest.mark.parametrize("form", ["a list", "a dict"])
def test_several_inputs_are_those_of_the_network(form, tmp_path: Path) -> None:
    b, a = keras.Input((3,), name="right"), keras.Input((3,), name="left")
    hidden = layers.Dense(4, activation="tanh")(layers.Concatenate()([b, layers.Rescaling(2.0)(a)]))
    # Keras sorts the keys.
    given = {"right": b, "left": a} if form == "a dict" else [b, a]
    model = keras.Model(given, layers.Dense(2, name="y")(hidden))
    path = tmp_path / "m.keras"
    model.save(path)

    rows = {"right": X[:, :3], "left": X[:, 3:]}
    sent = [*rows.values()]
    expected = model(rows if form == "a dict" else sent)

    for network in (from_keras(model), from_keras(path)):
        assert {each.name for each in network.inputs} == {"left", "right"}
        answers = forward(network, rows)["y"]
        np.testing.assert_allclose(answers, keras.ops.convert_to_numpy(expected), atol=2e-6)
