"""HTTP/2 for a server (RFC 9113), without I/O: bytes in, changed streams and bytes out."""
