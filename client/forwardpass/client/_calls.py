"""The methods of a client that blocks: conversations performed step by step in the thread."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from threading import Lock
from types import EllipsisType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from forwardpass.client._core import Core, Wanted
from forwardpass.client._inputs import Inputs
from forwardpass.client._steps import (
    INFER,
    Acquire,
    Send,
    Sleep,
    Step,
    Steps,
    Window,
)
from forwardpass.client.errors import ClientError
from forwardpass.client.model import ModelSpec, ServerSpec
from forwardpass.client.prediction import Prediction

if TYPE_CHECKING:
    from forwardpass.client._progress import Report
    from forwardpass.client.served import ModelState, ModelStatistics

R = TypeVar("R")

STREAM_IN_FLIGHT = 8


class InFlight(Protocol):
    """A call that was sent and is not waited for yet."""

    def done(self) -> bool:
        """Return whether `result` would not wait."""

    def result(self) -> bytes:
        """Wait for the reply; raises ClientError if there is none."""

    def cancel(self) -> object:
        """Give it up."""


class BlockingCalls(ABC):
    """What all clients that block can do, over what each does in its own way."""

    _core: Core
    _fetching: Lock

    @abstractmethod
    def _send(self, send: Send) -> Any:
        """Call and return the reply, with its trailing metadata if they are wanted.

        Raises ClientError.
        """

    @abstractmethod
    def _begin(self, send: Send) -> InFlight:
        """Call without waiting; raises ClientError if not even that is possible."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the connection; calls in flight end with CallCancelledError."""

    def predict(
        self,
        model: str,
        x: Inputs,
        *,
        version: str = "",
        outputs: Sequence[str] | None = None,
        timeout_s: float | EllipsisType | None = ...,
        timing: bool = False,
        rows_per_call: int | None = None,
        progress: bool | Report = False,
    ) -> Prediction:
        """Return the model's outputs for x, by name.

        x: an array (or nested lists, whatever NumPy takes) of shape (rows, ...) for a model with
            one input; where its features have names, a dict of them or a DataFrame of pandas or
            polars with such columns, in any order; or a dict of all that by input name. Cast to
            the model's dtypes where nothing but precision is lost. A single row may come without
            its row axis, as (n,) for [-1, n], or as a number for each feature; the outputs then
            come without theirs.
        version: empty for the server's choice, commonly the latest.
        outputs: names to compute, in that order; None for all, in the model's order.
        timeout_s: deadline of the whole, metadata and repeated calls included; `...` is the
            client's own.
        timing: measure where the time goes, and ask the server for its part; for a look
            rather than for every call, as it costs both sides some. Not of calls that are cut.
        rows_per_call: cut more rows than that into calls, some in flight at once, and join their
            answers: for a model whose rows do not depend on one another. None cuts what is above
            the client's max_message_bytes, and only where the server has proven that they do not.
        progress: of a call that is cut, after each piece: called with the rows that are done and
            the rows in all, or True for a bar, where stderr is a terminal and rich is installed.

        Raises InvalidInputError, before anything is sent, if x does not fit the model.
        """
        wanted = Wanted(outputs, timing, rows_per_call, progress)
        return self._run(self._core.predict(model, x, version, timeout_s, wanted))

    def predict_stream(
        self,
        model: str,
        xs: Iterable[Inputs],
        *,
        version: str = "",
        outputs: Sequence[str] | None = None,
        timeout_s: float | EllipsisType | None = ...,
        in_flight: int = STREAM_IN_FLIGHT,
    ) -> Generator[Prediction, None, None]:
        """Yield the prediction for each x, in order, with up to in_flight calls at once.

        No more than in_flight of the xs are read ahead of what has been yielded. Ends, and
        cancels what is in flight, when it is closed or no longer referred to. Otherwise as
        `predict`, with timeout_s for each call; what one raises ends the stream, after the
        answers before it, and so does what the xs raise.

        A call that failed is made again in this thread, when its turn to be yielded comes: give
        a loop that takes long over each answer a timeout_s that outlasts in_flight of them.
        """
        if in_flight < 1:
            raise ValueError(f"in_flight: expected at least 1, got {in_flight}")
        wanted = Wanted(outputs)
        return self._window(
            (self._core.predict(model, x, version, timeout_s, wanted) for x in xs), in_flight
        )

    def live(self) -> bool:
        """Return whether the server says that it runs; raises if it cannot be asked."""
        return self._run(self._core.live())

    def ready(self) -> bool:
        """Return whether the server says that it takes predictions; raises if unreachable."""
        return self._run(self._core.ready())

    def model_ready(self, model: str, version: str = "") -> bool:
        """Return whether the model takes predictions; False too for one that is not there."""
        return self._run(self._core.model_ready(model, version))

    def metadata(self, model: str, version: str = "") -> ModelSpec:
        """Return the model's inputs, outputs and properties.

        They are kept until a call does not fit them, or another version answers it.
        """
        return self._run(self._core.metadata(model, version))

    def server_metadata(self) -> ServerSpec:
        """Return the server's name, version and extensions."""
        return self._run(self._core.server_metadata())

    def index(self) -> tuple[ModelState, ...]:
        """Return the state of each version of each model in the server's repository.

        Raises UnimplementedError from a server that has no RepositoryIndex.
        """
        return self._run(self._core.index())

    def statistics(self, model: str = "", version: str = "") -> tuple[ModelStatistics, ...]:
        """Return what each version has answered, of one model or, if empty, of all that are ready.

        Raises UnimplementedError from a server that has no ModelStatistics.
        """
        return self._run(self._core.statistics(model, version))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        core = self._core
        return f"<{type(self).__name__} of {core.target}{' (closed)' if core.closed else ''}>"

    def _run(self, steps: Steps[R]) -> R:
        try:
            step = next(steps)
            while True:
                step = self._next(steps, step)
        except StopIteration as end:
            result: R = end.value
            return result
        finally:
            # Whatever went wrong, the conversation lets go of what it holds.
            steps.close()

    def _next(self, steps: Steps[R], step: Step) -> Step:
        """Perform a step and return the next; raises StopIteration at the end."""
        try:
            result = self._send(step) if type(step) is Send else self._perform(step)
        except ClientError as error:
            return steps.throw(error)
        return steps.send(result)

    def _perform(self, step: Step) -> object:
        match step:
            case Acquire(timeout_s):
                return self._fetching.acquire(timeout=-1 if timeout_s is None else timeout_s)
            case Window(conversations, in_flight, receive):
                for prediction in self._window(conversations, in_flight):
                    receive(prediction)
            case Sleep(seconds):
                time.sleep(seconds)
        return None

    def _window(
        self, conversations: Iterable[Steps[Prediction]], in_flight: int
    ) -> Generator[Prediction, None, None]:
        begun: deque[_Begun] = deque()
        rest = iter(conversations)
        try:
            while True:
                try:
                    steps = next(rest, None)
                except Exception:
                    # The caller's own, of what is asked next: what was asked before is answered.
                    yield from _finish(begun, 0)
                    raise
                if steps is None:
                    break
                begun.append(_Begun(self, steps))
                yield from _finish(begun, in_flight - 1)
            yield from _finish(begun, 0)
        finally:
            for each in begun:
                each.cancel()


class _Begun:
    """A conversation whose prediction is in flight, or that ended before it got there."""

    def __init__(self, calls: BlockingCalls, steps: Steps[Prediction]) -> None:
        self._calls = calls
        self._steps = steps
        self._in_flight: InFlight | None = None
        self._prediction: Prediction | None = None
        self._error: ClientError | None = None
        try:
            step = next(steps)
            # Up to the first ModelInfer, one after the other: metadata are fetched once.
            while type(step) is not Send or step.method != INFER:
                step = calls._next(steps, step)
            self._in_flight = calls._begin(step)
        except StopIteration as end:
            self._prediction = end.value
        except ClientError as error:
            self._error = error

    def done(self) -> bool:
        return self._in_flight is None or self._in_flight.done()

    def finish(self) -> Prediction:
        """Return the prediction, or raise what there is instead."""
        if self._error is not None:
            raise self._error
        if self._in_flight is not None:
            self._prediction = self._go_on(self._in_flight)
        if self._prediction is None:
            raise RuntimeError("a conversation that predicts ended without a prediction")
        return self._prediction

    def _go_on(self, in_flight: InFlight) -> Prediction:
        try:
            try:
                reply = in_flight.result()
            except ClientError as error:
                step = self._steps.throw(error)
            else:
                step = self._steps.send(reply)
            while True:
                step = self._calls._next(self._steps, step)
        except StopIteration as end:
            prediction: Prediction = end.value
            return prediction

    def cancel(self) -> None:
        if self._in_flight is not None:
            self._in_flight.cancel()
        self._steps.close()


def _finish(begun: deque[_Begun], waiting: int) -> Generator[Prediction, None, None]:
    """Yield the first predictions: those that are there, and more until only so many wait."""
    while len(begun) > waiting or (begun and begun[0].done()):
        yield begun[0].finish()
        begun.popleft()
