"""What one writes by hand over generated messages: the same request, the same arrays back."""

from collections.abc import Callable

import grpc
import numpy as np

from benchmarks.clients import X, measure
from forwardpass.proto import inference_pb2 as pb

METHOD = "/inference.GRPCInferenceService/ModelInfer"


def request(x: np.ndarray) -> pb.ModelInferRequest:
    """Write a request."""
    message = pb.ModelInferRequest(model_name="small")
    message.inputs.add(name="x", datatype="FP32", shape=x.shape)
    message.raw_input_contents.append(x.astype(np.float32, copy=False).tobytes())
    return message


def outputs(reply: pb.ModelInferResponse) -> dict[str, np.ndarray]:
    """Read a reply."""
    return {
        output.name: np.frombuffer(raw, np.float32).reshape(output.shape)
        for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=True)
    }


def connect(target: str) -> Callable[[], np.ndarray]:
    """Return a call."""
    infer = grpc.insecure_channel(target).unary_unary(
        METHOD,
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )
    return lambda: outputs(infer(request(X), timeout=30))["y"]


if __name__ == "__main__":
    measure(connect)
