"""Answers as field blocks: constants for what succeeds, made as needed for what does not."""

import base64

from forwardpass.server.errors import ServingError
from forwardpass.server.transport.http2.fields import encode_fields
from forwardpass.server.transport.http2.sending import AnswerForm
from forwardpass.server.transport.status import Outcome, outcome

GZIP = b"gzip"
_ACCEPTED = b"identity,deflate,gzip"

_STATUS = (b":status", b"200")
_TYPE = (b"content-type", b"application/grpc")
_OK = (b"grpc-status", b"0")

HEAD = encode_fields([_STATUS, _TYPE])
"""Before the first message."""
GZIP_HEAD = encode_fields([_STATUS, _TYPE, (b"grpc-encoding", GZIP)])
OK = encode_fields([_OK])
"""Trailers of a call that is answered."""

FORM = AnswerForm(HEAD, OK)

STATUS_405 = encode_fields([(b":status", b"405"), (b"allow", b"POST")])
STATUS_415 = encode_fields([(b":status", b"415"), (b"accept", b"application/grpc")])


def trailers(
    end: Outcome | ServingError, metadata: dict[str, str] | None = None, *, alone: bool = False
) -> bytes:
    """Write the trailers of a call that fails.

    alone: whether they are all of the answer (gRPC's Trailers-Only).
    """
    if isinstance(end, ServingError):
        end = outcome(end)
    fields = [_STATUS, _TYPE] if alone else []
    fields.append((b"grpc-status", b"%d" % end.code))
    fields.append((b"grpc-message", _percent(end.text)))
    if end.details is not None:
        packed = base64.b64encode(end.details.SerializeToString()).rstrip(b"=")
        fields.append((b"grpc-status-details-bin", packed))
    fields += _fields(metadata)
    return encode_fields(fields)


def refusal(code: int, text: str, *, accept_encoding: bool = False) -> bytes:
    """Write the answer to a call that is not looked at."""
    block = trailers(Outcome(code, text), alone=True)
    if accept_encoding:
        block += encode_fields([(b"grpc-accept-encoding", _ACCEPTED)])
    return block


def ok_with(metadata: dict[str, str]) -> bytes:
    """Write the trailers of a call that is answered, with metadata."""
    return OK + encode_fields(_fields(metadata))


def _fields(metadata: dict[str, str] | None) -> list[tuple[bytes, bytes]]:
    return [(key.encode(), value.encode("latin-1")) for key, value in (metadata or {}).items()]


def _percent(text: str) -> bytes:
    """Encode a text as grpc-message has it: printable ASCII but for the percent sign."""
    return b"".join(
        b"%c" % byte if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte
        for byte in text.encode("utf-8", "replace")
    )
