"""The RPCs: messages in, messages or errors out; no sockets."""
