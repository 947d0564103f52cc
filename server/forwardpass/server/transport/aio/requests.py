"""What the fields of a request say to a gRPC server; the same for all requests of equal fields."""

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any

from forwardpass.server.origin import REQUEST_ID, Origin
from forwardpass.server.transport.aio.answers import GZIP, STATUS_405, STATUS_415, refusal
from forwardpass.server.transport.http2.fields import FieldBlock
from forwardpass.server.transport.http2.sending import AnswerForm

_MAX_METADATA_BYTES = 2**14
_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}

_UNIMPLEMENTED = 12
_RESOURCE_EXHAUSTED = 8


class Request:
    """A call before its messages."""

    __slots__ = (
        "accepts_gzip",
        "encoding",
        "fields",
        "form",
        "method",
        "origin",
        "refusal",
        "tells",
        "timeout_s",
    )

    def __init__(self, block: FieldBlock, methods: Mapping[bytes, Callable[..., Any]]) -> None:
        """Read the fields; methods are those that the server has, by path."""
        # Of several fields of one name the first counts, as with grpcio's transport.
        fields = self.fields = dict(reversed(block.fields))
        self.timeout_s = _timeout_s(fields.get(b"grpc-timeout"))
        """None: no limit."""
        self.encoding = fields.get(b"grpc-encoding", b"identity")
        """Of messages that are flagged as compressed."""
        accepted = fields.get(b"grpc-accept-encoding", b"")
        self.accepts_gzip = GZIP in [name.strip() for name in accepted.split(b",")]
        self.tells = REQUEST_ID.encode() in fields
        """Whether an id came with it, which has to go back."""
        self.origin: Origin | None = None
        """Where its calls come from, once that is known and where it is the same for all."""
        self.form: AnswerForm | None = None
        """Of the answers to them."""
        self.method = methods.get(fields.get(b":path", b""))
        """What answers; None if the call is refused."""
        self.refusal = self._refusal(block)
        """A field block that answers a call that is refused; empty for the others."""
        if self.refusal:
            self.method = None

    def _refusal(self, block: FieldBlock) -> bytes:
        if self.fields[b":method"] != b"POST":
            return STATUS_405
        content_type = self.fields.get(b"content-type", b"")
        if content_type != b"application/grpc" and not content_type.startswith(
            (b"application/grpc+proto", b"application/grpc;")
        ):
            return STATUS_415
        if block.size > _MAX_METADATA_BYTES:
            return refusal(
                _RESOURCE_EXHAUSTED,
                f"metadata of {block.size} bytes are above the server's limit of "
                f"{_MAX_METADATA_BYTES}",
            )
        if self.method is None:
            path = self.fields[b":path"][:200].decode(errors="replace")
            return refusal(_UNIMPLEMENTED, f"unknown method {path}")
        if self.encoding not in (b"identity", b"gzip", b"deflate"):
            return refusal(
                _UNIMPLEMENTED,
                f"grpc-encoding {self.encoding[:100]!r}: expected identity, gzip or deflate",
                accept_encoding=True,
            )
        return b""

    def metadata(self, key: str) -> str | bytes | None:
        """Return a value of the caller's metadata; bytes where the key ends in `-bin`."""
        value = self.fields.get(key.encode())
        if value is None or not key.endswith("-bin"):
            return None if value is None else value.decode(errors="replace")
        try:
            return base64.b64decode(value + b"=" * (-len(value) % 4))
        except binascii.Error:
            return None


def _timeout_s(value: bytes | None) -> float | None:
    # What is no timeout is none, as in gRPC's own server.
    if value is None or not 2 <= len(value) <= 9 or not value[:-1].isdigit():
        return None
    unit = _UNITS_S.get(value[-1:])
    return None if unit is None else int(value[:-1]) * unit
