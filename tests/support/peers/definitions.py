"""RFC 9113, sections 6.1 to 6.5: DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS."""

from hyperframe.frame import SettingsFrame

from support.peers.case import (
    Case,
    Code,
    answered,
    answers,
    either,
    goaway,
    goes_on,
    reset,
)
from support.peers.frames import (
    ACK,
    BODY,
    CALL,
    CONTINUATION,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    PADDED,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WITH_PRIORITY,
    call,
    data,
    frame,
    headers,
    padded,
    priority,
    rst_stream,
    settings,
)
from support.peers.peer import Peer
from support.peers.streams import WAITING

PADDED_END = PADDED | END_STREAM

DATA_CASES = [
    Case("6.1", "DATA on stream 0", (data(0),), goaway(Code.PROTOCOL_ERROR)),
    Case(
        "6.1",
        "padding as long as the payload",
        (headers() + data(1, padded(b"abc", 0, stated=4), PADDED_END),),
        goaway(Code.PROTOCOL_ERROR),
    ),
    Case(
        "6.1",
        "more padding than payload",
        (headers() + data(1, b"\xff" + bytes(10), PADDED_END),),
        goaway(Code.PROTOCOL_ERROR),
    ),
    Case(
        "6.1",
        "PADDED without the length of the padding",
        (headers() + data(1, b"", PADDED_END),),
        goaway(Code.FRAME_SIZE_ERROR, Code.PROTOCOL_ERROR),
    ),
    Case(
        "6.1",
        "padding is no data",
        (headers() + data(1, padded(BODY[:9], 255), PADDED) + data(1, padded(BODY[9:], 3), 9),),
        answers(1),
    ),
    Case(
        "6.1",
        "padding of 0 bytes",
        (headers() + data(1, padded(BODY, 0), PADDED_END),),
        answers(1),
    ),
    Case(
        "6.1",
        "padding alone",
        (headers() + data(1, padded(b"", 200), PADDED) + data(1),),
        answers(1),
    ),
    Case(
        "6.1", "an empty frame that ends", (headers() + data(flags=0) + data(1, b""),), answers(1)
    ),
    Case(
        "6.1",
        "DATA of a byte each",
        (headers(), *(data(1, BODY[at : at + 1], 0) for at in range(len(BODY))), data(1, b"")),
        answers(1),
    ),
]

HEADERS_CASES = [
    Case("6.2", "HEADERS on stream 0", (headers(0),), goaway(Code.PROTOCOL_ERROR)),
    Case(
        "6.2",
        "more padding than payload",
        (headers(1, padded(CALL, 0, stated=len(CALL) + 1), END_HEADERS | PADDED),),
        goaway(Code.PROTOCOL_ERROR),
    ),
    Case(
        "6.2",
        "PADDED without the length of the padding",
        (headers(1, b"", END_HEADERS | PADDED),),
        goaway(Code.FRAME_SIZE_ERROR, Code.PROTOCOL_ERROR),
    ),
    Case(
        "6.2",
        "PRIORITY without all of the priority",
        (headers(1, b"\0\0\0\0", END_HEADERS | WITH_PRIORITY),),
        goaway(Code.FRAME_SIZE_ERROR, Code.PROTOCOL_ERROR),
    ),
    Case(
        "6.2",
        "padding is no field",
        (headers(1, padded(CALL, 255), END_HEADERS | PADDED) + data(),),
        answers(1),
    ),
    Case(
        "6.2",
        "a priority is no field",
        (headers(1, priority(3, 200) + CALL, END_HEADERS | WITH_PRIORITY) + data(),),
        answers(1),
    ),
    Case(
        "6.2",
        "padding and a priority",
        (headers(1, padded(priority() + CALL, 7), END_HEADERS | PADDED | WITH_PRIORITY) + data(),),
        answers(1),
    ),
    Case(
        "6.2",
        "padding on HEADERS that CONTINUATION follows",
        (
            frame(HEADERS, PADDED, 1, padded(CALL[:30], 50))
            + frame(CONTINUATION, END_HEADERS, 1, CALL[30:])
            + data(),
        ),
        answers(1),
    ),
]

PRIORITY_CASES = [
    Case(
        "6.3",
        "PRIORITY on stream 0",
        (frame(PRIORITY, 0, 0, priority(1)),),
        goaway(Code.PROTOCOL_ERROR),
    ),
    Case(
        "6.3",
        "PRIORITY of 4 bytes",
        (headers(1) + frame(PRIORITY, 0, 1, bytes(4)),),
        reset(Code.FRAME_SIZE_ERROR),
    ),
    Case(
        "6.3",
        "PRIORITY of 6 bytes on an idle stream",
        (frame(PRIORITY, 0, 1, bytes(6)),),
        either(reset(Code.FRAME_SIZE_ERROR), goaway(Code.FRAME_SIZE_ERROR)),
    ),
    Case(
        "6.3",
        "PRIORITY at any time",
        (
            headers(1) + frame(PRIORITY, 0, 1, priority(0)) + data(1),
            answered(1),
            frame(PRIORITY, 0, 1, priority(7)),
        ),
        goes_on,
    ),
]

RST_STREAM_CASES = [
    Case("6.4", "RST_STREAM on stream 0", (rst_stream(0),), goaway(Code.PROTOCOL_ERROR)),
    Case("6.4", "RST_STREAM on an idle stream", (rst_stream(5),), goaway(Code.PROTOCOL_ERROR)),
    Case(
        "6.4",
        "RST_STREAM of 3 bytes",
        (headers(1) + frame(RST_STREAM, 0, 1, bytes(3)),),
        goaway(Code.FRAME_SIZE_ERROR),
    ),
    Case(
        "6.4",
        "RST_STREAM of 5 bytes",
        (headers(1) + frame(RST_STREAM, 0, 1, bytes(5)),),
        goaway(Code.FRAME_SIZE_ERROR),
    ),
    Case("6.4", "a call that is cancelled", (call(1) + rst_stream(1),), goes_on),
    Case("6.4", "half a call that is cancelled", (headers(1) + rst_stream(1),), goes_on),
    Case(
        "6.4",
        "an answer that waits for a window is cancelled",
        (WAITING + rst_stream(1),),
        goes_on,
    ),
]


def bad_setting(name: str, setting: int, value: int, code: Code) -> Case:
    return Case("6.5.2", name, (settings({setting: value}),), goaway(code))


def fine_setting(name: str, *pairs: tuple[int, int]) -> Case:
    return Case("6.5.2", name, (settings(pairs) + call(1),), answers(1))


def every_settings_frame_is_acknowledged(peer: Peer) -> None:
    goes_on(peer)
    acknowledged = [
        each for each in peer.frames if isinstance(each, SettingsFrame) and "ACK" in each.flags
    ]
    # Those of the case, that of the greeting, that of `goes_on`.
    assert len(acknowledged) == 3 + 1 + 1


SETTINGS_CASES = [
    Case(
        "6.5",
        "an ACK with a payload",
        (frame(SETTINGS, ACK, 0, bytes(6)),),
        goaway(Code.FRAME_SIZE_ERROR),
    ),
    Case("6.5", "SETTINGS on a stream", (frame(SETTINGS, 0, 1),), goaway(Code.PROTOCOL_ERROR)),
    Case("6.5", "an ACK on a stream", (frame(SETTINGS, ACK, 3),), goaway(Code.PROTOCOL_ERROR)),
    Case(
        "6.5",
        "SETTINGS of 5 bytes",
        (frame(SETTINGS, 0, 0, bytes(5)),),
        goaway(Code.FRAME_SIZE_ERROR),
    ),
    Case(
        "6.5",
        "SETTINGS of 13 bytes",
        (frame(SETTINGS, 0, 0, bytes(13)),),
        goaway(Code.FRAME_SIZE_ERROR),
    ),
    Case("6.5", "SETTINGS of nothing", (settings(),), goes_on),
    Case("6.5.3", "an ACK for nothing", (frame(SETTINGS, ACK, 0),), goes_on),
    Case(
        "6.5.3",
        "every SETTINGS is acknowledged",
        (settings() * 3,),
        every_settings_frame_is_acknowledged,
    ),
    Case(
        "6.5.3",
        "values are taken over in their order",
        (settings([(INITIAL_WINDOW_SIZE, 0), (INITIAL_WINDOW_SIZE, 2**16 - 1)]) + call(1),),
        answers(1),
    ),
    bad_setting("ENABLE_PUSH of 2", ENABLE_PUSH, 2, Code.PROTOCOL_ERROR),
    bad_setting("INITIAL_WINDOW_SIZE of 2^31", INITIAL_WINDOW_SIZE, 2**31, Code.FLOW_CONTROL_ERROR),
    bad_setting(
        "INITIAL_WINDOW_SIZE of 2^32-1", INITIAL_WINDOW_SIZE, 2**32 - 1, Code.FLOW_CONTROL_ERROR
    ),
    bad_setting("MAX_FRAME_SIZE of 2^14-1", MAX_FRAME_SIZE, 2**14 - 1, Code.PROTOCOL_ERROR),
    bad_setting("MAX_FRAME_SIZE of 0", MAX_FRAME_SIZE, 0, Code.PROTOCOL_ERROR),
    bad_setting("MAX_FRAME_SIZE of 2^24", MAX_FRAME_SIZE, 2**24, Code.PROTOCOL_ERROR),
    fine_setting("ENABLE_PUSH of 0 and 1", (ENABLE_PUSH, 1), (ENABLE_PUSH, 0)),
    fine_setting("MAX_FRAME_SIZE of 2^24-1", (MAX_FRAME_SIZE, 2**24 - 1)),
    fine_setting("INITIAL_WINDOW_SIZE of 2^31-1", (INITIAL_WINDOW_SIZE, 2**31 - 1)),
    fine_setting("MAX_CONCURRENT_STREAMS of 0, of pushed ones", (MAX_CONCURRENT_STREAMS, 0)),
    fine_setting("MAX_HEADER_LIST_SIZE, which is advice", (MAX_HEADER_LIST_SIZE, 2**32 - 1)),
    fine_setting("HEADER_TABLE_SIZE of 2^32-1", (HEADER_TABLE_SIZE, 2**32 - 1)),
    fine_setting("HEADER_TABLE_SIZE of 0", (HEADER_TABLE_SIZE, 0)),
    fine_setting("unknown settings", (0, 1), (7, 2**32 - 1), (0xFFFF, 0)),
]


CASES = [
    *DATA_CASES,
    *HEADERS_CASES,
    *PRIORITY_CASES,
    *RST_STREAM_CASES,
    *SETTINGS_CASES,
]
