"""Messages as grpcio hands them over: of any size, and still compressed."""

from contextlib import suppress
from threading import Semaphore

from forwardpass.server.errors import MessageTooLargeError, NamesTooLargeError
from forwardpass.server.rpc.infer import READERS
from forwardpass.server.transport.compression import BadMessageError, TooLarge, unpack

STILL_PACKED = ("grpc.per_message_decompression", 0)
"""Option of the server. grpcio would unpack without a limit in its older versions, and to twice
ours in others; left packed, it does not say which messages are."""

_GZIP = b"\x1f\x8b"
"""How gzip begins, and no message of ours: field 3 of wire type 7."""
_ZLIB = b"\x78"
"""How `deflate` begins; with the byte behind it it is a multiple of 31."""
_SMALL_BYTES = 2**16
_UNPACKING = Semaphore(READERS)
"""So many large messages are unpacked together: each may take up to the limit, uncounted."""


def received(
    message: bytes,
    limit: int,
    names_bytes: int | None = None,
    names_too_large: TooLarge = NamesTooLargeError,
) -> bytes:
    """Return a message, unpacked if it is compressed.

    limit: Maximum size, in bytes. names_bytes: the same for a message that has only names.
    Raises MessageTooLargeError, what `names_too_large` returns, BadMessageError.
    """
    too_large: TooLarge = MessageTooLargeError
    if names_bytes is not None and names_bytes <= limit:
        limit, too_large = names_bytes, names_too_large
    if message.startswith(_GZIP):
        return _unpacked(message, b"gzip", limit, too_large)
    if message.startswith(_ZLIB) and int.from_bytes(message[:2], "big") % 31 == 0:
        # A message may begin like that, with a field that the protocol does not have yet.
        with suppress(BadMessageError):
            return _unpacked(message, b"deflate", limit, too_large)
    if len(message) > limit:
        raise too_large(len(message), limit)
    return message


def _unpacked(message: bytes, encoding: bytes, limit: int, too_large: TooLarge) -> bytes:
    if limit <= _SMALL_BYTES:
        return unpack(message, encoding, limit, too_large)
    with _UNPACKING:
        return unpack(message, encoding, limit, too_large)
