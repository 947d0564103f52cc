"""The upkeep of a connection: all frames that carry no request, and abuse counters."""

from collections import deque
from collections.abc import Callable

from forwardpass.server.transport.http2.allowance import Allowance
from forwardpass.server.transport.http2.errors import (
    ConnectionFailedError,
    ErrorCode,
    StreamFailedError,
)
from forwardpass.server.transport.http2.frames import (
    MAX_STREAM_ID,
    SETTINGS_ACK,
    Flag,
    goaway,
    ping,
    read_u32,
    rst_stream,
)
from forwardpass.server.transport.http2.limits import ConnectionLimits
from forwardpass.server.transport.http2.sending import Sending
from forwardpass.server.transport.http2.stream import Stream

_REMEMBERED = 256
"""Maximum number of remembered streams that we reset: frames that the peer sent on them before
it knew are no error."""
_LEAVING = b"leaving\0"
_KEEPALIVE = b"alive?\0\0"
"""The opaque bytes of our PINGs."""
_ACK = int(Flag.ACK)


class Upkeep(Sending):
    """Answers PING and SETTINGS, ends streams and the connection, and counts abuse."""

    def __init__(self, limits: ConnectionLimits, clock: Callable[[], float]) -> None:
        super().__init__()
        self._limits = limits
        self._clock = clock
        self.failure: ConnectionFailedError | None = None
        """Why the connection ends, if the peer is at fault."""
        self.ending = False
        """Whether it is over, or will be when its last stream is answered."""
        self._news: list[Stream] = []
        self._last_id = 0
        """The highest stream id that the peer has opened."""
        self._accepted = MAX_STREAM_ID
        """The highest stream id that is answered; lowered by the last GOAWAY."""
        self._leaving_since: float | None = None
        now = clock()
        self._resets = Allowance(max(200, 2 * limits.max_streams), limits.resets_per_s, clock)
        self._nuisances = Allowance(1000, limits.nuisances_per_s, clock)
        self._earned_id = 0
        self._our_resets: deque[int] = deque(maxlen=_REMEMBERED)
        self._pinged = float("-inf")
        self._ping_strikes = 0
        self.heard = now
        """When the latest bytes arrived, by the clock."""
        self._asked_since: float | None = None
        """Time of our PING that is not answered yet."""
        self._stalled_since: float | None = now
        """Time since which the preface or a field section is incomplete."""
        self._rest_since: float | None = None
        """Time since which a frame that is only readable as a whole is incomplete."""
        self._greeted = False
        """Whether the preface and the first SETTINGS have arrived."""

    @property
    def over(self) -> bool:
        """Whether the connection is to be closed once everything is written."""
        return self.ending and (self.failure is not None or not self.streams)

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """Reset a stream; what the peer still sends on it is dropped."""
        if stream.id in self.streams:
            stream.reset = code
            self._forget(stream)
            self._our_resets.append(stream.id)
            self.output.append(rst_stream(stream.id, code))

    def leave(self) -> None:
        """Announce that the connection ends; streams that the client has begun continue."""
        if self._leaving_since is None and self.failure is None:
            self._leaving_since = self._clock()
            # Not the last id: streams that the client has begun may still be in transit. When it
            # answers the PING, it has seen this GOAWAY.
            self.output.append(goaway(MAX_STREAM_ID, ErrorCode.NO_ERROR))
            self.output.append(ping(_LEAVING))

    def leave_now(self) -> None:
        """Accept no more streams: GOAWAY reports to the client which ones are dropped."""
        if self._accepted == MAX_STREAM_ID and self.failure is None:
            self._accepted = self._last_id
            self.ending = True
            self.output.append(goaway(self._last_id, ErrorCode.NO_ERROR))

    def tick(self) -> list[Stream]:
        """Check the time limits, a few times a second; return the streams that were reset."""
        self._news = []
        if self.failure is None:
            self._look_at_clock(self._clock())
        for stream in self._news:
            stream.news = False
        return self._news

    def resume(self) -> None:
        """Send data again, and restart the keepalive: nothing was read while paused."""
        super().resume()
        self.heard = self._clock()
        self._asked_since = None

    def _look_at_clock(self, now: float) -> None:
        limits = self._limits
        begun = [since for since in (self._stalled_since, self._rest_since) if since is not None]
        if begun and now - min(begun) > limits.handshake_s:
            what = "frame or field section" if self._greeted else "preface and SETTINGS"
            self._fail(
                ConnectionFailedError(
                    ErrorCode.SETTINGS_TIMEOUT if not self._greeted else ErrorCode.PROTOCOL_ERROR,
                    f"{what} not complete after {limits.handshake_s:g} s",
                )
            )
        if self._leaving_since is not None and now - self._leaving_since > 1.0:
            self.leave_now()
        # While the peer takes no answers, nothing is read and our PING would not reach it.
        if limits.keepalive_s is None or self.failure is not None or self._paused:
            return
        if self._asked_since is not None:
            if now - self._asked_since > limits.keepalive_timeout_s:
                self._fail(ConnectionFailedError(ErrorCode.NO_ERROR, "no answer to a PING"))
        elif now - self.heard > limits.keepalive_s:
            self._asked_since = now
            self.output.append(ping(_KEEPALIVE))

    def _fail(self, error: ConnectionFailedError) -> None:
        self.failure = error
        self.ending = True
        # Never above what an earlier GOAWAY said (RFC 9113, section 6.8).
        self.output.append(goaway(min(self._last_id, self._accepted), error.code, error.text))
        for stream in list(self.streams.values()):
            self._lose(stream, error.code)

    # Frames

    def _on_window_update(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFailedError(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE not of 4 bytes")
        increment = read_u32(payload)
        if not stream_id:
            if not increment:
                raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
            self._widen(increment)
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            # The stream may have closed while the frame was in transit.
            self._check_not_idle(stream_id, "WINDOW_UPDATE")
        elif not increment:
            raise StreamFailedError(stream_id, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
        else:
            self._widen_stream(stream, increment)

    def _on_rst_stream(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFailedError(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM not of 4 bytes")
        stream = self.streams.get(stream_id)
        if stream is None:
            self._check_not_idle(stream_id, "RST_STREAM")
            self._count_nuisance("RST_STREAM of closed streams")
            return
        code = read_u32(payload)
        known = ErrorCode(code) if code in ErrorCode._value2member_map_ else ErrorCode.CANCEL
        self._lose(stream, known)
        if self.heard - stream.opened < self._limits.spared_age_s:
            self._count_reset()

    def _on_settings(self, stream_id: int, flags: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if len(payload) % 6 or (flags & _ACK and payload):
            raise ConnectionFailedError(
                ErrorCode.FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes"
            )
        self._count_nuisance("SETTINGS")
        if not flags & _ACK:
            self._obey(payload)
            self.output.append(SETTINGS_ACK)

    def _on_ping(self, stream_id: int, flags: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionFailedError(ErrorCode.FRAME_SIZE_ERROR, "PING not of 8 bytes")
        self._count_nuisance("PING")
        if flags & _ACK:
            if payload == _LEAVING and self._leaving_since is not None:
                self.leave_now()
            return
        self.output.append(ping(payload, ack=True))
        if self.answered:
            self._ping_strikes = 0
        elif self.heard - self._pinged < self._limits.min_ping_s:
            self._ping_strikes += 1
            if self._ping_strikes > self._limits.max_ping_strikes:
                # gRPC's clients know this text, and ping less often from then on.
                raise ConnectionFailedError(ErrorCode.ENHANCE_YOUR_CALM, "too_many_pings")
        self.answered = False
        self._pinged = self.heard

    def _on_goaway(self, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise ConnectionFailedError(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY under 8 bytes")
        self._count_nuisance("GOAWAY")
        self.ending = True

    def _on_priority(self, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        self._count_nuisance("PRIORITY")
        if len(payload) != 5:
            raise StreamFailedError(
                stream_id, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY not of 5 bytes"
            )

    def _check_not_idle(self, stream_id: int, what: str) -> None:
        if stream_id > self._last_id or not stream_id & 1:
            raise ConnectionFailedError(
                ErrorCode.PROTOCOL_ERROR, f"{what} on stream {stream_id}, which is idle"
            )

    # Ends of streams

    def _fail_stream(self, error: StreamFailedError) -> None:
        """Reset a stream for a fault of the peer, and count it."""
        stream = self.streams.get(error.stream_id)
        if stream is not None:
            self._lose(stream, error.code)
        self._our_resets.append(error.stream_id)
        self.output.append(rst_stream(error.stream_id, error.code))
        self._count_reset()

    def _lose(self, stream: Stream, code: ErrorCode) -> None:
        """Forget a stream that was reset, and report it."""
        stream.reset = code
        self._forget(stream)
        if not stream.news:
            stream.news = True
            self._news.append(stream)

    def _forget(self, stream: Stream) -> None:
        self._drop_pending(stream)
        self.streams.pop(stream.id, None)

    def _close(self, stream: Stream) -> None:
        self.answered = True
        del self.streams[stream.id]
        if not stream.ended:
            # The answer is complete; the request need not be (RFC 9113, section 8.1).
            self._our_resets.append(stream.id)
            self.output.append(rst_stream(stream.id, ErrorCode.NO_ERROR))

    # Counting

    def _count_reset(self) -> None:
        if not self._resets.spend():
            raise ConnectionFailedError(ErrorCode.ENHANCE_YOUR_CALM, "too many streams reset")

    def _count_nuisance(self, what: str) -> None:
        self._nuisances.earn(2 * (self._last_id - self._earned_id))
        self._earned_id = self._last_id
        if not self._nuisances.spend():
            raise ConnectionFailedError(ErrorCode.ENHANCE_YOUR_CALM, f"too many {what}")
