"""Processes of Python that are forked from one that has imported everything.

A start takes 0.05 s of CPU in place of 0.9 s, nearly all of which an interpreter and its imports
take. The result is the same: a process of its own, with its own arguments, environment, folder,
streams and signals. Tests of a start itself, or of imports, start an interpreter.

Imported, this is the tests' side; run as a program, it is the process that is forked.
"""

import gc
import io
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

LIBRARIES = (
    "grpc._channel",
    "grpc._interceptor",
    "grpc_health.v1.health_pb2_grpc",
    "grpc_reflection.v1alpha.reflection",
    "grpc_status.rpc_status",
    "hpack",
    "httptools",
    "numpy.ma",
    "onnx.reference",
    "orjson",
    "prometheus_client",
    "pydantic.type_adapter",
    "rich._emoji_codes",
    "rich.console",
    "rich.progress",
    "rich.table",
    "uvloop",
    "watchfiles",
)
"""Modules that functions of ours, and those that they call, import when they need them."""
LEFT_OUT = (
    # Programs begin when they are imported.
    ".__main__",
    # Needs scikit-learn and matplotlib.
    ".zoo.training",
    # A client looks whether a program has imported OpenTelemetry.
    ".observe.tracing",
)
NUMBER = struct.Struct("i")
"""The form in which a process' number and its exit status are sent."""


class Prepared(subprocess.Popen[Any]):
    """A Popen of `[sys.executable, "-m", MODULE, ...]` or `[sys.executable, "-c", CODE, ...]`.

    The forking process is its parent, waits for it and reports how it has ended.
    """

    def __init__(self, command: Sequence[Any], **options: Any) -> None:
        self._answers: socket.socket | None = None
        super().__init__(command, **options)

    if TYPE_CHECKING:  # Popen's own, which its stubs leave out.

        def _close_pipe_fds(self, *pipes: int) -> None: ...

    # The three places of Popen that know how a process comes about and ends; pipes, time limits
    # and all else are its own.

    def _execute_child(self, args: Any, *rest: Any) -> None:
        _, _, _, _, folder, environment, _, _, _, *pipes = rest[:15]
        standard = (pipes[0], pipes[3], pipes[5])
        request = {
            "arguments": [os.fspath(argument) for argument in args[1:]],
            "folder": os.fspath(folder or Path.cwd()),
            "environment": dict(os.environ if environment is None else environment),
            "new_session": rest[-2],
        }
        streams = [end if end >= 0 else inherited for inherited, end in enumerate(standard)]
        try:
            self._answers = _forking().ask(request, streams)
            self.pid = NUMBER.unpack(self._answers.recv(NUMBER.size))[0]
            self._child_created = True
        finally:
            self._close_pipe_fds(*pipes)

    def _internal_poll(self, *_: object, **__: object) -> int | None:
        self._look(0)
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        self._look(timeout)
        if self.returncode is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def _look(self, seconds: float | None) -> None:
        if self._answers is None:
            return
        self._answers.settimeout(seconds)
        try:
            status = self._answers.recv(NUMBER.size)
        except (BlockingIOError, TimeoutError):
            return
        self._answers.close()
        self._answers = None
        self.returncode = os.waitstatus_to_exitcode(*NUMBER.unpack(status))


class _Forking:
    """The process that is forked, as long as it is needed."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                # -P: it imports nothing from beside this file.
                [sys.executable, "-P", __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                # Ctrl-C is meant for the tests; it ends with them.
                process_group=0,
            )

    def ask(self, request: Mapping[str, object], streams: list[int]) -> socket.socket:
        """Start a process; return the socket that gets its number and, at its end, its status."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._socket, [b"."], [theirs.fileno(), *streams])
        ours.sendall(json.dumps(request).encode() + b"\n")
        return ours

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


_started: list[_Forking] = []
_starting = Lock()


def _forking() -> _Forking:
    with _starting:
        if not _started:
            _started.append(_Forking())
        return _started[0]


def close() -> None:
    """End the process that is forked, if there is one."""
    while _started:
        _started.pop().close()


def main() -> NoReturn:
    """Fork a process for each request; a forked one returns from `_fork` and is what was asked."""
    _import_everything()
    request = _fork(socket.socket(fileno=int(sys.argv[1])))
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    if request["new_session"]:
        os.setsid()
    _open_streams()
    kind, what, *arguments = request["arguments"]
    sys.argv = [kind, *arguments]
    if kind == "-m":
        sys.path.insert(0, request["folder"])
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, "")
        program = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), program.__dict__)
    sys.exit()


def _import_everything() -> None:
    import forwardpass

    ours = [
        module.name
        for module in pkgutil.walk_packages(forwardpass.__path__, "forwardpass.")
        if not any(part in module.name for part in LEFT_OUT)
    ]
    for name in (*ours, *LIBRARIES):
        # Nothing depends on it: what is missing here is imported, or missed, by whoever needs it.
        with suppress(ModuleNotFoundError):
            import_module(name)
    # Its pages stay shared, and no process looks through them for garbage.
    gc.collect()
    gc.freeze()


def _fork(asked: socket.socket) -> dict[str, Any]:
    """Make processes until the tests end; return in each, with what it was asked for."""
    running: dict[int, socket.socket] = {}
    ended, writes = socket.socketpair()
    writes.setblocking(False)
    signal.set_wakeup_fd(writes.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with selectors.DefaultSelector() as selector:
        selector.register(asked, selectors.EVENT_READ)
        selector.register(ended, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is ended:
                    ended.recv(4096)
                    _report_ends(running)
                    continue
                byte, descriptors, _, _ = socket.recv_fds(asked, 1, 4)
                if not byte:
                    os._exit(0)
                answers = socket.socket(fileno=descriptors[0])
                with answers.makefile() as lines:
                    request: dict[str, Any] = json.loads(lines.readline())
                number = os.fork()
                if not number:
                    break
                for descriptor in descriptors[1:]:
                    os.close(descriptor)
                running[number] = answers
                answers.sendall(NUMBER.pack(number))
            else:
                continue
            break
    # In the new process: nothing of the old one stays but what it has imported.
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for standard, descriptor in enumerate(descriptors[1:]):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    for end in (asked, ended, writes, answers, *running.values()):
        end.close()
    return request


def _report_ends(running: dict[int, socket.socket]) -> None:
    for number in list(running):
        found, status = os.waitpid(number, os.WNOHANG)
        if found:
            with running.pop(number) as answers:
                # Whoever asked may be gone.
                with suppress(OSError):
                    answers.sendall(NUMBER.pack(status))


def _open_streams() -> None:
    """Have Python's standard streams be as a start makes them."""
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        before = getattr(sys, name)
        stream = open(  # noqa: SIM115 - stays open as long as the process
            number, mode, encoding=before.encoding, errors=before.errors, closefd=False
        )
        if number:
            lines = name == "stderr" or stream.isatty()
            assert isinstance(stream, io.TextIOWrapper)
            stream.reconfigure(line_buffering=lines, write_through=unbuffered)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


if __name__ == "__main__":
    main()
