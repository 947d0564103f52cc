"""Ray Serve's gRPC ingress with one replica over onnxruntime, in an environment with ray[serve].

Usage: python -m benchmarks.servers.ray_server MODELS PORT HTTP_PORT. Ray takes a service as the
function that generated code would add it with; this one is of the Open Inference Protocol.
"""

import signal
import sys
import threading
from pathlib import Path
from typing import Any

import grpc
import ray
from ray import serve
from ray.serve.config import gRPCOptions

from benchmarks.servers import SERVICE
from forwardpass.proto import inference_pb2 as pb


def add_inference_service(servicer: Any, server: grpc.Server) -> None:
    """Add ModelInfer to Ray's server; imported by its proxy, by name."""
    handler = grpc.unary_unary_rpc_method_handler(
        servicer.ModelInfer,
        request_deserializer=pb.ModelInferRequest.FromString,
        response_serializer=pb.ModelInferResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": handler}),)
    )


QUIET = {"enable_access_log": False, "log_level": "WARNING"}
"""One line a call otherwise, which no other server writes."""


# As many in flight as any load has callers; Ray's default of 5 would leave the replica idle.
@serve.deployment(
    num_replicas=1,
    max_ongoing_requests=256,
    ray_actor_options={"num_cpus": 0},
    logging_config=QUIET,
)
class Inference:
    """The replica."""

    def __init__(self, models: str) -> None:
        from benchmarks.servers.onnx_models import infer, sessions

        self.loaded, self.infer = sessions(Path(models)), infer

    async def ModelInfer(  # noqa: N802 - the protocol's name
        self, request: pb.ModelInferRequest
    ) -> pb.ModelInferResponse:
        """Answer one call."""
        return self.infer(self.loaded, request)


def main() -> None:
    """Serve until told to end."""
    models, port, http_port = sys.argv[1:]
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20)
    service = "benchmarks.servers.ray_server.add_inference_service"
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(http_port)},
        grpc_options=gRPCOptions(port=int(port), grpc_servicer_functions=[service]),
        logging_config=QUIET,
    )
    deployment: Any = Inference  # what Ray's decorator makes of it
    serve.run(deployment.bind(models))
    ended.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
