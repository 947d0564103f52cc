"""What a peer may do on one connection."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on the memory and the CPU that one connection can take."""

    max_streams: int = 1024
    """Most streams open at a time; one above it is refused, for the peer to try again."""
    stream_window: int = 2**20
    """Bytes that a peer may send on a stream before it is granted more."""
    connection_window: int = 2**22
    """Bytes that it may send on all streams together before they are taken note of."""
    max_frame_bytes: int = 2**20
    """Of a DATA frame. No frame is waited for as a whole, and every one costs a turn of Python."""
    max_list_bytes: int = 2**14
    """Told to the peer as the largest field section; what is above is for the layer above."""
    max_decoded_bytes: int = 2**16
    """Of a field section: above it the connection ends."""
    max_block_bytes: int = 2**16
    """Of a field section as it is sent, in one HEADERS frame and its CONTINUATIONs; above it the
    connection ends, so that it is far above what a call may have."""
    max_continuations: int = 8
    """Of one field section."""
    resets_per_s: float = 200.0
    """Streams that the peer cancels, breaks or opens above the limit; more end the connection.
    A burst of twice `max_streams` is let pass."""
    nuisances_per_s: float = 100.0
    """Frames that cost work and bring nothing, beside four for each stream; a burst of 1,000 is
    let pass."""
    min_ping_s: float = 300.0
    """Between two PINGs without an answer to a call in between; after `max_ping_strikes` that
    came sooner the connection ends."""
    max_ping_strikes: int = 2
    handshake_s: float = 10.0
    """For the preface and the first SETTINGS, and for a field section once it has begun."""
    keepalive_s: float | None = 60.0
    """Silence after which the peer is asked for a sign of life; None: never."""
    keepalive_timeout_s: float = 20.0
    """For its answer."""
