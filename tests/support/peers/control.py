"""RFC 9113, sections 6.6 to 7: frames that control a connection, CONTINUATION, error codes."""

from hyperframe.frame import PingFrame

from support.peers.case import (
    Case,
    Code,
    answers,
    goaway,
    goes_on,
    reset,
)
from support.peers.frames import (
    ACK,
    CALL,
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    INITIAL_WINDOW_SIZE,
    PING,
    PUSH_PROMISE,
    WINDOW_UPDATE,
    call,
    continued,
    data,
    frame,
    headers,
    ping,
    rst_stream,
    settings,
    window_update,
)
from support.peers.frames import (
    goaway as goaway_frame,
)
from support.peers.peer import Peer
from support.peers.streams import WAITING

ECHO = b"\x40\x01a\x01b"


def pings_are_echoed(peer: Peer) -> None:
    peer.until(lambda: sum(isinstance(each, PingFrame) for each in peer.frames) == 2)
    echoes = [each for each in peer.frames if isinstance(each, PingFrame)]
    assert all("ACK" in each.flags for each in echoes)
    assert [each.opaque_data for each in echoes] == [b"12345678", b"\0\xff" * 4]
    goes_on(peer)


def nothing_is_echoed(peer: Peer) -> None:
    goes_on(peer)
    assert not any(isinstance(each, PingFrame) for each in peer.frames)


PUSH_AND_PING_CASES = [
    Case(
        "6.6",
        "PUSH_PROMISE of a client",
        (headers(1) + frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + CALL),),
        goaway(Code.PROTOCOL_ERROR),
    ),
    Case("6.7", "PINGs are echoed", (ping(), ping(b"\0\xff" * 4)), pings_are_echoed),
    Case("6.7", "an ACK is not echoed", (ping(flags=ACK),), nothing_is_echoed),
    Case("6.7", "PING on a stream", (frame(PING, 0, 1, bytes(8)),), goaway(Code.PROTOCOL_ERROR)),
    Case("6.7", "PING of 7 bytes", (ping(bytes(7)),), goaway(Code.FRAME_SIZE_ERROR)),
    Case("6.7", "PING of 9 bytes", (ping(bytes(9)),), goaway(Code.FRAME_SIZE_ERROR)),
    Case("6.7", "PING of nothing", (ping(b""),), goaway(Code.FRAME_SIZE_ERROR)),
    Case("6.7", "an ACK of 6 bytes", (ping(bytes(6), ACK),), goaway(Code.FRAME_SIZE_ERROR)),
]


def answers_then_closes(peer: Peer) -> None:
    peer.answer(1).assert_good()
    peer.end()
    assert peer.goaway is None or peer.goaway.error_code == Code.NO_ERROR


GOAWAY_CASES = [
    Case(
        "6.8", "GOAWAY on a stream", (frame(GOAWAY, 0, 1, bytes(8)),), goaway(Code.PROTOCOL_ERROR)
    ),
    Case(
        "6.8", "GOAWAY of 7 bytes", (frame(GOAWAY, 0, 0, bytes(7)),), goaway(Code.FRAME_SIZE_ERROR)
    ),
    Case("6.8", "calls in progress are answered", (call(1) + goaway_frame(),), answers_then_closes),
    Case(
        "6.8",
        "a call is ended behind a GOAWAY, and answered",
        (headers(1) + goaway_frame(0, 0, b"so long") + data(1),),
        answers_then_closes,
    ),
    Case(
        "6.8",
        "GOAWAY twice, with unknown codes",
        (call(1) + goaway_frame(2**31 - 1, 0xABCD) + goaway_frame(0, 2**32 - 1),),
        answers_then_closes,
    ),
]


def data_in_steps(peer: Peer) -> None:
    """Byte for byte as the window allows, and not one more."""
    for granted in (1, 2, 3):
        peer.send(window_update(1, granted))
        goal = len(peer.answers[1].data) + granted

        def reached(goal: int = goal) -> bool:
            return len(peer.answers[1].data) >= goal

        peer.until(reached)
        assert len(peer.answers[1].data) == goal
    peer.send(window_update(1, 2**15))
    peer.answer(1).assert_good()
    goes_on(peer)


def window_below_zero(peer: Peer) -> None:
    """A smaller INITIAL_WINDOW_SIZE takes away what was granted: 10 bytes are gone already."""
    peer.until(lambda: len(peer.answers[1].data) == 10)
    # -> -10 + 5, + 5: nothing; + 3.
    peer.send(settings({INITIAL_WINDOW_SIZE: 0}) + window_update(1, 5) + window_update(1, 5))
    peer.send(window_update(1, 3))
    peer.until(lambda: len(peer.answers[1].data) > 10)
    assert len(peer.answers[1].data) == 13
    goes_on(peer)
    peer.answer(1).assert_good()


WINDOW_CASES = [
    Case(
        "6.9",
        "WINDOW_UPDATE of a stream by 0",
        (headers(1) + window_update(1, 0),),
        reset(Code.PROTOCOL_ERROR),
    ),
    Case(
        "6.9",
        "WINDOW_UPDATE of the connection by 0",
        (window_update(0, 0),),
        goaway(Code.PROTOCOL_ERROR),
    ),
    Case(
        "6.9",
        "WINDOW_UPDATE by 0 and the reserved bit",
        (window_update(0, 2**31),),
        goaway(Code.PROTOCOL_ERROR),
    ),
    Case(
        "6.9",
        "WINDOW_UPDATE of 3 bytes",
        (frame(WINDOW_UPDATE, 0, 0, b"\0\0\1"),),
        goaway(Code.FRAME_SIZE_ERROR),
    ),
    Case(
        "6.9",
        "WINDOW_UPDATE of 5 bytes on a stream",
        (headers(1) + frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\0\1"),),
        goaway(Code.FRAME_SIZE_ERROR),
    ),
    Case("6.9", "the reserved bit", (window_update(0, 2**31 + 5) + call(1),), answers(1)),
    Case("6.9.1", "data come as windows allow", (WAITING,), data_in_steps),
    Case(
        "6.9.1",
        "a stream's window above 2^31-1",
        (headers(1) + window_update(1, 2**31 - 1),),
        reset(Code.FLOW_CONTROL_ERROR),
    ),
    Case(
        "6.9.1",
        "the connection's window above 2^31-1",
        (window_update(0, 2**31 - 1),),
        goaway(Code.FLOW_CONTROL_ERROR),
    ),
    Case(
        "6.9.1",
        "windows of 2^31-1 exactly",
        (headers(1) + window_update(0, 2**31 - 2**16) + window_update(1, 2**31 - 2**16) + data(1),),
        answers(1),
    ),
    Case(
        "6.9.2",
        "INITIAL_WINDOW_SIZE holds for open streams as well",
        (WAITING + settings({INITIAL_WINDOW_SIZE: 2**14}),),
        answers(1),
    ),
    Case(
        "6.9.2",
        "a window may fall below zero",
        (settings({INITIAL_WINDOW_SIZE: 10}) + call(1),),
        window_below_zero,
    ),
    Case(
        "6.9.2",
        "INITIAL_WINDOW_SIZE that puts an open stream's window above 2^31-1",
        (headers(1) + window_update(1, 2**30) + settings({INITIAL_WINDOW_SIZE: 2**31 - 1}),),
        goaway(Code.FLOW_CONTROL_ERROR),
    ),
]

CONTINUATION_CASES = [
    Case(
        "6.10",
        "CONTINUATION on stream 0",
        (frame(CONTINUATION, END_HEADERS, 0),),
        goaway(Code.PROTOCOL_ERROR),
    ),
    Case(
        "6.10",
        "CONTINUATION behind a field section that ended",
        (headers(1) + frame(CONTINUATION, END_HEADERS, 1, ECHO),),
        goaway(Code.PROTOCOL_ERROR),
    ),
    Case(
        "6.10",
        "CONTINUATION behind CONTINUATION that ended",
        (continued(1, CALL[:9], CALL[9:]) + frame(CONTINUATION, END_HEADERS, 1),),
        goaway(Code.PROTOCOL_ERROR),
    ),
    Case(
        "6.10",
        "CONTINUATION behind DATA",
        (headers(1) + data(1, b"", 0) + frame(CONTINUATION, END_HEADERS, 1),),
        goaway(Code.PROTOCOL_ERROR),
    ),
    Case(
        "6.10",
        "a field section in as many frames as it may have",
        (continued(1, *(CALL[at : at + 20] for at in range(0, len(CALL), 20))) + data(),),
        answers(1),
    ),
    Case(
        "6.10",
        "trailers in two frames",
        (headers() + data(flags=0) + continued(1, ECHO[:2], ECHO[2:], flags=END_STREAM),),
        answers(1),
    ),
]

CODE_CASES = [
    Case("7", "RST_STREAM with an unknown code", (call(1) + rst_stream(1, 0xABCDEF),), goes_on),
    Case("7", "RST_STREAM with NO_ERROR", (headers(1) + rst_stream(1, 0),), goes_on),
    Case(
        "7", "RST_STREAM with the largest code", (headers(1) + rst_stream(1, 2**32 - 1),), goes_on
    ),
]

CASES = [
    *PUSH_AND_PING_CASES,
    *GOAWAY_CASES,
    *WINDOW_CASES,
    *CONTINUATION_CASES,
    *CODE_CASES,
]
