"""RFC 9113, sections 8 and 9: requests as HTTP messages."""

from support.peers.case import (
    Case,
    Code,
    Expectation,
    answered,
    answers,
    either,
    goaway,
    reset,
    responds,
)
from support.peers.frames import (
    BODY,
    END_HEADERS,
    END_STREAM,
    FIELDS,
    Field,
    call,
    data,
    fields,
    headers,
    literal,
)

TRAILERS = END_HEADERS | END_STREAM
INTERNAL, UNIMPLEMENTED = 13, 12
AFTER_TRAILERS = literal([("a", "b")])


def malformed(section: str, name: str, *extra: Field, **changed: str) -> Case:
    """A request with fields behind those of a good one, or other pseudo fields."""
    block = literal(fields(extra, **changed))
    return Case(section, name, (headers(1, block) + data(1),), reset_alone)


def fine(section: str, name: str, *extra: Field) -> Case:
    return Case(section, name, (call(1, literal(fields(extra))),), answers(1))


def of(section: str, name: str, request: list[Field], expectation: Expectation) -> Case:
    return Case(section, name, (call(1, literal(request)),), expectation)


reset_alone = reset(Code.PROTOCOL_ERROR)
"""Malformed (8.1.1): a stream error; DATA that followed is dropped."""

FRAMING = [
    Case(
        "8.1",
        "trailers end a request",
        (headers() + data(flags=0) + headers(1, AFTER_TRAILERS, TRAILERS),),
        answers(1),
    ),
    Case(
        "8.1",
        "empty trailers end a request",
        (headers() + data(flags=0) + headers(1, b"", TRAILERS),),
        answers(1),
    ),
    Case(
        "8.1",
        "trailers without END_STREAM",
        (headers() + data(flags=0) + headers(1, AFTER_TRAILERS, END_HEADERS),),
        reset_alone,
    ),
    Case(
        "8.1",
        "DATA behind trailers",
        (headers(1) + headers(1, AFTER_TRAILERS, TRAILERS) + data(1),),
        either(reset(Code.STREAM_CLOSED), goaway(Code.STREAM_CLOSED)),
    ),
    Case(
        "8.1",
        "a pseudo field in trailers",
        (headers() + data(flags=0) + headers(1, literal([(":path", "/")]), TRAILERS),),
        reset_alone,
    ),
    Case(
        "8.1",
        "a request of fields alone is no call",
        (headers(1, flags=TRAILERS),),
        responds(200, UNIMPLEMENTED),
    ),
    Case(
        "8.1",
        "an answer before the request's end, which is then told to stop",
        (headers(1, literal(fields(path="/nothing"))),),
        reset(Code.NO_ERROR),
    ),
]

LENGTH = [
    fine("8.1.1", "content-length of the data", ("content-length", str(len(BODY)))),
    malformed("8.1.1", "content-length below the data", ("content-length", str(len(BODY) - 1))),
    malformed("8.1.1", "content-length above the data", ("content-length", str(len(BODY) + 1))),
    malformed("8.1.1", "content-length of 0 and data", ("content-length", "0")),
    malformed("8.1.1", "content-length that is no number", ("content-length", "0x10")),
    malformed("8.1.1", "content-length below zero", ("content-length", "-1")),
    malformed(
        "8.1.1",
        "two values of content-length",
        ("content-length", str(len(BODY))),
        ("content-length", str(len(BODY) + 1)),
    ),
    Case(
        "8.1.1",
        "content-length and an end without data",
        (headers(1, literal(fields([("content-length", "5")])), TRAILERS),),
        reset_alone,
    ),
    Case(
        "8.1.1",
        "content-length above the data before trailers",
        (
            headers(1, literal(fields([("content-length", str(len(BODY) + 1))])))
            + data(flags=0)
            + headers(1, b"", TRAILERS),
        ),
        reset_alone,
    ),
    Case(
        "8.1.1",
        "content-length counts no padding",
        (
            headers(1, literal(fields([("content-length", str(len(BODY)))])))
            + data(1, b"\x05" + BODY + bytes(5), END_STREAM | 0x8),
        ),
        answers(1),
    ),
]

NAMES = [
    malformed("8.2.1", f"a field's name with {what}", (name, "x"))
    for what, name in dict[str, str | bytes](
        {
            "an upper-case letter": "Accept",
            "a space": "a b",
            "a colon": "a:b",
            "a control character": "a\x01",
            "a byte above ASCII": b"a\xe9",
            "a NUL": "a\0",
            "DEL": "a\x7f",
            "nothing in it": "",
        }
    ).items()
] + [
    malformed("8.2.1", f"a field's value with {what}", ("a", value))
    for what, value in {
        "a NUL": "x\0y",
        "a line feed": "x\ny",
        "a carriage return": "x\ry",
    }.items()
]
VALUES = [
    fine("8.2.1", "a value of bytes above ASCII", ("a", b"\xe9\xff")),
    fine("8.2.1", "a value of nothing", ("a", "")),
    fine("8.2.1", "spaces inside of a value", ("a", "x  y\tz")),
    # Against the letter: copied tokens and proxies have them, and gRPC's servers drop them.
    fine("8.2.1", "a space at a value's beginning", ("a", " x")),
    fine("8.2.1", "a tab at a value's end", ("a", "x\t")),
]

CONNECTION_FIELDS = [
    malformed("8.2.2", f"{name}, a field of HTTP/1", (name, value))
    for name, value in {
        "connection": "close",
        "proxy-connection": "keep-alive",
        "keep-alive": "timeout=5",
        "transfer-encoding": "chunked",
        "upgrade": "h2c",
    }.items()
] + [
    of(
        "8.2.2",
        "te of anything but trailers",
        fields([("te", "gzip")], without=["te"]),
        reset_alone,
    ),
    fine("8.2.3", "a cookie in several fields", ("cookie", "a=1"), ("cookie", "b=2")),
]

PSEUDO = [
    malformed("8.3", "a pseudo field that no one defined", (":protocol-x", "1")),
    of("8.3", "a pseudo field of answers", [(":status", "200"), *fields()], reset_alone),
    of("8.3", "an unknown pseudo field first", [(":x", "1"), *fields()], reset_alone),
    of(
        "8.3",
        "a pseudo field behind others",
        [*fields(without=[":path"]), (":path", fields()[2][1])],
        reset_alone,
    ),
] + [
    of("8.3.1", f"{name} twice", [(name, value), *fields()], reset_alone)
    for name, value in list(FIELDS.items())[:4]
]
REQUESTS = [
    of("8.3.1", f"a request without {name}", fields(without=[name]), reset_alone)
    for name in (":method", ":scheme", ":path")
] + [
    of("8.3.1", "an empty :path", fields(path=""), reset_alone),
    of("8.3.1", "a request without :authority", fields(without=[":authority"]), answers(1)),
    of(
        "8.3.1",
        "host instead of :authority",
        fields([("host", "peer")], without=[":authority"]),
        answers(1),
    ),
    of("8.3.1", "host as :authority", fields([("host", "peer")]), answers(1)),
    malformed("8.3.1", "host against :authority", ("host", "another")),
    of("8.3.1", "https as :scheme", fields(scheme="https"), answers(1)),
    of("8.3.1", "a method that gRPC does not use", fields(method="GET"), responds(405)),
    of("8.3.1", "a method that no one knows", fields(method="BREW"), responds(405)),
    of("8.3.1", "a path that is not there", fields(path="/x"), responds(200, UNIMPLEMENTED)),
]

CONNECT = [
    of("8.5", "CONNECT with :scheme and :path", fields(method="CONNECT"), reset_alone),
    Case(
        "8.5",
        "CONNECT of a tunnel",
        (headers(1, literal([(":method", "CONNECT"), (":authority", "peer:1")])),),
        either(responds(405), reset_alone),
    ),
    of(
        "8.5",
        "CONNECT without :authority",
        [(":method", "CONNECT")],
        reset_alone,
    ),
]

CONNECTIONS = [
    Case(
        "9.1",
        "many calls, one after another, on one connection",
        tuple(step for number in range(1, 200, 2) for step in (call(number), answered(number))),
        answers(199),
    ),
    Case(
        "9.1",
        "calls in turns on one connection",
        (
            headers(1) + headers(3) + headers(5),
            data(5, BODY[:7], 0) + data(1, BODY[:9], 0) + data(3),
            data(1, BODY[9:]) + data(5, BODY[7:]),
        ),
        answers(1, 3, 5),
    ),
]

CASES = [
    *FRAMING,
    *LENGTH,
    *NAMES,
    *VALUES,
    *CONNECTION_FIELDS,
    *PSEUDO,
    *REQUESTS,
    *CONNECT,
    *CONNECTIONS,
]
