"""The servers to compare with: each a process that prints `ready on HOST:PORT`."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

SERVICE = "inference.GRPCInferenceService"


def serve_model_infer(handler: "grpc.RpcMethodHandler[Any, Any]", port: int = 0) -> None:
    """Answer ModelInfer by the handler, with 32 threads as ours, until killed.

    Port 0 is a free one.
    """
    server = grpc.server(
        ThreadPoolExecutor(32), options=[("grpc.max_receive_message_length", 64 * 2**20)]
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": handler}),)
    )
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print(f"ready on 127.0.0.1:{port}", flush=True)
    server.wait_for_termination()
