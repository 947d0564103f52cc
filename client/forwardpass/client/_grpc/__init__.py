"""The clients on grpcio's channels."""
