"""The peer's SETTINGS (RFC 9113, section 6.5.2)."""

from forwardpass.server.transport.http2.errors import ConnectionFailedError, ErrorCode
from forwardpass.server.transport.http2.frames import (
    DEFAULT_FRAME_BYTES,
    DEFAULT_WINDOW,
    MAX_WINDOW,
    SettingId,
    iter_settings,
)

_MAX_FRAME_BYTES = 2**24 - 1


class PeerSettings:
    """The settings of the peer that bind the server."""

    __slots__ = ("frame_bytes", "table_bytes", "window")

    def __init__(self) -> None:
        self.window = DEFAULT_WINDOW
        """Initial window of a new stream, in bytes."""
        self.frame_bytes = DEFAULT_FRAME_BYTES
        """Maximum size of a frame's payload, in bytes."""
        self.table_bytes = 4096
        """Maximum size of the dynamic table, in bytes, which our field blocks do not use."""

    def update(self, payload: bytes) -> None:
        """Apply a SETTINGS frame, whose length is a multiple of 6.

        Raises ConnectionFailedError for invalid values.
        """
        for setting, value in iter_settings(payload):
            if setting == SettingId.INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW:
                    raise ConnectionFailedError(
                        ErrorCode.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE {value}"
                    )
                self.window = value
            elif setting == SettingId.MAX_FRAME_SIZE:
                if not DEFAULT_FRAME_BYTES <= value <= _MAX_FRAME_BYTES:
                    raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, f"MAX_FRAME_SIZE {value}")
                self.frame_bytes = value
            elif setting == SettingId.HEADER_TABLE_SIZE:
                self.table_bytes = value
            elif setting == SettingId.ENABLE_PUSH and value > 1:
                raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH {value}")
