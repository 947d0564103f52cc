"""Register a model of a file, and one of large weights, in the registry of MLFLOW_TRACKING_URI."""

import sys

import mlflow
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def wide() -> onnx.ModelProto:
    """y = x W, with 160 kB of weights."""
    weights = numpy_helper.from_array(np.linspace(0, 1, 40_000, dtype=np.float32), "flat")
    weights.dims[:] = (4, 10_000)
    weights.name = "W"
    x = helper.make_tensor_value_info("x", FLOAT, ["batch", 4])
    y = helper.make_tensor_value_info("y", FLOAT, ["batch", 10_000])
    node = helper.make_node("MatMul", ["x", "W"], ["y"], name="product")
    graph = helper.make_graph([node], "wide", [x], [y], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def register(path: str) -> None:
    """`outside` as the flavour writes it by default, `inside` as one file, `file` as it is."""
    client = mlflow.MlflowClient()
    kwargs = {"name": "m", "pip_requirements": ["onnx"]}
    with mlflow.start_run() as run:
        mlflow.onnx.log_model(wide(), registered_model_name="outside", **kwargs)
        mlflow.onnx.log_model(
            wide(), registered_model_name="inside", save_as_external_data=False, **kwargs
        )
        mlflow.log_artifact(path, "files")
    client.create_registered_model("file")
    client.create_model_version("file", f"runs:/{run.info.run_id}/files", run_id=run.info.run_id)
    for name in ("outside", "inside", "file"):
        client.set_registered_model_alias(name, "champion", "1")


if __name__ == "__main__":
    register(sys.argv[1])
