"""Modules of PyTorch, against their own answers in float64 and eval mode."""

import copy
from collections import OrderedDict

import numpy as np
import pytest
from support.imported import assert_imported

from forwardpass.models import Elu, Input, LayerNorm, LeakyRelu, PRelu
from forwardpass.models.errors import NetworkError, UnsupportedSourceError
from forwardpass.models.importers.torch import from_torch

torch = pytest.importorskip("torch")
nn = torch.nn

X = np.random.default_rng(0).standard_normal((60, 6)).astype(np.float32)


def trained(module):
    """The module with parameters and statistics such as training leaves behind."""
    torch.manual_seed(0)
    for each in module.modules():
        if isinstance(each, nn.BatchNorm1d):
            each.running_mean.normal_()
            each.running_var.uniform_(0.05, 3)
            if each.affine:
                nn.init.normal_(each.weight)
                nn.init.normal_(each.bias)
    return module


def answers(module, x):
    """float64 answers; the module is left as it is."""
    with torch.no_grad():
        exact = copy.deepcopy(module).double().eval()
        return exact(torch.from_numpy(x).double()).numpy()


def modules():
    relu = nn.ReLU()
    return {
        "a Linear alone": nn.Linear(6, 3),
        "without bias": nn.Sequential(nn.Linear(6, 4, bias=False), nn.Tanh(), nn.Linear(4, 2)),
        "every activation": nn.Sequential(
            nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 8), nn.Sigmoid(), nn.Linear(8, 7), nn.Tanh(),
            nn.Linear(7, 5), nn.Softmax(dim=1),
        ),
        "softmax over the last axis": nn.Sequential(nn.Linear(6, 3), nn.Softmax(dim=-1)),
        "nested, and one activation twice": nn.Sequential(
            nn.Sequential(nn.Linear(6, 5), relu), nn.Sequential(nn.Linear(5, 4), relu)
        ),
        "named": nn.Sequential(
            OrderedDict(trunk=nn.Sequential(nn.Linear(6, 5), nn.ReLU()), head=nn.Linear(5, 2))
        ),
        "dropout, identity and flatten": nn.Sequential(
            nn.Identity(), nn.Flatten(1), nn.Linear(6, 5), nn.Dropout(0.5), nn.AlphaDropout(),
            nn.ReLU(), nn.Linear(5, 2),
        ),
        "normalized before the activation": nn.Sequential(
            nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)
        ),
        "normalized after the activation": nn.Sequential(
            nn.Linear(6, 5), nn.ReLU(), nn.BatchNorm1d(5), nn.Linear(5, 2)
        ),
        "normalized input": nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 2)),
        "normalized output": nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.BatchNorm1d(3)),
        "normalized everywhere, plainly": nn.Sequential(
            nn.BatchNorm1d(6, affine=False), nn.BatchNorm1d(6), nn.Linear(6, 5), nn.Sigmoid(),
            nn.BatchNorm1d(5, affine=False), nn.Dropout(), nn.BatchNorm1d(5, momentum=None),
            nn.ReLU(), nn.Linear(5, 3), nn.BatchNorm1d(3, eps=1e-2), nn.Softmax(1),
        ),
        "activations only beside one Linear": nn.Sequential(
            nn.Tanh(), nn.Sigmoid(), nn.Linear(6, 3), nn.ReLU(), nn.Tanh()
        ),
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", modules())
def test_a_module_becomes_a_network_with_its_answers(name, dtype) -> None:
    module = trained(modules()[name]).to(dtype)
    assert_imported(from_torch(module), X, {"y": answers(module, X)})


ACTIVATIONS = {
    nn.LeakyReLU(0.2): LeakyRelu(0.2),
    nn.LeakyReLU(): "leaky_relu",
    nn.PReLU(): LeakyRelu(0.25),
    nn.PReLU(5, 0.25): "prelu",
    nn.ELU(0.7): Elu(0.7),
    nn.SELU(): "selu",
    nn.GELU(): "gelu",
    nn.GELU("tanh"): "gelu_tanh",
    nn.SiLU(): "silu",
    nn.Mish(): "mish",
    nn.Softplus(): "softplus",
    nn.Softsign(): "softsign",
    nn.Hardsigmoid(): "hard_sigmoid",
    nn.Hardswish(): "hard_swish",
    nn.LogSoftmax(dim=1): "log_softmax",
    nn.LayerNorm(5): LayerNorm(),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize(("activation", "ours"), ACTIVATIONS.items(), ids=str)
def test_an_activation_is_the_same_function(activation, ours, dtype) -> None:
    module = trained(nn.Sequential(nn.Linear(6, 5), copy.deepcopy(activation))).to(dtype)
    network = from_torch(module)
    assert [layer.activation for layer in network.layers] == [ours]
    assert_imported(network, 4 * X, {"y": answers(module, 4 * X)})


def test_a_normalization_is_between_a_layer_and_its_activation() -> None:
    module = nn.Sequential(
        nn.Linear(6, 8),
        nn.LayerNorm(8, eps=0.01),
        nn.GELU(),
        nn.Linear(8, 5, bias=False),
        nn.LayerNorm(5, elementwise_affine=False),
        nn.ReLU(),
        nn.LayerNorm(5, bias=False),
        nn.Linear(5, 2),
    )
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    module.eval()
    network = from_torch(module)
    found = [str(layer.activation) for layer in network.layers]
    assert found == ["layer_norm gelu", "layer_norm relu", "layer_norm", "identity"]
    assert_imported(network, X, {"y": answers(module, X)})


def test_slopes_are_those_of_their_units() -> None:
    module = nn.Sequential(nn.Linear(6, 5), nn.PReLU(5), nn.Linear(5, 2))
    nn.init.normal_(module[1].weight)
    network = from_torch(module)
    assert network.layers[0].activation == PRelu(module[1].weight.tolist())
    assert_imported(network, X, {"y": answers(module, X)})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_to_the_bit(dtype) -> None:
    module = nn.Linear(6, 3).to(dtype)
    assert_imported(from_torch(module), X, {"y": answers(module, X)})


def test_layers_keep_their_names_and_their_bits() -> None:
    module = modules()["named"]
    network = from_torch(module, labels=("a", "b"), units=("m", "s"), output="size", name="sizes")
    assert [layer.name for layer in network.layers] == ["trunk.0", "head"]
    for layer in network.layers:
        theirs = module.get_submodule(layer.name)
        assert layer.W.tobytes() == theirs.weight.detach().numpy().tobytes()
        assert layer.b.tobytes() == theirs.bias.detach().numpy().tobytes()
    (output,) = network.outputs
    assert (output.name, output.labels, output.units) == ("size", ("a", "b"), ("m", "s"))
    assert network.name == "sizes"
    assert network.provenance == {"source": f"torch {torch.__version__}: Sequential"}


def test_images_are_sent_flat() -> None:
    module = nn.Sequential(nn.Flatten(1), nn.Linear(6, 3))
    images = X.reshape(60, 1, 2, 3)
    assert_imported(from_torch(module), X, {"y": answers(module, images)})


def test_the_module_is_neither_changed_nor_put_into_eval_mode() -> None:
    module = trained(modules()["normalized everywhere, plainly"])
    before = copy.deepcopy(module.state_dict())
    from_torch(module)
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_given_input_brings_its_names_and_its_scaling() -> None:
    module = trained(modules()["normalized input"])
    mean, scale = np.arange(6, dtype=np.float32), np.array([1, 2, 4, 8, 16, 32], np.float32)
    source = Input(6, "lab", [f"f{k}" for k in range(6)], mean=mean, scale=scale)
    network = from_torch(module, input=source)
    assert (network.input.name, network.input.features) == ("lab", source.features)
    assert_imported(network, X * scale + mean, {"y": answers_scaled(module, mean, scale)})


def answers_scaled(module, mean, scale):
    x = ((X * scale + mean).astype(np.float64) - mean) / scale
    with torch.no_grad():
        return copy.deepcopy(module).double().eval()(torch.from_numpy(x)).numpy()


def test_features_far_from_zero_keep_their_accuracy() -> None:
    module = trained(nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2)))
    module[0].running_mean += 1e5
    module[0].running_var *= 1e-2
    x = (X * 0.1 + 1e5).astype(np.float32)
    assert_imported(from_torch(module), x, {"y": answers(module, x)})


class OwnForward(nn.Sequential):
    def forward(self, x):
        return 2 * super().forward(x)


class OwnModule(nn.Module):
    def forward(self, x):
        return x


class OwnLinear(nn.Linear):
    def forward(self, x):
        return super().forward(x) ** 2


class Subclassed(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(6, 2), nn.ReLU())


def patched():
    module = nn.Linear(6, 2)
    module.forward = lambda x: x
    return module


def hooked():
    module = nn.Sequential(nn.Linear(6, 2))
    module[0].register_forward_hook(lambda *_: None)
    return module


class OwnCall(nn.Linear):
    def __call__(self, x):
        return -super().__call__(x)


class OwnInnerCall(nn.ReLU):
    def _call_impl(self, x):
        return x


class Backwards(nn.Sequential):
    def __iter__(self):
        return reversed(list(super().__iter__()))


class AlwaysRandom(nn.Dropout):
    def train(self, _=True):
        return super().train(True)


def with_the_forward_of_another():
    module, other = nn.Linear(6, 6), nn.Linear(6, 6)
    module.forward = other.forward
    return module


def test_a_subclass_that_computes_as_its_base_is_its_base() -> None:
    module = Subclassed()
    assert_imported(from_torch(module), X, {"y": answers(module, X)})


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Conv1d(6, 2, 1), r"module \(Conv1d\): no part of a Network; expected an nn.Seq.*exam"),
        (nn.Sequential(nn.Linear(6, 2), nn.CELU()), r"module '1' \(CELU\): no part of a Network"),
        (nn.Sequential(nn.Linear(6, 2), nn.ELU(-1)), r"'1' \(ELU\): elu whose parameter is -1"),
        (nn.Sequential(nn.Linear(6, 2), nn.Softplus(2)), r"module '1' \(Softplus\): no part of"),
        (
            nn.Sequential(nn.Linear(6, 2), nn.Sequential(nn.RMSNorm(2))),
            r"module '1.0' \(RMSNorm\)",
        ),
        (
            nn.Sequential(nn.Linear(6, 2), nn.LayerNorm((1, 2))),
            r"module '1' \(LayerNorm\): over values of shape \(1, 2\)",
        ),
        (nn.Sequential(nn.Linear(6, 2), nn.BatchNorm2d(2)), r"module '1' \(BatchNorm2d\)"),
        (nn.Sequential(nn.Linear(6, 2), nn.Softmax(0)), r"module '1' \(Softmax\): dim=0"),
        (nn.Sequential(nn.Linear(6, 2), nn.Softmax(None)), r"\(Softmax\): dim=None, .*say dim=1"),
        (nn.Sequential(nn.Linear(6, 2), nn.LogSoftmax(0)), r"'1' \(LogSoftmax\): dim=0, .*dim=1"),
        (
            nn.Sequential(nn.Linear(6, 2), nn.LogSoftmax(1), nn.Linear(2, 2)),
            r"module '1' \(LogSoftmax\): log_softmax, which module '2' \(Linear\) reads",
        ),
        (nn.Sequential(nn.Flatten(0), nn.Linear(6, 2)), r"module '0' \(Flatten\): not a Flatten"),
        (nn.Sequential(nn.Linear(6, 2), nn.Flatten()), r"module '1' \(Flatten\): not a Flatten"),
        (
            nn.Sequential(nn.Linear(6, 2), nn.BatchNorm1d(2, track_running_stats=False)),
            r"module '1' \(BatchNorm1d\): no running statistics",
        ),
        (nn.Linear(6, 2, device="meta"), r"module \(Linear\): weight without values"),
        (nn.Linear(6, 2, dtype=torch.complex64), r"module \(Linear\): weight of dtype complex"),
        (nn.Sequential(), r"module \(Sequential\): no Linear in it"),
        (nn.Sequential(nn.ReLU()), r"module \(Sequential\): no Linear in it"),
        (OwnForward(nn.Linear(6, 2)), r"module \(OwnForward\): no part of a Network"),
        (nn.Sequential(OwnLinear(6, 2)), r"module '0' \(OwnLinear\): no part of a Network"),
        (patched(), r"module \(Linear\): no part of a Network"),
        (hooked(), r"module '0' \(Linear\): a forward hook"),
        (
            nn.utils.parametrizations.weight_norm(nn.Linear(6, 2)),
            r"\(ParametrizedLinear\): parameters that are computed",
        ),
        (OwnCall(6, 2), r"module \(OwnCall\): a __call__ of its own"),
        (nn.Sequential(nn.Linear(6, 2), OwnInnerCall()), r"'1' \(OwnInnerCall\): a __call__ of it"),
        (Backwards(nn.Linear(6, 6), nn.Tanh()), r"\(Backwards\): an order of its own"),
        (
            nn.Sequential(nn.Linear(6, 2), AlwaysRandom()),
            r"module '1' \(AlwaysRandom\): it stays in training after eval\(\)",
        ),
        (with_the_forward_of_another(), r"module \(Linear\): no part of a Network"),
        (OwnModule(), r"module \(OwnModule\): no part of a Network; .* takes example="),
        ({"0.weight": torch.zeros(2, 6)}, "dict: not an nn.Module"),
        ("net.pt", "file 'net.pt': a pickle, which runs .* weights_only=True"),
        ("net.onnx", "file 'net.onnx': a path where a model was expected"),
    ],
)
def test_what_a_network_cannot_represent_is_refused_by_name(module, message) -> None:
    with pytest.raises(UnsupportedSourceError, match=message):
        from_torch(module)


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_lazy_module_is_refused_until_it_has_parameters() -> None:
    module = nn.Sequential(nn.LazyLinear(2))
    with pytest.raises(UnsupportedSourceError, match=r"'0' \(LazyLinear\): weight without values"):
        from_torch(module)
    module(torch.from_numpy(X))
    assert_imported(from_torch(module), X, {"y": answers(module, X)})


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            nn.Sequential(nn.Linear(6, 2), nn.Linear(3, 2)),
            r"module '1' \(Linear\): expected W of shape \(s_out, 2\)",
        ),
        (
            nn.Sequential(nn.Linear(6, 2), nn.BatchNorm1d(3)),
            r"module '1' \(BatchNorm1d\): expected one number for each of the 2 features",
        ),
    ],
)
def test_modules_that_do_not_fit_one_another_are_refused(module, message) -> None:
    with pytest.raises(NetworkError, match=message):
        from_torch(module)


@pytest.mark.parametrize(
    "register",
    [
        nn.modules.module.register_module_forward_hook,
        nn.modules.module.register_module_forward_pre_hook,
    ],
)
def test_a_hook_on_every_module_is_refused(register):
    handle = register(lambda *_: None)
    try:
        with pytest.raises(
            UnsupportedSourceError, match=r"torch\.nn: a forward hook for all modul"
        ):
            from_torch(nn.Linear(6, 2))
    finally:
        handle.remove()
    from_torch(nn.Linear(6, 2))


def test_a_module_is_compared_with_its_own_answers(monkeypatch):
    module = trained(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)))
    # Nothing that the module itself tells of.
    monkeypatch.setattr(nn.ReLU, "forward", lambda _, x: torch.nn.functional.leaky_relu(x))
    with pytest.raises(
        UnsupportedSourceError,
        match=r"output 'y', column \d, probe row \d \(.*own prediction, got .*rounding explains",
    ):
        from_torch(module)


def test_rows_with_their_answers_are_compared_too():
    module = trained(modules()["normalized before the activation"])
    with torch.no_grad():
        y = copy.deepcopy(module).eval()(torch.from_numpy(X))
    from_torch(module, check=(X, y))
    with pytest.raises(UnsupportedSourceError, match="column 1, row 0"):
        from_torch(module, check=(X, y * torch.tensor([1, -1])))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_surrounds_an_import_does_not_change_it(dtype):
    module = trained(modules()["normalized everywhere, plainly"]).to(dtype)
    with torch.autocast("cpu", torch.bfloat16), torch.enable_grad():
        network = from_torch(module)
    assert network == from_torch(module)
    assert all(parameter.grad is None for parameter in module.parameters())
