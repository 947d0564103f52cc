"""What a client does, apart from how it waits: conversations that say what they wait for next.

A conversation is a generator. It yields a step, is resumed with the step's result or with the
`ClientError` that it ended in, and returns what the caller asked for. Clients perform the steps:
one blocks a thread, one awaits, one answers by itself.
"""

from collections.abc import Callable, Generator, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from forwardpass.client.errors import ClientError
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


class Conversation(Generic[R]):
    """A conversation under way, up to the step that it waits for."""

    __slots__ = ("_error", "_result", "_steps", "step")

    def __init__(self, steps: Steps[R]) -> None:
        """Begin it."""
        self._steps = steps
        self._error: Exception | None = None
        self._result: R | None = None
        self.step: Step | None = None
        """What it waits for; None once it has ended."""
        self.answer(None)

    def answer(self, result: object) -> None:
        """Go on with the result of the step."""
        try:
            self.step = self._steps.send(result)
        except StopIteration as end:
            self.step, self._result = None, end.value
        except Exception as error:
            self.step, self._error = None, error

    def fail(self, error: ClientError) -> None:
        """Go on with the error that the step ended in."""
        try:
            self.step = self._steps.throw(error)
        except StopIteration as end:
            self.step, self._result = None, end.value
        except Exception as raised:
            self.step, self._error = None, raised

    def close(self) -> None:
        """End it wherever it is, so that it lets go of what it holds."""
        self._steps.close()

    def result(self) -> R:
        """Return what it ended with, or raise it."""
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # ended, so it holds an R
