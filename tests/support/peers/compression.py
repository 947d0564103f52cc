"""RFC 7541: field blocks that decode, and those that do not."""

import hpack

from support.peers.case import (
    Case,
    Code,
    Expectation,
    answered,
    answers,
    goaway,
    reset,
    responds,
)
from support.peers.frames import (
    CALL,
    END_HEADERS,
    END_STREAM,
    FIELDS,
    HEADER_TABLE_SIZE,
    call,
    headers,
    literal,
    settings,
    text,
)
from support.peers.peer import Peer

BROKEN = goaway(Code.COMPRESSION_ERROR)
INDEXED, NEVER = 0x40, 0x10
GOOD_AT_ONCE = END_HEADERS | END_STREAM
FULL_TABLE = literal([("a" * 2000, "b" * 2064)], first=INDEXED)
"""An entry of 4,096 bytes, as RFC 7541, section 4.1, counts: all that the table holds."""


def of(section: str, name: str, *blocks: bytes, then: Expectation) -> Case:
    """Each block is a request's fields; all but the last are answered first."""
    steps: list[object] = []
    for number, block in enumerate(blocks):
        stream_id = 2 * number + 1
        steps.append(call(stream_id, block))
        if number < len(blocks) - 1:
            steps.append(answered(stream_id))
    return Case(section, name, tuple(steps), then)  # type: ignore[arg-type]


def huffman(value: str) -> bytes:
    encoded = hpack.huffman.HuffmanEncoder(
        hpack.huffman_constants.REQUEST_CODES, hpack.huffman_constants.REQUEST_CODES_LENGTH
    ).encode(value.encode())
    return bytes([0x80 | len(encoded)]) + encoded


def in_huffman(*, first: int) -> bytes:
    return b"".join(
        bytes([first]) + huffman(name) + huffman(value) for name, value in FIELDS.items()
    )


NAMED = (
    # Names from the static table (appendix A): :method, :scheme, :path, :authority.
    b"\x83\x86\x04"
    + text(FIELDS[":path"])
    + b"\x01"
    + text("peer")
    # content-type (31), te as a literal.
    + b"\x0f\x10"
    + text("application/grpc")
    + b"\x00"
    + text("te")
    + text("trailers")
)


def the_newest_entry_is_malformed(peer: Peer) -> None:
    """It was `a: 1` for stream 3, and is `connection: close` for stream 7."""
    peer.answers[3].assert_good()
    assert peer.answer(7).reset == Code.PROTOCOL_ERROR


TABLES = [
    of(
        "2.3.2",
        "entries of the dynamic table, newest first",
        literal(FIELDS.items(), first=INDEXED),
        bytes([0x80 | 67, 0x80 | 66, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62]),
        then=answers(3),
    ),
    of("2.3.3", "an index behind the tables", CALL + b"\xbe", then=BROKEN),
    of("2.3.3", "an index far behind the tables", CALL + b"\xff\x80\x80\x01", then=BROKEN),
    of("2.3.3", "a name's index behind the tables", CALL + b"\x7e\x01x", then=BROKEN),
    of("4.1", "an entry that fills the table", CALL + FULL_TABLE, CALL + b"\xbe", then=answers(3)),
    of(
        "4.3",
        "a smaller table loses its oldest entries",
        CALL + literal([("old", "1"), ("new", "2")], first=INDEXED),
        b"\x3f\x06" + CALL + b"\xbe",  # 37 bytes: room for one
        b"" + CALL + b"\xbf",
        then=BROKEN,
    ),
    of(
        "4.3",
        "a table of 0 bytes loses all",
        CALL + literal([("a", "b")], first=INDEXED),
        b"\x20" + CALL + b"\xbe",
        then=BROKEN,
    ),
    of(
        "4.4",
        "a full table loses its oldest entry",
        CALL + FULL_TABLE,
        CALL + literal([("a", "b")], first=INDEXED),
        CALL + b"\xbf",
        then=BROKEN,
    ),
    of(
        "4.4",
        "an entry larger than the table empties it",
        CALL + literal([("a", "b")], first=INDEXED),
        CALL + literal([("a" * 3000, "b" * 1100)], first=INDEXED),
        CALL + b"\xbe",
        then=BROKEN,
    ),
    of(
        "4.4",
        "a new entry may name the one that it displaces",
        CALL + FULL_TABLE,
        CALL + b"\x7e\x01x",
        CALL + b"\xbe",
        then=answers(5),
    ),
    Case(
        "4.4",
        "blocks of equal bytes mean what the table says at the time",
        (
            call(1, CALL + literal([("a", "1")], first=INDEXED)),
            answered(1),
            call(3, CALL + b"\xbe"),
            answered(3),
            call(5, CALL + literal([("connection", "close")], first=INDEXED)),
            answered(5),
            call(7, CALL + b"\xbe"),
        ),
        the_newest_entry_is_malformed,
    ),
]

SIZE_UPDATES = [
    of("4.2", "a size update at a block's beginning", b"\x20" + CALL, then=answers(1)),
    of(
        "4.2",
        "two size updates at a block's beginning",
        b"\x20\x3f\xe1\x1f" + CALL,
        then=answers(1),
    ),
    of("4.2", "a size update behind a field", CALL + b"\x20", then=BROKEN),
    of("4.2", "a size update between fields", CALL[:10] + b"\x20" + CALL[10:], then=BROKEN),
    of("6.3", "a size update to what SETTINGS allow", b"\x3f\xe1\x1f" + CALL, then=answers(1)),
    of("6.3", "a size update above what SETTINGS allow", b"\x3f\xe2\x1f" + CALL, then=BROKEN),
    of("6.3", "a size update far above", b"\x3f\xff\xff\xff\xff\x0f" + CALL, then=BROKEN),
]


def states_that_it_uses_no_table(peer: Peer) -> None:
    """The answer's first block begins with a size update, or hpack rejects it."""
    peer._decoder.max_allowed_table_size = 0
    peer.answer(1).assert_good()
    assert peer._decoder.header_table_size == 0


INTEGERS = [
    of("5.1", "an integer without an end", CALL + b"\xff" + b"\xff" * 8, then=BROKEN),
    of("5.1", "an integer of many bytes", CALL + b"\xff" + b"\x80" * 60 + b"\x01", then=BROKEN),
    of("5.1", "an integer that the block's end cuts", CALL + b"\xff\x80", then=BROKEN),
    of(
        "5.1",
        "an integer of 127 in two bytes",
        CALL + b"\x00\x01a\x7f\x00" + b"v" * 127,
        then=answers(1),
    ),
    of("5.1", "a length of 2^32", CALL + b"\x00\x01a\x7f\x81\xff\xff\xff\x0f", then=BROKEN),
]

STRINGS = [
    of("5.2", "a name that the block's end cuts", CALL + b"\x00\x05ab", then=BROKEN),
    of("5.2", "a value that the block's end cuts", CALL + b"\x00\x01a\x05b", then=BROKEN),
    of("5.2", "a name without a value", CALL + b"\x00\x01a", then=BROKEN),
    of("5.2", "every string in Huffman's code", in_huffman(first=0), then=answers(1)),
    of(
        "5.2", "Huffman's code with padding of 8 bits", CALL + b"\x00\x01a\x82\x1f\xff", then=BROKEN
    ),
    of("5.2", "Huffman's code with padding of zeros", CALL + b"\x00\x01a\x81\x18", then=BROKEN),
    of("5.2", "Huffman's code with EOS", CALL + b"\x00\x01a\x84\xff\xff\xff\xff", then=BROKEN),
]

FORMS = [
    of("6.1", "index 0", CALL + b"\x80", then=BROKEN),
    of("6.1", "names and values of the static table", NAMED, then=answers(1)),
    of(
        "6.1",
        "a pseudo field of answers in the static table",
        b"\x88" + CALL,
        then=reset(Code.PROTOCOL_ERROR),
    ),
    of("6.2.1", "literals into the table", literal(FIELDS.items(), first=INDEXED), then=answers(1)),
    of(
        "6.2.1",
        "literals in Huffman's code into the table",
        in_huffman(first=INDEXED),
        then=answers(1),
    ),
    of("6.2.2", "literals beside the table", CALL, then=answers(1)),
    of("6.2.2", "literals beside the table leave no entry", CALL, CALL + b"\xbe", then=BROKEN),
    of("6.2.3", "literals never indexed", literal(FIELDS.items(), first=NEVER), then=answers(1)),
    of(
        "6.2.3",
        "literals never indexed leave no entry",
        literal(FIELDS.items(), first=NEVER),
        CALL + b"\xbe",
        then=BROKEN,
    ),
    Case(
        "4.2",
        "a client without a table gets blocks without one",
        (settings({HEADER_TABLE_SIZE: 0}) + call(1),),
        states_that_it_uses_no_table,
    ),
]

APPENDIX = [
    # The RFC's own examples: GET requests, which no gRPC server answers with more than 405.
    Case(
        section,
        name,
        tuple(
            headers(2 * number + 1, bytes.fromhex(block), GOOD_AT_ONCE)
            for number, block in enumerate(blocks)
        ),
        responds(405, stream_id=2 * len(blocks) - 1),
    )
    for section, name, blocks in (
        (
            "C.2.4",
            "the indexed field of the appendix",
            ["828684410f7777772e6578616d706c652e636f6d"],
        ),
        (
            "C.3",
            "the requests of the appendix without Huffman's code",
            [
                "828684410f7777772e6578616d706c652e636f6d",
                "828684be58086e6f2d6361636865",
                "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
            ],
        ),
        (
            "C.4",
            "the requests of the appendix in Huffman's code",
            [
                "828684418cf1e3c2e5f23a6ba0ab90f4ff",
                "828684be5886a8eb10649cbf",
                "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
            ],
        ),
    )
]

CASES = [*TABLES, *SIZE_UPDATES, *INTEGERS, *STRINGS, *FORMS, *APPENDIX]
