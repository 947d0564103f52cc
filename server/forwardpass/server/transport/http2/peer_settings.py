"""What the peer says of itself (RFC 9113, section 6.5.2)."""

from forwardpass.server.transport.http2.errors import ConnectionFailedError, ErrorCode
from forwardpass.server.transport.http2.frames import (
    DEFAULT_FRAME_BYTES,
    DEFAULT_WINDOW,
    MAX_WINDOW,
    Setting,
    iter_settings,
)

_MAX_FRAME_BYTES = 2**24 - 1


class PeerSettings:
    """The settings that we have to obey."""

    __slots__ = ("frame_bytes", "table_bytes", "window")

    def __init__(self) -> None:
        self.window = DEFAULT_WINDOW
        """Of a new stream."""
        self.frame_bytes = DEFAULT_FRAME_BYTES
        """Largest payload it takes."""
        self.table_bytes = 4096
        """Of its table for our field blocks, which do not use it."""

    def update(self, payload: bytes) -> None:
        """Take over a SETTINGS frame, whose length is a multiple of 6.

        Raises ConnectionFailedError for values that are none.
        """
        for setting, value in iter_settings(payload):
            if setting == Setting.INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW:
                    raise ConnectionFailedError(
                        ErrorCode.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE {value}"
                    )
                self.window = value
            elif setting == Setting.MAX_FRAME_SIZE:
                if not DEFAULT_FRAME_BYTES <= value <= _MAX_FRAME_BYTES:
                    raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, f"MAX_FRAME_SIZE {value}")
                self.frame_bytes = value
            elif setting == Setting.HEADER_TABLE_SIZE:
                self.table_bytes = value
            elif setting == Setting.ENABLE_PUSH and value > 1:
                raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH {value}")
