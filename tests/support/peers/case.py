"""One case of an RFC: what a client sends after its preface, and what has to follow."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from hyperframe.frame import RstStreamFrame

from support.peers.frames import INITIAL_WINDOW_SIZE, call, settings
from support.peers.peer import Peer

LATER = 2**20 + 1
"""A stream that no case uses."""
ROOM = settings({INITIAL_WINDOW_SIZE: 2**16 - 1})
"""SETTINGS that grant a window to answer, which some cases leave at 0."""


class Code(IntEnum):
    """The error codes of RFC 9113, section 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    FLOW_CONTROL_ERROR = 0x3
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


Step = bytes | Callable[[Peer], None]
Expectation = Callable[[Peer], None]


@dataclass(frozen=True)
class Case:
    """A row of a table."""

    section: str
    """The section of the RFC to whose table it belongs."""
    name: str
    steps: tuple[Step, ...]
    """Bytes to send, or something to do, each after the other."""
    expectation: Expectation
    greet: bool = True
    """Whether the preface and SETTINGS go before the steps."""

    def __str__(self) -> str:
        return f"{self.section} {self.name}"

    def play(self, port: int) -> None:
        """Send, and check what follows."""
        with Peer(port, greet=self.greet) as peer:
            for step in self.steps:
                if isinstance(step, bytes):
                    peer.send(step)
                else:
                    step(peer)
            self.expectation(peer)


# Steps


def answered(*stream_ids: int) -> Step:
    """Wait until streams are over."""

    def step(peer: Peer) -> None:
        for stream_id in stream_ids:
            peer.answer(stream_id)

    return step


# Expectations


def goaway(*codes: Code, last: int | None = None) -> Expectation:
    """The connection ends, with one of the codes; last is the last stream that was processed."""

    def check(peer: Peer) -> None:
        peer.end()
        assert peer.goaway is not None, f"no GOAWAY among {peer.frames}"
        assert peer.goaway.error_code in codes, peer.goaway
        if last is not None:
            assert peer.goaway.last_stream_id == last

    return check


def reset(code: Code, stream_id: int = 1) -> Expectation:
    """One stream ends with the code, and the connection goes on."""

    def check(peer: Peer) -> None:
        # An answer may have come before.
        peer.until(
            lambda: any(
                isinstance(each, RstStreamFrame) and each.stream_id == stream_id
                for each in peer.frames
            )
        )
        codes = [each.error_code for each in peer.frames if isinstance(each, RstStreamFrame)]
        assert codes == [code], peer.frames
        goes_on(peer)

    return check


def answers(*stream_ids: int) -> Expectation:
    """The streams are answered, and the connection goes on."""

    def check(peer: Peer) -> None:
        for stream_id in stream_ids:
            peer.answer(stream_id).assert_good()
        goes_on(peer)

    return check


def responds(status: int, grpc_status: int | None = None, stream_id: int = 1) -> Expectation:
    """A stream is answered with a status of HTTP, and one of gRPC; the connection goes on."""

    def check(peer: Peer) -> None:
        answer = peer.answer(stream_id)
        assert answer.status == str(status), answer
        if grpc_status is not None:
            assert answer.grpc_status == grpc_status, answer
        goes_on(peer)

    return check


def either(*expectations: Expectation) -> Expectation:
    """One of several, where an RFC leaves the choice; each has to be met or failed at once."""

    def check(peer: Peer) -> None:
        peer.send(ROOM + call(LATER - 2))
        peer.until(lambda: peer.closed or peer.answers[LATER - 2].ended or peer.goaway is not None)
        failures = []
        for expectation in expectations:
            try:
                expectation(peer)
            except AssertionError as error:
                failures.append(str(error))
            else:
                return
        raise AssertionError("none of these: " + "; ".join(failures))

    return check


def goes_on(peer: Peer) -> None:
    """A call on the same connection is answered."""
    peer.send(ROOM + call(LATER))
    peer.answer(LATER).assert_good()
    assert peer.goaway is None, peer.goaway
