"""One server connection: turns what a client sends into changed streams, or an error.

Every rule of RFC 9113 that a peer can break is checked here, and whatever a peer can repeat
without end is counted.
"""

from collections import deque
from collections.abc import Callable
from time import monotonic

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
    SettingId,
    read_header,
    settings,
    window_update,
)
from forwardpass.server.transport.http2.limits import ConnectionLimits
from forwardpass.server.transport.http2.stream import Payload, Stream
from forwardpass.server.transport.http2.upkeep import Upkeep

_NO_LIMITS = ConnectionLimits()
_PLACED_BYTES = 2**15
"""Minimum size of a read that goes straight to a sink, in bytes."""
_REMEMBERED = 256
"""Maximum number of remembered gaps between stream ids."""

_UNKNOWN = "frames of unknown types"

_DATA = int(FrameType.DATA)
_HEADERS = int(FrameType.HEADERS)
_CONTINUATION = int(FrameType.CONTINUATION)
_LAST_KIND = _CONTINUATION
"""The highest frame type with a meaning."""
_END_STREAM = int(Flag.END_STREAM)
_END_HEADERS = int(Flag.END_HEADERS)
_PADDED = int(Flag.PADDED)
_PRIORITY = int(Flag.PRIORITY)
_ACK = int(Flag.ACK)


class Connection(Upkeep):
    """Feed `receive`, write what `to_send` returns, close when `over`."""

    def __init__(
        self, limits: ConnectionLimits = _NO_LIMITS, clock: Callable[[], float] = monotonic
    ) -> None:
        super().__init__(limits, clock)
        self.holding = False
        """Whether the peer is granted no more data, because calls wait to be read."""
        self._decoder = FieldDecoder(limits.max_decoded_bytes)
        self._rest = b""
        """The start of a frame whose rest is still to come."""
        self.cut: _Cut | None = None
        """A DATA frame whose rest is still to come."""
        self._block: _Block | None = None
        """A field section whose CONTINUATIONs are still to come."""
        self._gaps: deque[range] = deque(maxlen=_REMEMBERED)
        """Ranges of stream ids that the peer skipped."""
        self._credit = DEFAULT_WINDOW
        """Bytes that the peer may still send on all streams together."""
        self._low_credit = limits.connection_window >> 1
        """Minimum of it, in bytes; less is replenished."""
        self._greet()

    @property
    def stream_window(self) -> int:
        """Bytes that a peer may send on a new stream."""
        return self._limits.stream_window

    def receive(self, data: Payload) -> list[Stream]:
        """Read bytes; return the streams that are new or have new data, an end or a reset.

        Stream.received may hold views of data: the caller must not reuse that memory before it
        has read them. Never raises for what a peer sends.
        """
        self._news = []
        if self.failure is None:
            self.heard = self._clock()
            self._asked_since = None
            try:
                position = 0
                if self._greeted and not (self._rest or self.cut or self._block):
                    position = self._read_usual(data, 0)
                if position < len(data):
                    self._read(data, position)
            except ConnectionFailedError as error:
                self._fail(error)
        for stream in self._news:
            stream.news = False
        return self._news

    def room(self) -> memoryview | None:
        """Return the memory to read the next bytes into, because they belong there.

        None if that is not known, or too small for a read of its own. Report bytes read there
        with `receive_placed`, not with `receive`.
        """
        cut = self.cut
        if cut is None or cut.missing < _PLACED_BYTES or cut.stream is None:
            return None
        stream = cut.stream
        if stream.sink is None:
            return None
        return stream.sink[stream.placed : stream.placed + cut.missing]

    def receive_placed(self, size: int) -> list[Stream]:
        """Account for bytes that were read to the start of `room`; return as `receive` does.

        Bytes in the middle of a frame return no stream; `Stream.placed` counts them.
        """
        self._news = []
        if self.failure is None:
            self.heard = self._clock()
            self._asked_since = None
            try:
                self._read_placed(size)
            except ConnectionFailedError as error:
                self._fail(error)
        for stream in self._news:
            stream.news = False
        return self._news

    def grant(self, stream: Stream, increment: int) -> None:
        """Let the peer send more on a stream."""
        if increment > 0 and stream.reset is None and not stream.ended:
            stream.credit += increment
            self.output.append(window_update(stream.id, increment))

    def release(self) -> None:
        """Grant what was held back."""
        self.holding = False
        self._replenish()

    def _greet(self) -> None:
        limits = self._limits
        self.output.append(
            settings(
                {
                    SettingId.MAX_CONCURRENT_STREAMS: limits.max_streams,
                    SettingId.INITIAL_WINDOW_SIZE: limits.stream_window,
                    SettingId.MAX_FRAME_SIZE: limits.max_frame_bytes,
                    SettingId.MAX_HEADER_LIST_SIZE: limits.max_list_bytes,
                }
            )
        )
        self._replenish()

    # Reading frames

    def _read(self, data: Payload, position: int) -> None:
        """Read from a position, which is 0 if anything of the last read is incomplete."""
        begun: float | None = self.heard
        if self._rest:
            # Less than a frame, and not of DATA, which is passed on in parts.
            data = self._rest + data
            self._rest = b""
            begun, self._rest_since = self._rest_since, None
        end = len(data)
        if not self._greeted:
            position = self._read_greeting(data)
        if self.cut is not None:
            position = self._read_on(self.cut, data)
        while end - position >= HEADER_BYTES:
            head, flags, stream_id = read_header(data, position)
            kind = head & 0xFF
            size = head >> 8
            stream_id &= 0x7FFFFFFF
            start = position + HEADER_BYTES
            stop = start + size
            if kind <= _HEADERS and stop <= end and self._block is None:
                further = self._read_usual(data, position)
                if further > position:
                    position = further
                    continue
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
                    self._on_data(stream_id, flags, data[start:stop])
                elif stop > end and kind > _LAST_KIND:
                    self._count_nuisance(_UNKNOWN)
                    self.cut = _Cut(0, size, 0)
                    self._read_on(self.cut, data[start:])
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
            self._rest_since = self.heard if position else begun

    def _read_usual(self, data: Payload, position: int) -> int:
        """Read frames as nearly all are: DATA in time, and fields that were decoded before.

        The same as `_on_headers` and `_on_data`, without their calls, each of which costs.
        position: Where a frame begins. Returns where the first one begins that is of anything else.
        """
        streams, news, known = self.streams, self._news, self._decoder.known
        accepted, least, largest, heard = (
            self._accepted,
            self._low_credit,
            self._limits.max_frame_bytes,
            self.heard,
        )
        last_id, credit = self._last_id, self._credit
        end = len(data)
        last_head = end - HEADER_BYTES
        while position <= last_head:
            head, flags, stream_id = read_header(data, position)
            size = head >> 8
            start = position + HEADER_BYTES
            stop = start + size
            if stop > end or not 0 < size <= largest:
                break
            if head & 0xFF == _DATA:
                stream = streams.get(stream_id)
                if (
                    stream is None
                    or stream.ended
                    or stream.credit < size
                    or flags > _END_STREAM
                    or credit - size < least
                ):
                    break
                if stream.expected is not None:
                    left = stream.expected - size
                    if left < 0 or (left and flags):
                        break
                    stream.expected = left
                credit -= size
                stream.credit -= size
                if stream.sink is None:
                    stream.received.append(data[start:stop])
                else:
                    _place(stream, data[start:stop])
                if flags:
                    stream.ended = True
                if not stream.news:
                    stream.news = True
                    news.append(stream)
            elif head & 0xFF == _HEADERS and flags == _END_HEADERS and stream_id == last_id + 2:
                fields = known(bytes(data[start:stop]))
                if (
                    fields is None
                    or not fields.usual
                    or stream_id > accepted
                    or len(streams) >= self._limits.max_streams
                ):
                    break
                last_id = stream_id
                stream = streams[stream_id] = Stream(
                    stream_id, fields, self._limits.stream_window, self.peer.window, heard
                )
                stream.expected = fields.length
                stream.news = True
                news.append(stream)
            else:
                break
            position = stop
        self._last_id, self._credit = last_id, credit
        return position

    def _check_size(self, kind: int, size: int) -> None:
        """Check the length of a frame above what every peer must accept."""
        limits = self._limits
        if size > limits.max_frame_bytes:
            raise ConnectionFailedError(
                ErrorCode.FRAME_SIZE_ERROR,
                f"a frame of {size} bytes, above {limits.max_frame_bytes}",
            )
        # Other frames with a meaning are buffered until they are whole.
        if _DATA < kind <= _LAST_KIND and size > limits.max_block_bytes:
            raise ConnectionFailedError(
                ErrorCode.ENHANCE_YOUR_CALM,
                f"a frame of {size} bytes that is not DATA, above {limits.max_block_bytes}",
            )

    def _read_greeting(self, data: Payload) -> int:
        """Return where the first frame begins, or the end if that is not known yet."""
        begun = bytes(data[: len(PREFACE)])
        if not PREFACE.startswith(begun):
            raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, "no HTTP/2 preface")
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

    def _on_data(self, stream_id: int, flags: int, payload: Payload) -> None:
        size = len(payload)
        # Padding is checked before the windows, as for a frame that arrives in parts.
        if flags & _PADDED:
            payload = _unpadded(payload)
        stream = self._account(stream_id, size)
        if stream is None:
            return
        if len(payload) < size:
            self.grant(stream, size - len(payload))
        self._deliver(stream, flags, payload)

    def _on_cut_data(self, stream_id: int, flags: int, payload: Payload, size: int) -> None:
        """Pass on the available part of a frame: no large frame is buffered."""
        content, padding = size, 0
        if flags & _PADDED:
            padding = _padding(payload, size)
            payload = payload[1:]
            content -= 1 + padding
        cut = self.cut = _Cut(flags, content, padding)
        try:
            stream = cut.stream = self._account(stream_id, size)
        except StreamFailedError as error:
            self._fail_stream(error)
        else:
            if stream is not None:
                # Spent as it arrives; grants made in between count the missing part as unspent.
                stream.credit += content
                self.grant(stream, size - content)
        self._read_on(cut, payload)

    def _read_on(self, cut: "_Cut", data: Payload) -> int:
        """Pass on more of the frame that was cut; return where the next one begins."""
        part = data[: cut.missing]
        size = len(part)
        cut.missing -= size
        stream = cut.stream
        if stream is not None and self.streams.get(stream.id) is not stream:
            # Answered or reset in the meantime.
            stream = cut.stream = None
        if stream is not None and (size or not cut.missing):
            stream.credit -= size
            try:
                self._deliver(stream, 0 if cut.missing else cut.flags, part)
            except StreamFailedError as error:
                self._fail_stream(error)
        return size + self._read_padding(cut, len(data) - size)

    def _read_placed(self, size: int) -> None:
        cut = self.cut
        stream = None if cut is None else cut.stream
        if cut is None or stream is None:
            raise RuntimeError("receive_placed without a room to read into")
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
        """Drop padding, once the content is whole; return how many bytes it was."""
        if cut.missing:
            return 0
        cut.stream = None
        dropped = min(cut.padding, came)
        cut.padding -= dropped
        if not cut.padding:
            self.cut = None
        return dropped

    def _account(self, stream_id: int, size: int) -> Stream | None:
        """Count the bytes of a DATA frame; return its stream, or None to drop them."""
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
        if self._credit < self._low_credit:
            if self._credit < 0:
                raise ConnectionFailedError(
                    ErrorCode.FLOW_CONTROL_ERROR, "data above the connection's window"
                )
            if not self.holding:
                self._replenish()

    def _deliver(self, stream: Stream, flags: int, payload: Payload) -> None:
        """Pass on content of DATA, into the stream's sink if it has one."""
        size = len(payload)
        if not size:
            if not flags & _END_STREAM:
                self._count_nuisance("empty DATA frames")
        else:
            _place(stream, payload)
        self._delivered(stream, flags, size)

    def _delivered(self, stream: Stream, flags: int, size: int) -> None:
        if stream.expected is not None:
            stream.expected -= size
            if stream.expected < 0 or (flags & _END_STREAM and stream.expected):
                raise StreamFailedError(
                    stream.id, ErrorCode.PROTOCOL_ERROR, "content-length does not match the data"
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
            self.output.append(window_update(0, increment))

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
            self._stalled_since = self.heard
            return
        self._on_block(stream_id, flags, payload)

    def _on_continuation(self, stream_id: int, flags: int, payload: bytes) -> None:
        block = self._block
        if block is None or block.stream_id != stream_id:
            raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
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
        # Before everything else: blocks of refused streams change the table too.
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
        window = self._limits.stream_window
        stream = Stream(stream_id, fields, window, self.peer.window, self.heard)
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
        """Raise for a frame on a stream that is not open; return if the frame is to be dropped."""
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
    """A field section that arrives in several frames."""

    __slots__ = ("flags", "parts", "size", "stream_id")

    def __init__(self, stream_id: int, flags: int, payload: bytes) -> None:
        self.stream_id = stream_id
        self.flags = flags
        self.parts = [payload]
        self.size = len(payload)


class _Cut:
    """A DATA frame whose rest is still to come."""

    __slots__ = ("flags", "missing", "padding", "stream")

    def __init__(self, flags: int, missing: int, padding: int) -> None:
        self.flags = flags
        self.missing = missing
        """Bytes of content that are still to come."""
        self.padding = padding
        """Bytes of padding after the content."""
        self.stream: Stream | None = None
        """The stream that gets the content; None if it is dropped."""


def _place(stream: Stream, payload: Payload) -> None:
    """Pass on content, into the stream's sink as far as it fits."""
    sink = stream.sink
    if sink is None:
        stream.received.append(payload)
        return
    size = len(payload)
    placed = stream.placed
    filled = placed + size
    room = len(sink)
    if filled < room:
        sink[placed:filled] = payload
        stream.placed = filled
        return
    fits = room - placed
    sink[placed:] = payload[:fits]
    stream.placed, stream.sink = room, None
    if fits < size:
        stream.received.append(payload[fits:])


def _fill(stream: Stream, size: int) -> None:
    """Account for bytes that are in the stream's sink."""
    stream.placed += size
    if stream.sink is not None and stream.placed == len(stream.sink):
        stream.sink = None


def _padding(payload: Payload, size: int) -> int:
    """Return how much of a payload of `size` bytes is padding, by its first byte."""
    if not payload or payload[0] >= size:
        raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
    return payload[0]


def _unpadded(payload: Payload) -> Payload:
    return payload[1 : len(payload) - _padding(payload, len(payload))]
