"""The methods of a client that blocks: conversations performed step by step in the thread."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from threading import Lock
from types import EllipsisType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from forwardpass.client._conversation.core import Core, Wanted
from forwardpass.client._conversation.steps import (
    INFER,
    Acquire,
    Send,
    Sleep,
    Step,
    Steps,
    Window,
)
from forwardpass.client._messages.inputs import Inputs
from forwardpass.client._messages.missing import Missing
from forwardpass.client.errors import ClientError
from forwardpass.client.model import ModelSpec, ServerSpec
from forwardpass.client.prediction import Prediction

if TYPE_CHECKING:
    from forwardpass.client._conversation.progress import Report
    from forwardpass.client.served import ModelState, ModelStatistics

R = TypeVar("R")

STREAM_IN_FLIGHT = 8


class InFlight(Protocol):
    """A call that was sent, and whose reply nothing waits for yet."""

    def done(self) -> bool:
        """Return whether `result` would not wait."""

    def result(self) -> bytes:
        """Wait for the reply; raises ClientError if there is none."""

    def cancel(self) -> object:
        """Cancel the call."""


class BlockingCalls(ABC):
    """The methods of all clients that block, over the few that each implements itself."""

    _core: Core
    _fetching: Lock

    @abstractmethod
    def _send(self, send: Send) -> Any:
        """Call and return the reply, with its trailing metadata if they are requested.

        Raises ClientError.
        """

    @abstractmethod
    def _begin(self, send: Send) -> InFlight:
        """Call without waiting; raises ClientError if not even that is possible."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection; calls in flight end with CallCancelledError."""

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
        missing: Missing = "refuse",
        content: str = "",
        explain: str = "",
        explain_steps: int | None = None,
    ) -> Prediction:
        """Return the model's outputs for x, by name.

        x: an array (or nested lists, whatever NumPy takes) of shape (rows, ...) for a model with
            one input; if its features have names, anything with these names, in any order: a dict
            of columns, a DataFrame of pandas or polars, an Arrow table, a structured array, a list
            of dicts or other records; or a dict of such values by input name. A model with an
            input for each column takes the same. Values are cast to the model's dtypes if only
            precision is lost. A single row may be passed without its row axis, as (n,) for
            [-1, n], or as a number for each feature (a dict, a Series, a record); the outputs then
            have no row axis either.
        version: empty for the server's choice, commonly the latest.
        outputs: names to compute, in that order; None for all, in the model's order.
        timeout_s: deadline of the whole, metadata and repeated calls included, in seconds; `...`
            is the client's own.
        timing: Whether to measure the parts of the time, the server's included; not meant for
            every call, since it costs both sides time, and not done for calls that are cut.
        rows_per_call: maximum rows of a call; more are cut into several calls, some in flight at
            once, and their answers joined: for a model whose rows do not depend on one another.
            None cuts what is above the client's max_message_bytes, if the server has proven that.
        progress: called after each piece of a call that is cut, with the rows that are done and
            the rows in all; or True for a bar, if stderr is a terminal and rich is installed.
        missing: how missing values are treated (NA, NaN and None of pandas, nulls of polars and
            Arrow, masked ones of NumPy, None in lists): `refuse`, or `nan` to send NaN. A NaN of
            a NumPy array or a list is a value, and sent.
        content: answer by this file alone, whatever takes its place under the same version: its
            `forwardpass.content`, from the properties of `metadata`. Empty for any.
        explain: `OUTPUT`, or `OUTPUT:COLUMN` with an index or a label, to be explained: the outputs
            `explain.OUTPUT`, how much each feature contributes to it compared with the model's
            baseline, and `explain.OUTPUT.error` come as well; see `Prediction.attributions`.
        explain_steps: 16, 32, 64, 128 or 256 gradients for each row; None for 64.

        Raises InvalidInputError, before anything is sent, if x does not fit the model, and
        ModelChangedError if another file answers than `content`.
        """
        wanted = Wanted(
            outputs, timing, rows_per_call, progress, missing, content, explain, explain_steps
        )
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
        missing: Missing = "refuse",
        content: str = "",
        explain: str = "",
        explain_steps: int | None = None,
    ) -> Generator[Prediction, None, None]:
        """Yield the prediction for each x, in order, with up to in_flight calls at once.

        No more than in_flight of the xs are read ahead of what has been yielded. Ends, and
        cancels the calls in flight, when it is closed or no longer referred to. Otherwise as
        `predict`, with timeout_s for each call; an error of a call, or of the xs, ends the
        stream, after the answers before it.

        A call that failed is made again in this thread, when its turn to be yielded comes: if a
        loop takes long for each answer, timeout_s has to be longer than in_flight of these.
        """
        if in_flight < 1:
            raise ValueError(f"in_flight: expected at least 1, got {in_flight}")
        wanted = Wanted(
            outputs,
            missing=missing,
            content=content,
            explain=explain,
            explain_steps=explain_steps,
        )
        return self._window(
            (self._core.predict(model, x, version, timeout_s, wanted) for x in xs), in_flight
        )

    def live(self) -> bool:
        """Return whether the server reports that it runs; raises if it is unreachable."""
        return self._run(self._core.live())

    def ready(self) -> bool:
        """Return whether the server reports that it is ready; raises if it is unreachable."""
        return self._run(self._core.ready())

    def model_ready(self, model: str, version: str = "") -> bool:
        """Return whether the model is ready; False too for one that does not exist."""
        return self._run(self._core.model_ready(model, version))

    def metadata(self, model: str, version: str = "") -> ModelSpec:
        """Return the model's inputs, outputs and properties, as the server has them now."""
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
        """Return the counters of each version, of one model or, if empty, of all that are ready.

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
            # Whatever went wrong, the conversation releases what it holds.
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
                    # An error of the caller's, in making the next x: those before are answered.
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
        """Return the prediction, or raise the error."""
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
    """Yield the first predictions: those that are done, and more until only `waiting` are left."""
    while len(begun) > waiting or (begun and begun[0].done()):
        yield begun[0].finish()
        begun.popleft()
