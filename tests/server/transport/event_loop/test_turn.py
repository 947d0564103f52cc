"""How many calls of which class a turn of the loop takes."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from forwardpass.server.transport.event_loop import turn as turn_module
from forwardpass.server.transport.event_loop.turn import Turn


class Connection:
    """Stands for a connection: so many calls of each class wait."""

    def __init__(self, turn: Turn, interactive: int, batch: int) -> None:
        self._turn = turn
        self.interactive = interactive
        self.batch = batch

    def take_calls(self) -> list[Any]:
        calls = ["interactive"] * self.interactive
        self.interactive = 0
        room = min(self.batch, self._turn.batch_room)
        self._turn.batch_room -= room
        self.batch -= room
        if self.batch:
            self._turn.wait(self)
        return calls + ["batch"] * room

    def flush(self) -> None:
        """Nothing is written."""


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


class Clock:
    """Stands for time.perf_counter_ns."""

    def __init__(self) -> None:
        self.now = 1

    def __call__(self) -> int:
        return self.now


def turns(
    loop: asyncio.AbstractEventLoop, clock: Clock, call_ns: int, *waiting: tuple[int, int]
) -> list[list[Any]]:
    """Run turns until nothing waits; return the calls of each, which take so long."""
    taken: list[list[Any]] = []

    def infer(calls: list[Any]) -> None:
        taken.append(calls)
        clock.now += call_ns * len(calls)

    turn = Turn(loop, infer)
    for interactive, batch in waiting:
        turn.wait(Connection(turn, interactive, batch))
    while turn._waiting:
        loop.run_until_complete(asyncio.sleep(0))
    return taken


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(turn_module, "perf_counter_ns", clock)
    # Whatever other tests of this process have called.
    monkeypatch.setattr(turn_module, "expects_interactive", lambda: False)
    return clock


def test_batch_calls_have_a_millisecond_of_each_turn(
    loop: asyncio.AbstractEventLoop, clock: Clock
) -> None:
    taken = turns(loop, clock, 50_000, (0, 400), (0, 400))
    # The first turn finds out what one takes; the figure is a mean that follows.
    assert len(taken[0]) == 1
    for calls in taken[20:-1]:
        assert 19 <= len(calls) <= 21
    assert sum(map(len, taken)) == 800


def test_beside_interactive_calls_batch_calls_have_less_of_each_turn(
    loop: asyncio.AbstractEventLoop, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn_module, "expects_interactive", lambda: True)
    taken = turns(loop, clock, 5_000, (0, 400))
    for calls in taken[20:-1]:
        assert 7 <= len(calls) <= 9
    assert sum(map(len, taken)) == 400


def test_a_long_batch_call_is_taken_alone_and_interactive_ones_all(
    loop: asyncio.AbstractEventLoop, clock: Clock
) -> None:
    taken = turns(loop, clock, 30_000_000, (5, 0), (0, 10), (500, 0))
    assert [calls.count("batch") for calls in taken] == [1] * 10
    assert taken[0].count("interactive") == 505


def test_what_is_read_in_a_turn_has_the_same_times(loop: asyncio.AbstractEventLoop) -> None:
    turn = Turn(loop, lambda _: None)
    first = turn.begin()
    assert turn.times is first
    loop.run_until_complete(asyncio.sleep(0))
    assert turn.times is None
    assert turn.begin() > first


@pytest.fixture
def begun(loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is scheduled to run on the loop, which does not run."""
    begun: list[Any] = []
    monkeypatch.setattr(loop, "call_soon", begun.append)
    return begun


def test_answers_of_a_turn_do_not_begin_another(
    loop: asyncio.AbstractEventLoop, begun: list[Any]
) -> None:
    # An answer is output of its connection, which is written at the end of the same turn.
    turn = Turn(loop, lambda _: turn.flush_later(connection))
    connection = Connection(turn, 1, 0)
    turn.wait(connection)
    assert len(begun) == 1
    begun[0]()
    assert len(begun) == 1
    turn.wait(connection)
    assert len(begun) == 2


def test_what_waits_after_a_turn_begins_another(
    loop: asyncio.AbstractEventLoop, begun: list[Any]
) -> None:
    turn = Turn(loop, lambda _: turn.wait(connection))
    connection = Connection(turn, 1, 0)
    turn.wait(connection)
    begun[0]()
    assert len(begun) == 2
