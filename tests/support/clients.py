"""Both clients behind one set of blocking methods, so that one test covers both."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Generator
from typing import Any, Self, TypeVar

from forwardpass.client import AsyncClient, Client

_R = TypeVar("_R")


class Loop:
    """An event loop in a thread: one for all clients, as grpcio's asyncio requires."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="event loop")
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, _R]) -> _R:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class FromThreads:
    """An AsyncClient whose methods block, for any number of threads."""

    def __init__(self, loop: Loop, target: str, **settings: Any) -> None:
        self._loop = loop
        self.client = AsyncClient(target, **settings)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        return lambda *args, **options: self._loop.run(method(*args, **options))

    def predict_stream(self, *args: Any, **options: Any) -> Generator[Any, None, None]:
        stream = self.client.predict_stream(*args, **options)
        return self._each(stream)

    def _each(self, stream: AsyncGenerator[Any, None]) -> Generator[Any, None, None]:
        end = object()
        try:
            while (item := self._loop.run(_next(stream, end))) is not end:
                yield item
        finally:
            self._loop.run(stream.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run(self.client.close())

    def __repr__(self) -> str:
        return repr(self.client)


async def _next(stream: AsyncIterator[Any], end: object) -> Any:
    return await anext(stream, end)


AnyClient = Client | FromThreads
