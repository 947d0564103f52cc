"""Modules of PyTorch with a forward of their own, against their own answers in float64."""

import copy
from typing import NamedTuple

import numpy as np
import pytest
from support.imported import assert_imported

from forwardpass.models import Elu, GroupedSoftmax, HardSigmoid, Input, LayerNorm, LeakyRelu
from forwardpass.models.errors import NetworkError, UnsupportedSourceError
from forwardpass.models.importers.torch import from_torch

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

X = np.random.default_rng(0).standard_normal((60, 6)).astype(np.float32)


class Of(nn.Module):
    """A module whose forward is a function of itself and x."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


def of_a_linear(function):
    return Of(lambda self, x: function(self.l(x)), l=nn.Linear(6, 4))


def answers(module, x=X):
    with torch.no_grad():
        return copy.deepcopy(module).double().eval()(torch.from_numpy(x).double())


class Answer(NamedTuple):
    mean: object
    risk: object


def normalization():
    norm = nn.BatchNorm1d(6)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.1, 3)
    return norm


MODULES = {
    "a dict": Of(
        lambda self, x: {"kind": torch.softmax(self.a(x), 1), "level": self.b(x)},
        a=nn.Linear(6, 3),
        b=nn.Linear(6, 1),
    ),
    "a tuple": Of(lambda self, x: (self.a(x), x[:, 1:3]), a=nn.Linear(6, 3)),
    "names, and one number a row": Of(
        lambda self, x: Answer(self.a(x), torch.sigmoid(self.b(x)).squeeze(-1)),
        a=nn.Linear(6, 3),
        b=nn.Linear(6, 1),
    ),
    "a skip connection": Of(
        lambda self, x: x + self.b(torch.tanh(self.a((x - 0.5) / 2))),
        a=nn.Linear(6, 5),
        b=nn.Linear(5, 6),
    ),
    "joined, and in place": Of(
        lambda self, x: self.b(torch.cat([F.relu(self.a(x), inplace=True).mul_(2), x], dim=-1)),
        a=nn.Linear(6, 5),
        b=nn.Linear(11, 3),
    ),
    "a normalized input": Of(
        lambda self, x: self.a(self.norm(x.flatten(1))), norm=normalization(), a=nn.Linear(6, 3)
    ),
    "dropout, and shapes that change": Of(
        lambda self, x: self.a(self.drop(x.view(x.shape[0], 2, 3).transpose(1, 2).reshape(-1, 6))),
        a=nn.Linear(6, 3),
        drop=nn.Dropout(),
    ),
    "columns of their own": Of(
        lambda self, x: self.deep(x[:, 2:]) + self.wide(x[:, :2]),
        deep=nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)),
        wide=nn.Linear(2, 3),
    ),
    "parts of a layer": Of(
        lambda self, x: dict(zip("ab", self.a(x).chunk(2, dim=1), strict=True)), a=nn.Linear(6, 4)
    ),
    "a dueling head": Of(
        lambda self, x: self.v(x) + self.a(x) - self.a(x).mean(dim=1, keepdim=True),
        v=nn.Linear(6, 1),
        a=nn.Linear(6, 4),
    ),
    "a sum over values": Of(lambda self, x: self.a(x).sum(1), a=nn.Linear(6, 4)),
    "weights of its own": Of(
        lambda self, x: torch.addmm(self.b, x, self.w) @ self.w.T,
        w=nn.Parameter(torch.randn(6, 3)),
        b=nn.Parameter(torch.randn(3)),
    ),
    "weights that are computed": Of(
        lambda self, x: self.a(x) * self.log_scale.exp(),
        a=nn.utils.parametrizations.weight_norm(nn.Linear(6, 3)),
        log_scale=nn.Parameter(torch.randn(3)),
    ),
    "constants first": Of(lambda self, x: 1 - self.a(2 - 3 * -x), a=nn.Linear(6, 3)),
    "a scaled input": Of(
        lambda self, x: self.a((x - self.mean) / self.std),
        a=nn.Linear(6, 3),
        mean=nn.Buffer(torch.randn(6)),
        std=nn.Buffer(torch.rand(6) + 0.1),
    ),
    "values twice": Of(
        lambda self, x: self.a(torch.cat([x, x.flip(1)[:, :2]], 1)), a=nn.Linear(8, 3)
    ),
    "one layer twice": Of(lambda self, x: self.a(torch.tanh(self.a(x))), a=nn.Linear(6, 6)),
}


def flat(returned):
    if isinstance(returned, dict):
        return returned
    if hasattr(returned, "_asdict"):
        return returned._asdict()
    if isinstance(returned, tuple):
        return {f"y.{index}": value for index, value in enumerate(returned)}
    return {"y": returned}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_with_a_forward_of_its_own_becomes_a_network_with_its_answers(name) -> None:
    module = MODULES[name]
    expected = {
        key: value.numpy().reshape(len(X), -1) for key, value in flat(answers(module)).items()
    }
    # A graph of one row would be a graph of one row alone.
    assert_imported(from_torch(module, X[:1]), X, expected)


ACTIVATIONS = {
    "softsign": (F.softsign, "softsign"),
    "silu, written out": (lambda z: z * torch.sigmoid(z), "silu"),
    "mish, written out": (lambda z: z * torch.tanh(F.softplus(z)), "mish"),
    "relu by clamp": (lambda z: z.clamp(min=0), "relu"),
    "celu": (F.celu, "elu"),
    "elu": (lambda z: F.elu(z, 0.7), Elu(0.7)),
    "leaky_relu": (lambda z: F.leaky_relu(z, 0.2), LeakyRelu(0.2)),
    "gelu": (F.gelu, "gelu"),
    "gelu_tanh": (lambda z: F.gelu(z, approximate="tanh"), "gelu_tanh"),
    "softmax": (lambda z: F.softmax(z, dim=-1), "softmax"),
    "log_softmax": (lambda z: F.log_softmax(z, dim=1), "log_softmax"),
    "softmax of pairs": (
        lambda z: torch.softmax(z.view(-1, 2, 2), -1).flatten(1),
        GroupedSoftmax([2, 2]),
    ),
    "layer_norm": (lambda z: F.layer_norm(z, (4,), eps=0.1), LayerNorm(epsilon=0.1)),
    "layer_norm and relu": (
        lambda z: F.relu(F.layer_norm(z, (4,), torch.arange(4).to(z), torch.ones(4).to(z))),
        LayerNorm(range(4), [1] * 4, then="relu"),
    ),
    "exp": (torch.exp, "exp"),
} | {
    name: (getattr(F, name), ours)
    for name, ours in {
        "hardsigmoid": "hard_sigmoid", "hardswish": "hard_swish", "mish": "mish", "relu": "relu",
        "selu": "selu", "sigmoid": "sigmoid", "silu": "silu", "softplus": "softplus",
        "tanh": "tanh",
    }.items()
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_function_is_the_activation_of_its_layer(name) -> None:
    function, ours = ACTIVATIONS[name]
    module = of_a_linear(function)
    network = from_torch(module, X[:2])
    assert [(layer.name, layer.activation) for layer in network.layers] == [("l", ours)]
    assert_imported(network, 4 * X, {"y": answers(module, 4 * X).numpy()})


BOUNDED = {
    "relu6": F.relu6,
    "hardtanh": F.hardtanh,
    "clamp": lambda z: z.clamp(-1.5, 2),
    "clamp by tensors": lambda z: z.clamp(torch.full((4,), -1.0), torch.arange(4) + 1.0),
    "from below": lambda z: z.clamp(min=-1.5),
    "from above": lambda z: z.clamp(max=0.5),
    "logsigmoid": F.logsigmoid,
}


@pytest.mark.parametrize("name", BOUNDED)
def test_what_is_bounded_is_composed_of_activations(name) -> None:
    module = of_a_linear(BOUNDED[name])
    assert_imported(from_torch(module, X[:2]), 4 * X, {"y": answers(module, 4 * X).numpy()})


def test_a_bound_between_two_is_a_hard_sigmoid() -> None:
    network = from_torch(of_a_linear(F.relu6), X[:2])
    assert network.layers[0].activation == HardSigmoid(1.0)


def test_layers_have_the_names_and_the_bits_of_their_modules() -> None:
    module = MODULES["columns of their own"]
    network = from_torch(module, X[:2])
    assert [layer.name for layer in network.layers] == ["deep.0", "deep.2"]
    assert network.layers[0].W[:, 2:].tobytes() == module.deep[0].weight.detach().numpy().tobytes()
    assert not network.layers[0].W[:, :2].any()
    assert network.layers[1].reads == ("deep.0", "x")


def test_a_sequential_is_the_same_with_an_example_and_without() -> None:
    module = nn.Sequential(normalization(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    by_graph, by_modules = from_torch(module, X[:2]), from_torch(module)
    assert by_graph.layers == by_modules.layers
    assert by_graph.input == by_modules.input


def test_outputs_can_be_named_and_labeled() -> None:
    network = from_torch(
        MODULES["a tuple"], X[:2], output=["kind", "seen"], labels={"kind": ["a", "b", "c"]}
    )
    assert [output.name for output in network.outputs] == ["kind", "seen"]
    assert network.outputs[0].labels == ("a", "b", "c")
    with pytest.raises(NetworkError, match="a name for each of the 2 tensors"):
        from_torch(MODULES["a tuple"], X[:2], output=["kind"])
    with pytest.raises(NetworkError, match=r"those of the outputs y\.0, y\.1, got one sequence"):
        from_torch(MODULES["a tuple"], X[:2], labels=("a", "b", "c"))


def test_images_are_sent_flat_and_an_input_has_their_size() -> None:
    module = Of(lambda self, x: self.a(x.flatten(1)), a=nn.Linear(6, 3))
    images = X.reshape(60, 1, 2, 3)
    network = from_torch(module, images[:2], input=Input(6, "image"))
    assert network.input.name == "image"
    assert_imported(network, X, {"y": answers(module, images).numpy()})
    with pytest.raises(NetworkError, match="expected size 6, that of the example's rows, got 5"):
        from_torch(module, images, input=Input(5))
    with pytest.raises(NetworkError, match=r"example: expected rows .*of shape \(6,\)"):
        from_torch(module, X[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own
@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_what_wraps_a_module_is_taken_off(wrap) -> None:
    module = MODULES["a dict"]
    assert from_torch(wrap(module), X[:2]) == from_torch(module, X[:2])
    assert from_torch(wrap(module.a)) == from_torch(module.a)


def test_a_module_that_works_in_float32_only_is_compared_in_float32() -> None:
    module = Of(lambda self, x: self.a(x.float()), a=nn.Linear(6, 3))
    with torch.no_grad():
        expected = module.a.double()(torch.from_numpy(X).double()).numpy()
    assert_imported(from_torch(module.float(), X[:2]), X, {"y": expected})


def test_a_module_is_left_as_it_was() -> None:
    module = MODULES["a normalized input"].train()
    before = copy.deepcopy(module.state_dict())
    from_torch(module, X[:2])
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls, self.a = nn.Buffer(torch.zeros(1)), nn.Linear(6, 2)

    def forward(self, x):
        self.calls += 1
        return self.a(x) + self.calls


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            Of(lambda self, x: self.norm(x.view(-1, 2, 3)), norm=nn.LayerNorm(3)),
            r"layer_norm of module 'norm' \(LayerNorm\).*: over values of shape \(2, 3\)",
        ),
        (of_a_linear(torch.sin), r"operation sin of module \(Of\), test_torch_graphs.py:\d+: no p"),
        (of_a_linear(lambda z: z * z), "operation mul of .*: a product of two values that depend"),
        (of_a_linear(lambda z: z / z), "operation div of .*: a division by values that depend"),
        (of_a_linear(lambda z: 1 / z), "operation reciprocal of .*: no part of a Network"),
        (of_a_linear(lambda z: z @ z.T), "operation matmul of .*: a product of two values"),
        (of_a_linear(lambda z: z - z.mean(0)), "operation mean of .*: over rows"),
        (of_a_linear(lambda z: z.mean()), "operation mean of .*: over rows"),
        (of_a_linear(lambda z: z + torch.rand(4)), "operation rand of .*: random"),
        (of_a_linear(lambda z: torch.softmax(z, 0)), "dim=0 of values of shape .4,., .*say dim=1"),
        (of_a_linear(lambda z: z.T.reshape(-1, 4)), "several rows|torch.export fails"),
        (of_a_linear(lambda z: z[:2]), "torch.export fails|reads values of several rows"),
        (of_a_linear(lambda z: z.long()), r"operation _to_copy of .*: to torch.int64"),
        (
            of_a_linear(lambda z: torch.cat([z, torch.ones(z.shape[0], 1)], 1)),
            "operation cat of .*: of a constant",
        ),
        (
            of_a_linear(lambda z: F.softmax(z, 1) * 2 if z.sum() > 0 else z),
            r"module \(Of\): torch.export fails: ",
        ),
        (
            Of(lambda self, x: self.b(self.a(x).exp()), a=nn.Linear(6, 3), b=nn.Linear(3, 2)),
            "operation exp of module .*: exp, which operation linear of module 'b' .*outputs",
        ),
        (
            Of(lambda self, x: self.a(x.view(-1, 2, 3)), a=nn.Linear(3, 2)),
            r"linear of module 'a' .*: reads values of shape \(2, 3\); .*flatten them",
        ),
        (of_a_linear(lambda z: F.dropout(z, training=True)), "native_dropout of .*: it stays in"),
        (
            Of(lambda self, x: self.b(x), b=nn.BatchNorm1d(6, track_running_stats=False)),
            "no running statistics",
        ),
        (Counting(), "buffer 'calls': changed by each call"),
        (
            Of(lambda self, x: (self.a(x), self.a.bias), a=nn.Linear(6, 2)),
            "output 1: not computed from the input",
        ),
        (of_a_linear(lambda z: z.clamp(torch.tensor([0, 0, -torch.inf, 0]))), "bounds of -inf..0"),
    ],
)  # fmt: skip
def test_what_a_network_cannot_represent_is_refused_with_its_line(module, message) -> None:
    with pytest.raises(UnsupportedSourceError, match=message):
        from_torch(module, X[:2])
