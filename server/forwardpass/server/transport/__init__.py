"""Sockets: the only part of the server that knows gRPC and HTTP/2."""
