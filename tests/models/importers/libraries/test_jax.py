"""Networks of Flax, Haiku and Equinox: their parameters, and files that jax2onnx writes."""

import numpy as np
import pytest

from forwardpass.models import Network, UnsupportedSourceError, from_onnx, from_state

pytest.importorskip("jax2onnx")
pytest.importorskip("flax")
equinox = pytest.importorskip("equinox")
haiku = pytest.importorskip("haiku")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from flax import linen, nnx  # noqa: E402
from jax2onnx import to_onnx  # noqa: E402

# jax2onnx's own, of JAX and of Flax.
pytestmark = pytest.mark.filterwarnings("ignore")

X = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)


class Classifier(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(4, 8, rngs=rngs)
        self.out = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return nnx.softmax(self.out(nnx.relu(self.hidden(x))))


class Regressor(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.Dense(8)(x))
        return linen.Dense(2)(linen.tanh(linen.Dense(8)(x)))


def of_linen():
    module = Regressor()
    parameters = module.init(jax.random.PRNGKey(0), jnp.zeros((1, 4)))
    return lambda x: module.apply(parameters, x)


def of_equinox(depth: int, **options):
    return jax.vmap(equinox.nn.MLP(4, 3, 8, depth, key=jax.random.PRNGKey(0), **options))


FUNCTIONS = {
    "nnx": (lambda: Classifier(nnx.Rngs(0)), 2),
    "linen": (of_linen, 3),
    "equinox": (lambda: of_equinox(2), 3),
    "equinox, tanh": (lambda: of_equinox(1, activation=jnp.tanh), 2),
    "equinox, maximum": (lambda: of_equinox(1, activation=lambda x: jnp.maximum(0.0, x)), 2),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_jax2onnx_writes_is_the_network_with_its_answers(name: str) -> None:
    make, layers = FUNCTIONS[name]
    function = make()

    network = from_onnx(to_onnx(function, [("B", 4)]))

    assert isinstance(network, Network)
    assert len(network.layers) == layers
    (answers,) = network(X).values()
    np.testing.assert_allclose(answers, function(X), rtol=1e-5, atol=1e-6)


def of_haiku(x):
    function = haiku.without_apply_rng(haiku.transform(lambda x: haiku.nets.MLP([4, 3])(x)))
    parameters = function.init(jax.random.PRNGKey(0), x)
    return parameters, function.apply(parameters, x)


def parameters_and_answers(name: str, x):
    match name:
        case "linen":
            module = Regressor()
            variables = module.init(jax.random.PRNGKey(0), x)
            # The last one is constructed, and numbered, before the one that it reads.
            order = ["Dense_0", "Dense_2", "Dense_1"]
            return variables, module.apply(variables, x), ["relu", "tanh", "identity"], order
        case "nnx":
            model = Classifier(nnx.Rngs(0))
            return nnx.state(model), model(x), ["relu", "softmax"], ["hidden", "out"]
        case "nnx, as a dict":
            model = Classifier(nnx.Rngs(0))
            return nnx.to_pure_dict(nnx.state(model)), model(x), ["relu", "softmax"], [
                "hidden", "out"
            ]  # fmt: skip
        case "haiku":
            return *of_haiku(x), ["relu", "identity"], None
        case _:
            model = equinox.nn.MLP(4, 3, 8, 2, activation=jax.nn.gelu, key=jax.random.PRNGKey(0))
            return model, jax.vmap(model)(x), ["gelu_tanh", "gelu_tanh", "identity"], None


@pytest.mark.parametrize("name", ["linen", "nnx", "nnx, as a dict", "haiku", "equinox"])
def test_parameters_are_read_by_their_names(name: str) -> None:
    with jax.enable_x64(True):
        state, expected, activations, layers = parameters_and_answers(name, jnp.float32(X))
    network = from_state(state, activations, layers=layers, check=(X, np.asarray(expected)))
    (answers,) = network(X).values()
    np.testing.assert_allclose(answers, expected, rtol=1e-5, atol=1e-6)


class Normalized(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(2)(linen.BatchNorm(use_running_average=True)(x))


def test_what_is_no_dense_layer_is_refused_by_its_path() -> None:
    variables = Normalized().init(jax.random.PRNGKey(0), jnp.zeros((1, 4)))
    with pytest.raises(UnsupportedSourceError, match=r"tensor '.*BatchNorm_0\.\w+' of state"):
        from_state(variables, ["identity"])
