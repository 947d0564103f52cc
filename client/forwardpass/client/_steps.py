"""What a client does, apart from how it waits: conversations that say what they wait for next.

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
    """Call a method; the result is the reply, with its trailing metadata if they are wanted."""

    method: str
    data: bytes
    timeout_s: float | None
    model: str
    """For the text of errors; empty for calls that concern none."""
    metadata: Metadata | None
    trailers: bool = False


class Sleep(NamedTuple):
    """Wait so long; there is no result."""

    seconds: float


class Acquire(NamedTuple):
    """Take the client's lock on fetching metadata; the result is whether that came in time."""

    timeout_s: float | None


class Window(NamedTuple):
    """Hold conversations, so many at once, and hand over what each returns, in order."""

    conversations: "Iterator[Steps[Prediction]]"
    in_flight: int
    receive: Callable[[Prediction], None]


Step = Send | Sleep | Acquire | Window
Steps = Generator[Step, Any, R]


def remaining(deadline: float | None) -> float | None:
    """Return the seconds left until a time of the monotonic clock; None for ever."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())
