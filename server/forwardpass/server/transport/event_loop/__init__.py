"""The server on asyncio: gRPC over our own HTTP/2, one batch of calls per turn of the loop."""
