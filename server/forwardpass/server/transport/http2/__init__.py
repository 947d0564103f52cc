"""HTTP/2 for a server (RFC 9113), without I/O: bytes in, streams with news and bytes out."""
