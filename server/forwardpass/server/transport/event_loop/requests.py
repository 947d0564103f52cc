"""What a gRPC server reads from a request's fields; shared by all requests with equal fields."""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any

from forwardpass.proto import priority
from forwardpass.server.errors import Status
from forwardpass.server.observe.origin import REQUEST_ID, Origin
from forwardpass.server.transport.event_loop.answers import GZIP, STATUS_405, STATUS_415, refusal
from forwardpass.server.transport.http2.fields import FieldBlock
from forwardpass.server.transport.http2.sending import AnswerForm
from forwardpass.server.transport.listening import MAX_METADATA_BYTES

_PRIORITY, _BATCH = priority.KEY.encode(), priority.BATCH.encode()
_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}

_TIMEOUT = re.compile(rb" *([0-9]+) *([HMSmun]) *")
_PACKED_BYTES = 2**18
"""Maximum size of an answer that is compressed, in bytes: a larger one would hold the loop."""
_MAX_DIGITS = 8
"""Maximum number of digits of a timeout in the protocol; more mean no limit, as in gRPC."""


class Request:
    """A call before its messages."""

    __slots__ = (
        "batch",
        "compresses",
        "encoding",
        "fields",
        "form",
        "has_id",
        "method",
        "origin",
        "refusal",
        "timeout_s",
    )

    def __init__(self, block: FieldBlock, methods: Mapping[bytes, Callable[..., Any]]) -> None:
        """Read the fields; methods: the server's, by path."""
        # The first of several fields with one name counts, as in grpcio.
        fields = self.fields = dict(reversed(block.fields))
        self.timeout_s = _timeout_s(fields.get(b"grpc-timeout"))
        """Time limit of the call, in seconds; None: no limit."""
        self.encoding = fields.get(b"grpc-encoding", b"identity")
        """Encoding of messages that are flagged as compressed."""
        accepted = fields.get(b"grpc-accept-encoding", b"")
        accepts_gzip = GZIP in [name.strip() for name in accepted.split(b",")]
        self.compresses = self.encoding == GZIP and accepts_gzip
        """Whether it may be compressed with gzip, and short answers are then, too."""
        self.batch = fields.get(_PRIORITY) == _BATCH
        """Whether it says that its class is batch."""
        self.has_id = REQUEST_ID.encode() in fields
        """Whether it carries a request id, which has to be returned."""
        self.origin: Origin | None = None
        """The origin of its calls, once known and if it is the same for all."""
        self.form: AnswerForm | None = None
        """The form of the answers to them."""
        self.method = methods.get(fields.get(b":path", b""))
        """The method that answers; None if the call is refused."""
        self.refusal = self._refusal(block)
        """The answer to a refused call, as a field block; empty for other calls."""
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
        if block.size > MAX_METADATA_BYTES:
            return refusal(
                Status.RESOURCE_EXHAUSTED,
                f"metadata of {block.size} bytes are above the server's limit of "
                f"{MAX_METADATA_BYTES}",
            )
        timeout = self.fields.get(b"grpc-timeout")
        if timeout is not None and _TIMEOUT.fullmatch(timeout) is None:
            return refusal(
                Status.INTERNAL,
                f"grpc-timeout: expected digits and one of H, M, S, m, u, n as in '500m', got "
                f"{timeout[:32].decode(errors='replace')!r}",
            )
        if self.timeout_s == 0:
            return refusal(Status.DEADLINE_EXCEEDED, "the deadline passed before the call arrived")
        if self.method is None:
            path = self.fields[b":path"][:200].decode(errors="replace")
            return refusal(Status.UNIMPLEMENTED, f"unknown method {path}")
        if self.encoding not in (b"identity", b"gzip", b"deflate"):
            return refusal(
                Status.UNIMPLEMENTED,
                f"grpc-encoding {self.encoding[:100]!r}: expected identity, gzip or deflate",
                accept_encoding=True,
            )
        return b""

    def packs(self, answer: bytes) -> bool:
        """Return whether an answer is compressed with gzip."""
        return self.compresses and len(answer) <= _PACKED_BYTES

    def metadata(self, key: str) -> str | bytes | None:
        """Return a value of the caller's metadata; bytes if the key ends in `-bin`."""
        value = self.fields.get(key.encode())
        if value is None or not key.endswith("-bin"):
            return None if value is None else value.decode(errors="replace")
        try:
            return base64.b64decode(value + b"=" * (-len(value) % 4))
        except binascii.Error:
            return None


def _timeout_s(value: bytes | None) -> float | None:
    """Read a timeout; None: no limit, or an invalid timeout, whose call is refused elsewhere."""
    found = None if value is None else _TIMEOUT.fullmatch(value)
    if found is None:
        return None
    digits = found[1].lstrip(b"0")
    return None if len(digits) > _MAX_DIGITS else int(digits or b"0") * _UNITS_S[found[2]]
