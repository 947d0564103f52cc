"""The server on asyncio: gRPC over our own HTTP/2, a batch of calls a turn of the event loop."""
