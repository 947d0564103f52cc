"""What one writes first: grpcio, generated message classes, one onnxruntime run a call.

Usage: python -m benchmarks.servers.naive MODEL.onnx. No check, no batch, no metric; onnxruntime
with one thread, as ours.
"""

import os
import sys

import grpc
import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

from benchmarks.servers import serve_model_infer
from forwardpass.proto import inference_pb2 as pb


def main() -> None:
    """Serve until killed."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(sys.argv[1], options)
    names = [output.name for output in session.get_outputs()]

    def infer(
        request: pb.ModelInferRequest, context: grpc.ServicerContext
    ) -> pb.ModelInferResponse:
        del context
        feeds = {
            tensor.name: np.frombuffer(raw, np.float32).reshape(tensor.shape)
            for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        reply = pb.ModelInferResponse(
            model_name=request.model_name, model_version="1", id=request.id
        )
        for name, array in zip(names, session.run(names, feeds), strict=True):
            reply.outputs.add(name=name, datatype="FP32", shape=array.shape)
            reply.raw_output_contents.append(array.tobytes())
        return reply

    handler = grpc.unary_unary_rpc_method_handler(
        infer,
        request_deserializer=pb.ModelInferRequest.FromString,
        response_serializer=pb.ModelInferResponse.SerializeToString,
    )
    serve_model_infer(handler)


if __name__ == "__main__":
    main()
