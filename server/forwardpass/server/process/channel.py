"""Messages between two processes of one server: questions and their answers, over a socket.

Both ends are forked from one process, so a message is what `pickle` makes of any object of theirs.
It may carry descriptors, of which the other end gets its own.
"""

import os
import pickle
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from itertools import count
from threading import Condition, Lock, Thread
from typing import Any

_HEAD = struct.Struct("!QQ")
"""Size of the body in bytes, and the number of the question."""
_MOST_DESCRIPTORS = 16
_SEND_S = 30
"""Maximum time in which the other end takes nothing before it is given up, in seconds."""

_ASK, _ANSWER, _ERROR, _CANCEL = range(4)

Answer = Callable[..., Any]
"""Answers a question: with a value, with a Future of one, or by raising. Descriptors that came with
it are the last argument, to be closed."""


class ChannelEndedError(Exception):
    """The other end has gone, or takes nothing any more."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets for the ends of a channel."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


class Channel:
    """One end; `ask` from any thread. Questions of the other end are answered in order."""

    def __init__(
        self,
        connection: socket.socket,
        answers: Mapping[str, Answer],
        ended: Callable[[], None] = lambda: None,
        name: str = "channel",
    ) -> None:
        """Prepare; nothing is read before `start`.

        answers: By question. ended: Called once, when the other end has gone.
        """
        self._socket = connection
        self._answers = answers
        self._ended = ended
        timeout = struct.pack("ll", _SEND_S, 0)
        connection.setblocking(True)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        self._numbers = count(1)
        self._sending = Lock()
        self._changed = Condition()
        # Guarded by it.
        self._asked: dict[int, Future[Any]] = {}
        self._answering: dict[int, Future[Any]] = {}
        self._over = False
        self._thread = Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to read, in a thread."""
        self._thread.start()

    def ask(self, what: str, *values: Any, descriptors: Sequence[int] = ()) -> "Future[Any]":
        """Ask the other end; the result may raise what it raises, or ChannelEndedError.

        Cancelling the future cancels it at the other end.
        """
        future: Future[Any] = Future()
        number = next(self._numbers)
        with self._changed:
            if self._over:
                future.set_exception(ChannelEndedError())
                return future
            self._asked[number] = future

        def leave(future: "Future[Any]") -> None:
            with self._changed:
                waits = self._asked.pop(number, None) is not None
            if waits and future.cancelled():
                with suppress(ChannelEndedError):
                    self._send(_CANCEL, number, None)

        future.add_done_callback(leave)
        try:
            self._send(_ASK, number, (what, values), descriptors)
        except ChannelEndedError:
            self._give_up()
        return future

    def close(self) -> None:
        """End the channel, as if the other end had gone."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _send(self, kind: int, number: int, body: Any, descriptors: Sequence[int] = ()) -> None:
        data = pickle.dumps((kind, body), pickle.HIGHEST_PROTOCOL)
        head = _HEAD.pack(len(data), number)
        with self._sending:
            try:
                if descriptors:
                    sent = socket.send_fds(self._socket, [head], list(descriptors))
                    self._socket.sendall(head[sent:])
                    self._socket.sendall(data)
                else:
                    self._socket.sendall(head + data)
            except OSError as error:
                # Also for want of time: what is sent in part makes all after it unreadable.
                self.close()
                raise ChannelEndedError from error

    def _run(self) -> None:
        try:
            while True:
                self._receive()
        except (OSError, EOFError, ChannelEndedError):
            pass
        finally:
            self._give_up()
            self._socket.close()
            self._ended()

    def _give_up(self) -> None:
        with self._changed:
            self._over = True
            asked, self._asked = list(self._asked.values()), {}
            answering, self._answering = list(self._answering.values()), {}
        for future in asked:
            if future.set_running_or_notify_cancel():
                future.set_exception(ChannelEndedError())
        # Whoever asked has gone.
        for future in answering:
            future.cancel()

    def _receive(self) -> None:
        head, descriptors, _, _ = socket.recv_fds(self._socket, _HEAD.size, _MOST_DESCRIPTORS)
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        head += self._read(_HEAD.size - len(head)) if head else b""
        if not head:
            raise EOFError
        size, number = _HEAD.unpack(head)
        kind, body = pickle.loads(self._read(size))  # noqa: S301 - of a process of ours
        if kind == _ASK:
            what, values = body
            self._answer(number, what, (*values, descriptors) if descriptors else values)
            return
        with self._changed:
            if kind == _CANCEL:
                future = self._answering.pop(number, None)
            else:
                future = self._asked.pop(number, None)
        if future is None:
            return
        if kind == _CANCEL:
            future.cancel()
        elif future.set_running_or_notify_cancel():
            if kind == _ERROR:
                future.set_exception(body)
            else:
                future.set_result(body)

    def _read(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            part = self._socket.recv(min(size - len(parts), 2**20))
            if not part:
                raise EOFError
            parts += part
        return bytes(parts)

    def _answer(self, number: int, what: str, values: Sequence[Any]) -> None:
        try:
            answer = self._answers[what](*values)
        except Exception as error:
            self._send_error(number, error)
            return
        if not isinstance(answer, Future):
            self._send(_ANSWER, number, answer)
            return
        with self._changed:
            self._answering[number] = answer

        def done(future: "Future[Any]") -> None:
            with self._changed:
                self._answering.pop(number, None)
            with suppress(ChannelEndedError):
                try:
                    result = future.result()
                except CancelledError:
                    return
                except Exception as error:
                    self._send_error(number, error)
                else:
                    self._send(_ANSWER, number, result)

        answer.add_done_callback(done)

    def _send_error(self, number: int, error: Exception) -> None:
        try:
            self._send(_ERROR, number, error)
        except (pickle.PicklingError, TypeError, AttributeError):
            self._send(_ERROR, number, RuntimeError(f"{type(error).__name__}: {error}"))
