"""From Keras and PyTorch to answers on the wire: random models, every container, both transports.

Of scikit-learn and networks by hand in `../test_served.py`.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.predicted import Imported, assert_served_alike

from forwardpass.models import Input, from_keras, from_torch

keras = pytest.importorskip("keras")
torch = pytest.importorskip("torch")
layers, nn = keras.layers, torch.nn

# Of Keras' own making, with NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

ROWS = 5
SEEDS = st.integers(0, 2**32 - 1)
WIDTHS = st.integers(1, 7)


def rows(seed, width):
    x = np.random.default_rng(seed).standard_normal((ROWS, width))
    return x.astype(np.float32)


def named(width, name="x"):
    return Input(width, name, features=[f"f{k}" for k in range(width)])


def modules(draw):
    """A Sequential of PyTorch: some of its parts nested, some there twice."""
    torch.manual_seed(seed := draw(SEEDS))
    size = width = draw(st.integers(2, 7))
    square, parts = nn.Linear(size, size), []
    for kind in draw(st.lists(st.sampled_from(["linear", "norm", "f", "twice", "drop", "inside"]))):
        match kind:
            case "linear" | "inside":
                given, width = width, draw(WIDTHS)
                linear = nn.Linear(given, width, bias=draw(st.booleans()))
                parts.append(linear if kind == "linear" else nn.Sequential(linear, nn.Identity()))
            case "norm":
                parts.append(norm := nn.BatchNorm1d(width, affine=draw(st.booleans())))
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.1, 2)
            case "f":
                parts.append(draw(st.sampled_from([nn.ReLU, nn.Sigmoid, nn.Tanh]))())
            case "twice" if width == size:
                parts += [square, nn.Tanh(), square]
            case _:
                parts.append(nn.Dropout(0.5))
    module = nn.Sequential(*parts, nn.Linear(width, draw(WIDTHS)))
    if draw(st.booleans()):
        module.append(nn.Softmax(1))
    module.train(draw(st.booleans()))
    x = rows(seed, size)
    network = from_torch(module, input=named(size))
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(x)).numpy()
    return Imported(network, x, {"y": expected})


def models(draw):
    """A Sequential or a Functional model of Keras: layers called again, sums, several heads."""
    keras.utils.clear_session()
    seed, size = draw(SEEDS), draw(st.integers(2, 7))
    functions = st.sampled_from(["linear", "relu", "sigmoid", "tanh", keras.activations.tanh])
    square = layers.Dense(size, draw(functions), name="square")
    part = keras.Sequential([keras.Input((size,)), square, layers.Dropout(0.5)], name="part")
    source = keras.Input((size,), name="x")
    if draw(st.booleans()):
        chosen = st.sampled_from([square, part, layers.BatchNormalization(), layers.ReLU()])
        model = keras.Sequential(
            [
                source,
                *draw(st.lists(chosen, max_size=5)),
                layers.Dense(draw(WIDTHS), draw(st.sampled_from(["softmax", "linear"]))),
            ]
        )
    else:
        values = [source]
        for kind in draw(st.lists(st.sampled_from(["dense", "square", "add", "beside", "part"]))):
            a, b = draw(st.sampled_from(values)), draw(st.sampled_from(values))
            if kind == "dense":
                values.append(layers.Dense(draw(WIDTHS), draw(functions))(a))
            elif kind == "beside":
                values.append(layers.Concatenate()([a, b]))
            elif kind == "add" and a.shape == b.shape and a is not b:
                values.append(layers.Add()([a, b]))
            elif kind in ("square", "part") and a.shape[1] == size:
                values.append((square if kind == "square" else part)(a))
        first = layers.Dense(2, "sigmoid", name="first")(values[-1])
        model = keras.Model(source, [first, layers.Dense(1, name="second")(values[-1])])
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        drawn = rng.standard_normal(variable.shape)
        variable.assign(np.exp(drawn) if "variance" in variable.name else drawn / 2)
    x = rows(seed, size)
    network = from_keras(model, input=named(size))
    answers = model(x, training=False)
    answers = answers if isinstance(answers, list) else [answers]
    expected = {
        output.name: keras.ops.convert_to_numpy(answer)
        for output, answer in zip(network.outputs, answers, strict=True)
    }
    return Imported(network, x, expected)


# A softmax of one column is drawn at times: it answers 1, which Keras warns of.
@pytest.mark.filterwarnings("ignore:.*You are using a softmax over axis:UserWarning")
@given(st.data())
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_served_is_what_the_source_itself_predicts(tmp_path_factory, data):
    # Made here and not by a strategy, which may not use the random numbers that Keras does.
    kinds = data.draw(st.lists(st.sampled_from([modules, models]), min_size=4, max_size=4))
    sources = [make(data.draw) for make in kinds]
    assert_served_alike(sources, tmp_path_factory.mktemp("models"), data.draw(SEEDS))
