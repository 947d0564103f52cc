"""ModelInfer calls for a server's parts, without a transport, and models that answer them."""

from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, helper

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.engine.model import Model
from forwardpass.server.engine.queue import QueueLimits
from forwardpass.server.repository.catalog import Catalog, Offer, Version
from forwardpass.server.repository.disk import ModelFile
from forwardpass.server.rpc.infer import Call, Reply
from support import onnx_files
from support.trials import bytes_of
from support.wire import arrays, infer_request


def serve(
    catalog: Catalog,
    folder: Path,
    name: str,
    model: ModelProto,
    limits: QueueLimits = QueueLimits(),  # noqa: B008 - frozen
) -> Model:
    """Load a model and have it answer in a catalog."""
    path = onnx_files.save(model, folder / f"{name}.onnx")
    file = ModelFile(name, 1, path)
    with bytes_of(path) as content:
        loaded = Model(file.name, file.version, path, content, model.graph, limits)
    catalog.put(name, Offer({1: Version(file, loaded)}))
    return loaded


def linear(factor: float = 1, rows: int = 1, **more: Any) -> Call:
    """Call `linear` with rows of the same numbers."""
    x = np.full((rows, 1), factor, np.float32) * np.array([[1, 2, 3]], np.float32)
    message = infer_request("linear", {"x": x}, id=more.pop("id", ""))
    return Call(message.SerializeToString(), **more)


def classified(rows: int, classes: int) -> Call:
    """Call `linear` for the highest of its two columns."""
    x = np.ones((rows, 3), np.float32)
    request = infer_request("linear", {"x": x}, outputs=["y"])
    request.outputs[0].parameters["classification"].int64_param = classes
    return Call(request.SerializeToString())


def quotient() -> ModelProto:
    """Return the graph y = a / b of integers: its rows run together, and a zero in b fails."""
    return onnx_files.build(
        [helper.make_node("Div", ["a", "b"], ["y"])],
        [onnx_files.tensor("a", "INT64", ["n"]), onnx_files.tensor("b", "INT64", ["n"])],
        [onnx_files.tensor("y", "INT64", ["n"])],
    )


def divide(a: list[int], b: list[int]) -> Call:
    """Call `quotient`."""
    request = infer_request("quotient", {"a": np.array(a), "b": np.array(b)})
    return Call(request.SerializeToString())


def answer(call: Call) -> list[Any]:
    """Return the only output of an answered call."""
    assert isinstance(call.answer, Reply), call.answer
    (y,) = arrays(pb.ModelInferResponse.FromString(call.answer.message)).values()
    rows: list[Any] = y.tolist()
    return rows


def runs(model: Model) -> dict[int, int]:
    """Return the number of runs by their number of rows."""
    return {rows: counted.count for rows, counted in model.statistics.read()[1].items()}
