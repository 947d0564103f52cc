"""One connection of a server: what a client sends becomes streams with news, or an error.

Every rule of RFC 9113 that a peer can break is checked here, and whatever a peer can do in
endless number is counted.
"""

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TypeVar

from forwardpass.server.transport.http2.errors import (
    ConnectionFailedError,
    ErrorCode,
    StreamFailedError,
)
from forwardpass.server.transport.http2.fields import FieldBlock, FieldDecoder
from forwardpass.server.transport.http2.frames import (
    DEFAULT_FRAME_BYTES,
    DEFAULT_WINDOW,
    HEADER_BYTES,
    PREFACE,
    Flag,
    FrameType,
    Setting,
    read_header,
    settings,
    window_update,
)
from forwardpass.server.transport.http2.limits import Limits
from forwardpass.server.transport.http2.stream import Payload, Stream
from forwardpass.server.transport.http2.upkeep import Upkeep

_Read = TypeVar("_Read")

_NO_LIMITS = Limits()
_PLACED_BYTES = 2**15
"""What is less is not worth a read of its own."""
_RUN_BYTES = 2**10
"""Of a frame that may be one of many alike."""
_REMEMBERED = 256
"""Gaps between streams."""

_UNKNOWN = "frames of unknown types"

_DATA = int(FrameType.DATA)
_HEADERS = int(FrameType.HEADERS)
_CONTINUATION = int(FrameType.CONTINUATION)
_LAST_KIND = _CONTINUATION
"""Those above mean nothing."""
_END_STREAM = int(Flag.END_STREAM)
_END_HEADERS = int(Flag.END_HEADERS)
_PADDED = int(Flag.PADDED)
_PRIORITY = int(Flag.PRIORITY)
_ACK = int(Flag.ACK)


class Connection(Upkeep):
    """Feed `receive`, write what `to_send` returns, close when `over`."""

    def __init__(self, limits: Limits = _NO_LIMITS, clock: Callable[[], float] = monotonic) -> None:
        super().__init__(limits, clock)
        self.holding = False
        """While True the peer is granted no more data: calls wait to be looked at."""
        self._decoder = FieldDecoder(limits.max_decoded_bytes)
        self._rest = b""
        """A frame of which a part is still to come."""
        self._cut: _Cut | None = None
        self._block: _Block | None = None
        """A field section whose CONTINUATIONs are still to come."""
        self._gaps: deque[range] = deque(maxlen=_REMEMBERED)
        """Streams that were left out, by their ids."""
        self._credit = DEFAULT_WINDOW
        """Bytes that the peer may still send on all streams together."""
        self._greet()

    @property
    def stream_window(self) -> int:
        """Bytes that a peer may send on a new stream."""
        return self._limits.stream_window

    def receive(self, data: Payload) -> list[Stream]:
        """Read what came; return the streams that are new, or have new data, an end or a reset.

        Stream.received may hold views of data, so that memory is the caller's again only when
        it has dealt with them. Never raises for what a peer sends.
        """
        return self._take(self._read, data)

    def room(self) -> memoryview | None:
        """Return where the next bytes are best read to, because they belong there.

        None where that is not known, or not worth a read of its own. Who reads there says so by
        `receive_placed`, not by `receive`.
        """
        cut = self._cut
        if cut is None or cut.missing < _PLACED_BYTES or cut.stream is None:
            return None
        sink = cut.stream.sink
        return None if sink is None else sink[: cut.missing]

    def receive_placed(self, size: int) -> list[Stream]:
        """Take note of bytes that were read to the start of `room`; return as `receive` does.

        Bytes in the middle of a frame are no news: they are only counted, in `Stream.placed`.
        """
        return self._take(self._read_placed, size)

    def _take(self, read: Callable[[_Read], None], what: _Read) -> list[Stream]:
        self._news = []
        if self.failure is None:
            self._heard = self._clock()
            self._asked_since = None
            try:
                read(what)
            except ConnectionFailedError as error:
                self._fail(error)
        for stream in self._news:
            stream.news = False
        return self._news

    def grant(self, stream: Stream, increment: int) -> None:
        """Let the peer send more on a stream."""
        if increment > 0 and stream.reset is None and not stream.ended:
            stream.credit += increment
            self._out.append(window_update(stream.id, increment))

    def release(self) -> None:
        """Grant again what was held back."""
        self.holding = False
        self._replenish()

    def _greet(self) -> None:
        limits = self._limits
        self._out.append(
            settings(
                {
                    Setting.MAX_CONCURRENT_STREAMS: limits.max_streams,
                    Setting.INITIAL_WINDOW_SIZE: limits.stream_window,
                    Setting.MAX_FRAME_SIZE: limits.max_frame_bytes,
                    Setting.MAX_HEADER_LIST_SIZE: limits.max_list_bytes,
                }
            )
        )
        self._replenish()

    # Reading frames

    def _read(self, data: Payload) -> None:
        begun: float | None = self._heard
        if self._rest:
            # Less than a frame, and none of DATA: that is handed on in parts.
            data = self._rest + data
            self._rest = b""
            begun, self._rest_since = self._rest_since, None
        position = 0
        end = len(data)
        if not self._greeted:
            position = self._read_greeting(data)
        if self._cut is not None:
            position = self._read_on(self._cut, data)
        while end - position >= HEADER_BYTES:
            head, flags, stream_id = read_header(data, position)
            kind = head & 0xFF
            size = head >> 8
            stream_id &= 0x7FFFFFFF
            start = position + HEADER_BYTES
            stop = start + size
            if size > DEFAULT_FRAME_BYTES:
                self._check_size(kind, size)
            if self._block is not None and kind != _CONTINUATION:
                raise ConnectionFailedError(
                    ErrorCode.PROTOCOL_ERROR, "a frame inside a field section"
                )
            try:
                if kind == _DATA:
                    if stop > end:
                        if flags & _PADDED and start == end:
                            break
                        self._on_cut_data(stream_id, flags, data[start:], size)
                        return
                    stream = self._on_data(stream_id, flags, data[start:stop])
                    if stream is not None and size >= _RUN_BYTES and not flags:
                        stop = self._read_run(stream, data, stop, size)
                elif stop > end and kind > _LAST_KIND:
                    self._count_nuisance(_UNKNOWN)
                    self._cut = _Cut(0, size, 0)
                    self._read_on(self._cut, data[start:])
                    return
                elif stop > end:
                    break
                elif kind == _HEADERS:
                    self._on_headers(stream_id, flags, bytes(data[start:stop]))
                else:
                    self._on_other(kind, stream_id, flags, bytes(data[start:stop]))
            except StreamFailedError as error:
                self._fail_stream(error)
            position = stop
        if position < end:
            self._rest = bytes(data[position:])
            self._rest_since = self._heard if position else begun

    def _check_size(self, kind: int, size: int) -> None:
        """Check the length of a frame that is larger than every peer has to take."""
        limits = self._limits
        if size > limits.max_frame_bytes:
            raise ConnectionFailedError(
                ErrorCode.FRAME_SIZE_ERROR,
                f"a frame of {size} bytes, above {limits.max_frame_bytes}",
            )
        # Whatever else means something waits here until it is whole.
        if _DATA < kind <= _LAST_KIND and size > limits.max_block_bytes:
            raise ConnectionFailedError(
                ErrorCode.ENHANCE_YOUR_CALM,
                f"a frame of {size} bytes that are no DATA, above {limits.max_block_bytes}",
            )

    def _read_greeting(self, data: Payload) -> int:
        """Return where the first frame begins, or the end if that cannot be told yet."""
        begun = bytes(data[: len(PREFACE)])
        if not PREFACE.startswith(begun):
            raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, "no preface of HTTP/2")
        if len(data) < len(PREFACE) + HEADER_BYTES:
            self._rest = bytes(data)
            return len(data)
        head, flags, _ = read_header(data, len(PREFACE))
        if head & 0xFF != FrameType.SETTINGS or flags & _ACK:
            raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, "no SETTINGS after the preface")
        self._greeted = True
        self._stalled_since = None
        return len(PREFACE)

    def _on_other(self, kind: int, stream_id: int, flags: int, payload: bytes) -> None:
        """Handle everything but DATA and HEADERS."""
        if kind == FrameType.WINDOW_UPDATE:
            self._on_window_update(stream_id, payload)
        elif kind == _CONTINUATION:
            self._on_continuation(stream_id, flags, payload)
        elif kind == FrameType.RST_STREAM:
            self._on_rst_stream(stream_id, payload)
        elif kind == FrameType.SETTINGS:
            self._on_settings(stream_id, flags, payload)
        elif kind == FrameType.PING:
            self._on_ping(stream_id, flags, payload)
        elif kind == FrameType.GOAWAY:
            self._on_goaway(stream_id, payload)
        elif kind == FrameType.PRIORITY:
            self._on_priority(stream_id, payload)
        elif kind == FrameType.PUSH_PROMISE:
            raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")
        else:
            self._count_nuisance(_UNKNOWN)

    # DATA

    def _on_data(self, stream_id: int, flags: int, payload: Payload) -> Stream | None:
        size = len(payload)
        # First, as of a frame that comes in parts.
        if flags & _PADDED:
            payload = _unpadded(payload)
        stream = self._account(stream_id, size)
        if stream is None:
            return None
        if len(payload) < size:
            self.grant(stream, size - len(payload))
        self._deliver(stream, flags, payload)
        return stream

    def _read_run(self, stream: Stream, data: Payload, position: int, size: int) -> int:
        """Hand on the frames that are as the one before them, but for what they carry.

        A large message is many of them. Returns where they end.
        """
        if stream.expected is not None:
            return position
        sink = stream.sink
        room = min(stream.credit, self._credit)
        if sink is not None:
            room = min(room, len(sink))
        step = HEADER_BYTES + size
        stop = position + min(room // size, (len(data) - position) // step) * step
        header = data[position - step : position - size]
        total = 0
        while position < stop and data[position : position + HEADER_BYTES] == header:
            payload = data[position + HEADER_BYTES : position + step]
            if sink is None:
                stream.received.append(payload)
            else:
                sink[total : total + size] = payload
            total += size
            position += step
        if total:
            stream.credit -= total
            self._spend(total)
            if sink is not None:
                _fill(stream, total)
        return position

    def _on_cut_data(self, stream_id: int, flags: int, payload: Payload, size: int) -> None:
        """Hand on the part that is there of a frame: no large frame waits in memory."""
        content, padding = size, 0
        if flags & _PADDED:
            padding = _padding(payload, size)
            payload = payload[1:]
            content -= 1 + padding
        cut = self._cut = _Cut(flags, content, padding)
        try:
            stream = cut.stream = self._account(stream_id, size)
        except StreamFailedError as error:
            self._fail_stream(error)
        else:
            if stream is not None:
                # Spent as it comes: what is granted meanwhile counts what is to come as lacking.
                stream.credit += content
                self.grant(stream, size - content)
        self._read_on(cut, payload)

    def _read_on(self, cut: "_Cut", data: Payload) -> int:
        """Hand on what came of the frame that was cut; return where the next one begins."""
        part = data[: cut.missing]
        size = len(part)
        cut.missing -= size
        stream = cut.stream
        if stream is not None and self.streams.get(stream.id) is not stream:
            # It was answered, or cut off, meanwhile.
            stream = cut.stream = None
        if stream is not None and (size or not cut.missing):
            stream.credit -= size
            try:
                self._deliver(stream, 0 if cut.missing else cut.flags, part)
            except StreamFailedError as error:
                self._fail_stream(error)
        return size + self._read_padding(cut, len(data) - size)

    def _read_placed(self, size: int) -> None:
        cut = self._cut
        stream = None if cut is None else cut.stream
        if cut is None or stream is None:
            raise RuntimeError("bytes were placed where there is no room")
        cut.missing -= size
        stream.credit -= size
        _fill(stream, size)
        if cut.missing and stream.sink is not None and stream.expected is None:
            return
        try:
            self._delivered(stream, 0 if cut.missing else cut.flags, size)
        except StreamFailedError as error:
            self._fail_stream(error)
        self._read_padding(cut, 0)

    def _read_padding(self, cut: "_Cut", came: int) -> int:
        """Drop what came behind the content, once that is whole; return how much it was."""
        if cut.missing:
            return 0
        cut.stream = None
        dropped = min(cut.padding, came)
        cut.padding -= dropped
        if not cut.padding:
            self._cut = None
        return dropped

    def _account(self, stream_id: int, size: int) -> Stream | None:
        """Count the bytes of a DATA frame; return its stream, None if they are to be dropped."""
        self._spend(size)
        stream = self.streams.get(stream_id)
        if stream is None or stream.ended:
            self._check_closed(stream_id, stream, "DATA")
            return None
        stream.credit -= size
        if stream.credit < 0:
            raise StreamFailedError(
                stream_id, ErrorCode.FLOW_CONTROL_ERROR, "data above the stream's window"
            )
        return stream

    def _spend(self, size: int) -> None:
        """Count bytes of DATA against the connection's window."""
        self._credit -= size
        if self._credit < self._limits.connection_window >> 1:
            if self._credit < 0:
                raise ConnectionFailedError(
                    ErrorCode.FLOW_CONTROL_ERROR, "data above the connection's window"
                )
            if not self.holding:
                self._replenish()

    def _deliver(self, stream: Stream, flags: int, payload: Payload) -> None:
        """Hand on content of DATA, to where the layer above wants it if it said so."""
        size = len(payload)
        sink = stream.sink
        if not size:
            if not flags & _END_STREAM:
                self._count_nuisance("empty DATA frames")
        elif sink is None:
            stream.received.append(payload)
        else:
            fits = min(size, len(sink))
            sink[:fits] = payload[:fits]
            _fill(stream, fits)
            if fits < size:
                stream.received.append(payload[fits:])
        self._delivered(stream, flags, size)

    def _delivered(self, stream: Stream, flags: int, size: int) -> None:
        if stream.expected is not None:
            stream.expected -= size
            if stream.expected < 0 or (flags & _END_STREAM and stream.expected):
                raise StreamFailedError(
                    stream.id, ErrorCode.PROTOCOL_ERROR, "content-length is not that of the data"
                )
        if flags & _END_STREAM:
            stream.ended = True
        if not stream.news:
            stream.news = True
            self._news.append(stream)

    def _replenish(self) -> None:
        increment = self._limits.connection_window - self._credit
        if increment > 0:
            self._credit += increment
            self._out.append(window_update(0, increment))

    # Field sections

    def _on_headers(self, stream_id: int, flags: int, payload: bytes) -> None:
        if not stream_id & 1:
            raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}")
        if flags & (_PADDED | _PRIORITY):
            if flags & _PADDED:
                payload = bytes(_unpadded(payload))
            if flags & _PRIORITY:
                if len(payload) < 5:
                    raise ConnectionFailedError(
                        ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority"
                    )
                payload = payload[5:]
        if not flags & _END_HEADERS:
            self._block = _Block(stream_id, flags, payload)
            self._stalled_since = self._heard
            return
        self._on_block(stream_id, flags, payload)

    def _on_continuation(self, stream_id: int, flags: int, payload: bytes) -> None:
        block = self._block
        if block is None or block.stream_id != stream_id:
            raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        block.parts.append(payload)
        block.size += len(payload)
        limits = self._limits
        if block.size > limits.max_block_bytes or len(block.parts) > limits.max_continuations + 1:
            raise ConnectionFailedError(
                ErrorCode.ENHANCE_YOUR_CALM,
                f"a field section in more than {limits.max_block_bytes} bytes or "
                f"{limits.max_continuations} CONTINUATIONs",
            )
        if flags & _END_HEADERS:
            self._block = None
            self._stalled_since = None
            self._on_block(stream_id, block.flags, b"".join(block.parts))

    def _on_block(self, stream_id: int, flags: int, block: bytes) -> None:
        # Before everything else: blocks of refused streams change the table, too.
        fields = self._decoder.decode(block)
        if stream_id <= self._last_id:
            self._on_trailers(stream_id, flags, fields)
            return
        if stream_id - self._last_id > 2:
            self._gaps.append(range((self._last_id + 1) | 1, stream_id, 2))
        self._last_id = stream_id
        if stream_id > self._accepted:
            return
        if len(self.streams) >= self._limits.max_streams:
            raise StreamFailedError(stream_id, ErrorCode.REFUSED_STREAM, "too many streams")
        if fields.fault or not fields.is_request:
            text = fields.fault or "a request without pseudo fields"
            raise StreamFailedError(stream_id, ErrorCode.PROTOCOL_ERROR, text)
        stream = Stream(stream_id, fields, self._limits.stream_window, self.peer.window)
        if fields.length is not None:
            stream.expected = fields.length
        self.streams[stream_id] = stream
        if flags & _END_STREAM:
            if stream.expected:
                raise StreamFailedError(
                    stream_id, ErrorCode.PROTOCOL_ERROR, "content-length without data"
                )
            stream.ended = True
        stream.news = True
        self._news.append(stream)

    def _on_trailers(self, stream_id: int, flags: int, fields: FieldBlock) -> None:
        stream = self.streams.get(stream_id)
        if stream is None or stream.ended:
            if any(stream_id in gap for gap in self._gaps):
                raise ConnectionFailedError(
                    ErrorCode.PROTOCOL_ERROR, f"stream {stream_id} opened after a later one"
                )
            self._check_closed(stream_id, stream, "HEADERS")
            return
        if fields.fault or (fields.fields and fields.is_request) or not flags & _END_STREAM:
            text = fields.fault or "trailers with pseudo fields or without END_STREAM"
            raise StreamFailedError(stream_id, ErrorCode.PROTOCOL_ERROR, text)
        stream.trailers = fields
        self._deliver(stream, _END_STREAM, b"")

    def _check_closed(self, stream_id: int, stream: Stream | None, what: str) -> None:
        """Tell what a frame on a stream means that takes none; return if it is to be dropped."""
        if stream_id > self._accepted or stream_id in self._our_resets:
            return
        if stream_id > self._last_id or not stream_id & 1:
            raise ConnectionFailedError(
                ErrorCode.PROTOCOL_ERROR, f"{what} on stream {stream_id}, which is not open"
            )
        if stream is None and what == "HEADERS":
            raise ConnectionFailedError(
                ErrorCode.STREAM_CLOSED, f"{what} on stream {stream_id}, which is closed"
            )
        raise StreamFailedError(stream_id, ErrorCode.STREAM_CLOSED, f"{what} after the end")


class _Block:
    """A field section that comes in several frames."""

    __slots__ = ("flags", "parts", "size", "stream_id")

    def __init__(self, stream_id: int, flags: int, payload: bytes) -> None:
        self.stream_id = stream_id
        self.flags = flags
        self.parts = [payload]
        self.size = len(payload)


class _Cut:
    """A DATA frame of which a part is still to come."""

    __slots__ = ("flags", "missing", "padding", "stream")

    def __init__(self, flags: int, missing: int, padding: int) -> None:
        self.flags = flags
        self.missing = missing
        """Bytes of its content."""
        self.padding = padding
        """Bytes behind that, which mean nothing."""
        self.stream: Stream | None = None
        """Who gets the content; None if nobody does."""


def _fill(stream: Stream, size: int) -> None:
    """Take note that so many bytes are in the stream's sink."""
    if stream.sink is not None:
        stream.sink = stream.sink[size:] if size < len(stream.sink) else None
    stream.placed += size


def _padding(payload: Payload, size: int) -> int:
    """Return how much of a payload of so many bytes is padding, by its first byte."""
    if not payload or payload[0] >= size:
        raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
    return payload[0]


def _unpadded(payload: Payload) -> Payload:
    return payload[1 : len(payload) - _padding(payload, len(payload))]
