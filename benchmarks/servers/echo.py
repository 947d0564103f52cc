"""A bare grpcio server that returns the bytes it gets: what grpcio itself costs."""

from concurrent.futures import ThreadPoolExecutor

import grpc


def main() -> None:
    """Serve until killed."""
    handler = grpc.unary_unary_rpc_method_handler(lambda message, _: message)
    server = grpc.server(
        ThreadPoolExecutor(32), options=[("grpc.max_receive_message_length", 64 * 2**20)]
    )
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "inference.GRPCInferenceService", {"ModelInfer": handler}
            ),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"ready on 127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
