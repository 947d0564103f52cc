"""Settings of every folder's tests."""

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import settings

from forwardpass.client import Client
from forwardpass.server.config import Transport

pytest.register_assert_rewrite("support")

from support import prepared  # noqa: E402
from support.clients import AnyClient, FromThreads, Loop  # noqa: E402
from support.transports import as_default  # noqa: E402 - after its asserts are registered

# No deadline for a property test: the machine may be busy.
settings.register_profile("forwardpass", deadline=None)
settings.load_profile("forwardpass")

if "TEST_PROCESSES" in os.environ:
    # Before a module of tests imports it.
    from support.many import ManyProcesses

    from forwardpass.server import app

    ManyProcesses.count = int(os.environ["TEST_PROCESSES"])
    app.Server = ManyProcesses  # type: ignore[assignment,misc]


def pytest_configure(config: pytest.Config) -> None:
    """Keep bytecode where it may not be written beside the sources.

    A run starts hundreds of interpreters. Without bytecode each compiles all of our modules anew,
    a third of what its start costs, and each worker rewrites the asserts of every test.
    """
    # There is no cache with `-p no:cacheprovider`.
    if sys.dont_write_bytecode and hasattr(config, "cache"):
        folder = str(config.cache.mkdir("bytecode"))
        # For the processes that are started from here, the workers among them.
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = folder
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        sys.dont_write_bytecode = False


def pytest_unconfigure() -> None:
    """End the process from which the tests' processes are forked."""
    prepared.close()


@pytest.fixture(scope="session", params=list(Transport), ids=str)
def transport(request: pytest.FixtureRequest) -> Iterator[Transport]:
    """Each transport in turn: every server that names none uses it."""
    with as_default(request.param) as transport:
        yield transport


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    """An event loop for all the asyncio clients of a run."""
    loop = Loop()
    yield loop
    loop.stop()


@pytest.fixture(params=["Client", "AsyncClient"])
def connect(request: pytest.FixtureRequest) -> Callable[..., AnyClient]:
    """Return a function that makes a client: each test is of both."""
    kind: Callable[..., AnyClient] = Client
    if request.param == "AsyncClient":
        kind = partial(FromThreads, request.getfixturevalue("loop"))

    def connected(target: str, **settings: Any) -> AnyClient:
        # Clients share what grpcio knows of an address: that the server of another test, which had
        # the same port, did not answer would fail the first call.
        options = [*settings.pop("options", ()), ("grpc.use_local_subchannel_pool", 1)]
        return kind(target, options=options, **settings)

    return connected
