"""Conversations: the work of a client, apart from waiting; they yield what they wait for next.

A conversation is a generator. It yields a step, is resumed with the step's result or with the
`ClientError` that it ended in, and returns what the caller asked for. Clients perform the steps:
one blocks a thread, one awaits, one answers by itself.
"""

import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple, TypeVar

from forwardpass.client.prediction import Prediction

R = TypeVar("R")

INFER = "ModelInfer"
"""The method of predictions: the one of which several calls may be in flight."""

Metadata = tuple[tuple[str, str], ...]


class Send(NamedTuple):
    """Call a method; the result is the reply, with its trailing metadata if they are requested."""

    method: str
    data: bytes
    timeout_s: float | None
    model: str
    """The model's name, for errors; empty for calls that concern no model."""
    metadata: Metadata | None
    trailers: bool = False


class Sleep(NamedTuple):
    """Wait for some seconds; there is no result."""

    seconds: float


class Acquire(NamedTuple):
    """Take the client's lock on fetching metadata; the result is whether that was in time."""

    timeout_s: float | None


class Window(NamedTuple):
    """Run conversations, several at once, and pass on what each returns, in order."""

    conversations: "Iterator[Steps[Prediction]]"
    in_flight: int
    receive: Callable[[Prediction], None]


Step = Send | Sleep | Acquire | Window
Steps = Generator[Step, Any, R]


def remaining(deadline: float | None) -> float | None:
    """Return the seconds left until a time of the monotonic clock; None for no limit."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())
