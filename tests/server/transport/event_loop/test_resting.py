"""Connections that send much take turns, and those of batch calls leave pauses."""

from collections.abc import Callable
from typing import Any

import pytest

from forwardpass.server.transport.event_loop import resting as resting_module
from forwardpass.server.transport.event_loop.resting import Resting


class Loop:
    """Stands for an event loop whose rounds and timers are run by hand."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.later: list[Callable[[], None]] = []

    def call_soon(self, what: Callable[[], None]) -> None:
        self.soon.append(what)

    def call_later(self, delay_s: float, what: Callable[[], None]) -> None:
        assert delay_s > 0
        self.later.append(what)

    def run(self) -> None:
        soon, self.soon = self.soon, []
        for what in soon:
            what()


class Connection:
    """Stands for a connection that always has 64 KiB more to read."""

    def __init__(self, name: str, resting: Resting, log: list[str], *, batch: bool) -> None:
        self._name, self._resting, self._log, self._batch = name, resting, log, batch

    def read(self) -> None:
        self._resting.add(self, 2**16, batch=self._batch)

    def read_on(self) -> None:
        self._log.append(self._name)
        self.read()


def begun() -> tuple[Loop, list[str]]:
    """Return a loop, and the log of who reads: two send batch calls (a, b), and one others (c)."""
    loop: Any = Loop()
    log: list[str] = []
    resting = Resting(loop)
    for name in "abc":
        Connection(name, resting, log, batch=name != "c").read()
    return loop, log


def test_one_batch_connection_reads_in_a_round_and_every_other_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resting_module, "expects_interactive", lambda: False)
    loop, log = begun()
    for round_ in ("ac", "bc", "ac", "bc", "ac", "bc"):
        loop.run()
        assert sorted(log) == list(round_)
        log.clear()
    assert not loop.later


def test_batch_connections_pause_while_interactive_calls_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resting_module, "expects_interactive", lambda: True)
    loop, log = begun()
    for _ in range(20):
        loop.run()
    assert log.count("c") == 20
    assert len(log) < 20 + 5
    assert len(loop.later) == 1
    log.clear()
    loop.later.pop()()
    for _ in range(20):
        loop.run()
    # 256 KiB, and the next pause.
    assert len(log) - log.count("c") == 4
    assert len(loop.later) == 1
