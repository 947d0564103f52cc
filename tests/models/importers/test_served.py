"""From a source to its answers on the wire: random networks, every container, both transports.

Of Keras and PyTorch in `libraries/test_served.py`.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.special
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.compose import TransformedTargetRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, StandardScaler
from support.predicted import Imported, assert_served_alike

from forwardpass.models import ACTIVATIONS, Input, from_sklearn, from_state

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore:X does not have valid feature names"
)

ROWS = 5


def names(count):
    return [f"f{k}" for k in range(count)]


@st.composite
def estimators(draw):
    """A fitted MLP, in a pipeline or not, of a random shape and kind."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size, targets = draw(st.integers(2, 6)), draw(st.integers(1, 3))
    kind = draw(st.sampled_from(["two classes", "classes", "labels", "values", "scaled values"]))
    mlp = {
        "hidden_layer_sizes": draw(st.lists(st.integers(1, 8), max_size=3)),
        "activation": draw(st.sampled_from(["identity", "logistic", "tanh", "relu"])),
        "max_iter": 5,
        "random_state": 0,
    }
    spread, shift = draw(st.sampled_from([(1, 0), (30, -7), (0.1, 4)]))
    x = rng.standard_normal((40, size)) * spread + shift
    x = pd.DataFrame(x.astype(np.float32).astype(np.float64), columns=names(size))
    y = x.to_numpy()[:, :1] + rng.standard_normal((40, targets))
    scalers = draw(st.lists(st.sampled_from([StandardScaler, MinMaxScaler, MaxAbsScaler])))
    both = draw(st.booleans())
    if kind.endswith("values"):
        model, target = MLPRegressor(**mlp), y if targets > 1 else y[:, 0]
        if kind == "scaled values":
            model = TransformedTargetRegressor(model, transformer=StandardScaler())
    else:
        model = MLPClassifier(**mlp)
        ranks = np.arange(40) % (2 if kind == "two classes" else targets + 2)
        target = ranks if kind != "labels" else (y[:, :1] > np.quantile(y, [0.3, 0.5, 0.7])) * 1
    model = make_pipeline(*(scaler() for scaler in scalers), model).fit(x, target)
    rows = x.to_numpy()[:ROWS]
    if kind.endswith("values"):
        expected = model.predict(x)[:ROWS].reshape(ROWS, -1)
    else:
        expected = model.predict_proba(x)[:ROWS]
        expected = expected[:, 1:] if kind == "two classes" and not both else expected
    network = from_sklearn(model, both_probabilities=both)
    return Imported(network, rows.astype(np.float32), {"y": expected})


@st.composite
def states(draw):
    """A network by hand, with its answers in NumPy alone."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    widths = draw(st.lists(st.integers(1, 8), min_size=2, max_size=5))
    hidden = [name for name, f in ACTIVATIONS.items() if not f.outputs_only]
    functions = [draw(st.sampled_from(hidden)) for _ in widths[2:]]
    functions.append(draw(st.sampled_from([*hidden, "softmax", "log_softmax"])))
    mean = rng.standard_normal(widths[0]).astype(np.float32)
    scale = rng.uniform(0.5, 2, widths[0]).astype(np.float32)
    source = Input(widths[0], features=names(widths[0]), mean=mean, scale=scale)
    x = rng.standard_normal((ROWS, widths[0])).astype(np.float32)
    a = (x - mean.astype(np.float64)) / scale
    state: dict[str, NDArray[Any]] = {}
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        W = rng.standard_normal((outputs, inputs)).astype(np.float32)
        b = rng.standard_normal(outputs).astype(np.float32)
        state |= {f"{number}.weight": W, f"{number}.bias": b}
        a = written_out(functions[number], a @ W.T.astype(np.float64) + b)
    return Imported(from_state(state, functions, input=source, check=(x, a)), x, {"y": a})


def written_out(name, z):
    """An activation, by its formula."""
    match name:
        case "relu":
            return np.where(z > 0, z, 0)
        case "sigmoid":
            return 1 / (1 + np.exp(-z))
        case "tanh":
            return np.tanh(z)
        case "softmax":
            return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        case "log_softmax":
            return z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        case "leaky_relu":
            return np.where(z > 0, z, np.float32(0.01) * z)
        case "prelu":
            return np.where(z > 0, z, z / 4)
        case "elu":
            return np.where(z > 0, z, np.exp(z) - 1)
        case "selu":
            return 1.0507009873554805 * np.where(z > 0, z, 1.6732632423543772 * (np.exp(z) - 1))
        case "gelu":
            return z * scipy.special.ndtr(z)
        case "gelu_tanh":
            return z / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
        case "silu":
            return z / (1 + np.exp(-z))
        case "mish":
            return z * np.tanh(np.log1p(np.exp(z)))
        case "softplus":
            return np.log1p(np.exp(z))
        case "softsign":
            return z / (1 + np.abs(z))
        case "hard_sigmoid":
            return np.clip(z + 3, 0, 6) / 6
        case "hard_swish":
            return z * np.clip(z + 3, 0, 6) / 6
    assert name == "identity"
    return z


@given(st.lists(st.one_of(estimators(), states()), min_size=4, max_size=4), st.integers(0, 99))
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_served_is_what_the_source_itself_predicts(tmp_path_factory, sources, seed):
    assert_served_alike(sources, tmp_path_factory.mktemp("models"), seed)
