"""Requests out of a connection's bytes: llhttp parses, this bounds, and remembers known heads."""

from http import HTTPStatus
from typing import Any, Protocol

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserUpgrade,
    HttpRequestParser,
)

MAX_HEAD_BYTES = 2**14
"""Maximum size of a request's target and fields, each name and value with 32 bytes more."""
_MAX_UNREAD_BYTES = 2**16
"""Maximum size of reads in which a head goes on without ending, in bytes."""
_MAX_FRAMING_BYTES = 2**20
_MAX_FRAMING = 8
"""Maximum bytes of chunks' sizes, extensions and trailers: so many, and so many a byte of body."""
_FIELD_BYTES = 32
_KNOWN_HEAD_BYTES = 2**10
"""Maximum size of a head that is recognized by its bytes."""
_MAX_KNOWN = 1024
_PARSED_BYTES = 2**12
"""Size of what llhttp gets at once, in bytes, unless it is one body."""
_END = b"\r\n\r\n"


class BadRequestError(Exception):
    """Bytes that are no request that this server reads; the connection ends after the answer."""

    def __init__(self, text: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(text)
        self.status = status


class Head:
    """A request without its body."""

    __slots__ = (
        "chunked",
        "expects",
        "fields",
        "keep_alive",
        "length",
        "meaning",
        "method",
        "target",
    )

    def __init__(
        self, method: bytes, target: bytes, fields: dict[bytes, bytes], *, keep_alive: bool
    ) -> None:
        self.method = method
        self.target = target
        self.fields = fields
        """The first of each name, in lower case."""
        self.keep_alive = keep_alive
        """Whether the connection goes on after the answer."""
        self.chunked = b"transfer-encoding" in fields
        self.length = int(fields.get(b"content-length", b"0"))
        """Size of the body in bytes; 0 if it is chunked, and not known."""
        self.expects = False
        """Whether the client waits for 100 Continue before it sends the body."""
        self.meaning: Any = None
        """What the layer above makes of it, once for all requests with these bytes."""


class RequestHandler(Protocol):
    """What requests are handed to, in their order."""

    def on_head(self, head: Head) -> None:
        """Begin a request whose body follows."""

    def on_body(self, data: bytes) -> None:
        """Take a part of the body."""

    def on_end(self) -> None:
        """End the request."""

    def on_whole(self, head: Head, body: bytes) -> None:
        """Take a request as a whole."""


class KnownHeads:
    """Heads that were parsed before, by their bytes; for all connections of a server.

    Clients repeat themselves: all that differs between two calls is mostly the body.
    """

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}
        self.get = self._heads.get

    def keep(self, data: bytes, head: Head) -> None:
        """Keep a head; the oldest are dropped together."""
        if len(self._heads) >= _MAX_KNOWN:
            self._heads.clear()
        self._heads[data] = head


class Reader:
    """Reads the requests of one connection."""

    def __init__(self, handler: RequestHandler, known: KnownHeads) -> None:
        self._handler = handler
        self._known = known
        self._parser = HttpRequestParser(self)
        self._inside = False
        """Whether a request has begun and not ended."""
        self._headed = False
        """Whether its head has ended."""
        self._target = b""
        self._fields: dict[bytes, bytes] = {}
        self._size = 0
        self._repeated = b""
        """Name of a field that may occur once and occurred again."""
        self._unread = 0
        """Bytes since the head began, in reads that did not end it."""
        self._framing = 0
        """Bytes of the request that are neither head nor body, at most."""
        self._body = 0
        self._last = False
        """Whether nothing follows the request."""
        self._begun = False
        """Whether a request has begun in what is parsed now."""
        self._most = 0
        """Requests that may still begin."""
        self._length = 0
        """Size of the body, if it is known."""
        self._candidate: bytes | None = None
        """The bytes of the head that is parsed, if it may be kept."""
        self.closed = False
        """Whether nothing more is read."""

    @property
    def in_head(self) -> bool:
        """Whether a head has begun and not ended."""
        return self._inside and not self._headed

    def close(self) -> None:
        """Ignore what follows."""
        self.closed = True

    def feed(self, data: bytes, most: int) -> bytes:
        """Hand on requests, and parts of one, that are in the data; return what is left of it.

        most: Maximum number of requests that are begun.

        Raises BadRequestError, after those before it were handed on.
        """
        position, end = 0, len(data)
        self._most = most
        while position < end and not self.closed:
            stop = 0
            if not self._headed or self._most <= 0:
                # A head, or the end of chunks: where another request may begin.
                found = data.find(_END, position, position + MAX_HEAD_BYTES)
                stop = found + 4 if found >= 0 else 0
            if not self._inside:
                if self._most <= 0:
                    return data[position:]
                if 0 < stop - position <= _KNOWN_HEAD_BYTES:
                    raw = data[position:stop]
                    head = self._known.get(raw)
                    if head is None:
                        # llhttp skips empty lines before a request.
                        self._candidate = raw if raw[:1].isalpha() else None
                    else:
                        after = stop + head.length
                        if after <= end:
                            self._most -= 1
                            self._handler.on_whole(head, data[stop:after])
                            position = after
                            continue
            if not stop:
                # All of a body; and otherwise no more than a few requests that follow.
                stop = position + _PARSED_BYTES
            coming = self._length - self._body
            if coming > 0:
                stop = position + coming
            rest: bytes | memoryview | None = data[position:stop]
            while rest:
                rest = self._parse(rest)
            self._candidate = None
            position = stop
        return b""

    def _parse(self, data: bytes | memoryview) -> memoryview | None:
        """Parse as much as llhttp does; return the rest."""
        was_inside, was_headed, body = self._inside, self._headed, self._body
        self._begun = False
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            if self.closed:
                return None
            # A server may ignore the wish for another protocol (RFC 9110, 7.8).
            self._parser = HttpRequestParser(self)
            return memoryview(data)[upgrade.args[0] :]
        except HttpParserCallbackError as error:
            cause = error.__context__
            raise cause if isinstance(cause, BadRequestError) else error from None
        except HttpParserError as error:
            if not self.closed:
                raise BadRequestError(f"HTTP/1.1: {error}") from None
            return None
        if self.in_head:
            self._unread += len(data) if was_inside else 0
            if self._unread > _MAX_UNREAD_BYTES:
                raise _too_large(self._unread)
        elif self._inside and was_headed and not self._begun:
            self._framing += len(data) - (self._body - body)
            if self._framing > _MAX_FRAMING_BYTES + _MAX_FRAMING * self._body:
                raise BadRequestError("chunks: expected data, got little else than their framing")
        return None

    # Called by llhttp

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._inside, self._headed, self._begun = True, False, True
        self._most -= 1
        self._target, self._fields, self._repeated = b"", {}, b""
        self._size = self._unread = self._framing = self._body = self._length = 0

    def on_url(self, target: bytes) -> None:
        """Take the target."""
        self._target += target
        self._count(len(target))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field; those after a body are dropped."""
        self._count(len(name) + len(value) + _FIELD_BYTES)
        if self._headed:
            return
        name = name.lower()
        if self._fields.setdefault(name, value) is not value and name in _ONCE:
            self._repeated = name

    def on_headers_complete(self) -> None:
        """Check the head, and hand it on."""
        self._headed = True
        if self.closed:
            return
        parser, fields = self._parser, self._fields
        version = parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise BadRequestError(
                f"expected HTTP/1.1, got HTTP/{version}", HTTPStatus.HTTP_VERSION_NOT_SUPPORTED
            )
        if self._repeated:
            raise BadRequestError(f"{self._repeated.decode()}: expected it once, got several")
        if version == "1.1" and b"host" not in fields:
            raise BadRequestError("host: expected this field in every request, got none")
        # HTTP/1.0 would have to be answered that it goes on.
        keep_alive = version == "1.1" and parser.should_keep_alive()
        head = Head(parser.get_method(), self._target, fields, keep_alive=keep_alive)
        if head.chunked and (
            version == "1.0" or fields[b"transfer-encoding"].strip().lower() != b"chunked"
        ):
            raise BadRequestError(
                "transfer-encoding: expected chunked alone, and HTTP/1.1",
                HTTPStatus.NOT_IMPLEMENTED,
            )
        if parser.should_upgrade() and (head.length or head.chunked or head.method == b"CONNECT"):
            # llhttp would take the body for what the other protocol says.
            raise BadRequestError(
                "upgrade: expected no other protocol where there is a body, nor CONNECT",
                HTTPStatus.NOT_IMPLEMENTED,
            )
        expected = fields.get(b"expect", b"").strip().lower()
        if expected and expected != b"100-continue":
            raise BadRequestError(
                "expect: expected 100-continue or none", HTTPStatus.EXPECTATION_FAILED
            )
        self._length = head.length
        self._last = not keep_alive
        head.expects = bool(expected) and version == "1.1"
        raw, self._candidate = self._candidate, None
        if (
            raw is not None
            and version == "1.1"
            and head.keep_alive
            and not (head.chunked or head.expects or b"upgrade" in fields)
        ):
            self._known.keep(raw, head)
        self._handler.on_head(head)

    def on_body(self, data: bytes) -> None:
        """Hand on a part of the body."""
        self._body += len(data)
        if not self.closed:
            self._handler.on_body(data)

    def on_message_complete(self) -> None:
        """End the request."""
        self._inside = self._headed = False
        self._length = self._body = 0
        if not self.closed:
            self._handler.on_end()
            self.closed = self.closed or self._last

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > MAX_HEAD_BYTES:
            raise _too_large(self._size)


_ONCE = frozenset((b"host", b"content-type", b"authorization", b"inference-header-content-length"))
"""Fields that a proxy and a server could read differently if they occurred twice; of lengths and
encodings of the transfer llhttp makes sure."""


def _too_large(size: int) -> BadRequestError:
    return BadRequestError(
        f"a head of {size} bytes or more is above the server's limit of {MAX_HEAD_BYTES}",
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    )
