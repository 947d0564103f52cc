"""ModelStreamInfer: a stream of calls in, a stream of answers out, in the calls' order.

The waiting calls of a stream are a batch like any other: while one batch runs, the next calls
are read, so a caller that does not wait for answers gets the server's full speed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import Empty, SimpleQueue
from threading import Condition, Lock, Semaphore, Thread

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.errors import ServingError, ShuttingDownError
from forwardpass.server.rpc.infer import Call, Reply
from forwardpass.server.rpc.scan import names
from forwardpass.server.rpc.wire import length_delimited

WINDOW = 32
"""Maximum number of a stream's calls that are answered together, or that are read ahead."""

AHEAD_BYTES = 2**24
"""Maximum size of a stream's calls that wait, in bytes: beyond it no more are read ahead."""

_ERROR = pb.ModelStreamInferResponse.ERROR_MESSAGE_FIELD_NUMBER
_REPLY = pb.ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER
_FINAL = pb.ModelInferResponse(
    parameters={"triton_final_response": pb.InferParameter(bool_param=True)}
).SerializeToString()
"""Parameter of every reply, for clients that may get several replies to a request."""


class Streams:
    """The open streams of a server."""

    def __init__(self) -> None:
        self._lock = Lock()
        # Guarded by the lock.
        self._open: set[_Inbox] = set()
        self._stopped = False

    @property
    def open(self) -> int:
        """The number of open streams."""
        return len(self._open)

    @property
    def waiting(self) -> int:
        """The number of calls that were read and have not begun."""
        return sum(inbox.waiting for inbox in list(self._open))

    @property
    def in_flight(self) -> int:
        """The number of calls that were read and are not answered."""
        return sum(inbox.waiting + inbox.answering for inbox in list(self._open))

    def answer(
        self,
        calls: Iterable[Call],
        infer: Callable[[Sequence[Call]], list[Reply | ServingError]],
        sent: Callable[[], None] = lambda: None,
    ) -> Iterator[bytes]:
        """Answer the calls of one stream: yields serialized ModelStreamInferResponses.

        infer: Answers calls. sent: Called once all their answers are sent.

        A failed call is answered with an error message. Ends when the calls end; closing it
        ends the reading. Once all calls read are answered, raises the error that ended the calls,
        or ShuttingDownError after `stop`.
        """
        inbox = _Inbox()
        with self._lock:
            if self._stopped:
                raise ShuttingDownError
            self._open.add(inbox)
        Thread(target=inbox.fill, args=(calls,), name="stream", daemon=True).start()
        try:
            while batch := inbox.take():
                inbox.answering = len(batch)
                for call, answer in zip(batch, infer(batch), strict=True):
                    yield stream_message(call, answer)
                inbox.answering = 0
                sent()
        finally:
            inbox.close()
            with self._lock:
                self._open.discard(inbox)
        if inbox.error is not None:
            raise inbox.error
        if self._stopped:
            raise ShuttingDownError

    def stop(self) -> None:
        """End every stream once the messages read from it are answered; allow no more."""
        with self._lock:
            self._stopped = True
            for inbox in self._open:
                inbox.end()


class _Inbox:
    """The waiting calls of a stream: one thread fills it, one takes from it."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[Call | None] = SimpleQueue()
        self._room = Semaphore(WINDOW)
        self._changed = Condition()
        self._ahead = 0
        """Bytes of the waiting calls; guarded by the condition."""
        self._closed = False
        self._ended = False
        self.error: Exception | None = None
        """Error that ended the calls; valid after their end."""
        self.answering = 0
        """Calls that were taken and are not answered."""

    @property
    def waiting(self) -> int:
        """The number of calls that were not taken."""
        return self._waiting.qsize()

    def fill(self, calls: Iterable[Call]) -> None:
        """Add calls as they arrive, while there is room."""
        try:
            for call in calls:
                self._room.acquire()
                self._count(len(call.message))
                if self._closed:
                    return
                self._waiting.put(call)
        except Exception as error:
            self.error = error
        finally:
            self.end()

    def end(self) -> None:
        """Drop all calls that arrive from now on."""
        self._waiting.put(None)

    def close(self) -> None:
        """End the filling."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._room.release()

    def _count(self, size: int) -> None:
        """Wait until few bytes wait, and count those of another call."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._ahead < AHEAD_BYTES)
            self._ahead += size

    def take(self) -> list[Call]:
        """Wait for calls and return all waiting ones; an empty list means the end."""
        batch: list[Call] = []
        while not self._ended and len(batch) < WINDOW:
            try:
                call = self._waiting.get(block=not batch)
            except Empty:
                break
            if call is None:
                self._ended = True
            else:
                batch.append(call)
                with self._changed:
                    self._ahead -= len(call.message)
                    self._changed.notify()
                self._room.release()
        return batch


def stream_message(call: Call, answer: Reply | ServingError) -> bytes:
    """Write the ModelStreamInferResponse that answers a call."""
    if isinstance(answer, Reply):
        return length_delimited(_REPLY, _FINAL, answer.message)
    _, id_field = names(call.message)
    return length_delimited(_ERROR, str(answer).encode()) + length_delimited(_REPLY, id_field)
