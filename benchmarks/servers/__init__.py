"""The servers to compare with: each a process that prints `ready on HOST:PORT`."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc


def serve_model_infer(handler: "grpc.RpcMethodHandler[Any, Any]") -> None:
    """Answer ModelInfer by the handler on a free port, with 32 threads as ours, until killed."""
    server = grpc.server(
        ThreadPoolExecutor(32), options=[("grpc.max_receive_message_length", 64 * 2**20)]
    )
    service = "inference.GRPCInferenceService"
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {"ModelInfer": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"ready on 127.0.0.1:{port}", flush=True)
    server.wait_for_termination()
