"""`AsyncClient.predict`."""

import asyncio
import sys

import numpy as np

from benchmarks.clients import X, measure_async
from forwardpass.client import AsyncClient


async def main() -> None:
    """Measure."""
    async with AsyncClient(sys.argv[1]) as client:

        async def call() -> np.ndarray:
            return (await client.predict("small", X))["y"]

        await measure_async(call)


if __name__ == "__main__":
    asyncio.run(main())
