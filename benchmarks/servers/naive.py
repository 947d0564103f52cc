"""What one writes first: grpcio, generated message classes, one onnxruntime run a call.

Usage: python -m benchmarks.servers.naive MODELS [PORT]. No check, no batch, no metric;
onnxruntime with one thread, as ours.
"""

import sys
from pathlib import Path

import grpc

from benchmarks.servers import serve_model_infer
from benchmarks.servers.onnx_models import infer, sessions
from forwardpass.proto import inference_pb2 as pb


def main() -> None:
    """Serve until killed."""
    loaded = sessions(Path(sys.argv[1]))
    handler = grpc.unary_unary_rpc_method_handler(
        lambda request, _: infer(loaded, request),
        request_deserializer=pb.ModelInferRequest.FromString,
        response_serializer=pb.ModelInferResponse.SerializeToString,
    )
    serve_model_infer(handler, int(sys.argv[2]) if len(sys.argv) > 2 else 0)


if __name__ == "__main__":
    main()
