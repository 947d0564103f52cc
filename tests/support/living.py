"""A server whose repository changes while it is called."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from forwardpass.server.app import Server
from forwardpass.server.config import Config
from forwardpass.server.repository.lifecycle import SETTLE_S
from support.rpc import Stub
from support.versions import Answer, ask, question

PROMPT_S = 5.0
"""Seconds that suffice to settle and load on a busy machine, and too few for a look without an
event (watching.RESCAN_S)."""
A_WHILE_S = SETTLE_S + 0.35
"""Seconds in which a change would be loaded, if it were to be."""


class Served:
    """A server and a stub of it."""

    def __init__(self, server: Server, stub: Stub) -> None:
        self.server = server
        self.stub = stub

    def ask(self, name: str = "m", version: str = "") -> Answer:
        return ask(self.stub, name, version)

    def outcome(self, name: str = "m", version: str = "") -> grpc.StatusCode:
        return self.stub.outcome("ModelInfer", question(name, version))

    def refusal(self, name: str = "m", version: str = "") -> str:
        return self.stub.refusal("ModelInfer", question(name, version)).message

    def until(self, condition: Callable[[], bool], within_s: float = PROMPT_S) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, self.server.catalog.index()
            time.sleep(0.01)

    def until_answer(
        self,
        answer: tuple[int, float],
        name: str = "m",
        version: str = "",
        within_s: float = PROMPT_S,
    ) -> None:
        self.until(
            lambda: (
                self.outcome(name, version) is grpc.StatusCode.OK
                and self.ask(name, version) == answer
            ),
            within_s,
        )

    def reason(self, name: str = "m", version: int = 1) -> str:
        """Return the reason of a version in the index; empty for one that it does not list."""
        return next(
            (
                entry.reason
                for entry in self.server.catalog.index()
                if (entry.name, entry.version) == (name, version)
            ),
            "",
        )

    def health(self, name: str = "m") -> int:
        request = health_pb2.HealthCheckRequest(service=name)
        stub_of_theirs: Any = health_pb2_grpc.HealthStub(self.stub.channel)
        return int(stub_of_theirs.Check(request, timeout=10).status)


@contextmanager
def serving(root: Path | str, **settings: Any) -> Iterator[Served]:
    config = Config(models=root, port=0, **settings)  # type: ignore[arg-type]  # takes texts, too
    with Server(config) as server, Stub(server.port) as stub:
        yield Served(server, stub)


@contextmanager
def called_all_the_time(served: Served, versions: tuple[str, ...] = ("",)) -> Iterator[set[Answer]]:
    """Call from a thread for each version; yield the answers, and raise the threads' errors."""
    answers: set[Answer] = set()
    errors: list[BaseException] = []
    end = threading.Event()

    def call(version: str) -> None:
        try:
            ended = False
            while not ended:
                # The last call begins after the end. Without a pause the callers take a core.
                ended = end.wait(0.001)
                answers.add(served.ask(version=version))
        except BaseException as error:
            errors.append(error)

    callers = [threading.Thread(target=call, args=[version]) for version in versions]
    for caller in callers:
        caller.start()
    try:
        yield answers
    finally:
        end.set()
        for caller in callers:
            caller.join()
    if errors:
        raise errors[0]
