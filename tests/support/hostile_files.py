"""Harmless twins of model files that would harm a server: each is built to do one thing.

Each is finite, and small enough for any machine: too long for a deadline of a second, too large for
a small limit on memory, or one above a count. Files that really crash or hang other people's
software are not published. A builder writes its file, and the data that it needs, into a folder and
returns its path.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from support import onnx_files
from support.messages import field
from support.onnx_files import build, linear, save, tensor

Builder = Callable[[Path], Path]

MANY = 60_000_000
"""Count of numbers of four bytes: too many for a limit of `MEMORY_BYTES`, harmless to a machine."""
MEMORY_BYTES = 2**27


def saved(make: Callable[[], ModelProto]) -> Builder:
    return lambda folder: save(make(), folder / "model.onnx")


def from_bytes(make: Callable[[], bytes]) -> Builder:
    def write(folder: Path) -> Path:
        path = folder / "model.onnx"
        path.write_bytes(make())
        return path

    return write


def changed(change: Callable[[ModelProto], None]) -> Builder:
    """A file of the network `linear` with a change."""

    def make() -> ModelProto:
        model = linear()
        change(model)
        return model

    return saved(make)


def allocates() -> ModelProto:
    """164 bytes: a tensor of 240 MB as soon as a row of one number is run."""
    return build(
        [
            helper.make_node("Shape", ["x"], ["rows"]),
            helper.make_node("Mul", ["rows", "many"], ["size"]),
            helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
            helper.make_node("ReduceMax", ["zeros"], ["y"], keepdims=0),
        ],
        [tensor("x", "FP32", ["n"])],
        [tensor("y", "FP32", [])],
        constants={"many": np.array([MANY], np.int64)},
    )


def doubles(times: int) -> ModelProto:
    """Concat of a row with itself, of operators that are all harmless: 25 times make 256 MiB."""
    nodes = [
        helper.make_node("Concat", [f"x{step}", f"x{step}"], [f"x{step + 1}"], axis=1)
        for step in range(times)
    ]
    row, wide = tensor("x0", "FP32", ["n", 2]), tensor(f"x{times}", "FP32", ["n", None])
    return build(nodes, [row], [wide])


def grows(operator: str, *arguments: float | list[int]) -> ModelProto:
    """A tensor as large as constants say, computed while loading or in the first run."""
    constants = {
        f"c{index}": np.array(value, np.int64 if isinstance(value, list) else np.float32)
        for index, value in enumerate(arguments)
    }
    return build(
        [
            helper.make_node(operator, list(constants), ["huge"]),
            helper.make_node("ReduceMax", ["huge"], ["most"], keepdims=0),
            helper.make_node("Add", ["x", "most"], ["y"]),
        ],
        [tensor("x", "FP32", ["n"])],
        [tensor("y", "FP32", ["n"])],
        constants=constants,
    )


def loops_long(turns: int = 20_000_000) -> ModelProto:
    """A Loop of so many turns, of some microseconds each."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["v", "v"], ["v_next"]),
        ],
        "body",
        [tensor("turn", "INT64", []), tensor("go", "BOOL", []), tensor("v", "FP32", ["n"])],
        [tensor("go_on", "BOOL", []), tensor("v_next", "FP32", ["n"])],
    )
    return build(
        [helper.make_node("Loop", ["turns", "", "x"], ["y"], body=body)],
        [tensor("x", "FP32", ["n"])],
        [tensor("y", "FP32", ["n"])],
        constants={"turns": np.array(turns)},
    )


def loads_long(steps: int = 200, size: int = 1200) -> ModelProto:
    """A product of constants, which onnxruntime computes while it loads: some seconds."""
    nodes = [helper.make_node("ConstantOfShape", ["size"], ["w0"])]
    return _with_product(nodes, {"size": np.array([size, size], np.int64)}, steps, size)


def loads_long_by_harmless_operators() -> ModelProto:
    """The same of MatMul alone; 1 MB."""
    return _with_product([], {"w0": np.eye(500, dtype=np.float32)}, 2000, 500)


def _with_product(
    nodes: list[NodeProto], constants: Mapping[str, np.ndarray], steps: int, size: int
) -> ModelProto:
    nodes += [
        helper.make_node("MatMul", [f"w{step}", "w0"], [f"w{step + 1}"]) for step in range(steps)
    ]
    nodes.append(helper.make_node("MatMul", ["x", f"w{steps}"], ["y"]))
    return build(
        nodes,
        [tensor("x", "FP32", ["n", size])],
        [tensor("y", "FP32", ["n", size])],
        constants=constants,
    )


def runs_long() -> ModelProto:
    """One small matrix used 2,500 times: 10 G multiplications a row of operators all harmless."""
    size, times = 2000, 2500
    nodes = [helper.make_node("MatMul", [f"x{k}", "w"], [f"x{k + 1}"]) for k in range(times)]
    return build(
        nodes,
        [tensor("x0", "FP32", ["n", size])],
        [tensor(f"x{times}", "FP32", ["n", size])],
        constants={"w": np.eye(size, dtype=np.float32)},
    )


def nested(depth: int) -> ModelProto:
    """If within If."""
    graph = _constant_graph()
    for _ in range(depth):
        node = helper.make_node(
            "If", ["yes"], ["t"], then_branch=graph, else_branch=_constant_graph()
        )
        graph = helper.make_graph([node], "branch", [], [tensor("t", "FP32", [1])])
    return build(
        [*graph.node, helper.make_node("Add", ["x", "t"], ["y"])],
        [tensor("x", "FP32", ["n"])],
        [tensor("y", "FP32", ["n"])],
        constants={"yes": np.array(True)},
    )


def _constant_graph() -> GraphProto:
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    node = helper.make_node("Constant", [], ["t"], value=one)
    return helper.make_graph([node], "leaf", [], [tensor("t", "FP32", [1])])


def nested_beyond_limits(depth: int = 40) -> bytes:
    """If within If, three messages each, deeper than the hundred that protobuf reads."""
    graph = b""
    for _ in range(depth):
        branch = field(1, b"then_branch") + field(6, graph)
        graph = field(1, field(4, b"If") + field(5, branch))
    return b"\x08\x08" + field(7, graph)


def swells(messages: int = 400_001) -> bytes:
    """Empty nodes: 0.8 MB that take 60 MB once they are parsed."""
    return b"\x08\x08" + field(7, field(1, b"") * messages)


def longer_than_allowed() -> ModelProto:
    nodes = [helper.make_node("Relu", [f"x{k}"], [f"x{k + 1}"]) for k in range(10_001)]
    return build(nodes, [tensor("x0", "FP32", ["n"])], [tensor("x10001", "FP32", ["n"])])


def _divides_integers() -> ModelProto:
    """A division with which a caller could end the process, by integers that no test sends."""
    return build(
        [helper.make_node("Div", ["x", "by"], ["y"])],
        [tensor("x", "INT64", ["n"]), tensor("by", "INT64", ["n"])],
        [tensor("y", "INT64", ["n"])],
    )


def _sparse(model: ModelProto) -> None:
    values = helper.make_tensor("huge", TensorProto.FLOAT, [1], [1.0])
    index = helper.make_tensor("index", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, index, [MANY]))
    model.graph.node.append(helper.make_node("ReduceMax", ["huge"], ["most"], keepdims=0))
    model.graph.output.append(tensor("most", "FP32", []))


def _function(model: ModelProto) -> None:
    model.functions.append(
        helper.make_function(
            "mine",
            "f",
            ["a"],
            ["b"],
            [helper.make_node("Relu", ["a"], ["b"])],
            [helper.make_opsetid("", 17)],
        )
    )
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.graph.node.insert(0, helper.make_node("f", ["x"], ["f_x"], domain="mine"))
    model.graph.node[1].input[0] = "f_x"


HARMFUL: Mapping[str, Builder] = {
    "allocates more than it may in a run": saved(allocates),
    "doubles its row 25 times": saved(lambda: doubles(25)),
    "widens a row to two megabytes": saved(lambda: doubles(18)),
    "expands a constant": saved(lambda: grows("Expand", 1.0, [MANY])),
    "counts to many millions": saved(lambda: grows("Range", 0.0, float(MANY), 1.0)),
    "a loop of many turns": saved(loops_long),
    "loads long": saved(loads_long),
    "loads long by harmless operators": saved(loads_long_by_harmless_operators),
    "runs long": saved(runs_long),
    "nested beyond protobuf's limit": from_bytes(nested_beyond_limits),
    "more empty nodes than allowed": from_bytes(swells),
    "a chain beyond the limit": saved(longer_than_allowed),
    "an input of terabytes": saved(lambda: onnx_files.identity("FP32", [1_000_000, 1_000_000])),
    "an input of gigabytes": saved(lambda: onnx_files.identity("FP32", ["n", 2**31 - 1])),
    "a sparse constant of many bytes": changed(_sparse),
}
"""Files that take more of the server's memory or time than a trial with small limits allows.

Each ends in a reason, whether general models are allowed or not.
"""

GENERAL: Mapping[str, Builder] = {
    "a loop": saved(onnx_files.slow),
    "a function": changed(_function),
    "a constant of any size": saved(lambda: grows("Expand", 1.0, [10])),
    "nested branches": saved(lambda: nested(5)),
    "divided integers": saved(_divides_integers),
}
"""Files rejected unless general models are allowed; since they are harmless, they pass then."""
