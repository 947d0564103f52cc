"""Settings of every folder's tests."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from forwardpass.server.config import Transport

pytest.register_assert_rewrite("support")

from support.transports import as_default  # noqa: E402 - after its asserts are registered

# A property test's time says nothing here: the machine may be busy.
settings.register_profile("forwardpass", deadline=None)
settings.load_profile("forwardpass")


@pytest.fixture(scope="session", params=list(Transport), ids=str)
def transport(request: pytest.FixtureRequest) -> Iterator[Transport]:
    """Each transport in turn: every server that names none speaks over it."""
    with as_default(request.param) as transport:
        yield transport
