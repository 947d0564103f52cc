"""Answers as bytes."""

from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus
from time import time

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

JSON = b"application/json"

_STARTS = {
    status: f"HTTP/1.1 {status.value} {status.phrase}\r\nDate: ".encode() for status in HTTPStatus
}
_STARTS_BY_CODE = {status.value: start for status, start in _STARTS.items()}
_STARTS_BY_CODE[499] = b"HTTP/1.1 499 Client Closed Request\r\nDate: "
_NOW: tuple[int, bytes] = 0, b""


def head(
    status: int,
    size: int,
    content_type: bytes = JSON,
    fields: Iterable[tuple[bytes, bytes]] = (),
    *,
    close: bool = False,
) -> bytes:
    """Write an answer's head.

    size: Of the body, in bytes. close: Whether the connection ends after it.
    """
    global _NOW
    now = int(time())
    if now != _NOW[0]:
        _NOW = now, formatdate(now, usegmt=True).encode()
    written = b"%b%b\r\nContent-Type: %b\r\nContent-Length: %d\r\n" % (
        _STARTS_BY_CODE[status],
        _NOW[1],
        content_type,
        size,
    )
    for name, value in fields:
        written += b"%b: %b\r\n" % (name, value)
    return written + (b"Connection: close\r\n\r\n" if close else b"\r\n")
