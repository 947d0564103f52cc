"""Field blocks: HPACK in both directions (RFC 7541), and what a request's fields may be."""

from collections.abc import Iterable, Sequence
from typing import Any

import hpack
from hpack.hpack import encode_integer
from hpack.table import HeaderTable

from forwardpass.server.transport.http2.errors import ConnectionFailedError, ErrorCode

_MAX_CACHED = 64
_MAX_CACHED_BYTES = 2048
"""Of a block. Together they bound what a connection's cache holds to 128 KiB of blocks, and a
client that does not repeat itself leaves nothing there."""

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

    __slots__ = ("fault", "fields", "length", "meaning", "size")

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = tuple(fields)
        self.size = sum(len(name) + len(value) + 32 for name, value in fields)
        """As MAX_HEADER_LIST_SIZE counts it."""
        self.fault = _fault(self.fields)
        """Why it is malformed (RFC 9113, sections 8.2 and 8.3); empty if it is not."""
        self.length: int | None = None
        """Of content-length."""
        lengths = {value for name, value in fields if name == b"content-length"}
        if lengths and not self.fault:
            length = lengths.pop()
            if lengths or len(length) > 18 or not length.isdigit():
                self.fault = f"content-length {length[:32]!r}"
            else:
                self.length = int(length)
        self.meaning: Any = None
        """What the layer above made of the fields, kept for the next block of equal bytes."""

    @property
    def is_request(self) -> bool:
        """Whether it begins with pseudo fields; trailers have none."""
        return bool(self.fields) and self.fields[0][0][:1] == b":"

    def get(self, name: bytes) -> bytes | None:
        """Return the value of the first field of a name."""
        return next((value for key, value in self.fields if key == name), None)


class FieldDecoder:
    """Decodes one connection's blocks.

    A block that leaves the dynamic table as it was means the same as long as nothing else
    changes the table; clients repeat themselves, so that hardly a block has to be decoded.
    """

    def __init__(self, max_list_bytes: int) -> None:
        self._hpack = hpack.Decoder(max_header_list_size=max_list_bytes)
        self._cache: dict[bytes, FieldBlock] = {}

    def decode(self, block: bytes) -> FieldBlock:
        """Return the fields of a whole block.

        Raises ConnectionFailedError: the table that later blocks refer to is lost.
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
            # Not hpack's own text: it quotes where in our memory the block is.
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
        """Return what tells one state of the dynamic table from another.

        Entries come in at the front, as new objects, and go at the back.
        """
        table = self._hpack.header_table
        entries = table.dynamic_entries
        return (entries[0] if entries else None), len(entries), table.maxsize


def _same(before: tuple[Any, int, int], after: tuple[Any, int, int]) -> bool:
    return before[0] is after[0] and before[1:] == after[1:]


def _plain(fields: Iterable[tuple[Any, Any]]) -> list[Field]:
    return [(bytes(name), bytes(value)) for name, value in fields]


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
        return "an :authority that is not the host"
    return ""


def encode_fields(fields: Iterable[Field]) -> bytes:
    """Write a block that uses no dynamic table, so that it is the same at any time.

    Fields are literals without indexing, but for those that are in the static table as a whole.
    """
    block = bytearray()
    for name, value in fields:
        found = _STATIC.search(name, value)
        if found is not None and found[2] is not None:
            # No index of the static table takes more than the one byte.
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
"""Says, at a block's beginning, that we use no dynamic table: owed to a peer that made it
smaller than it is by default (RFC 7541, section 4.2)."""
