"""The server's process: signals, CPUs, heaps."""
