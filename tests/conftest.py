"""Settings of every folder's tests."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
from hypothesis import settings

from forwardpass.client import Client
from forwardpass.server.config import Transport

pytest.register_assert_rewrite("support")

from support.clients import AnyClient, FromThreads, Loop  # noqa: E402
from support.transports import as_default  # noqa: E402 - after its asserts are registered

# A property test's time says nothing here: the machine may be busy.
settings.register_profile("forwardpass", deadline=None)
settings.load_profile("forwardpass")


@pytest.fixture(scope="session", params=list(Transport), ids=str)
def transport(request: pytest.FixtureRequest) -> Iterator[Transport]:
    """Each transport in turn: every server that names none speaks over it."""
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
    if request.param == "Client":
        return Client
    return partial(FromThreads, request.getfixturevalue("loop"))
