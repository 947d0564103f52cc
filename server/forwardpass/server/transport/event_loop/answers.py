"""Answers as field blocks: constants for success, made as needed for errors."""

import base64

from forwardpass.server.errors import ServingError, Status
from forwardpass.server.transport.http2.fields import encode_fields
from forwardpass.server.transport.http2.sending import AnswerForm
from forwardpass.server.transport.status import PUSHBACK, Outcome, outcome

GZIP = b"gzip"
_ACCEPTED = b"identity,deflate,gzip"

_STATUS = (b":status", b"200")
_TYPE = (b"content-type", b"application/grpc")
_OK = (b"grpc-status", b"%d" % Status.OK)

HEAD = encode_fields([_STATUS, _TYPE])
"""The fields before the first message."""
GZIP_HEAD = encode_fields([_STATUS, _TYPE, (b"grpc-encoding", GZIP)])
OK = encode_fields([_OK])
"""Trailers of a call that succeeds."""

FORM = AnswerForm(HEAD, OK)

STATUS_405 = encode_fields([(b":status", b"405"), (b"allow", b"POST")])
STATUS_415 = encode_fields([(b":status", b"415"), (b"accept", b"application/grpc")])


def trailers(
    end: Outcome | ServingError, metadata: dict[str, str] | None = None, *, alone: bool = False
) -> bytes:
    """Write the trailers of a call that fails.

    alone: whether they are the whole answer (gRPC's Trailers-Only).
    """
    if isinstance(end, ServingError):
        end = outcome(end)
    fields = [_STATUS, _TYPE] if alone else []
    fields.append((b"grpc-status", b"%d" % end.code))
    fields.append((b"grpc-message", _percent(end.text)))
    if end.details is not None:
        packed = base64.b64encode(end.details.SerializeToString()).rstrip(b"=")
        fields.append((b"grpc-status-details-bin", packed))
    if end.pushback_ms is not None:
        fields.append((PUSHBACK.encode(), b"%d" % end.pushback_ms))
    fields += _fields(metadata)
    return encode_fields(fields)


def refusal(code: Status, text: str, *, accept_encoding: bool = False) -> bytes:
    """Write the answer to a call that is refused unread."""
    block = trailers(Outcome(code, text), alone=True)
    if accept_encoding:
        block += encode_fields([(b"grpc-accept-encoding", _ACCEPTED)])
    return block


def ok_with(metadata: dict[str, str]) -> bytes:
    """Write the trailers of a call that succeeds, with metadata."""
    return OK + encode_fields(_fields(metadata))


def _fields(metadata: dict[str, str] | None) -> list[tuple[bytes, bytes]]:
    return [(key.encode(), value.encode("latin-1")) for key, value in (metadata or {}).items()]


def _percent(text: str) -> bytes:
    """Percent-encode a text for grpc-message: printable ASCII except the percent sign."""
    return b"".join(
        b"%c" % byte if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte
        for byte in text.encode("utf-8", "replace")
    )
