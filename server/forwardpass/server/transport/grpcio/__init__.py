"""The server on grpcio's threads."""
