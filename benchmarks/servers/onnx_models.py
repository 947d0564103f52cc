"""What the compared servers share: sessions of onnxruntime, and one run a request."""

import os
from pathlib import Path

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

from forwardpass.proto import inference_pb2 as pb


def sessions(models: Path) -> dict[str, onnxruntime.InferenceSession]:
    """Load every MODELS/NAME/1/model.onnx, with one thread, as ours."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return {
        path.parents[1].name: onnxruntime.InferenceSession(str(path), options)
        for path in sorted(models.glob("*/1/model.onnx"))
    }


def infer(
    loaded: dict[str, onnxruntime.InferenceSession], request: pb.ModelInferRequest
) -> pb.ModelInferResponse:
    """Run one request, unchecked; tensors travel as FP32 in raw form."""
    session = loaded[request.model_name]
    names = [output.name for output in session.get_outputs()]
    feeds = {
        tensor.name: np.frombuffer(raw, np.float32).reshape(tensor.shape)
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
    }
    reply = pb.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
    for name, array in zip(names, session.run(names, feeds), strict=True):
        reply.outputs.add(name=name, datatype="FP32", shape=array.shape)
        reply.raw_output_contents.append(array.tobytes())
    return reply
