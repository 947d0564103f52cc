"""Unary calls from their header fields to their end: admitted or shed at once, then in threads.

grpcio asks for the handler of a call, and submits it, in the one thread that also accepts calls;
what happens there is short. Refused calls end there, before their message is read.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from time import perf_counter_ns
from typing import Any

import grpc

from forwardpass.server.access.caller import Caller
from forwardpass.server.access.quota import Quota
from forwardpass.server.engine.queue import come_back_s
from forwardpass.server.errors import BacklogFullError, NamesTooLargeError, ServingError
from forwardpass.server.rpc.infer import Times
from forwardpass.server.transport.compression import TooLarge
from forwardpass.server.transport.grpcio.received import received
from forwardpass.server.transport.grpcio.receiving import LARGE_BYTES, Receiving
from forwardpass.server.transport.grpcio.sending import Answer
from forwardpass.server.transport.threads import CallThreads, Task, TaskClass

Metadata = Sequence[tuple[str, str | bytes]]
Messages = Iterator[bytes]
Handle = Callable[[Messages, grpc.ServicerContext, "Arrival"], bytes]
Refuse = Callable[[grpc.ServicerContext, ServingError], None]

PROBE = "forwardpass_probe"
"""Attribute of a behavior that has threads apart, since its caller takes a late answer for a dead
server."""
_PROBERS = 2


class Arrival:
    """A call of a unary method; grpcio calls it once a thread is free.

    For grpcio its requests are a stream, so that it does not wait for the message itself.
    """

    __slots__ = (
        "_handle",
        "_held",
        "_quota",
        "_receiving",
        "answer",
        "arrived_ns",
        "begun_ns",
        "caller",
        PROBE,
        "kind",
        "waits",
    )

    def __init__(
        self,
        receiving: Receiving,
        handle: Handle,
        kind: TaskClass,
        caller: Caller | None,
        *,
        probe: bool = False,
        waits: bool = False,
        answer: Answer | None = None,
    ) -> None:
        """Begin.

        caller: None if it is not known from the metadata alone. answer: The memory of its answer,
        if that is counted.
        """
        self.answer = answer
        self._receiving = receiving
        self._handle = handle
        self._held = 0
        """Bytes counted in the memory of unanswered requests."""
        self.forwardpass_probe = probe
        self.kind = kind
        self.waits = waits
        """Whether it may wait for long, in which it must not take a thread from others."""
        self.caller = caller
        self.arrived_ns = self.begun_ns = perf_counter_ns()
        """When the call was accepted, and when a thread began it."""
        self._quota: Quota | None = None

    def __call__(self, messages: Messages, context: grpc.ServicerContext) -> bytes:
        """Answer the message."""
        if self.answer is not None:
            self.answer.context = context
        return self._handle(messages, context, self)

    def message(
        self,
        messages: Messages,
        context: grpc.ServicerContext,
        limit: int,
        names_bytes: int | None = None,
        names_too_large: TooLarge = NamesTooLargeError,
    ) -> bytes:
        """Wait for the message and return it, unpacked; its memory is counted.

        Raises as `Receiving.only`, `received` and `Receiving.hold` do.
        """
        packed = self._receiving.only(messages, context, probe=self.forwardpass_probe)
        message = received(packed, limit, names_bytes, names_too_large)
        if len(message) >= LARGE_BYTES:
            self._receiving.hold(len(message))
            self._held = len(message)
        return message

    def times(self) -> Times:
        """Return when the call arrived, without its wait for a thread, and when it was read."""
        return self.arrived_ns, self.arrived_ns + perf_counter_ns() - self.begun_ns

    def use(self, quota: Quota | None) -> None:
        """Count the call in its caller's quota until it ends; raises as `Quota.enter` does."""
        if quota is not None:
            quota.enter()
            self._quota = quota

    def run(self, function: Callable[..., object], args: Sequence[Any]) -> None:
        """Run grpcio's part of the call, in a thread, to its end."""
        self.begun_ns = perf_counter_ns()
        try:
            function(*args)
        finally:
            if self._held:
                self._receiving.let_go(self._held)
            if self._quota is not None:
                self._quota.leave()
            if self.answer is not None:
                self.answer.sent()


class _Refused:
    """A call that ends before its message is read, in the thread that accepts calls."""

    __slots__ = ("_error", "_refuse")

    def __init__(self, refuse: Refuse, error: ServingError) -> None:
        self._refuse = refuse
        self._error = error

    def __call__(self, messages: object, context: grpc.ServicerContext) -> bytes:
        """End the call."""
        del messages
        self._refuse(context, self._error)
        raise AssertionError("a refused call goes on")


class Backlog(Executor):
    """Calls that have arrived and wait for a thread, up to a maximum number of each class."""

    def __init__(self, workers: int, limit: int, *, waiters: int) -> None:
        """Begin; waiters: Maximum calls that wait for long, in threads apart."""
        self._threads = CallThreads(workers)
        self._waiters = ThreadPoolExecutor(waiters, thread_name_prefix="waiting")
        self._probers = CallThreads(_PROBERS)
        self._limit = limit

    @property
    def waiting(self) -> int:
        """The number of calls that wait for a thread."""
        return self._threads.waiting

    @property
    def in_flight(self) -> int:
        """The number of calls that wait for a thread or have one; probes are not counted."""
        return self._threads.waiting + self._threads.running

    @property
    def oldest_ns(self) -> int:
        """How long the first call has waited for a thread, in nanoseconds; 0: none waits."""
        return max(map(self._threads.oldest_ns, TaskClass))

    def check(self, kind: TaskClass) -> None:
        """Raise BacklogFullError if there is no room for a call of a class."""
        if self._threads.waiting_as(kind) >= self._limit:
            raise BacklogFullError(self._limit, come_back_s(self._threads.oldest_ns(kind)))

    def submit(  # type: ignore[override]  # what grpcio needs of a Future
        self, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> "Task | Future[None]":
        """Run grpcio's part of a call: in a thread, or at once if the call is refused."""
        # Among the arguments is the behavior: what `CallHandlers` returned, or another handler's.
        for argument in args:
            if type(argument) is Arrival:
                if argument.waits:
                    return self._waiters.submit(argument.run, function, args)
                threads = self._probers if argument.forwardpass_probe else self._threads
                return threads.submit_as(argument.kind, argument.run, function, args)
            if type(argument) is _Refused:
                task = Task(None, TaskClass.INTERACTIVE, function, args, kwargs)
                task.run()
                return task
            if getattr(argument, PROBE, False):
                return self._probers.submit(function, *args, **kwargs)
        return self._threads.submit(function, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads."""
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        self._probers.shutdown(wait, cancel_futures=cancel_futures)
        self._waiters.shutdown(wait=False, cancel_futures=cancel_futures)


class CallHandlers(grpc.GenericRpcHandler):
    """Returns the handler of each call of a service; for unary methods, one for each call."""

    def __init__(
        self,
        unary: Mapping[str, Callable[[Metadata], Arrival]],
        refuse: Mapping[str, Refuse],
        others: Mapping[str, "grpc.RpcMethodHandler[Any, Any]"],
    ) -> None:
        """Prepare; all by path.

        unary: Admit a call, or raise ServingError. refuse: End a call that was not admitted.
        others: Methods that admit their calls themselves.
        """
        self._unary = unary
        self._refuse = refuse
        self._others = others

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Return what answers a call; None for an unknown method."""
        path = handler_call_details.method
        admit = self._unary.get(path)
        if admit is None:
            return self._others.get(path)
        try:
            arrival = admit(handler_call_details.invocation_metadata)
        except ServingError as error:
            return grpc.stream_unary_rpc_method_handler(_Refused(self._refuse[path], error))
        # The behavior of a stream is called before a message is there.
        return grpc.stream_unary_rpc_method_handler(arrival)
