"""Calls that come when they come, however slow the answers are: an open loop.

h2load paces by a timer of ten milliseconds, so that calls come in bunches, and its scripts by one
of a millisecond; here each call has its own time, of a Poisson process, and its latency counts
from that time on, sent late or not. Every answer is compared.
"""

import select
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.field.connection import Answer, Connection

_PATIENCE_S = 10.0
"""How long answers are waited for after the last call was sent."""


@dataclass
class Outcome:
    """What became of the calls."""

    calls: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """Calls that failed, by what was wrong with them."""
    latencies_s: list[float] = field(default_factory=list)
    """Of the right answers."""
    late_s: list[float] = field(default_factory=list)
    """How long after its time each call was sent."""


def poisson(rate: float, seconds: float, seed: int) -> NDArray[np.float64]:
    """Return the times of a Poisson process within some seconds."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds * 1.5) + 20)
    times = np.cumsum(gaps)
    return times[times < seconds]


def send(
    address: tuple[str, int],
    path: str,
    message: bytes,
    right: Callable[[bytes], bool],
    times: NDArray[np.float64],
    *,
    connections: int = 8,
    while_: Callable[[], bool] = lambda: True,
    asleep: bool = False,
) -> Outcome:
    """Call at the times given, over several connections in turn, until `while_` is false.

    asleep: sleep where there is nothing to do, for calls beside another load on this core.
    Otherwise it never does: a process that sleeps is woken late, by 50 us at best and some
    hundred on a virtual machine, which would count as the server's time.

    Raises ConnectionError if the server closes a connection, or does not open one.
    """
    outcome = Outcome()
    with ExitStack() as stack:
        lines = [_Line(address, path, message) for _ in range(connections)]
        for line in lines:
            stack.enter_context(line.socket)
        load = _Load(lines, asleep=asleep)
        begin = time.perf_counter()
        while not all(line.connection.ready for line in lines):
            load.turn(0.05)
            if time.perf_counter() - begin > _PATIENCE_S:
                raise ConnectionError(f"{address}: no settings came")
        begin = time.perf_counter()
        due = [begin + float(at) for at in times]
        sent = 0
        while sent < len(due) and while_():
            now = time.perf_counter()
            while sent < len(due) and due[sent] <= now:
                lines[sent % connections].connection.call(sent)
                outcome.late_s.append(now - due[sent])
                sent += 1
            pause = 0.05 if sent == len(due) else min(0.05, max(0.0, due[sent] - now))
            _record(load.turn(pause), due, right, outcome)
        give_up = time.perf_counter() + _PATIENCE_S
        ended = len(outcome.latencies_s) + sum(outcome.errors.values())
        while ended < sent and time.perf_counter() < give_up:
            _record(load.turn(0.05), due, right, outcome)
            ended = len(outcome.latencies_s) + sum(outcome.errors.values())
    outcome.calls = sent
    if sent > ended:
        outcome.errors["no answer"] += sent - ended
    return outcome


class _Line:
    """A connection and its socket."""

    def __init__(self, address: tuple[str, int], path: str, message: bytes) -> None:
        self.connection = Connection(f"{address[0]}:{address[1]}", path, message)
        self.socket = socket.create_connection(address, timeout=_PATIENCE_S)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def write(self) -> None:
        outgoing = self.connection.outgoing
        with suppress(BlockingIOError):
            del outgoing[: self.socket.send(outgoing)]

    def read(self) -> list[Answer]:
        data = self.socket.recv(2**20)
        if not data:
            raise ConnectionError("the server closed the connection")
        return self.connection.receive(data)


class _Load:
    """Lines that are written and read as far as they can be."""

    def __init__(self, lines: list[_Line], *, asleep: bool) -> None:
        self._asleep = asleep
        self._lines = {line.socket.fileno(): line for line in lines}
        self._readable = select.poll()
        for number in self._lines:
            self._readable.register(number, select.POLLIN)

    def turn(self, pause_s: float) -> list[tuple[Answer, float]]:
        """Write what waits, read what came; return the answers and when they were there.

        Waits for them for some time at most, where it may sleep.
        """
        for line in self._lines.values():
            if line.connection.outgoing:
                line.write()
        ended: list[tuple[Answer, float]] = []
        for number, _ in self._readable.poll(pause_s * 1000 if self._asleep else 0):
            answers = self._lines[number].read()
            now = time.perf_counter()
            ended += [(answer, now) for answer in answers]
        return ended


def _record(
    ended: list[tuple[Answer, float]],
    due: list[float],
    right: Callable[[bytes], bool],
    outcome: Outcome,
) -> None:
    for answer, at in ended:
        if answer.status != "0":
            outcome.errors[f"status {answer.status}"] += 1
        elif not right(answer.message):
            outcome.errors["wrong answer"] += 1
        else:
            outcome.latencies_s.append(at - due[answer.call])
