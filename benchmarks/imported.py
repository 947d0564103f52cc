"""Networks of other libraries, with those libraries' own answers in float64."""

import copy
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.models import ActivationName, Network
from forwardpass.models.importers.keras import from_keras
from forwardpass.models.importers.onnx import from_onnx
from forwardpass.models.importers.policies import from_policy
from forwardpass.models.importers.sklearn import from_sklearn
from forwardpass.models.importers.state import from_state
from forwardpass.models.importers.torch import from_torch

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """One kind of network of one importer."""

    importer: str
    kind: str
    network: Network
    x: Rows | Mapping[str, NDArray[Any]]
    """The rows of its input, or of each by name."""
    expected: dict[str, NDArray[np.float64]]
    """The source library's answers to x, computed in float64, by output."""


def cases() -> Iterator[Case]:
    """Yield every case; `benchmarks.importers` says what it takes."""
    warnings.simplefilter("ignore")
    yield from _sklearn()
    yield from _torch()
    yield from _torch_forwards()
    yield from _policies()
    yield from _keras()
    yield from _state()


# skl2onnx gets several targets and two labels wrong, and has no Poisson rates.
_CONVERTED = (
    "binary, one probability",
    "10 classes, MaxAbsScaler, logistic",
    "3 classes, tanh, no scaler",
    "1 value",
)


def _sklearn() -> Iterator[Case]:
    import skl2onnx
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_linnerud
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, StandardScaler

    def case(kind: str, data: Any, model: Any, answer: str, **options: Any) -> Iterator[Case]:
        x, y = data
        x = x.astype(np.float32)
        x64 = x.astype(np.float64)
        model.fit(x64, y)
        network = from_sklearn(model, **options)
        width = network.layers[-1].units
        expected = np.asarray(getattr(model, answer)(x64)).reshape(len(x), -1)[:, -width:]
        yield Case("scikit-learn", kind, network, x, {"y": expected})
        if not options and kind in _CONVERTED:
            output = "probabilities" if answer == "predict_proba" else "variable"
            zipped = {"options": {"zipmap": False}} if answer == "predict_proba" else {}
            written = skl2onnx.to_onnx(model, x[:1], **zipped)
            again = from_onnx(written, outputs={output: "y"})
            every = np.asarray(getattr(model, answer)(x64)).reshape(len(x), -1)
            yield Case("ONNX of skl2onnx", kind, again, x, {"y": every})

    def mlp(kind: Any, **options: Any) -> Any:
        return kind(hidden_layer_sizes=(32, 16), max_iter=100, random_state=0, **options)

    cancer, iris = load_breast_cancer(return_X_y=True), load_iris(return_X_y=True)
    digits, body = load_digits(return_X_y=True), load_linnerud(return_X_y=True)
    measured, _ = cancer
    symptoms = (measured[:, :2] > measured[:, :2].mean(axis=0)).astype(int)
    binary = make_pipeline(StandardScaler(), mlp(MLPClassifier))
    yield from case("binary, one probability", cancer, binary, "predict_proba")
    yield from case("binary, both", cancer, binary, "predict_proba", both_probabilities=True)
    logistic = make_pipeline(MaxAbsScaler(), mlp(MLPClassifier, activation="logistic"))
    yield from case("10 classes, MaxAbsScaler, logistic", digits, logistic, "predict_proba")
    tanh = mlp(MLPClassifier, activation="tanh")
    yield from case("3 classes, tanh, no scaler", iris, tanh, "predict_proba")
    multilabel = make_pipeline(MinMaxScaler(), mlp(MLPClassifier))
    yield from case("2 labels, MinMaxScaler", (measured, symptoms), multilabel, "predict_proba")
    regression = make_pipeline(StandardScaler(), mlp(MLPRegressor))
    yield from case("1 value", (body[0], body[1][:, 0]), regression, "predict")
    yield from case("3 values", body, regression, "predict")
    scaled = TransformedTargetRegressor(regression, transformer=StandardScaler())
    yield from case("3 values, scaled targets", body, scaled, "predict")
    rates = make_pipeline(StandardScaler(), mlp(MLPRegressor, loss="poisson"))
    yield from case("3 Poisson rates", body, rates, "predict")


_EXPORTERS: dict[str, dict[str, Any]] = {
    "torch, dynamo": {"dynamo": True, "external_data": False, "verbose": False},
    "torch, TorchScript": {"dynamo": False},
}


def _torch() -> Iterator[Case]:
    import torch
    from torch import nn

    def case(kind: str, module: Any, **options: Any) -> Iterator[Case]:
        for each in module.modules():
            if isinstance(each, nn.BatchNorm1d):
                each.running_mean.normal_()
                each.running_var.uniform_(0.1, 3)
        network = from_torch(module, **options)
        x = torch.randn(200, network.input.size)
        with torch.no_grad():
            answer = copy.deepcopy(module).double().eval()(x.double()).numpy()
        yield Case("PyTorch", kind, network, x.numpy(), {"y": answer})
        if kind == "float64":
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            for exporter, of_exporter in _EXPORTERS.items():
                torch.onnx.export(module.eval(), (x,), path, output_names=["y"], **of_exporter)
                again = from_onnx(path)
                yield Case(f"ONNX of {exporter}", kind, again, x.numpy(), {"y": answer})

    torch.manual_seed(0)
    yield from case(
        "30-64-32-2, relu and softmax",
        nn.Sequential(
            nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2),
            nn.Softmax(1),
        ),
    )  # fmt: skip
    yield from case(
        "784-512-512-10, relu",
        nn.Sequential(
            nn.Flatten(1), nn.Linear(784, 512), nn.ReLU(), nn.Dropout(),
            nn.Linear(512, 512), nn.ReLU(), nn.Dropout(), nn.Linear(512, 10),
        ),
    )  # fmt: skip
    yield from case(
        "nested, sigmoid and tanh, no bias",
        nn.Sequential(
            nn.Sequential(nn.Linear(30, 64, bias=False), nn.Sigmoid()),
            nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 4)),
        ),
    )
    yield from case(
        "BatchNorm1d at the input, before and after relu",
        nn.Sequential(
            nn.BatchNorm1d(30), nn.Linear(30, 64), nn.BatchNorm1d(64), nn.ReLU(),
            nn.Linear(64, 32), nn.ReLU(), nn.BatchNorm1d(32), nn.Linear(32, 2), nn.Sigmoid(),
        ),
    )  # fmt: skip
    yield from case(
        "float64",
        nn.Sequential(
            nn.Linear(30, 64, dtype=torch.float64),
            nn.Tanh(),
            nn.Linear(64, 3, dtype=torch.float64),
        ),
    )


def _torch_forwards() -> Iterator[Case]:
    import torch
    from torch import nn

    class Dueling(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.value = nn.Linear(20, 64), nn.Linear(64, 1)
            self.side, self.advantage = nn.Linear(10, 64), nn.Linear(64, 4)

        def forward(self, x: Any) -> Any:
            hidden = torch.relu(self.trunk(x[:, :20]) + self.side(x[:, 20:]))
            advantage = self.advantage(hidden)
            q = self.value(hidden) + advantage - advantage.mean(dim=1, keepdim=True)
            return {"q": q, "level": self.value(hidden).clamp(-0.5, 0.5)}

    torch.manual_seed(0)
    module, x = Dueling(), torch.randn(200, 30)
    with torch.no_grad():
        answers = copy.deepcopy(module).double()(x.double())
    expected = {name: value.numpy() for name, value in answers.items()}
    network = from_torch(module, x[:1])
    yield Case("PyTorch, by example", "dueling head, slices, clamp", network, x.numpy(), expected)


def _policies() -> Iterator[Case]:
    import gymnasium
    import torch
    from stable_baselines3 import DQN, PPO, SAC
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    x = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float32)

    def case(
        kind: str, model: Any, exact: Callable[[Any, Any], Any], output: str
    ) -> Iterator[Case]:
        rows, normalize = x[:, : model.observation_space.shape[0]], model.get_vec_normalize_env()
        given = rows.astype(np.float64)
        if normalize is not None:
            given = given - normalize.obs_rms.mean
            given = (given / np.sqrt(normalize.obs_rms.var + normalize.epsilon)).clip(-10, 10)
        with torch.no_grad():
            policy = copy.deepcopy(model.policy).double()
            expected = exact(policy, torch.from_numpy(given)).numpy()
        network = from_policy(model)
        yield Case("stable-baselines3", kind, network, rows, {output: expected})

    def of_ppo(policy: Any, rows: Any) -> Any:
        return policy.action_net(policy.mlp_extractor.forward_actor(rows)).clamp(-2, 2)

    environment = VecNormalize(DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")]))
    environment.reset()
    yield from case("PPO, VecNormalize", PPO("MlpPolicy", environment, seed=0), of_ppo, "action")
    yield from case(
        "SAC, squashed actions",
        SAC("MlpPolicy", "Pendulum-v1", seed=0),
        lambda policy, rows: 2 * torch.tanh(policy.actor.mu(policy.actor.latent_pi(rows))),
        "action",
    )
    yield from case(
        "DQN",
        DQN("MlpPolicy", "MountainCar-v0", seed=0, buffer_size=10),
        lambda policy, rows: policy.q_net.q_net(rows),
        "q",
    )


def _keras() -> Iterator[Case]:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras
    from keras import layers
    from keras.src.backend.common import dtypes

    # On most backends Keras multiplies float64 rounded to float32.
    dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"

    def built(define: Callable[[], Any], policy: str) -> Any:
        keras.utils.clear_session()
        keras.config.set_dtype_policy(policy)
        model = define()
        keras.config.set_dtype_policy("float32")
        rng = np.random.default_rng(0)
        for variable in filter(lambda each: len(each.shape), model.weights):  # no counts
            values = rng.standard_normal(variable.shape) / np.sqrt(variable.shape[0])
            if "variance" in variable.name:
                values = np.exp(values)
            variable.assign(values.astype(np.float32))
        for layer in model.layers:
            if isinstance(layer, layers.Normalization):
                layer.finalize_state()  # or it computes with what it was made with
        return model

    def case(kind: str, define: Callable[[], Any]) -> Iterator[Case]:
        model, exact = built(define, "float32"), built(define, "float64")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            model.save(path)
            networks = {"Keras model": from_keras(model), "Keras file": from_keras(path)}
            model(np.zeros((2, 30), np.float32))  # Keras exports what was called once
            written = Path(folder) / "model.onnx"
            model.export(written, format="onnx", verbose=False)
            networks["ONNX of Keras"] = from_onnx(written)
        for importer, network in networks.items():
            rng = np.random.default_rng(1)
            x = rng.standard_normal((200, network.input.size)).astype(np.float32)
            answers = exact(keras.ops.convert_to_tensor(x.astype(np.float64)), training=False)
            listed = answers if isinstance(answers, list) else [answers]
            expected = {
                output.name: keras.ops.convert_to_numpy(answer)
                for output, answer in zip(network.outputs, listed, strict=True)
            }
            yield Case(importer, kind, network, x, expected)

    def chain() -> Any:
        return keras.Sequential(
            [
                keras.Input((30,)),
                layers.BatchNormalization(),
                layers.Dense(64),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Dropout(0.5),
                layers.Dense(32, activation="tanh"),
                layers.Dense(3, activation="softmax"),
            ]
        )

    def heads() -> Any:
        x = keras.Input((30,))
        trunk = layers.Dense(64, activation="relu")(x)
        both = layers.Concatenate()([layers.Dense(32, activation="relu")(trunk), x])
        return keras.Model(
            x, [layers.Dense(1, activation="sigmoid", name="risk")(both), layers.Dense(4)(trunk)]
        )

    yield from case("Sequential, BatchNormalization", chain)

    def columns() -> Any:
        size, color = keras.Input((1,), dtype="int64", name="size"), keras.Input((1,), name="color")
        weight = keras.Input((8,), name="weight")
        hots = layers.CategoryEncoding(12, "one_hot")(size)
        embedded = layers.Flatten()(layers.Embedding(200, 16)(color))
        scaled = layers.Normalization()(weight)
        both = layers.Concatenate()([hots, embedded, scaled])
        hidden = layers.Dense(32, activation="relu")(both)
        return keras.Model([size, color, weight], layers.Dense(1, activation="sigmoid")(hidden))

    yield from case("Functional, two heads, skip connection", heads)
    model, exact = built(columns, "float32"), built(columns, "float64")
    rng = np.random.default_rng(1)
    rows: dict[str, NDArray[Any]] = {
        "size": rng.integers(0, 12, (200, 1)),
        "color": rng.integers(0, 200, (200, 1)),
        "weight": rng.standard_normal((200, 8)).astype(np.float32),
    }
    answer = exact([*rows.values()], training=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        for importer, network in {"model": from_keras(model), "file": from_keras(path)}.items():
            expected = {network.outputs[0].name: keras.ops.convert_to_numpy(answer)}
            kind = "Functional, categories embedded and one-hot, numbers"
            yield Case(f"Keras {importer}", kind, network, rows, expected)


def _state() -> Iterator[Case]:
    import safetensors.torch
    import torch
    from torch import nn

    torch.manual_seed(0)
    middle = [part for _ in range(10) for part in (nn.Linear(64, 64), nn.Tanh())]
    module = nn.Sequential(nn.Linear(30, 64), nn.Tanh(), *middle, nn.Linear(64, 3))
    hidden: ActivationName = "tanh"
    activations: list[ActivationName] = [*[hidden] * 11, "identity"]
    x = torch.randn(200, 30)
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with torch.no_grad():
        expected = {"y": copy.deepcopy(module).double()(x.double()).numpy()}
    with tempfile.TemporaryDirectory() as folder:
        tensors, arrays = Path(folder) / "state.safetensors", Path(folder) / "state.npz"
        safetensors.torch.save_file(state, tensors)
        np.savez(arrays, **{name: tensor.numpy() for name, tensor in state.items()})
        for importer, path in (("safetensors", tensors), (".npz", arrays)):
            network = from_state(path, activations)
            yield Case(importer, "12 layers", network, x.numpy(), expected)
    # As Flax has it.
    params = {
        f"Dense_{k}": {
            "kernel": layer.weight.detach().numpy().T,
            "bias": layer.bias.detach().numpy(),
        }
        for k, layer in enumerate(each for each in module if isinstance(each, nn.Linear))
    }
    network = from_state({"params": params}, activations)
    yield Case("parameters of Flax", "12 layers", network, x.numpy(), expected)
