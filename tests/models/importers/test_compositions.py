"""Activations that exporters write as several nodes, against the files' own answers."""

import math
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import NodeProto, helper
from support.foreign import node, referenced, written
from support.imported import assert_imported

from forwardpass.models import (
    AnyActivation,
    LeakyRelu,
    Network,
    NetworkError,
    PRelu,
    UnsupportedModelError,
    from_onnx,
    load,
    to_onnx,
)

X = (np.random.default_rng(0).standard_normal((40, 3)) * 3).astype(np.float32)
W = np.random.default_rng(1).standard_normal((2, 3)).astype(np.float32)
B = np.array([0.5, -1], np.float32)
NUMBERS = {
    "1": 1.0,
    "2": 2.0,
    "3": 3.0,
    "6": 6.0,
    "20": 20.0,
    "0": 0.0,
    "half": 0.5,
    "sixth": 1 / 6,
    "r2": math.sqrt(2),
    "1/r2": math.sqrt(0.5),
    "c": math.sqrt(2 / math.pi),
    "2c": 2 * math.sqrt(2 / math.pi),
    "q": 0.044715,
    "cq": math.sqrt(2 / math.pi) * 0.044715,
}
Z = node("Gemm", "x W b", "z", transB=1)


def model(nodes: Sequence[NodeProto], outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    known = {"W": W, "b": B, "slopes": np.array([0.1, -2], np.float32)} | {
        name: np.float32(value) for name, value in NUMBERS.items()
    }
    read = {name for each in nodes for name in each.input}
    return written(nodes, {k: v for k, v in known.items() if k in read}, outputs=outputs)


TANH = [node("Tanh", "i", "t"), node("Add", "1 t", "s")]
LOG_ADD_EXP = [
    node("Max", "z 0", "m"),
    node("Sub", "z 0", "d"),
    node("Equal", "d d", "q1"),
    node("Not", "q1", "n"),
    node("Add", "z 0", "a"),
    node("Abs", "d", "e"),
    node("Neg", "e", "f"),
    node("Exp", "f", "h"),
    node("Add", "h 1", "i"),
    node("Log", "i", "l"),
    node("Add", "m l", "o"),
]
FORMS: dict[str, tuple[AnyActivation, list[NodeProto]]] = {
    "gelu of torch": (
        "gelu",
        [
            node("Div", "z r2", "d"),
            node("Erf", "d", "e"),
            node("Add", "e 1", "s"),
            node("Mul", "z s", "m"),
            node("Mul", "m half", "y"),
        ],
    ),
    "gelu of half of z first": (
        "gelu",
        [
            node("Mul", "1/r2 z", "d"),
            node("Erf", "d", "e"),
            node("Add", "1 e", "s"),
            node("Mul", "half z", "h"),
            node("Mul", "s h", "y"),
        ],
    ),
    "gelu of a sum that is halved": (
        "gelu",
        [
            node("Mul", "z 1/r2", "d"),
            node("Erf", "d", "e"),
            node("Add", "1 e", "s"),
            node("Div", "s 2", "h"),
            node("Identity", "h", "i"),
            node("Mul", "i z", "y"),
        ],
    ),
    "gelu_tanh by a power": (
        "gelu_tanh",
        [
            node("Pow", "z 3", "p"),
            node("Mul", "q p", "m"),
            node("Add", "z m", "a"),
            node("Mul", "a c", "i"),
            *TANH,
            node("Mul", "z half", "h"),
            node("Mul", "h s", "y"),
        ],
    ),
    "gelu_tanh by products": (
        "gelu_tanh",
        [
            node("Mul", "z z", "p"),
            node("Mul", "p q", "m"),
            node("Add", "1 m", "a"),
            node("Mul", "z c", "k"),
            node("Mul", "k a", "i"),
            *TANH,
            node("Mul", "z s", "h"),
            node("Mul", "half h", "y"),
        ],
    ),
    "gelu_tanh with its constants joined": (
        "gelu_tanh",
        [
            node("Pow", "z 2", "p"),
            node("Mul", "p cq", "m"),
            node("Add", "c m", "a"),
            node("Mul", "z a", "i"),
            *TANH,
            node("Mul", "half s", "h"),
            node("Mul", "h z", "y"),
        ],
    ),
    "gelu_tanh of two terms": (
        "gelu_tanh",
        [
            node("Mul", "z z", "p"),
            node("Mul", "p z", "o"),
            node("Mul", "cq o", "m"),
            node("Mul", "c z", "k"),
            node("Add", "k m", "i"),
            *TANH,
            node("Mul", "half s", "h"),
            node("Mul", "h z", "y"),
        ],
    ),
    "silu": ("silu", [node("Sigmoid", "z", "s"), node("Mul", "s z", "y")]),
    "mish": (
        "mish",
        [node("Softplus", "z", "p"), node("Tanh", "p", "t"), node("Mul", "z t", "y")],
    ),
    "mish without Softplus": (
        "mish",
        [
            node("Exp", "z", "e"),
            node("Add", "e 1", "p"),
            node("Log", "p", "l"),
            node("Tanh", "l", "t"),
            node("Mul", "z t", "y"),
        ],
    ),
    "softplus": (
        "softplus",
        [node("Exp", "z", "e"), node("Add", "1 e", "p"), node("Log", "p", "y")],
    ),
    "leaky_relu of JAX": (
        LeakyRelu(0.5),
        [
            node("GreaterOrEqual", "z 0", "g"),
            node("Mul", "half z", "m"),
            node("Where", "g z m", "y"),
        ],
    ),
    "hard_swish of JAX": (
        "hard_swish",
        [
            node("Add", "z 3", "a"),
            node("Max", "a 0", "b1"),
            node("Min", "b1 6", "m"),
            node("Div", "m 6", "n"),
            node("Mul", "z n", "y"),
        ],
    ),
    "softplus of JAX": ("softplus", [*LOG_ADD_EXP, node("Where", "n a o", "y")]),
    "mish of JAX": (
        "mish",
        [
            *LOG_ADD_EXP,
            node("Where", "n a o", "w"),
            node("Tanh", "w", "t"),
            node("Mul", "z t", "y"),
        ],
    ),
    "softplus of torch": (
        "softplus",
        [
            node("Softplus", "z", "p"),
            node("Greater", "z 20", "g"),
            node("Where", "g z p", "y"),
        ],
    ),
    "mish of Keras, with casts": (
        "mish",
        [
            node("Cast", "z", "v", to=1),
            node("Softplus", "v", "p"),
            node("Cast", "p", "q1", to=1),
            node("Tanh", "q1", "t"),
            node("Mul", "v t", "y"),
        ],
    ),
    "softsign": (
        "softsign",
        [node("Abs", "z", "a"), node("Add", "a 1", "p"), node("Div", "z p", "y")],
    ),
    "log_softmax": ("log_softmax", [node("Softmax", "z", "p", axis=1), node("Log", "p", "y")]),
    "hard_sigmoid of a Clip": (
        "hard_sigmoid",
        [node("Add", "z 3", "a"), node("Clip", "a 0 6", "m"), node("Div", "m 6", "y")],
    ),
    "hard_sigmoid that is clipped last": (
        "hard_sigmoid",
        [node("Mul", "z sixth", "a"), node("Add", "a half", "m"), node("Clip", "m 0 1", "y")],
    ),
    "hard_swish of a Clip": (
        "hard_swish",
        [
            node("Add", "z 3", "a"),
            node("Clip", "a 0 6", "m"),
            node("Mul", "m z", "n"),
            node("Div", "n 6", "y"),
        ],
    ),
    "hard_swish of a HardSigmoid": (
        "hard_swish",
        [node("HardSigmoid", "z", "h", alpha=1 / 6, beta=0.5), node("Mul", "z h", "y")],
    ),
    "Constant nodes": (
        "gelu",
        [
            helper.make_node("Constant", [], ["k"], value_float=math.sqrt(2)),
            node("Div", "z k", "d"),
            node("Erf", "d", "e"),
            node("Add", "e 1", "s"),
            node("Mul", "z s", "m"),
            node("Mul", "m half", "y"),
        ],
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_composition_is_one_activation_of_the_layer_before(form: str) -> None:
    activation, nodes = FORMS[form]
    theirs = model([Z, *nodes])
    network = from_onnx(theirs)
    assert [layer.activation for layer in network.layers] == [activation]
    assert_imported(network, X, referenced(theirs, X))


@pytest.mark.parametrize("opset", [18, 20, 24])
def test_operators_of_newer_opsets_are_the_same_functions(opset: int) -> None:
    given: list[tuple[int, AnyActivation, NodeProto]] = [
        (18, "mish", node("Mish", "z", "y")),
        (20, "gelu", node("Gelu", "z", "y")),
        (20, "gelu_tanh", node("Gelu", "z", "y", approximate="tanh")),
        (24, "silu", node("Swish", "z", "y")),
    ]
    for since, activation, each in given:
        if since <= opset <= onnx.defs.onnx_opset_version():
            theirs = model([Z, each])
            theirs.opset_import[0].version = opset
            (layer,) = from_onnx(theirs).layers
            assert layer.activation == activation


@pytest.mark.parametrize(
    ("last", "activation"),
    [
        (node("LeakyRelu", "z", "y"), "leaky_relu"),
        (node("LeakyRelu", "z", "y", alpha=0.3), LeakyRelu(0.3)),
        (node("PRelu", "z half", "y"), LeakyRelu(0.5)),
        (node("PRelu", "z slopes", "y"), PRelu([0.1, -2])),
        (node("Elu", "z", "y"), "elu"),
        (node("Selu", "z", "y"), "selu"),
        (node("Softplus", "z", "y"), "softplus"),
        (node("Softsign", "z", "y"), "softsign"),
        (node("HardSigmoid", "z", "y", alpha=1 / 6), "hard_sigmoid"),
        (node("HardSwish", "z", "y"), "hard_swish"),
        (node("LogSoftmax", "z", "y"), "log_softmax"),
    ],
)
def test_an_operator_is_an_activation_with_its_parameter(
    last: NodeProto, activation: AnyActivation
) -> None:
    theirs = model([Z, last])
    network = from_onnx(theirs)
    (layer,) = network.layers
    assert layer.activation == activation
    assert_imported(network, X, referenced(theirs, X))


def test_a_composition_whose_z_is_shown_and_read_elsewhere_keeps_it() -> None:
    theirs = model(
        [Z, node("Sigmoid", "z", "s"), node("Mul", "s z", "y"), node("Add", "y z", "w")],
        ("w", "z"),
    )
    assert_imported(from_onnx(theirs), X, referenced(theirs, X))


def test_prelu_of_two_relus_gives_its_answers() -> None:
    theirs = model(
        [
            Z,
            node("Relu", "z", "r"),
            node("Neg", "z", "n"),
            node("Relu", "n", "s"),
            node("Mul", "slopes s", "t"),
            node("Add", "r t", "y"),
        ]
    )
    assert_imported(from_onnx(theirs), X, referenced(theirs, X))


def test_one_composition_may_read_another() -> None:
    silu = [node("Sigmoid", "z", "s"), node("Mul", "s z", "a")]
    theirs = model([Z, *silu, node("Sigmoid", "a", "t"), node("Mul", "a t", "y")])
    network = from_onnx(theirs)
    assert [layer.activation for layer in network.layers] == ["silu", "silu"]
    assert_imported(network, X, referenced(theirs, X))


@pytest.mark.parametrize(
    ("nodes", "outputs", "message"),
    [
        # The constant of gelu with one digit changed.
        (
            [
                helper.make_node("Constant", [], ["k"], value_float=1.4152),
                node("Div", "z k", "d"),
                node("Erf", "d", "e"),
                node("Add", "e 1", "s"),
                node("Mul", "z s", "m"),
                node("Mul", "m half", "y"),
            ],
            ("y",),
            r"\(Erf\)",
        ),
        ([node("Sigmoid", "z", "s"), node("Mul", "s z", "y")], ("y", "s"), r"\(Mul\)"),
        ([node("Softplus", "z", "s"), node("Mul", "s z", "y")], ("y",), r"\(Mul\)"),
        (
            [
                node("Softplus", "z", "p"),
                node("Greater", "z 6", "g"),
                node("Where", "g z p", "y"),
            ],
            ("y",),
            r"\(Greater\)",
        ),
        (
            [node("Greater", "z 1", "g"), node("Mul", "half z", "m"), node("Where", "g z m", "y")],
            ("y",),
            r"\(Greater\)",
        ),
        ([node("Elu", "z", "y", alpha=-1.0)], ("y",), r"\(Elu\): elu: expected alpha above zero"),
        ([node("HardSigmoid", "z", "y", beta=0.4)], ("y",), r"\(HardSigmoid\): .* has no alpha="),
        ([node("Selu", "z", "y", alpha=1.0)], ("y",), r"\(Selu\): a Network's selu has no alpha=1"),
        ([node("LogSoftmax", "z", "y", axis=0)], ("y",), r"axis=0, where a Network's log_softmax"),
        ([node("PRelu", "z z", "y")], ("y",), r"\(PRelu\): expected input 1, 'z', to be a const"),
        ([node("Celu", "z", "y")], ("y",), r"\(Celu\): a Network cannot represent it, only "),
    ],
)
def test_what_is_no_activation_is_refused_by_node(
    nodes: list[NodeProto], outputs: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        from_onnx(model([Z, *nodes], outputs))


INFINITE = [
    helper.make_node("Constant", [], ["i"], value_float=math.inf),
    helper.make_node("Constant", [], ["j"], value_float=-math.inf),
    helper.make_node("Constant", [], ["k"], value_float=math.nan),
]


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Add", "z i", "a"), node("Add", "a j", "b1"), node("Mul", "b1 s", "y")],
        [node("Mul", "z k", "a"), node("Mul", "a i", "b1"), node("Mul", "b1 s", "y")],
        [node("Div", "z 0", "a"), node("Mul", "a s", "y")],
        [node("Pow", "z k", "a"), node("Mul", "a s", "y")],
        [node("Clip", "z k i", "a"), node("Mul", "a s", "y")],
        [node("HardSigmoid", "z", "a", alpha=1, beta=[1, 2]), node("Mul", "a s", "y")],
        [node("HardSigmoid", "z", "a", alpha="text"), node("Mul", "a s", "y")],
        [node("Selu", "z", "y", alpha=[1.0, 2.0])],
        [node("Selu", "z", "y", gamma=1)],
        [node("LeakyRelu", "z", "y", alpha=[1.0])],
        [node("LeakyRelu", "z", "y", alpha=math.inf)],
        [node("Gelu", "z", "y", approximate=[1])],
        [node("Gelu", "z", "y", approximate="none of these")],
        [node("Swish", "z", "y", alpha=[1])],
        [node("LogSoftmax", "z", "y", axis=[1])],
    ],
)
def test_numbers_that_no_activation_has_are_refused(nodes: list[NodeProto]) -> None:
    theirs = model([Z, *INFINITE, node("Sigmoid", "z", "s"), *nodes])
    for read in (from_onnx, load):
        with pytest.raises((UnsupportedModelError, NetworkError)):
            read(theirs)


def test_a_node_that_stands_for_very_many_is_refused_at_once() -> None:
    doubled = [node("Mul", f"v{k} v{k}", f"v{k + 1}") for k in range(1000)]
    nodes = [Z, node("Tanh", "z", "v0"), *doubled, node("Identity", "v1000", "y")]
    with pytest.raises(UnsupportedModelError, match=r"\(Mul\)"):
        from_onnx(model(nodes))


def test_a_file_of_ours_with_other_names_is_read_the_same() -> None:
    network = Network.chain([3, 4, 4, 2], ["gelu", "mish"], "gelu_tanh")
    ours = to_onnx(network)
    renamed = {name: f"t{k}" for k, name in enumerate(n.output[0] for n in ours.graph.node[:-1])}
    for each in ours.graph.node:
        for names in (each.input, each.output):
            names[:] = [renamed.get(name, name) for name in names]
    assert load(ours) == network
