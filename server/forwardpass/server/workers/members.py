"""The workers as the keeper sees them: what all are asked has happened in all."""

import logging
import os
import signal
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from threading import Condition
from time import monotonic
from typing import Any

from forwardpass.server.process.channel import Channel, ChannelEndedError
from forwardpass.server.workers.figures import Figures, total

logger = logging.getLogger(__name__)

TOLD_S = 60.0
"""Maximum time in which a worker does what it is asked, in seconds: all but loading is short."""
LOADED_S = 600.0
"""Maximum time in which a worker loads a model whose bytes are in memory, in seconds."""


@dataclass(eq=False, slots=True)
class Member:
    """A worker."""

    pid: int
    channel: Channel
    introduced: bool = False
    """Whether it knows all models, or answers calls with what an earlier keeper sent: what all are
    asked holds only when it has done it, too."""
    listening: bool = False
    """Whether it accepts connections, which it does after it was introduced."""
    figures: Figures = field(default_factory=Figures)
    """What it had counted when it was asked last."""


class Members:
    """All workers; thread-safe."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._members: list[Member] = []
        self._past = Figures()
        """What workers had counted that have ended, when they were asked last."""

    @property
    def pids(self) -> list[int]:
        """Their processes."""
        with self._changed:
            return [member.pid for member in self._members]

    @property
    def listening(self) -> int:
        """How many answer calls."""
        with self._changed:
            return sum(member.listening for member in self._members)

    def add(self, members: Sequence[Member], introduce: Callable[[Channel], "Future[Any]"]) -> None:
        """Take in workers, all before any of them is listened to.

        introduce: Asks one to take over all that was sent to the others; the future is done when it
        has, which may take as long as loading all models. Nobody waits for that.
        """
        with self._changed:
            self._members += members
            asked = [(member, introduce(member.channel)) for member in members]
        for member, done in asked:
            done.add_done_callback(partial(self._introduced, member))
            member.channel.start()

    def remove(self, member: Member) -> None:
        """Forget a worker that has ended."""
        with self._changed:
            if member in self._members:
                self._members.remove(member)
                self._past.add(member.figures.past())
            self._changed.notify_all()

    def wait_for(self, count: int) -> None:
        """Return when so many workers listen."""
        with self._changed:
            self._changed.wait_for(
                lambda: sum(member.listening for member in self._members) >= count
            )

    def ask_all(
        self,
        what: str,
        *values: Any,
        descriptors: Sequence[int] = (),
        within_s: float = TOLD_S,
    ) -> dict[Member, Any]:
        """Ask all workers, and return their answers when each has done it or has ended.

        Those that are not introduced yet do it before they listen. One that does not answer in time
        is ended: what was asked holds for all others. Raises the error of the first that answers
        with one.
        """
        with self._changed:
            asked = [
                (member, member.channel.ask(what, *values, descriptors=descriptors))
                for member in self._members
            ]
            asked = [(member, future) for member, future in asked if member.introduced]
        end = monotonic() + within_s
        wait([future for _, future in asked], within_s)
        answers: dict[Member, Any] = {}
        errors: list[Exception] = []
        for member, future in asked:
            try:
                answers[member] = future.result(max(0.0, end - monotonic()))
            except ChannelEndedError:
                continue
            except TimeoutError:
                future.cancel()
                end_worker(member.pid, f"has not answered {what!r} within {within_s:g} s")
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return answers

    def figures(self) -> Figures:
        """Return what all workers have counted since the start, those that have ended included."""
        for member, figures in self.ask_all("figures").items():
            member.figures = figures
        with self._changed:
            return total([self._past, *(member.figures for member in self._members)])

    def forget_models(self, but: Collection[str]) -> None:
        """Forget what workers that have ended have counted of other models than these."""
        with self._changed:
            for key in self._past.models.keys() - set(but):
                del self._past.models[key]

    def _introduced(self, member: Member, done: "Future[Any]") -> None:
        if not _succeeded(member, done):
            return
        with self._changed:
            # In this order: what is asked from now on is waited for, and what was asked before is
            # done before it listens.
            member.introduced = True
            listening = member.channel.ask("listen")
        listening.add_done_callback(lambda done: self._listens(member, done))

    def _listens(self, member: Member, done: "Future[Any]") -> None:
        if _succeeded(member, done):
            with self._changed:
                member.listening = True
                self._changed.notify_all()


def _succeeded(member: Member, done: "Future[Any]") -> bool:
    error = None if done.cancelled() else done.exception()
    if error is not None and not isinstance(error, ChannelEndedError):
        end_worker(member.pid, f"cannot take over the models: {error}")
    return error is None


def end_worker(pid: int, why: str) -> None:
    """End a worker; another takes its place."""
    logger.error("worker (process %d) %s; it is ended", pid, why)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
