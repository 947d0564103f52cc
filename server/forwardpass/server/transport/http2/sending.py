"""The sending half of a connection: answers within the peer's windows, in fair turns."""

from collections import deque

from forwardpass.server.transport.http2.errors import (
    ConnectionFailedError,
    ErrorCode,
    StreamFailedError,
)
from forwardpass.server.transport.http2.fields import TABLE_OFF
from forwardpass.server.transport.http2.frames import (
    DEFAULT_WINDOW,
    MAX_WINDOW,
    Flag,
    FrameType,
    frame,
    pack_header,
    pack_start,
    pack_u32,
)
from forwardpass.server.transport.http2.peer_settings import PeerSettings
from forwardpass.server.transport.http2.stream import Payload, Stream, Tail

_PUMPED_BYTES = 2**20
"""Maximum amount of queued data for one write, in bytes: the rest can still be cancelled."""
_MAX_FRAME_BYTES = 2**18
"""Maximum size of a frame that we send, in bytes, whatever the peer accepts: streams take
turns frame by frame."""

_MAX_STARTS = 64
"""Maximum number of sizes of data whose constant bytes are kept."""


class AnswerForm:
    """The two field blocks of an answer as the constant bytes around its message."""

    __slots__ = ("head", "head_start", "starts", "tail", "tail_start")

    def __init__(self, head: bytes, tail: bytes) -> None:
        """Prepare; head and tail are field blocks of less than 16 KiB."""
        self.head = head
        self.head_start = pack_start(len(head) << 8 | FrameType.HEADERS, Flag.END_HEADERS)
        self.tail = tail
        self.tail_start = pack_start(
            len(tail) << 8 | FrameType.HEADERS, Flag.END_HEADERS | Flag.END_STREAM
        )
        self.starts: dict[int, bytes] = {}
        """The bytes between the first two stream ids, by the size of the data."""

    def start(self, size: int) -> bytes:
        """Return the bytes between the first two stream ids: the head, and the start of the data.

        They are kept in `starts`, since most answers are of few sizes.
        """
        if len(self.starts) >= _MAX_STARTS:
            self.starts.clear()
        start = self.starts[size] = self.head + pack_start(size << 8, 0)
        return start


class Sending:
    """Streams, windows and pending output; `Connection` reads and adds the rest."""

    def __init__(self) -> None:
        self.streams: dict[int, Stream] = {}
        """The open streams, by id."""
        self.peer = PeerSettings()
        self.queued_bytes = 0
        """Bytes of data that wait for a window or for the socket."""
        self.answered = False
        """Whether any part of an answer was sent since this was last set to False."""
        self.output: list[Payload] = []
        """Frames to be written, beside those of the data that waits."""
        self._window = DEFAULT_WINDOW
        self._paused = False
        self._owes_table_off = False
        self._queued: dict[int, Stream] = {}
        """Streams with pending output, in sending order."""

    @property
    def has_output(self) -> bool:
        """Whether `to_send` may have something to return."""
        if self.output:
            return True
        return bool(self._queued) and self._window > 0 and not self._paused

    def to_send(self) -> list[Payload]:
        """Take bytes that have to be written now; call it until it returns none."""
        if self._queued and not self._paused:
            self._pump()
        out, self.output = self.output, []
        return out

    def pause(self) -> None:
        """Keep data back: the socket accepts no more for now."""
        self._paused = True

    def resume(self) -> None:
        """Send data again."""
        self._paused = False

    def answer(self, stream: Stream, form: AnswerForm, data: bytes) -> None:
        """Send a whole answer: fields, one message's data, trailers."""
        size = len(data)
        if (
            size > self._window
            or size > stream.window
            or size > self.peer.frame_bytes
            or self._queued
            or self._paused
            or self._owes_table_off
        ):
            self.send_headers(stream, form.head)
            self.send_data(stream, data)
            self.send_trailers(stream, form.tail)
            return
        self._window -= size
        # The id is before every part but the first.
        self.output.append(
            pack_u32(stream.id).join(
                (
                    form.head_start,
                    form.starts.get(size) or form.start(size),
                    data + form.tail_start,
                    form.tail,
                )
            )
        )
        self._close(stream)

    def send_headers(self, stream: Stream, block: bytes) -> None:
        """Send the fields of an answer."""
        self._write_block(stream, block, 0)

    def send_data(self, stream: Stream, data: Payload) -> None:
        """Send a part of an answer as far as windows and socket allow; makes no copy."""
        if not data:
            return
        if stream.pending is None:
            stream.pending = deque()
        stream.pending.append(data)
        self._queued[stream.id] = stream
        self.queued_bytes += len(data)

    def send_trailers(self, stream: Stream, block: bytes) -> None:
        """Send the trailers of an answer after its data, or alone for an error."""
        if stream.pending is not None:
            stream.pending.append(Tail(block))
        else:
            self._write_block(stream, block, Flag.END_STREAM)
            self._close(stream)

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """Reset a stream."""
        raise NotImplementedError

    def _write_block(self, stream: Stream, block: bytes, flags: int) -> None:
        self.answered = True
        if self._owes_table_off:
            self._owes_table_off = False
            block = TABLE_OFF + block
        limit = self.peer.frame_bytes
        kind = FrameType.HEADERS
        while len(block) > limit:
            self.output.append(frame(kind, flags, stream.id, block[:limit]))
            kind, flags, block = FrameType.CONTINUATION, 0, block[limit:]
        self.output.append(frame(kind, flags | Flag.END_HEADERS, stream.id, block))

    def _pump(self) -> None:
        """Send pending output, one frame per stream in turn, as windows and socket allow."""
        room = _PUMPED_BYTES
        blocked = 0
        while self._queued and room > 0 and self._window > 0 and not self._paused:
            stream_id, stream = next(iter(self._queued.items()))
            # To the end of the queue: all others have their turn first.
            del self._queued[stream_id]
            sent = self._send_some(stream)
            if stream.pending is not None:
                self._queued[stream_id] = stream
            room -= sent
            blocked = 0 if sent else blocked + 1
            if blocked >= len(self._queued):
                return

    def _send_some(self, stream: Stream) -> int:
        """Send a frame of a stream, and its end if that is next; return the bytes of data sent."""
        pending = stream.pending
        data = pending[0] if pending else b""
        if not pending or isinstance(data, Tail):
            return 0
        size = min(len(data), self._window, stream.window, self.peer.frame_bytes, _MAX_FRAME_BYTES)
        if size <= 0:
            return 0
        if size < len(data):
            view = memoryview(data)
            pending[0] = view[size:]
            data = view[:size]
        else:
            pending.popleft()
        self.answered = True
        self.output.append(pack_header(size << 8 | FrameType.DATA, 0, stream.id))
        self.output.append(data)
        self._window -= size
        stream.window -= size
        stream.sent_bytes += size
        self.queued_bytes -= size
        if not pending:
            stream.pending = None
        elif isinstance(pending[0], Tail):
            stream.pending = None
            self._write_block(stream, pending[0].block, Flag.END_STREAM)
            self._close(stream)
        return size

    def _close(self, stream: Stream) -> None:
        """Forget a stream whose answer is sent."""
        raise NotImplementedError

    def waiting(self) -> dict[Stream, int]:
        """Return how many bytes of data wait on each stream that has some."""
        return {stream: _size(stream) for stream in self._queued.values()}

    def _drop_pending(self, stream: Stream) -> None:
        if stream.pending is not None:
            self.queued_bytes -= _size(stream)
            stream.pending = None
            self._queued.pop(stream.id, None)

    def _widen(self, increment: int) -> None:
        """Apply a WINDOW_UPDATE of the connection."""
        self._window += increment
        if self._window > MAX_WINDOW:
            raise ConnectionFailedError(ErrorCode.FLOW_CONTROL_ERROR, "the window is above 2^31-1")

    def _widen_stream(self, stream: Stream, increment: int) -> None:
        stream.window += increment
        if stream.window > MAX_WINDOW:
            raise StreamFailedError(
                stream.id, ErrorCode.FLOW_CONTROL_ERROR, "the window is above 2^31-1"
            )

    def _obey(self, payload: bytes) -> None:
        """Apply the peer's SETTINGS."""
        before = self.peer.window
        self.peer.update(payload)
        if self.peer.table_bytes < 4096:
            self._owes_table_off = True
        change = self.peer.window - before
        if change:
            for stream in self.streams.values():
                stream.window += change
                if stream.window > MAX_WINDOW:
                    raise ConnectionFailedError(
                        ErrorCode.FLOW_CONTROL_ERROR,
                        "INITIAL_WINDOW_SIZE puts a window above 2^31-1",
                    )


def _size(stream: Stream) -> int:
    """Return the bytes of data that wait on a stream."""
    return sum(len(item) for item in stream.pending or () if not isinstance(item, Tail))
