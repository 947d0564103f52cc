"""A client's side of HTTP/2, right and wrong: bytes, a peer that sends them, cases of the RFCs."""
