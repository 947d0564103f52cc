"""One server of every example model, on a real socket."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.rpc import Stub
from support.served import write_repository

from forwardpass.server.app import Server
from forwardpass.server.config import Config
from forwardpass.server.guard import Limits


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[Server]:
    with Server(Config(models=repository, port=0, limits=Limits(general=True))) as server:
        yield server


@pytest.fixture(scope="session")
def stub(server: Server) -> Iterator[Stub]:
    with Stub(server.port) as stub:
        yield stub
