"""Questions and answers between two processes, here between two threads of one."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest
from support.waiting import eventually

from forwardpass.server.process.channel import Channel, ChannelEndedError, pair

ANSWERED_S = 30


class Ends:
    """Both ends; `far` answers."""

    def __init__(self, **answers: Callable[..., Any]) -> None:
        ours, theirs = pair()
        self.ended: list[str] = []
        self.near = Channel(ours, answers, lambda: self.ended.append("near"), "near")
        self.far = Channel(theirs, answers, lambda: self.ended.append("far"), "far")
        self.far.start()
        self.near.start()

    def close(self) -> None:
        self.near.close()
        eventually(lambda: sorted(self.ended) == ["far", "near"])


@pytest.fixture
def make() -> Iterator[Callable[..., Ends]]:
    made: list[Ends] = []

    def make(**answers: Callable[..., Any]) -> Ends:
        made.append(Ends(**answers))
        return made[-1]

    yield make
    for each in made:
        each.close()


def refused(*_: Any) -> None:
    raise ValueError("not that")


class UnsendableError(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("it stays here")


def unsendable(*_: Any) -> None:
    raise UnsendableError("this happened")


def test_either_end_asks_and_gets_what_the_other_returns(make: Callable[..., Ends]) -> None:
    ends = make(sum=lambda *values: sum(values))
    for end in (ends.near, ends.far):
        assert end.ask("sum", 1, 2, 3).result(ANSWERED_S) == 6


def test_questions_are_answered_in_order_and_those_that_take_longer_when_they_are_done(
    make: Callable[..., Ends],
) -> None:
    seen: list[int] = []
    later: Future[str] = Future()
    ends = make(note=seen.append, wait=lambda: later)
    waits = ends.near.ask("wait")
    asked = [ends.near.ask("note", number) for number in range(50)]
    for each in asked:
        each.result(ANSWERED_S)
    assert seen == list(range(50))
    assert not waits.done()
    later.set_result("now")
    assert waits.result(ANSWERED_S) == "now"


def test_what_is_larger_than_a_socket_takes_at_once_arrives(make: Callable[..., Ends]) -> None:
    value = os.urandom(5_000_000)
    assert make(same=lambda value: value).near.ask("same", value).result(ANSWERED_S) == value


def test_an_error_is_raised_where_it_was_asked(make: Callable[..., Ends]) -> None:
    later: Future[None] = Future()
    ends = make(refused=refused, later=lambda: later, unsendable=unsendable)
    with pytest.raises(ValueError, match="not that"):
        ends.near.ask("refused").result(ANSWERED_S)
    asked = ends.near.ask("later")
    later.set_exception(KeyError("gone"))
    with pytest.raises(KeyError, match="gone"):
        asked.result(ANSWERED_S)
    # By its text, where it cannot be sent as what it is.
    with pytest.raises(RuntimeError, match="UnsendableError: this happened"):
        ends.near.ask("unsendable").result(ANSWERED_S)
    with pytest.raises(KeyError, match="unknown"):
        ends.near.ask("unknown").result(ANSWERED_S)


def test_a_question_that_is_cancelled_is_cancelled_at_the_other_end(
    make: Callable[..., Ends],
) -> None:
    working: Future[None] = Future()
    ends = make(work=lambda: working, ping=lambda: "pong")
    asked = ends.near.ask("work")
    assert ends.near.ask("ping").result(ANSWERED_S) == "pong"
    assert asked.cancel()
    eventually(working.cancelled)
    # Nothing else is disturbed, also not by an answer that nobody waits for.
    assert ends.near.ask("ping").result(ANSWERED_S) == "pong"


def test_descriptors_are_of_both_ends(make: Callable[..., Ends]) -> None:
    def read(name: str, files: list[int]) -> tuple[str, bytes, bool]:
        (file,) = files
        try:
            return name, os.pread(file, 100, 0), os.get_inheritable(file)
        finally:
            os.close(file)

    written = os.memfd_create("file")
    os.write(written, b"content")
    asked = make(read=read).near.ask("read", "it", descriptors=[written])
    os.close(written)
    assert asked.result(ANSWERED_S) == ("it", b"content", False)


def test_what_was_asked_ends_with_the_channel(make: Callable[..., Ends]) -> None:
    working: Future[None] = Future()
    begun = threading.Event()

    def work() -> "Future[None]":
        begun.set()
        return working

    ends = make(work=work)
    asked = ends.near.ask("work")
    assert begun.wait(ANSWERED_S)
    ends.far.close()
    with pytest.raises(ChannelEndedError):
        asked.result(ANSWERED_S)
    # Whoever has asked has gone: nobody needs the answer.
    eventually(working.cancelled)
    with pytest.raises(CancelledError):
        working.result()
    eventually(lambda: sorted(ends.ended) == ["far", "near"])
    with pytest.raises(ChannelEndedError):
        ends.near.ask("work").result(ANSWERED_S)


def test_an_end_that_closes_within_a_message_has_gone() -> None:
    ours, theirs = pair()
    ended = threading.Event()
    channel = Channel(ours, {}, ended.set)
    channel.start()
    asked = channel.ask("anything")
    theirs.sendall(b"\0\0\0\0")
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(ChannelEndedError):
        asked.result(ANSWERED_S)
    assert ended.wait(ANSWERED_S)
    theirs.close()
