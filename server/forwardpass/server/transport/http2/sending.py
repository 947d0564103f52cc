"""The half of a connection that sends: answers under the peer's windows, in fair turns."""

from collections import deque
from struct import Struct

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
    pack_u32,
)
from forwardpass.server.transport.http2.peer_settings import PeerSettings
from forwardpass.server.transport.http2.stream import Payload, Stream, Tail

_PUMPED_BYTES = 2**20
"""Of queued data that go to the socket at a time: the rest can still be cancelled."""
_MAX_FRAME_BYTES = 2**18
"""Of ours, whatever the peer takes: streams take turns by the frame."""

_frame_start = Struct(">IB").pack
"""A frame's header without its stream: length << 8 | type, flags."""


class AnswerForm:
    """The two field blocks of an answer, as the constant bytes that go around its message."""

    __slots__ = ("head", "head_start", "tail", "tail_start")

    def __init__(self, head: bytes, tail: bytes) -> None:
        """Prepare; head and tail are field blocks of less than 16 KiB."""
        self.head = head
        self.head_start = _frame_start(len(head) << 8 | FrameType.HEADERS, Flag.END_HEADERS)
        self.tail = tail
        self.tail_start = _frame_start(
            len(tail) << 8 | FrameType.HEADERS, Flag.END_HEADERS | Flag.END_STREAM
        )


class Sending:
    """Streams, windows and what waits to be sent; `Connection` reads and adds the rest."""

    def __init__(self) -> None:
        self.streams: dict[int, Stream] = {}
        """The open ones, by id."""
        self.peer = PeerSettings()
        self.queued_bytes = 0
        """Of data that wait for a window or for the socket."""
        self.answered = False
        """Whether anything of an answer was sent since someone set this to False."""
        self._out: list[Payload] = []
        self._window = DEFAULT_WINDOW
        self._paused = False
        self._owes_table_off = False
        self._queued: dict[int, Stream] = {}
        """Streams that have something pending, the next one to send first."""

    @property
    def has_output(self) -> bool:
        """Whether `to_send` may have something to return."""
        return bool(self._out) or bool(self._queued and self._window > 0 and not self._paused)

    def to_send(self) -> list[Payload]:
        """Take bytes that have to be written now; to be called until there are none."""
        if self._queued and not self._paused:
            self._pump()
        out, self._out = self._out, []
        return out

    def pause(self) -> None:
        """Let data wait here: the socket takes no more for now."""
        self._paused = True

    def resume(self) -> None:
        """Let data out again."""
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
        stream_id = pack_u32(stream.id)
        self._out += (
            form.head_start,
            stream_id,
            form.head,
            _frame_start(size << 8, 0),
            stream_id,
            data,
            form.tail_start,
            stream_id,
            form.tail,
        )
        self._close(stream)

    def send_headers(self, stream: Stream, block: bytes) -> None:
        """Send the fields of an answer."""
        self._write_block(stream, block, 0)

    def send_data(self, stream: Stream, data: Payload) -> None:
        """Send a part of an answer as the windows and the socket allow; no copy is made."""
        if not data:
            return
        if stream.pending is None:
            stream.pending = deque()
        stream.pending.append(data)
        self._queued[stream.id] = stream
        self.queued_bytes += len(data)

    def send_trailers(self, stream: Stream, block: bytes) -> None:
        """Send the end of an answer, behind its data; alone, an answer that is an error."""
        if stream.pending is not None:
            stream.pending.append(Tail(block))
        else:
            self._write_block(stream, block, Flag.END_STREAM)
            self._close(stream)

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """Cut a stream off."""
        raise NotImplementedError

    def _write_block(self, stream: Stream, block: bytes, flags: int) -> None:
        self.answered = True
        if self._owes_table_off:
            self._owes_table_off = False
            block = TABLE_OFF + block
        limit = self.peer.frame_bytes
        kind = FrameType.HEADERS
        while len(block) > limit:
            self._out.append(frame(kind, flags, stream.id, block[:limit]))
            kind, flags, block = FrameType.CONTINUATION, 0, block[limit:]
        self._out.append(frame(kind, flags | Flag.END_HEADERS, stream.id, block))

    def _pump(self) -> None:
        """Send what waits, a frame a stream in turn, as far as the windows and the socket go."""
        room = _PUMPED_BYTES
        blocked = 0
        while self._queued and room > 0 and self._window > 0 and not self._paused:
            stream_id, stream = next(iter(self._queued.items()))
            # To the end of the line: it comes again when all others had their turn.
            del self._queued[stream_id]
            sent = self._send_some(stream)
            if stream.pending is not None:
                self._queued[stream_id] = stream
            room -= sent
            blocked = 0 if sent else blocked + 1
            if blocked >= len(self._queued):
                return

    def _send_some(self, stream: Stream) -> int:
        """Send a frame of a stream, and its end if that is next; return its bytes of data."""
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
        self._out.append(pack_header(size << 8 | FrameType.DATA, 0, stream.id))
        self._out.append(data)
        self._window -= size
        stream.window -= size
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

    def _drop_pending(self, stream: Stream) -> None:
        if stream.pending is not None:
            self.queued_bytes -= sum(
                len(item) for item in stream.pending if not isinstance(item, Tail)
            )
            stream.pending = None
            self._queued.pop(stream.id, None)

    def _widen(self, increment: int) -> None:
        """Take note of a WINDOW_UPDATE of the connection."""
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
        """Take over the peer's SETTINGS."""
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
