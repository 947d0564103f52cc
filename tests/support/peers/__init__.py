"""A client's side of HTTP/2, right and wrong: bytes, a peer that says them, cases from the RFCs."""
