"""Which calls a client makes, in which order; no sockets."""
