"""Model versions that can be distinguished: each answers with a number of its own."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from onnx import ModelProto, helper

from forwardpass.proto import inference_pb2 as pb
from support.onnx_files import build, tensor
from support.rpc import Stub
from support.wire import arrays, infer_request

BROKEN = b"this is no model"


def answering(number: float, width: int = 2) -> ModelProto:
    """x FP32[batch, width] -> y FP32[batch, width], y = x + number."""
    return build(
        [helper.make_node("Gemm", ["x", "W", "b"], ["y"], transB=1)],
        [tensor("x", "FP32", ["batch", width])],
        [tensor("y", "FP32", ["batch", width])],
        constants={"W": np.eye(width, dtype=np.float32), "b": np.full(width, number, np.float32)},
    )


def put(root: Path, name: str, version: int, number: float | bytes) -> Path:
    """Publish a version, or replace its content, as one should: whole, by a rename."""
    content = number if isinstance(number, bytes) else answering(number).SerializeToString()
    folder = root / name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / ".model.onnx"
    fresh.write_bytes(content)
    return fresh.replace(folder / "model.onnx")


def remove(root: Path, name: str, version: int | None = None) -> None:
    """Remove a version, or the whole model."""
    shutil.rmtree(root / name / ("" if version is None else str(version)))


def label(root: Path, name: str, labels: Mapping[str, object] | str) -> None:
    """Replace the labels of a model, by a rename; a text is written as it is."""
    text = labels if isinstance(labels, str) else json.dumps(labels)
    fresh = root / name / ".labels.json"
    fresh.write_text(text)
    os.replace(fresh, root / name / "labels.json")


class Answer(NamedTuple):
    version: int
    number: float


def question(name: str, version: str = "", width: int = 2) -> pb.ModelInferRequest:
    return infer_request(name, {"x": np.zeros((1, width), np.float32)}, model_version=version)


def ask(stub: Stub, name: str, version: str = "", width: int = 2, **options: Any) -> Answer:
    """Return the version that answers and its number."""
    reply = stub.infer(question(name, version, width), **options)
    (y,) = arrays(reply).values()
    return Answer(int(reply.model_version), float(y[0, 0]))
