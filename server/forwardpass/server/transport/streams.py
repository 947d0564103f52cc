"""ModelStreamInfer over grpcio, on threads of its own."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Semaphore
from time import monotonic

import grpc

from forwardpass.server.errors import MessageTooLargeError, ServingError, TooManyStreamsError
from forwardpass.server.gate import Gate
from forwardpass.server.inference import Call
from forwardpass.server.origin import REQUEST_ID, Origin
from forwardpass.server.service import Service
from forwardpass.server.streaming import Streams
from forwardpass.server.transport.abort import abort
from forwardpass.server.transport.metadata import Arrivals


class StreamTransport:
    """Hands streams to the service.

    grpcio holds a thread as long as a stream is open. These are not the threads that answer
    unary calls, which idle streams would use up.
    """

    def __init__(
        self,
        service: Service,
        gate: Gate,
        arrivals: Arrivals,
        *,
        max_streams: int,
        max_message_bytes: int,
    ) -> None:
        self._arrivals = arrivals
        self._streams = Streams(service.infer)
        self._service = service
        self._gate = gate
        self._max_streams = max_streams
        self._max_message_bytes = max_message_bytes
        self._free = Semaphore(max_streams)
        # One thread more, to refuse the streams that are too many.
        self._threads = ThreadPoolExecutor(max_streams + 1, thread_name_prefix="stream")

    def handler(self) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """Return what a grpcio server needs to answer the method."""

        def handle(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            return self._answer(messages, context)

        handle.experimental_thread_pool = self._threads  # type: ignore[attr-defined]
        return grpc.stream_stream_rpc_method_handler(handle)

    @property
    def open(self) -> int:
        """How many streams are open."""
        return self._streams.open

    def stop(self) -> None:
        """Let every stream end, UNAVAILABLE, once what was read of it is answered."""
        self._streams.stop()

    def _answer(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        origin = self._arrivals.origin(context)
        if not self._free.acquire(blocking=False):
            too_many = TooManyStreamsError(self._max_streams)
            self._service.refused(too_many, origin)
            abort(context, too_many, origin.request_id)
        try:
            with self._gate:
                # Asked before the first message, which may never come.
                self._arrivals.caller(context)
                yield from self._streams.answer(self._calls(messages, context, origin))
            if origin.request_id:
                context.set_trailing_metadata(((REQUEST_ID, origin.request_id),))
        except ServingError as error:
            self._service.refused(error, origin)
            abort(context, error, origin.request_id)
        finally:
            self._free.release()

    def _calls(
        self, messages: Iterator[bytes], context: grpc.ServicerContext, origin: Origin
    ) -> Iterator[Call]:
        remaining = context.time_remaining()
        deadline = None if remaining is None else monotonic() + remaining
        try:
            for message in messages:
                if len(message) > self._max_message_bytes:
                    raise MessageTooLargeError(len(message), self._max_message_bytes)
                # Each time: a token may be revoked while its stream is open.
                caller = self._arrivals.caller(context)
                yield Call(message, deadline, context.is_active, caller, origin)
        except grpc.RpcError:
            # The caller went away.
            return
