"""A session whose runs have a maximum of memory: for models whose work may outgrow their rows.

Nobody can tell from a graph of any kind what n rows take: n, n * n or more. So onnxruntime gets
the memory of such runs from one arena with a maximum, and a run that wants more fails, alone.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Condition, Event, Lock, Thread
from time import sleep
from typing import Any

from numpy.typing import NDArray

from forwardpass.proto.runtime import (
    bounded_run_options,
    open_bounded_session,
    session_options,
    wants_memory,
)
from forwardpass.server.engine.session import Session, SessionError, TooLargeError, UnwantedError
from forwardpass.server.guard.files import ModelBytes
from forwardpass.server.process.memory import give_back

logger = logging.getLogger(__name__)

_COPIES = 4
"""Of answers at the same time: onnxruntime's, their bytes, the reply and what is sent of it."""
_TEXT_BYTES = 64
"""Of a short one."""
_LOOK_S = 0.05
"""Time between two looks whether runs are wanted, in seconds."""
_LARGE = 2**24
"""Answers from this size on are worth the milliseconds that giving their memory back takes."""


def _nothing() -> bytes:
    """Return a model whose run does nothing but end; its answer takes no memory."""
    # Imported here: most models are batched, and need none of this.
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Identity", ["none"], ["nothing"])],
        "nothing",
        [],
        [helper.make_tensor_value_info("nothing", TensorProto.INT64, [0])],
        [helper.make_tensor("none", TensorProto.INT64, [0], [])],
    )
    opset = helper.make_opsetid("", 13)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    return bytes(model.SerializeToString())


class _ArenaFullError(TooLargeError):
    """The arena had no room for a run."""


class BoundedSession(Session):
    """A session whose runs take at most `max_run_bytes`: all sessions of that maximum together."""

    def __init__(self, path: Path, content: ModelBytes | None, max_run_bytes: int) -> None:
        """Load a file; see Session."""
        self._max_run_bytes = max_run_bytes
        self._turns = _TURNS.setdefault(max_run_bytes, _Turns())
        super().__init__(path, content)
        self._nothing, _ = open_bounded_session(_nothing(), session_options(), max_run_bytes)

    def run(
        self,
        feeds: Mapping[str, NDArray[Any]],
        outputs: Sequence[str],
        wanted: Callable[[], bool] | None = None,
    ) -> list[NDArray[Any]]:
        """Run the model; see Session. Raises TooLargeError and UnwantedError as well."""
        try:
            with self._turns.among_others():
                return super().run(feeds, outputs, wanted)
        except _ArenaFullError:
            # Maybe by others, or in pieces of what they left: no fault of these inputs.
            pass
        with self._turns.alone():
            self._give_back()
            return super().run(feeds, outputs, wanted)

    def _give_back(self) -> None:
        """Give back what is free in the arena, which only the end of a run does, to the system."""
        self._nothing.run(None, {}, self._run_options)
        give_back()

    def _failure(self, message: str) -> SessionError:
        failure = super()._failure(message)
        if wants_memory(message):
            return _ArenaFullError(str(failure), self._max_run_bytes)
        return failure

    def _open(self, place: str) -> Any:
        session, self._run_options = open_bounded_session(
            place, session_options(), self._max_run_bytes
        )
        return session

    def _run(
        self,
        feeds: Mapping[str, NDArray[Any]],
        outputs: Sequence[str],
        wanted: Callable[[], bool] | None,
    ) -> list[NDArray[Any]]:
        answers: list[NDArray[Any]]
        if wanted is None:
            answers = self._session.run(outputs, feeds, self._run_options)
        else:
            options = _WATCH.begin(wanted)
            try:
                answers = self._session.run(outputs, feeds, options)
            except Exception as error:
                if options.terminate:
                    raise UnwantedError("nobody waits for the run any more") from error
                raise
            finally:
                _WATCH.end(options)
        size = sum(map(_size, answers))
        if size * _COPIES > self._max_run_bytes:
            # The error would keep them as long as somebody has it.
            del answers
            self._give_back()
            what = f"with answers of {size} bytes, of which copies are made"
            raise TooLargeError(what, self._max_run_bytes)
        # They lie in the arena, and each would keep all that lies around it.
        answers = [answer.copy() for answer in answers]
        if size > _LARGE:
            self._give_back()
        return answers


def _size(answer: NDArray[Any]) -> int:
    return answer.size * _TEXT_BYTES if answer.dtype == object else answer.nbytes


class _RunWatch:
    """Ends runs that nobody waits for: onnxruntime looks before each node whether to go on."""

    def __init__(self) -> None:
        self._runs: dict[Any, Callable[[], bool]] = {}
        self._free: list[Any] = []
        """Options for reuse: making some takes as long as a short run."""
        self._some = Event()
        # Guards the end of a run, and that of its watch.
        self._lock = Lock()
        self._thread: Thread | None = None

    def begin(self, wanted: Callable[[], bool]) -> Any:
        """Return options of a run that ends once it is not wanted; until `end`."""
        try:
            options = self._free.pop()
        except IndexError:
            options = bounded_run_options()
        self._runs[options] = wanted
        if not self._some.is_set():
            self._some.set()
        if self._thread is None:
            self._start()
        return options

    def end(self, options: Any) -> None:
        """End the watch over a run."""
        with self._lock:
            del self._runs[options]
        if not options.terminate:
            self._free.append(options)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = Thread(target=self._look, name="watch", daemon=True)
                self._thread.start()

    def _look(self) -> None:
        while self._some.wait():
            # Before the runs are read: one that begins now sets it again.
            self._some.clear()
            for options, wanted in list(self._runs.items()):
                self._some.set()
                if not _is(wanted):
                    # Not another run's, which has the options once this one has ended.
                    with self._lock:
                        if self._runs.get(options) is wanted:
                            options.terminate = True
            sleep(_LOOK_S)


def _is(wanted: Callable[[], bool]) -> bool:
    try:
        return wanted()
    except Exception:
        logger.exception("nobody knows whether a run is wanted")
        return True


class _Turns:
    """Lets runs go on side by side, or one alone."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._running = 0
        self._alone = False

    @contextmanager
    def among_others(self) -> Iterator[None]:
        """Run beside others."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Run while no other run does."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._alone = True
            self._changed.wait_for(lambda: not self._running)
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()


_WATCH = _RunWatch()
_TURNS: dict[int, _Turns] = {}
"""By maximum: the sessions of one maximum share an arena."""
