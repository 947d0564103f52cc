"""ONNX files as PyTorch, Keras and skl2onnx write them, against their own answers in float64."""

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.foreign import referenced, run
from support.imported import assert_imported

from forwardpass.models import UnsupportedModelError, UnsupportedSourceError, from_onnx

torch = pytest.importorskip("torch")
keras = pytest.importorskip("keras")
skl2onnx = pytest.importorskip("skl2onnx")
pytest.importorskip("onnxscript")

from sklearn.datasets import load_breast_cancer, load_iris, load_linnerud  # noqa: E402
from sklearn.neural_network import MLPClassifier, MLPRegressor  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import MinMaxScaler, StandardScaler  # noqa: E402

nn = torch.nn

# Of the exporters' own making.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

X = np.random.default_rng(0).standard_normal((60, 6)).astype(np.float32)


class Branched(nn.Module):
    """A trunk, a skip connection, logits and their softmax, and hidden activations as outputs."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.trunk = nn.Linear(6, 5)
        self.kind = nn.Linear(11, 3)
        self.value = nn.Linear(5, 1, bias=False)

    def forward(self, x):
        x = self.norm(x)
        hidden = torch.relu(self.trunk(x))
        logits = self.kind(torch.cat([hidden, x], dim=1))
        value = torch.sigmoid(self.value(hidden)) * 2 + 1
        return torch.softmax(logits, dim=1), logits, value, hidden


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        return x + self.second(torch.tanh(self.first((x - 0.5) / 2.0)))


class Arranged(nn.Module):
    """Columns of their own, a dueling head, bounds, and an output of one number a row."""

    def __init__(self):
        super().__init__()
        self.deep, self.wide = nn.Linear(4, 5), nn.Linear(2, 5)
        self.value, self.advantage = nn.Linear(5, 1), nn.Linear(5, 3)

    def forward(self, x):
        hidden = nn.functional.relu6(self.deep(x[:, 2:]) + self.wide(x[:, :2]))
        advantage = self.advantage(hidden)
        q = self.value(hidden) + advantage - advantage.mean(dim=1, keepdim=True)
        return q, self.value(hidden).clamp(-1.5, 2.0).squeeze(-1), torch.clamp(q, min=-0.5)


MODULES = {
    "arranged": Arranged,
    "chain": lambda: nn.Sequential(
        nn.Flatten(1), nn.Linear(6, 5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 4, bias=False),
        nn.Tanh(), nn.Linear(4, 3), nn.Softmax(dim=1),
    ),
    "branched": Branched,
    "residual": Residual,
}  # fmt: skip
NAMES = {"branched": ["kind", "logits", "value", "hidden"], "arranged": ["q", "level", "floor"]}


def exported(module, path, *, dynamo, opset):
    """The file that PyTorch writes of a module, in eval mode."""
    kind = next(kind for kind, make in MODULES.items() if type(module) is type(make()))
    torch.onnx.export(
        module.eval(),
        (torch.from_numpy(X),),
        path,
        input_names=["measured"],
        output_names=NAMES.get(kind, ["y"]),
        opset_version=opset,
        dynamo=dynamo,
        **({"external_data": False} if dynamo else {"dynamic_axes": {"measured": {0: "n"}}}),
    )
    return path


def answers(module):
    with torch.no_grad():
        given = copy.deepcopy(module).double().eval()(torch.from_numpy(X).double())
    return [each.numpy() for each in (given if isinstance(given, tuple) else (given,))]


def columns(expected):
    """Answers by output, with the axis of one column."""
    return {name: values.reshape(len(values), -1) for name, values in expected.items()}


@pytest.mark.parametrize(
    ("dynamo", "opset"), [(False, 9), (False, 13), (False, 17), (True, 18), (True, None)]
)
@pytest.mark.parametrize("kind", MODULES)
def test_a_file_of_torch_becomes_a_network_with_the_modules_answers(
    kind, dynamo, opset, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module = MODULES[kind]()
    for each in module.modules():
        if isinstance(each, nn.BatchNorm1d):
            each.running_mean.normal_()
            each.running_var.uniform_(0.1, 3)
    path = exported(module, tmp_path / "m.onnx", dynamo=dynamo, opset=opset)
    network = from_onnx(path)
    assert network.input.name == "measured"
    names = NAMES.get(kind, ["y"])
    assert_imported(network, X, columns(dict(zip(names, answers(module), strict=True))))
    theirs = onnx.load(path)
    # onnxruntime has no Clip of float64 before opset 11.
    if (kind, opset) != ("arranged", 9):
        assert_imported(network, X, columns(run(theirs, X)))
    if theirs.opset_import[0].version >= 14:
        # Before that the reference evaluator of onnx 1.23 gets BatchNormalization wrong.
        assert_imported(network, X, columns(referenced(theirs, X)))


ACTIVATIONS = [
    nn.LeakyReLU(0.2), nn.PReLU(), nn.PReLU(5), nn.ELU(0.7), nn.SELU(), nn.GELU(), nn.GELU("tanh"),
    nn.SiLU(), nn.Mish(), nn.Softplus(), nn.Softsign(), nn.Hardsigmoid(), nn.Hardswish(),
    nn.LogSoftmax(dim=1),
]  # fmt: skip


@pytest.mark.parametrize(("dynamo", "opset"), [(False, 13), (False, 17), (True, 18), (True, None)])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_an_activation_of_torch_is_one_of_a_network(
    activation, dynamo, opset, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 5), copy.deepcopy(activation))
    path = exported(module, tmp_path / "m.onnx", dynamo=dynamo, opset=opset)
    network = from_onnx(path)
    assert len(network.layers) == 1
    assert_imported(network, X, dict(zip(["y"], answers(module), strict=True)))


KERAS = ["elu", "selu", "gelu", "leaky_relu", "silu", "mish", "softplus", "softsign"]
KERAS += ["hard_sigmoid", "hard_silu", "log_softmax"]


@pytest.mark.parametrize("activation", KERAS)
def test_an_activation_of_keras_is_one_of_a_network(activation, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, activation=activation)])
    expected = keras.ops.convert_to_numpy(model(X))
    path = tmp_path / "m.onnx"
    model.export(path, format="onnx", verbose=False)
    network = from_onnx(path)
    assert len(network.layers) == 1
    (got,) = network(X).values()
    np.testing.assert_allclose(got, expected, atol=2e-6)


@pytest.mark.parametrize("dynamo", [False, True])
def test_the_layers_of_a_file_of_torch_keep_their_names_and_bits(dynamo, tmp_path: Path) -> None:
    module = MODULES["chain"]()
    network = from_onnx(exported(module, tmp_path / "m.onnx", dynamo=dynamo, opset=18))
    assert [layer.name for layer in network.layers] == ["1", "4", "6"]
    assert [layer.activation for layer in network.layers] == ["relu", "tanh", "softmax"]
    for layer in network.layers:
        theirs = module.get_submodule(layer.name)
        assert layer.W.tobytes() == theirs.weight.detach().numpy().tobytes()
        if theirs.bias is not None:
            assert layer.b.tobytes() == theirs.bias.detach().numpy().tobytes()


def test_weights_that_torch_writes_into_a_file_of_their_own_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    module = nn.Linear(6, 1000)  # small tensors stay in the file
    torch.onnx.export(module.eval(), (torch.from_numpy(X),), path, external_data=True)
    assert path.with_name("m.onnx.data").exists()
    with pytest.raises(UnsupportedSourceError, match=r"another file, .*external_data=False"):
        from_onnx(path)
    assert from_onnx(onnx.load(path)).sizes == (6, 1000)  # onnx.load reads both


def test_a_file_that_onnxruntime_optimized_is_refused_by_its_nodes(tmp_path: Path) -> None:
    import onnxruntime

    path = exported(MODULES["chain"](), tmp_path / "m.onnx", dynamo=True, opset=18)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    with pytest.raises(
        UnsupportedModelError, match=r"\(com.microsoft.FusedGemm\): a Network cannot"
    ):
        from_onnx(tmp_path / "optimized.onnx")


def test_a_file_of_keras_becomes_a_network_with_the_models_answers(tmp_path: Path) -> None:
    layers = keras.layers
    keras.utils.set_random_seed(0)
    x = keras.Input((6,), name="measured")
    trunk = layers.Dense(5, activation="relu")(layers.BatchNormalization()(x))
    risk = layers.Dense(1, activation="sigmoid")(layers.Concatenate()([trunk, x]))
    model = keras.Model(x, [risk, layers.Dense(3, activation="softmax")(trunk)])
    model(X)  # Keras exports what was called once
    path = tmp_path / "m.onnx"
    model.export(path, format="onnx", verbose=False)
    network = from_onnx(path)
    assert network.input.name == "measured"
    assert_imported(network, X, referenced(onnx.load(path), X))
    for ours, theirs in zip(network(X).values(), model(X), strict=True):
        np.testing.assert_allclose(ours, keras.ops.convert_to_numpy(theirs), atol=2e-6)
    kernels = {keras.ops.convert_to_numpy(each.kernel).T.tobytes() for each in model.layers
               if isinstance(each, layers.Dense)}  # fmt: skip
    # The first layer takes in what BatchNormalization computes; Keras folded nothing.
    assert {layer.W.tobytes() for layer in network.layers[1:]} <= kernels


def mlp(kind, scaler, **options):
    return make_pipeline(scaler, kind(hidden_layer_sizes=(8,), max_iter=200, random_state=0,
                                      **options))  # fmt: skip


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("scaler", [StandardScaler(), MinMaxScaler()], ids=["standard", "minmax"])
@pytest.mark.parametrize(
    ("data", "kind", "activation"),
    [
        (load_iris, MLPClassifier, "tanh"),
        (load_breast_cancer, MLPClassifier, "relu"),
        (load_linnerud, MLPRegressor, "logistic"),
    ],
)
def test_a_file_of_skl2onnx_becomes_a_network_with_its_answers(
    data, kind, activation, scaler
) -> None:
    x, y = data(return_X_y=True)
    x = x.astype(np.float32)
    y = y[:, 0] if y.ndim == 2 else y
    model = mlp(kind, scaler, activation=activation).fit(x.astype(np.float64), y)
    is_classifier = kind is MLPClassifier
    theirs = skl2onnx.to_onnx(model, x[:1], options={"zipmap": False} if is_classifier else None)
    output = "probabilities" if is_classifier else "variable"
    network = from_onnx(theirs, outputs=[output])
    # skl2onnx rounds all weights to float32, the scaler's too: its file is what is taken over.
    expected = referenced(chosen(theirs, output), x)
    assert_imported(network, x, expected)
    answer = model.predict_proba(x) if is_classifier else model.predict(x)[:, np.newaxis]
    np.testing.assert_allclose(network(x)[output], answer, rtol=1e-4, atol=1e-4)


def chosen(theirs, output):
    """The model up to one output."""
    return onnx.utils.Extractor(theirs).extract_model([theirs.graph.input[0].name], [output])


def test_what_skl2onnx_adds_to_a_classifier_is_refused_by_name() -> None:
    x, y = load_iris(return_X_y=True)
    model = MLPClassifier((8,), max_iter=20, random_state=0)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        model.fit(x, y)
    theirs = skl2onnx.to_onnx(model, x[:1].astype(np.float32), options={"zipmap": False})
    with pytest.raises(UnsupportedModelError, match=r"\(ArgMax\).* do not need it: probabilities"):
        from_onnx(theirs)
    mapped = skl2onnx.to_onnx(model, x[:1].astype(np.float32))
    with pytest.raises(UnsupportedModelError, match=r"\(ai.onnx.ml.ZipMap\)"):
        from_onnx(mapped, outputs=["output_probability"])


def test_the_wrong_shape_of_skl2onnx_for_several_targets_is_refused() -> None:
    x, y = load_linnerud(return_X_y=True)
    model = MLPRegressor(hidden_layer_sizes=(4,), max_iter=20, random_state=0)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        model.fit(x, y)
    theirs = skl2onnx.to_onnx(model, x[:1].astype(np.float32))
    with pytest.raises(UnsupportedModelError, match=r"\(Reshape\): to \[-1, 1\], which is not pr"):
        from_onnx(theirs)
