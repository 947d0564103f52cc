"""A bare grpcio server that returns the bytes it gets: what grpcio itself costs.

Usage: python -m benchmarks.servers.echo [PORT]
"""

import sys

import grpc

from benchmarks.servers import serve_model_infer

if __name__ == "__main__":
    serve_model_infer(
        grpc.unary_unary_rpc_method_handler(lambda message, _: message),
        int(sys.argv[1]) if len(sys.argv) > 1 else 0,
    )
