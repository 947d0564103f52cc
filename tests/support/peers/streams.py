"""RFC 9113, section 5: the states of streams, their ids and number, windows, errors."""

from collections.abc import Callable

from hyperframe.frame import DataFrame, PingFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

from support.peers.case import (
    LATER,
    Case,
    Code,
    Expectation,
    answered,
    answers,
    either,
    goaway,
    goes_on,
    reset,
)
from support.peers.frames import (
    CALL,
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    INITIAL_WINDOW_SIZE,
    PRIORITY,
    UNKNOWN,
    WITH_PRIORITY,
    call,
    data,
    frame,
    headers,
    literal,
    ping,
    priority,
    rst_stream,
    settings,
    window_update,
)
from support.peers.peer import Peer

MAX_STREAMS = 8
"""Maximum streams of the server against which the cases run."""
CUT = 2**30
"""A size that no message may have."""

NO_WINDOW = settings({INITIAL_WINDOW_SIZE: 0})
"""SETTINGS without a window: an answer stops before its data, half-closed (remote)."""
WAITING = NO_WINDOW + call(1)
OPEN = settings({INITIAL_WINDOW_SIZE: 2**16 - 1})
"""SETTINGS with which such an answer continues."""
PRIORITY_OF_1 = frame(PRIORITY, 0, 1, priority(3))
TRAILERS = END_HEADERS | END_STREAM
STREAM_CLOSED = either(reset(Code.STREAM_CLOSED), goaway(Code.STREAM_CLOSED))
"""A stream error; an endpoint that still knows that it ended well may choose the other."""

IDLE = [
    Case("5.1", f"{what} on an idle stream", (sent,), goaway(Code.PROTOCOL_ERROR))
    for what, sent in {
        "DATA": data(1),
        "RST_STREAM": rst_stream(1),
        "WINDOW_UPDATE": window_update(1, 1),
        "CONTINUATION": frame(CONTINUATION, END_HEADERS, 1),
        "DATA behind an open stream": headers(1) + data(3),
        "WINDOW_UPDATE behind an open stream": headers(1) + window_update(3, 1),
    }.items()
] + [
    Case("5.1", "PRIORITY on an idle stream is no error", (PRIORITY_OF_1, call(1)), answers(1)),
]

HALF_CLOSED = [
    Case("5.1", f"{what} on a half-closed stream", (WAITING + sent + OPEN,), expected)
    for what, sent, expected in (
        ("DATA", data(1), reset(Code.STREAM_CLOSED)),
        ("DATA that is empty", data(1, b"", 0), reset(Code.STREAM_CLOSED)),
        ("HEADERS", headers(1, flags=TRAILERS), STREAM_CLOSED),
        (
            "CONTINUATION",
            frame(CONTINUATION, END_HEADERS, 1),
            goaway(Code.PROTOCOL_ERROR, Code.STREAM_CLOSED),
        ),
        ("PRIORITY", PRIORITY_OF_1, answers(1)),
        ("WINDOW_UPDATE", window_update(1, 2**15), answers(1)),
        ("RST_STREAM", rst_stream(1), goes_on),
        ("an unknown frame", frame(UNKNOWN, 0, 1), answers(1)),
    )
]


def given_up(peer: Peer) -> None:
    """Begin a call that the server refuses before it ends, and wait for its RST_STREAM."""
    peer.send(headers(1) + data(1, b"\0" + CUT.to_bytes(4, "big"), 0))
    peer.until(lambda: peer.answers[1].reset is not None)
    assert peer.answers[1].grpc_status == 8
    assert peer.answers[1].reset == Code.NO_ERROR


def only(found: Callable[[Peer], bool]) -> Expectation:
    """The connection goes on, and then a condition is true."""

    def check(peer: Peer) -> None:
        goes_on(peer)
        assert found(peer), peer.frames

    return check


def no_more_resets(peer: Peer) -> bool:
    return sum(isinstance(each, RstStreamFrame) for each in peer.frames) == 1


CLOSED = (
    [
        Case("5.1", f"{what} on a stream that ended on both sides", (call(1), answered(1), sent), e)
        for what, sent, e in (
            ("DATA", data(1), STREAM_CLOSED),
            ("HEADERS", headers(1), goaway(Code.STREAM_CLOSED, Code.PROTOCOL_ERROR)),
            (
                "CONTINUATION",
                frame(CONTINUATION, END_HEADERS, 1),
                goaway(Code.PROTOCOL_ERROR, Code.STREAM_CLOSED),
            ),
            ("PRIORITY", PRIORITY_OF_1, goes_on),
            ("WINDOW_UPDATE", window_update(1, 1), goes_on),
            ("RST_STREAM", rst_stream(1), goes_on),
        )
    ]
    + [
        Case("5.1", f"{what} on a stream that the client reset", (headers(1) + rst_stream(1), s), e)
        for what, s, e in (
            ("DATA", data(1), STREAM_CLOSED),
            ("HEADERS", headers(1), goaway(Code.STREAM_CLOSED, Code.PROTOCOL_ERROR)),
            ("PRIORITY", PRIORITY_OF_1, goes_on),
            ("WINDOW_UPDATE", window_update(1, 1), goes_on),
            ("RST_STREAM", rst_stream(1), goes_on),
        )
    ]
    + [
        Case(
            "5.1",
            f"{what} on a stream that the server reset is dropped",
            (given_up, sent),
            only(no_more_resets),
        )
        for what, sent in {
            "DATA": data(1, bytes(1000), 0),
            "trailers": headers(1, flags=TRAILERS),
            "WINDOW_UPDATE": window_update(1, 1),
            "RST_STREAM": rst_stream(1),
            "PRIORITY": PRIORITY_OF_1,
        }.items()
    ]
)

RESERVED = [
    Case(
        "5.1",
        f"{what} on a stream of the server, which never begins one",
        (sent,),
        goaway(Code.PROTOCOL_ERROR),
    )
    for what, sent in {
        "DATA": data(2),
        "HEADERS": headers(2),
        "RST_STREAM": rst_stream(2),
        "WINDOW_UPDATE": window_update(2, 1),
    }.items()
]


def largest_id_is_answered(peer: Peer) -> None:
    peer.answer(2**31 - 1).assert_good()
    assert peer.goaway is None


IDS = [
    Case("5.1.1", "HEADERS on stream 0", (headers(0),), goaway(Code.PROTOCOL_ERROR)),
    Case("5.1.1", "a call on an even stream", (call(4),), goaway(Code.PROTOCOL_ERROR)),
    Case(
        "5.1.1",
        "a stream's id below one that was used",
        (call(7) + call(5),),
        goaway(Code.PROTOCOL_ERROR, Code.STREAM_CLOSED),
    ),
    Case(
        "5.1.1",
        "a stream's id used again",
        (call(5), answered(5), call(5)),
        goaway(Code.PROTOCOL_ERROR, Code.STREAM_CLOSED),
    ),
    Case(
        "5.1.1",
        "DATA on an id that a later one closed",
        (call(7) + data(5),),
        either(
            reset(Code.STREAM_CLOSED, 5), goaway(Code.STREAM_CLOSED), goaway(Code.PROTOCOL_ERROR)
        ),
    ),
    Case("5.1.1", "ids may be left out", (call(3) + call(2001) + call(4001),), answers(2001, 4001)),
    Case("5.1.1", "the largest id", (call(2**31 - 1),), largest_id_is_answered),
]


def opened(count: int) -> bytes:
    """Streams without an end."""
    return b"".join(headers(2 * number + 1) for number in range(count))


def last_is_refused(peer: Peer) -> None:
    """The stream above the limit is refused; as soon as another ends there is room again."""
    refused = 2 * MAX_STREAMS + 1
    assert peer.answer(refused).reset == Code.REFUSED_STREAM
    peer.send(data(1))
    peer.answer(1).assert_good()
    goes_on(peer)


def answered_alone(stream_id: int) -> Expectation:
    """A stream is answered while others still take all the room that there is."""
    return lambda peer: peer.answer(stream_id).assert_good()


def states_its_limit(peer: Peer) -> None:
    goes_on(peer)
    (stated,) = (
        each for each in peer.frames if isinstance(each, SettingsFrame) and "ACK" not in each.flags
    )
    assert stated.settings[SettingsFrame.MAX_CONCURRENT_STREAMS] == MAX_STREAMS


NUMBER = [
    Case("5.1.2", "the server states how many streams it accepts", (), states_its_limit),
    Case("5.1.2", "a stream above the limit", (opened(MAX_STREAMS + 1),), last_is_refused),
    Case(
        "5.1.2",
        "streams that the client reset do not count",
        (opened(MAX_STREAMS), *(rst_stream(2 * n + 1) for n in range(MAX_STREAMS))),
        goes_on,
    ),
    Case(
        "5.1.2",
        "the fields of a stream above the limit go into the table all the same",
        (
            opened(MAX_STREAMS) + headers(2001, literal([("a", "b")], first=0x40)),
            answered(2001),
            rst_stream(1) + call(2003, CALL + b"\xbe"),
        ),
        answered_alone(2003),
    ),
]


def granted(peer: Peer) -> int:
    """Return the window granted on stream 1 in all, by the frames read."""
    total = 0
    for each in peer.frames:
        if isinstance(each, SettingsFrame):
            total += each.settings.get(SettingsFrame.INITIAL_WINDOW_SIZE, 0)
        elif isinstance(each, WindowUpdateFrame) and each.stream_id == 1:
            total += each.window_increment
    return total


def overflow_a_stream(peer: Peer) -> None:
    """Send a message, and then a byte for which there is no window."""
    message = b"\0" + (2**21).to_bytes(4, "big") + bytes(2**21)
    peer.send(headers(1))
    peer.until(lambda: granted(peer) > 0)
    sent = 0
    while True:
        part = message[sent : sent + min(granted(peer) - sent, 2**14)]
        if not part:
            break
        peer.send(data(1, part, 0))
        sent += len(part)
        while sent < len(message) and granted(peer) <= sent:
            assert peer.next() is not None
    peer.send(ping())
    peer.until(lambda: any(isinstance(each, PingFrame) for each in peer.frames))
    # What one message needs, however its frames were cut on their way, and no more.
    assert granted(peer) == sent
    peer.send(data(1, b"x", 0))


def waits_for_window(peer: Peer) -> None:
    """No data came without a window, and all of it comes with one."""
    peer.until(lambda: bool(peer.answers[1].sections))
    assert not any(isinstance(each, DataFrame) and each.data for each in peer.frames)
    peer.send(window_update(1, 2**15))
    peer.answer(1).assert_good()
    goes_on(peer)


FLOW_CONTROL = [
    Case(
        "5.2", "data above a stream's window", (overflow_a_stream,), reset(Code.FLOW_CONTROL_ERROR)
    ),
    Case("5.2.1", "an answer waits for the stream's window", (WAITING,), waits_for_window),
    Case(
        "5.2.1",
        "one stream without a window holds no other up",
        (WAITING + settings({INITIAL_WINDOW_SIZE: 2**15}) + call(3),),
        answers(3, 1),
    ),
    Case(
        "5.3.2",
        "a stream that depends on itself, since no one obeys priorities",
        (headers(1, priority(1) + CALL, END_HEADERS | WITH_PRIORITY) + data(1),),
        answers(1),
    ),
]

ERRORS = [
    Case(
        "5.4.1",
        "GOAWAY names the last stream that was looked at",
        (call(1), answered(1), call(9), answered(9), window_update(0, 0)),
        goaway(Code.PROTOCOL_ERROR, last=9),
    ),
    Case(
        "5.4.1",
        "GOAWAY of a connection without streams names stream 0",
        (window_update(0, 0),),
        goaway(Code.PROTOCOL_ERROR, last=0),
    ),
    Case(
        "5.4.2",
        "an error of one stream is none of another",
        (headers(1) + headers(3) + window_update(1, 0) + data(3),),
        answers(3),
    ),
    Case(
        "5.4.2",
        "RST_STREAM is not answered with RST_STREAM",
        (headers(1) + rst_stream(1) + rst_stream(1),),
        only(lambda peer: not any(isinstance(each, RstStreamFrame) for each in peer.frames)),
    ),
    Case("5.5", "unknown settings", (settings({0xABCD: 2**32 - 1}) + call(1),), answers(1)),
    Case("5.5", "an unknown frame of every flag", (frame(UNKNOWN, 0xFF, LATER, b"x"),), goes_on),
]

CASES: list[Case] = [
    *IDLE,
    *HALF_CLOSED,
    *CLOSED,
    *RESERVED,
    *IDS,
    *NUMBER,
    *FLOW_CONTROL,
    *ERRORS,
]
