"""HTTP/1.1's framing (RFC 9112) without I/O, over llhttp; knows nothing of ours."""
