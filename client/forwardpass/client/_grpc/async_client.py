"""The client of asyncio, over grpcio's asyncio channel."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from os import PathLike
from types import EllipsisType, TracebackType
from typing import Any, NoReturn, Self, TypeVar

import grpc
import grpc.aio

from forwardpass.client._conversation.calls import STREAM_IN_FLIGHT
from forwardpass.client._conversation.core import METHODS, Core, Wanted
from forwardpass.client._conversation.progress import Report
from forwardpass.client._conversation.steps import Acquire, Send, Sleep, Step, Steps, Window
from forwardpass.client._grpc.channel import Options, Token, address
from forwardpass.client._grpc.client import MAX_MESSAGE_BYTES, SERVICE
from forwardpass.client._messages.inputs import Inputs
from forwardpass.client._messages.missing import Missing
from forwardpass.client.errors import (
    CallCancelledError,
    ClientClosedError,
    ClientError,
    from_rpc_error,
)
from forwardpass.client.model import ModelSpec, ServerSpec
from forwardpass.client.prediction import Prediction
from forwardpass.client.retry import Retry
from forwardpass.client.served import ModelState, ModelStatistics
from forwardpass.proto import priority

R = TypeVar("R")


class AsyncClient:
    """`Client` for asyncio: the same arguments, methods and errors, with `await`.

        async with AsyncClient("localhost:8001") as client:
            prediction = await client.predict("breast_cancer", x)  # x: (rows, 30)

    Make one for each event loop and keep it: any number of tasks may call at once, and share one
    connection. It belongs to the loop of its first call.
    """

    def __init__(
        self,
        target: str,
        *,
        tls: bool = False,
        ca_file: str | PathLike[str] | None = None,
        cert_file: str | PathLike[str] | None = None,
        key_file: str | PathLike[str] | None = None,
        token: Token | None = None,
        plaintext_token: bool = False,
        timeout_s: float | None = 30.0,
        retry: Retry | None = Retry(),  # noqa: B008  # frozen
        max_message_bytes: int | None = MAX_MESSAGE_BYTES,
        gzip: bool = False,
        batch: bool = False,
        keepalive_s: float | None = None,
        health_checks: bool = False,
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
        options: Options = (),
    ) -> None:
        """Prepare a client; it connects at the first call. Arguments as of `Client`."""
        self.target = target
        self._address = address(
            target,
            tls=tls,
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
            token=token,
            plaintext_token=plaintext_token,
            gzip=gzip,
            keepalive_s=keepalive_s,
            health_checks=health_checks,
            options=options,
        )
        self._fetching = asyncio.Lock()
        self._core = Core(
            target,
            self._fetching,
            timeout_s=timeout_s,
            retry=retry,
            max_message_bytes=max_message_bytes,
            metadata=(*self._address.metadata, *((priority.METADATA,) if batch else ())),
        )
        self._interceptors = interceptors
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: grpc.aio.Channel | None = None
        self._methods: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}

    async def predict(
        self,
        model: str,
        x: Inputs,
        *,
        version: str = "",
        outputs: Sequence[str] | None = None,
        timeout_s: float | EllipsisType | None = ...,
        timing: bool = False,
        rows_per_call: int | None = None,
        progress: bool | Report = False,
        missing: Missing = "refuse",
        content: str = "",
        explain: str = "",
        explain_steps: int | None = None,
    ) -> Prediction:
        """Return the model's outputs for x, by name; as `Client.predict`."""
        wanted = Wanted(
            outputs, timing, rows_per_call, progress, missing, content, explain, explain_steps
        )
        return await self._run(self._core.predict(model, x, version, timeout_s, wanted))

    def predict_stream(
        self,
        model: str,
        xs: Iterable[Inputs] | AsyncIterable[Inputs],
        *,
        version: str = "",
        outputs: Sequence[str] | None = None,
        timeout_s: float | EllipsisType | None = ...,
        in_flight: int = STREAM_IN_FLIGHT,
        missing: Missing = "refuse",
        content: str = "",
        explain: str = "",
        explain_steps: int | None = None,
    ) -> AsyncGenerator[Prediction, None]:
        """Yield the prediction for each x, in order; as `Client.predict_stream`.

        The xs are read in a task of their own: an answer is yielded as soon as it arrives, even
        while the next x is waited for, and an error of the xs after the answers to those before
        it. Close the stream (`contextlib.aclosing`) if you leave it early, to cancel the calls in
        flight at once.
        """
        if in_flight < 1:
            raise ValueError(f"in_flight: expected at least 1, got {in_flight}")
        wanted = Wanted(
            outputs,
            missing=missing,
            content=content,
            explain=explain,
            explain_steps=explain_steps,
        )

        async def conversations() -> AsyncIterator[Steps[Prediction]]:
            async for x in _each(xs):
                yield self._core.predict(model, x, version, timeout_s, wanted)

        return self._window(conversations(), in_flight)

    async def live(self) -> bool:
        """Return whether the server reports that it runs; raises if it is unreachable."""
        return await self._run(self._core.live())

    async def ready(self) -> bool:
        """Return whether the server reports that it is ready; raises if it is unreachable."""
        return await self._run(self._core.ready())

    async def model_ready(self, model: str, version: str = "") -> bool:
        """Return whether the model is ready; False too for one that does not exist."""
        return await self._run(self._core.model_ready(model, version))

    async def metadata(self, model: str, version: str = "") -> ModelSpec:
        """Return the model's inputs, outputs and properties; as `Client.metadata`."""
        return await self._run(self._core.metadata(model, version))

    async def server_metadata(self) -> ServerSpec:
        """Return the server's name, version and extensions."""
        return await self._run(self._core.server_metadata())

    async def index(self) -> tuple[ModelState, ...]:
        """Return the state of each version of each model in the server's repository.

        Raises UnimplementedError from a server that has no RepositoryIndex.
        """
        return await self._run(self._core.index())

    async def statistics(self, model: str = "", version: str = "") -> tuple[ModelStatistics, ...]:
        """Return the counters of each version, of one model or, if empty, of all that are ready.

        Raises UnimplementedError from a server that has no ModelStatistics.
        """
        return await self._run(self._core.statistics(model, version))

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} is a connection, which no other process can use; pass its "
            f"target ({self.target!r}) on, and make a client there"
        )

    async def close(self) -> None:
        """Close the connection; calls in flight end with CallCancelledError. As `Client.close`."""
        self._core.closed = True
        if self._channel is not None and not self._core.forked:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncClient of {self.target}{' (closed)' if self._core.closed else ''}>"

    async def _run(self, steps: Steps[R]) -> R:
        try:
            step = next(steps)
            while True:
                try:
                    result = await (self._send(step) if type(step) is Send else self._perform(step))
                except ClientError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            value: R = end.value
            return value
        finally:
            steps.close()

    async def _perform(self, step: Step) -> object:
        match step:
            case Acquire(timeout_s):
                try:
                    async with asyncio.timeout(timeout_s):
                        return await self._fetching.acquire()
                except TimeoutError:
                    return False
            case Window(conversations, in_flight, receive):
                async with aclosing(self._window(_each(conversations), in_flight)) as window:
                    async for prediction in window:
                        receive(prediction)
            case Sleep(seconds):
                await asyncio.sleep(seconds)
        return None

    async def _window(
        self, conversations: AsyncIterator[Steps[Prediction]], in_flight: int
    ) -> AsyncGenerator[Prediction, None]:
        begun: deque[asyncio.Task[Prediction]] = deque()
        more, room = asyncio.Semaphore(0), asyncio.Semaphore(in_flight - 1)

        async def begin() -> None:
            try:
                async for steps in conversations:
                    begun.append(asyncio.create_task(self._run(steps)))
                    more.release()
                    await room.acquire()
            finally:
                more.release()

        # A task beside the loop below, so that no answer waits for the next x.
        beginning = asyncio.create_task(begin())
        try:
            while await more.acquire() and begun:
                prediction = await begun[0]
                begun.popleft()
                yield prediction
                room.release()
            await beginning
        finally:
            for task in (beginning, *begun):
                task.cancel()
            await asyncio.gather(beginning, *begun, return_exceptions=True)

    async def _send(self, send: Send) -> Any:
        method = self._method(send.method)
        try:
            call = method(send.data, timeout=send.timeout_s, metadata=send.metadata)
            reply = await call
            return (reply, await call.trailing_metadata()) if send.trailers else reply
        except grpc.RpcError as error:
            raise from_rpc_error(error, target=self.target, model=send.model) from error
        except grpc.aio.UsageError as error:
            # Raised by grpc if another task has just closed the channel.
            self._core.check_usable(error)
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if self._core.closed and not (task is not None and task.cancelling()):
                raise CallCancelledError(
                    "the client was closed",
                    code=grpc.StatusCode.CANCELLED,
                    target=self.target,
                    model=send.model,
                ) from error
            raise

    def _method(self, name: str) -> "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]":
        """Return a method of the channel, which is opened in the event loop that calls first."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            to, interceptors = self._address, list(self._interceptors)
            self._channel = (
                grpc.aio.insecure_channel(to.target, to.options, to.compression, interceptors)
                if to.credentials is None
                else grpc.aio.secure_channel(
                    to.target, to.credentials, to.options, to.compression, interceptors
                )
            )
            self._methods = {name: self._channel.unary_unary(SERVICE + name) for name in METHODS}
        elif self._loop is not loop:
            raise ClientClosedError(
                "this client belongs to the event loop of its first call; make one in each loop",
                target=self.target,
            )
        return self._methods[name]


async def _each(xs: Iterable[R] | AsyncIterable[R]) -> AsyncIterator[R]:
    if isinstance(xs, AsyncIterable):
        async for x in xs:
            yield x
    else:
        for x in xs:
            yield x
