"""`forwardpass predict` for a model with an input for each column, as skl2onnx writes one."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.command import run_here

from forwardpass.server.app import Server
from forwardpass.server.config import Config

ANSWERS = "y\n12.0\n3.5\n"


def by_column(**kinds: int) -> onnx.ModelProto:
    """y = the sum of all columns."""
    casts = [helper.make_node("Cast", [n], [f"{n}_f"], to=TensorProto.FLOAT) for n in kinds]
    graph = helper.make_graph(
        [*casts, helper.make_node("Sum", [f"{name}_f" for name in kinds], ["y"])],
        "columns",
        [helper.make_tensor_value_info(name, kind, ["n", 1]) for name, kind in kinds.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("columns")
    onnx.save(by_column(a=TensorProto.FLOAT, b=TensorProto.FLOAT), root / "floats.onnx")
    onnx.save(by_column(a=TensorProto.FLOAT, b=TensorProto.INT64), root / "mixed.onnx")
    onnx.save(by_column(a=TensorProto.INT64, b=TensorProto.INT64), root / "whole.onnx")
    with Server(Config(models=root, port=0)) as server:
        yield server


@pytest.mark.parametrize("model", ["floats", "mixed"])
@pytest.mark.parametrize("rows_per_call", [1, 2])
def test_columns_go_by_name_to_the_inputs(
    server: Server, tmp_path: Path, model: str, rows_per_call: int
) -> None:
    (tmp_path / "x.csv").write_text("b,id,a\n10,7,2\n1,8,2.5\n")
    (tmp_path / "x.jsonl").write_text('{"b":10,"a":2}\n{"b":1,"a":2.5}\n')
    (tmp_path / "plain.csv").write_text("2,10\n2.5,1\n")
    np.save(tmp_path / "x.npy", np.array([[2, 10], [2.5, 1]]))
    for name in ("x.csv", "x.jsonl", "plain.csv", "x.npy"):
        target = ("--target", f"127.0.0.1:{server.port}")
        rows = ("--rows-per-call", str(rows_per_call))
        done = run_here("predict", model, "--input", name, *target, *rows, cwd=tmp_path)
        assert (done.code, done.stdout, done.stderr) == (0, ANSWERS, ""), name


@pytest.mark.parametrize(
    ("model", "text", "error"),
    [
        ("floats", "a,c\n1,2\n", "expected one column for each of the model's 2 features, got 0"),
        ("whole", "a,b\n1,2.5\n", "line 2, column 'b': expected a whole number, got '2.5'"),
        ("mixed", "a,b\n1,2.5\n", "input 'b': expected datatype INT64, got FP64"),
        ("mixed", "a,b\n1,nan\n", "input 'b': expected datatype INT64, got FP64"),
    ],
)
def test_what_does_not_fit_an_input_is_refused(
    server: Server, tmp_path: Path, model: str, text: str, error: str
) -> None:
    (tmp_path / "x.csv").write_text(text)
    target = ("--target", f"127.0.0.1:{server.port}")
    done = run_here("predict", model, "--input", "x.csv", *target, cwd=tmp_path)
    assert (done.code, done.stdout) == (1, "")
    assert error in done.stderr
