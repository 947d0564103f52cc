"""ModelStreamInfer over grpcio, on threads of its own."""

import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Semaphore
from time import monotonic, perf_counter_ns

import grpc

from forwardpass.server.errors import ServingError, TooManyStreamsError
from forwardpass.server.observe.origin import REQUEST_ID, Origin
from forwardpass.server.rpc.in_thread import infer
from forwardpass.server.rpc.infer import Call, Reply
from forwardpass.server.rpc.service import Service
from forwardpass.server.rpc.stream import Streams
from forwardpass.server.transport.compression import BadMessageError
from forwardpass.server.transport.grpcio.abort import abort
from forwardpass.server.transport.grpcio.arrivals import ContextArrivals
from forwardpass.server.transport.grpcio.gate import Gate
from forwardpass.server.transport.grpcio.received import received
from forwardpass.server.transport.grpcio.receiving import LARGE_BYTES, Receiving
from forwardpass.server.transport.grpcio.sending import Answer, SentAnswers


class StreamTransport:
    """Passes streams to the service.

    grpcio holds a thread while a stream is open, so streams have threads of their own: idle ones
    would use up those of the unary calls.
    """

    def __init__(
        self,
        service: Service,
        gate: Gate,
        receiving: Receiving,
        sending: SentAnswers,
        arrivals: ContextArrivals,
        *,
        max_streams: int,
        max_message_bytes: int,
    ) -> None:
        self._arrivals = arrivals
        self._streams = Streams()
        self._service = service
        self._gate = gate
        self._receiving = receiving
        self._sending = sending
        self._max_streams = max_streams
        self._max_message_bytes = max_message_bytes
        self._free = Semaphore(max_streams)
        # One thread more, to refuse streams above the limit.
        self._threads = ThreadPoolExecutor(max_streams + 1, thread_name_prefix="stream")

    def handler(self) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """Return the grpcio handler of the method."""

        def handle(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            return self._answer(messages, context)

        handle.experimental_thread_pool = self._threads  # type: ignore[attr-defined]
        return grpc.stream_stream_rpc_method_handler(handle)

    @property
    def open(self) -> int:
        """The number of open streams."""
        return self._streams.open

    @property
    def waiting(self) -> int:
        """The number of calls on streams that have not begun."""
        return self._streams.waiting

    @property
    def in_flight(self) -> int:
        """The number of calls on streams that are not answered."""
        return self._streams.in_flight

    def stop(self) -> None:
        """End every stream (UNAVAILABLE) once the messages read from it are answered."""
        self._streams.stop()

    def _answer(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        origin = self._arrivals.origin(context)
        if not self._free.acquire(blocking=False):
            too_many = TooManyStreamsError(self._max_streams)
            self._service.refused(too_many, origin)
            abort(context, too_many, origin.request_id)
        memory = self._sending.answer(of_stream=True)
        memory.context = context
        try:
            with self._gate:
                # Before the first message, which may never come.
                self._arrivals.caller(context)
                yield from self._streams.answer(
                    self._calls(messages, context, origin),
                    partial(self._infer, memory),
                    memory.free,
                )
            if origin.request_id:
                context.set_trailing_metadata(((REQUEST_ID, origin.request_id),))
        except ServingError as error:
            self._service.refused(error, origin)
            abort(context, error, origin.request_id)
        except BadMessageError as error:
            abort(context, error, origin.request_id)
        finally:
            memory.free()
            self._free.release()

    def _infer(self, memory: Answer, calls: Sequence[Call]) -> list[Reply | ServingError]:
        """Answer calls of a stream, each within its caller's quota."""
        answers: list[Reply | ServingError | None] = []
        entered: list[Call] = []
        for call in calls:
            try:
                if call.caller.quota is not None:
                    call.caller.quota.enter()
            except ServingError as error:
                self._service.refused(error, call.origin)
                answers.append(error)
            else:
                answers.append(None)
                entered.append(call)
        try:
            rest = iter(infer(self._service.inference, entered, memory))
        finally:
            for call in entered:
                if call.caller.quota is not None:
                    call.caller.quota.leave()
        # grpcio takes an answer once it has sent the one before.
        memory.sent()
        return [next(rest) if answer is None else answer for answer in answers]

    def _calls(
        self, messages: Iterator[bytes], context: grpc.ServicerContext, origin: Origin
    ) -> Iterator[Call]:
        batch = self._arrivals.is_batch(context.invocation_metadata())
        remaining = context.time_remaining()
        deadline = None if remaining is None else monotonic() + remaining
        try:
            while True:
                try:
                    # Idle streams wait for it, too.
                    packed = self._receiving.next(messages, context, timed=False)
                except StopIteration:
                    return
                message = received(packed, self._max_message_bytes)
                # For each message: a token may be revoked while its stream is open.
                caller = self._arrivals.caller(context)
                now_ns = perf_counter_ns()
                call = _StreamCall(
                    message,
                    deadline,
                    context.is_active,
                    caller,
                    origin,
                    (now_ns, now_ns),
                    batch or caller.batch,
                )
                if len(message) >= LARGE_BYTES:
                    self._receiving.hold(len(message))
                    # Whether it is answered, or the stream ends before.
                    weakref.finalize(call, self._receiving.let_go, len(message)).atexit = False
                # Not kept while the next message is waited for.
                del packed, message
                yield call
                del call
        except grpc.RpcError:
            # The caller is gone.
            return


class _StreamCall(Call):
    """A call of a stream, whose end is noticed."""

    __slots__ = ("__weakref__",)
