"""ModelStreamInfer: a stream of calls in, a stream of answers out, in the calls' order.

What waits on a stream is a batch of calls like any other: while one batch runs, the next calls
are read, so that a caller who does not wait for answers gets the server's full speed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import Empty, SimpleQueue
from threading import Lock, Semaphore, Thread

from google.protobuf.message import DecodeError

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.errors import ServingError, ShuttingDownError
from forwardpass.server.inference import Call, Reply
from forwardpass.server.wire import length_delimited

WINDOW = 32
"""Most calls of a stream that are answered together, and that are read ahead of them."""

_FINAL = pb.ModelInferResponse(
    parameters={"triton_final_response": pb.InferParameter(bool_param=True)}
).SerializeToString()
"""Of every reply: clients that may get several replies to a request look for it."""


class Streams:
    """The open streams of a server."""

    def __init__(self, infer: Callable[[Sequence[Call]], list[Reply | ServingError]]) -> None:
        self._infer = infer
        self._lock = Lock()
        # Guarded by the lock.
        self._open: set[_Inbox] = set()
        self._stopped = False

    @property
    def open(self) -> int:
        """How many streams are open."""
        return len(self._open)

    def answer(self, calls: Iterable[Call]) -> Iterator[bytes]:
        """Answer the calls of one stream: yields serialized ModelStreamInferResponses.

        A call that fails is answered with an error message. Ends when the calls end; closing
        it ends the reading. Once what was read is answered, raises the ServingError that the
        calls ended with, or ShuttingDownError after `stop`.
        """
        inbox = _Inbox()
        with self._lock:
            if self._stopped:
                raise ShuttingDownError
            self._open.add(inbox)
        Thread(target=inbox.fill, args=(calls,), name="stream", daemon=True).start()
        try:
            while batch := inbox.take():
                for call, answer in zip(batch, self._infer(batch), strict=True):
                    yield stream_message(call, answer)
        finally:
            inbox.close()
            with self._lock:
                self._open.discard(inbox)
        if inbox.error is not None:
            raise inbox.error
        if self._stopped:
            raise ShuttingDownError

    def stop(self) -> None:
        """Let every stream end once what was read of it is answered; allow no more."""
        with self._lock:
            self._stopped = True
            for inbox in self._open:
                inbox.end()


class _Inbox:
    """The calls of a stream that wait: one thread fills it, one takes from it."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[Call | None] = SimpleQueue()
        self._room = Semaphore(WINDOW)
        self._closed = False
        self._ended = False
        self.error: ServingError | None = None
        """What the calls ended with; to be asked after their end."""

    def fill(self, calls: Iterable[Call]) -> None:
        """Put calls in as they come, as far as there is room."""
        try:
            for call in calls:
                self._room.acquire()
                if self._closed:
                    return
                self._waiting.put(call)
        except ServingError as error:
            self.error = error
        finally:
            self.end()

    def end(self) -> None:
        """Let nothing be taken of what comes from now on."""
        self._waiting.put(None)

    def close(self) -> None:
        """Let the filling end."""
        self._closed = True
        self._room.release()

    def take(self) -> list[Call]:
        """Wait for calls and return all that wait; none means the end."""
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
                self._room.release()
        return batch


def stream_message(call: Call, answer: Reply | ServingError) -> bytes:
    """Write the ModelStreamInferResponse that answers a call."""
    if isinstance(answer, Reply):
        field = pb.ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER
        return length_delimited(field, _FINAL, answer.message)
    try:
        call_id = pb.ModelInferRequest.FromString(bytes(call.message)).id
    except (DecodeError, UnicodeDecodeError):
        call_id = ""
    return pb.ModelStreamInferResponse(
        error_message=str(answer), infer_response=pb.ModelInferResponse(id=call_id)
    ).SerializeToString()
