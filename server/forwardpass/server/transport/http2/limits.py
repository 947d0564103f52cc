"""The limits on one connection."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """Bounds on the memory and the CPU that one connection can take."""

    max_streams: int = 1024
    """Maximum number of open streams; further ones are refused so that the peer can try again."""
    stream_window: int = 2**20
    """Flow-control window of a stream, in bytes."""
    connection_window: int = 2**22
    """Flow-control window of all streams together, in bytes."""
    max_frame_bytes: int = 2**20
    """Maximum size of a DATA frame, in bytes. Large because each frame costs Python code and none
    is buffered as a whole."""
    max_list_bytes: int = 2**14
    """Maximum size of a field section, in bytes, that is announced to the peer; the layer above
    answers larger ones."""
    max_decoded_bytes: int = 2**16
    """Maximum size of a decoded field section, in bytes; a larger one ends the connection."""
    max_block_bytes: int = 2**16
    """Maximum size of an encoded field section, in bytes: a HEADERS frame and its CONTINUATIONs. A
    larger one ends the connection, so this is far above what a call may have."""
    max_continuations: int = 8
    """Maximum number of CONTINUATION frames in a field section."""
    resets_per_s: float = 200.0
    """Maximum rate of streams that the peer cancels, breaks or opens above the limit, per second;
    more end the connection. Bursts of twice `max_streams` are allowed."""
    spared_age_s: float = 0.01
    """Age from which a stream that the peer cancels is not counted, in seconds. A balancer cancels
    each call whose deadline is over, those of all its callers on one connection; and a stream that
    keeps one of `max_streams` places for that long bounds the rate by itself."""
    nuisances_per_s: float = 100.0
    """Maximum rate of frames that cost work and bring nothing, per second, beside four for each
    stream; bursts of 1,000 are allowed."""
    min_ping_s: float = 1.0
    """Minimum time between two PINGs without an answer to a call in between, in seconds; after
    `max_ping_strikes` that came sooner the connection ends. gRPC's own servers ask for 300 s, and
    end calls of a few seconds behind a balancer that finds dead servers by pinging."""
    max_ping_strikes: int = 2
    handshake_s: float = 10.0
    """Maximum time for the preface and the first SETTINGS, and for a field section once it has
    begun, in seconds."""
    keepalive_s: float | None = 60.0
    """Silence after which a PING is sent to the peer, in seconds; None: never."""
    keepalive_timeout_s: float = 20.0
    """Maximum time for the answer to that PING, in seconds."""
