"""One server of every example model, on a real socket; a repository that may change."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.rpc import Stub
from support.served import write_repository
from support.versions import put

from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport
from forwardpass.server.guard import Limits


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="session")
def server(repository: Path, transport: Transport) -> Iterator[Server]:
    with Server(Config(models=repository, port=0, limits=Limits(general=True))) as server:
        yield server


@pytest.fixture(scope="session")
def stub(server: Server) -> Iterator[Stub]:
    with Stub(server.port) as stub:
        yield stub


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with version 1 of `m`, which answers 1."""
    root = tmp_path / "repository"
    put(root, "m", 1, 1)
    return root


@pytest.fixture(params=["events", "polling"])
def how(request: pytest.FixtureRequest) -> dict[str, Any]:
    """How changes of the repository are found."""
    return {"poll_s": 0.05} if request.param == "polling" else {}
