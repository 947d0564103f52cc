"""What one writes by hand for asyncio, as `stub`."""

import asyncio
import sys

import grpc.aio
import numpy as np

from benchmarks.clients import X, measure_async
from benchmarks.clients.stub import METHOD, outputs, request
from forwardpass.proto import inference_pb2 as pb


async def main() -> None:
    """Measure."""
    async with grpc.aio.insecure_channel(sys.argv[1]) as channel:
        infer = channel.unary_unary(
            METHOD,
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )

        async def call() -> np.ndarray:
            return outputs(await infer(request(X), timeout=30))["y"]

        await measure_async(call)


if __name__ == "__main__":
    asyncio.run(main())
