"""The servers to compare with: each a process that prints `ready on HOST:PORT`."""
