"""Field blocks: HPACK in both directions (RFC 7541), and the rules for a request's fields."""

from collections.abc import Iterable, Sequence
from typing import Any

import hpack
from hpack.hpack import encode_integer
from hpack.table import HeaderTable

from forwardpass.server.transport.http2.errors import ConnectionFailedError, ErrorCode

_MAX_CACHED = 64
_MAX_CACHED_BYTES = 2048
"""Maximum size of a cached block, in bytes. With the maximum number of blocks it bounds a
connection's cache to 128 KiB; blocks that do not repeat are not kept."""

_FORBIDDEN = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path"))
_NAME_BYTES = frozenset(
    b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"  # RFC 9110, 5.6.2, in lower case
)

_STATIC = HeaderTable()

Field = tuple[bytes, bytes]


class FieldBlock:
    """The fields of a request or its trailers; decoded once for all blocks of equal bytes."""

    __slots__ = ("fault", "fields", "is_request", "length", "meaning", "size", "usual")

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = tuple(fields)
        self.size = sum(len(name) + len(value) + 32 for name, value in fields)
        """Size in bytes as MAX_HEADER_LIST_SIZE counts it."""
        self.fault = _fault(self.fields)
        """Why the block is malformed (RFC 9113, sections 8.2 and 8.3); empty if it is not."""
        self.length: int | None = None
        """The value of content-length, in bytes; None without one."""
        lengths = {value for name, value in fields if name == b"content-length"}
        if lengths and not self.fault:
            length = lengths.pop()
            if lengths or len(length) > 18 or not length.isdigit():
                self.fault = f"content-length {length[:32]!r}"
            else:
                self.length = int(length)
        self.meaning: Any = None
        """What the layer above read from the fields, cached for the next block of equal bytes."""
        self.is_request = bool(self.fields) and self.fields[0][0][:1] == b":"
        """Whether the block begins with pseudo fields; trailers have none."""
        self.usual = self.is_request and not self.fault
        """Whether it opens a stream without a fault."""

    def get(self, name: bytes) -> bytes | None:
        """Return the value of the first field with this name."""
        return next((value for key, value in self.fields if key == name), None)


class FieldDecoder:
    """Decodes one connection's blocks.

    A block that does not change the dynamic table keeps its meaning until another block changes
    the table. Clients repeat themselves, so hardly any block has to be decoded.
    """

    def __init__(self, max_list_bytes: int) -> None:
        self._hpack = hpack.Decoder(max_header_list_size=max_list_bytes)
        self._cache: dict[bytes, FieldBlock] = {}
        self.known = self._cache.get
        """Returns the fields of a block that was decoded before and means the same now, or None."""

    def decode(self, block: bytes) -> FieldBlock:
        """Return the fields of a whole block.

        Raises ConnectionFailedError, because the table that later blocks refer to is lost.
        """
        found = self._cache.get(block)
        if found is not None:
            return found
        before = self._table()
        try:
            fields = FieldBlock(_plain(self._hpack.decode(block, raw=True)))
        except hpack.OversizedHeaderListError as error:
            raise ConnectionFailedError(
                ErrorCode.ENHANCE_YOUR_CALM,
                f"a field section above {self._hpack.max_header_list_size} bytes",
            ) from error
        except (hpack.HPACKError, UnicodeDecodeError) as error:
            # Not hpack's own text: it quotes the block's memory address.
            raise ConnectionFailedError(
                ErrorCode.COMPRESSION_ERROR, "a field section that does not decode"
            ) from error
        if not _same(before, self._table()):
            self._cache.clear()
        elif len(block) <= _MAX_CACHED_BYTES:
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            self._cache[block] = fields
        return fields

    def _table(self) -> tuple[Any, int, int]:
        """Return what identifies a state of the dynamic table.

        Entries are added at the front, as new objects, and removed at the back.
        """
        table = self._hpack.header_table
        entries = table.dynamic_entries
        return (entries[0] if entries else None), len(entries), table.maxsize


def _same(before: tuple[Any, int, int], after: tuple[Any, int, int]) -> bool:
    return before[0] is after[0] and before[1:] == after[1:]


def _plain(fields: Iterable[tuple[Any, Any]]) -> list[Field]:
    # Blanks around a value are malformed (RFC 9113, 8.2.1). They come from a token copied with
    # a blank, or from a proxy, and mean nothing: gRPC's own servers drop them as well.
    return [
        (bytes(name), bytes(value) if name[:1] == b":" else bytes(value).strip(b" \t"))
        for name, value in fields
    ]


def _fault(fields: Sequence[Field]) -> str:
    seen: set[bytes] = set()
    regular = False
    for name, value in fields:
        if name[:1] == b":":
            if regular:
                return f"{name!r} after regular fields"
            if name in seen:
                return f"{name!r} twice"
            if name not in _PSEUDO:
                return f"{name!r} in a request"
            seen.add(name)
        else:
            regular = True
            if not name or not _NAME_BYTES.issuperset(name):
                return f"the field name {name!r}"
            if name in _FORBIDDEN or (name == b"te" and value.lower() != b"trailers"):
                return f"{name!r}, which belongs to a connection of HTTP/1"
        # Only pseudo fields still have blanks around their values here.
        if value != value.strip(b" \t") or any(byte in value for byte in b"\0\r\n"):
            return f"the value of {name!r}"
    if seen:
        return _fault_of_request(dict(fields), seen)
    return ""


def _fault_of_request(fields: dict[bytes, bytes], pseudo: set[bytes]) -> str:
    if fields.get(b":method") == b"CONNECT":
        return "" if pseudo == {b":method", b":authority"} else "CONNECT with :scheme or :path"
    missing = {b":method", b":scheme", b":path"} - pseudo
    if missing or not fields[b":path"]:
        return "a request without " + (min(missing) if missing else b":path").decode()
    authority, host = fields.get(b":authority"), fields.get(b"host")
    if authority is not None and host is not None and authority != host:
        return ":authority differs from host"
    return ""


def encode_fields(fields: Iterable[Field]) -> bytes:
    """Write a block that does not use the dynamic table, so that it is valid at any time.

    Fields are literals without indexing, except those that the static table holds whole.
    """
    block = bytearray()
    for name, value in fields:
        found = _STATIC.search(name, value)
        if found is not None and found[2] is not None:
            # Every index of the static table fits into one byte.
            block.append(0x80 | found[0])
            continue
        block += encode_integer(0 if found is None else found[0], 4)
        if found is None:
            block += _text(name)
        block += _text(value)
    return bytes(block)


def _text(value: bytes) -> bytes:
    return bytes(encode_integer(len(value), 7)) + value


TABLE_OFF = b"\x20"
"""Start of a block that reports a dynamic table of size 0: required after a peer reduced the
table's maximum below the default (RFC 7541, section 4.2)."""
